//! Which NATS subjects a Channel may have: its own, and what the administrator grants to its namespace.

use serde::{Deserialize, Serialize};

use crate::name::fault::Fault;
use crate::name::key::ChannelKey;
use crate::name::label::{BASE_PREFIX, is_label, is_reserved};
use crate::name::subject::Pattern;

/// Stands for every namespace in a [`SubjectGrant`].
pub const ANY_NAMESPACE: &str = "*";

/// Subjects that Channels in some namespaces may have beside their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubjectGrant {
    /// The namespaces; `*` is every namespace.
    pub namespaces: Vec<String>,
    /// The subjects, as patterns: a Channel may have what one of them contains.
    pub subjects: Vec<Pattern>,
}

/// All grants of an installation, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectGrants(Vec<SubjectGrant>);

/// Why a Channel may not have a subject.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// Nobody may have it.
    #[error(
        "{0} is reserved: a subject starts with a token of its own, not with a wildcard, $, _INBOX or tidings-live"
    )]
    Reserved(Pattern),
    /// It lies below `tidings.`, and not below the Channel's own part of it.
    #[error("{subject} is not below {own}, and the other subjects below tidings. belong to other Channels")]
    NotOwn {
        /// The subject.
        subject: Pattern,
        /// What the Channel has of its own.
        own: Pattern,
    },
    /// No grant covers it.
    #[error("no grant of the administrator gives {subject} to the namespace {namespace}")]
    NotGranted {
        /// The subject.
        subject: Pattern,
        /// The Channel's namespace.
        namespace: String,
    },
}

// === impl SubjectGrants ===

impl SubjectGrants {
    /// Checks the grants of an installation.
    ///
    /// # Errors
    /// Every fault, with its path below the list: a grant that overlaps a reserved prefix or `tidings.` would give one
    /// namespace what belongs to others.
    pub fn new(grants: Vec<SubjectGrant>) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        for (at, grant) in grants.iter().enumerate() {
            if grant.namespaces.is_empty() {
                let message = "write the namespaces that the grant is for; \"*\" is every namespace";
                faults.push(Fault::new(format!("[{at}].namespaces"), message));
            }
            for (index, namespace) in grant.namespaces.iter().enumerate() {
                if namespace != ANY_NAMESPACE && !is_label(namespace) {
                    let message = "a namespace is a DNS label, or \"*\" for every namespace";
                    faults.push(Fault::new(format!("[{at}].namespaces[{index}]"), message));
                }
            }
            for (index, pattern) in grant.subjects.iter().enumerate() {
                if is_reserved(pattern.as_str()) || first(pattern) == BASE_PREFIX {
                    let message = "a grant starts with a token of its own: not with a wildcard, $, _INBOX, tidings or \
                                   tidings-live; write orders.>";
                    faults.push(Fault::new(format!("[{at}].subjects[{index}]"), message));
                }
            }
        }
        if faults.is_empty() { Ok(Self(grants)) } else { Err(faults) }
    }

    /// Whether the Channel may have `subject`.
    ///
    /// # Errors
    /// Why not.
    pub fn allow(&self, key: &ChannelKey, subject: &Pattern) -> Result<(), GrantError> {
        if is_reserved(subject.as_str()) {
            return Err(GrantError::Reserved(subject.clone()));
        }
        if first(subject) == BASE_PREFIX {
            return match own_base(key) {
                Some(own) if is_below(&own, subject) => Ok(()),
                own => {
                    let own = own.unwrap_or_else(|| subject.clone());
                    Err(GrantError::NotOwn { subject: subject.clone(), own })
                }
            };
        }
        let mut patterns = self.0.iter().filter(|grant| grant.is_for(&key.namespace)).flat_map(|grant| &grant.subjects);
        if patterns.any(|pattern| pattern.contains(subject)) {
            Ok(())
        } else {
            Err(GrantError::NotGranted { subject: subject.clone(), namespace: key.namespace.clone() })
        }
    }
}

impl SubjectGrant {
    fn is_for(&self, namespace: &str) -> bool {
        self.namespaces.iter().any(|ours| ours == ANY_NAMESPACE || ours == namespace)
    }
}

/// The subject that every Channel has of its own, with everything below it; `None` for a key that is none of a Channel.
pub fn own_base(key: &ChannelKey) -> Option<Pattern> {
    if !is_label(&key.namespace) || !is_label(&key.name) {
        return None;
    }
    Pattern::literal(&format!("{BASE_PREFIX}.{}.{}", key.namespace, key.name)).ok()
}

/// Whether `pattern` is `base` or stands for subjects below it only; `base` is literal.
fn is_below(base: &Pattern, pattern: &Pattern) -> bool {
    let mut tokens = pattern.tokens();
    base.tokens().all(|wanted| tokens.next() == Some(wanted))
}

fn first(pattern: &Pattern) -> &str {
    pattern.tokens().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grants(list: &[(&str, &str)]) -> Result<SubjectGrants, Vec<Fault>> {
        let grant = |(namespace, subject): &(&str, &str)| SubjectGrant {
            namespaces: vec![(*namespace).to_owned()],
            subjects: vec![subject.parse().unwrap()],
        };
        SubjectGrants::new(list.iter().map(grant).collect())
    }

    fn allowed(grants: &SubjectGrants, namespace: &str, subject: &str) -> Result<(), String> {
        let key = ChannelKey::new(namespace, "orders");
        grants.allow(&key, &subject.parse().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_channel_has_its_own_subjects_without_a_grant() {
        let none = SubjectGrants::default();
        for subject in ["tidings.shop.orders", "tidings.shop.orders.>", "tidings.shop.orders.*.x"] {
            assert_eq!(allowed(&none, "shop", subject), Ok(()));
        }
        for subject in
            ["tidings.shop.>", "tidings.shop.*", "tidings.>", "tidings", "tidings.shop.orders2", "tidings.bank.orders"]
        {
            let error = allowed(&none, "shop", subject).unwrap_err();
            assert_eq!(
                error,
                format!(
                    "{subject} is not below tidings.shop.orders, and the other subjects below tidings. belong to other Channels"
                )
            );
        }
    }

    #[test]
    fn a_grant_gives_what_it_contains_by_token() {
        let grants = grants(&[("shop", "orders.>"), ("*", "news.*")]).unwrap();
        assert_eq!(allowed(&grants, "shop", "orders.new"), Ok(()));
        assert_eq!(allowed(&grants, "shop", "orders.*.eu.>"), Ok(()));
        assert_eq!(allowed(&grants, "bank", "news.eu"), Ok(()));
        for (namespace, subject) in
            [("shop", "orders"), ("shop", "orders2.x"), ("bank", "orders.new"), ("shop", "news.>")]
        {
            let error = format!("no grant of the administrator gives {subject} to the namespace {namespace}");
            assert_eq!(allowed(&grants, namespace, subject), Err(error));
        }
    }

    #[test]
    fn nobody_gets_what_is_reserved() {
        for subject in
            ["$SYS.>", "$JS.API.>", "_INBOX.>", "_INBOX_gateway.a", "tidings-live.>", ">", "*", "*.>", "*.new"]
        {
            assert!(grants(&[("shop", subject)]).is_err(), "{subject}");
            assert!(allowed(&SubjectGrants::default(), "shop", subject).unwrap_err().contains("reserved"), "{subject}");
        }
        for subject in ["tidings.>", "tidings.bank.>", "tidings.*.x", "tidings"] {
            assert!(grants(&[("shop", subject)]).is_err(), "{subject}");
        }
    }

    #[test]
    fn every_fault_of_the_grants_is_told_at_once() {
        let grants = vec![
            SubjectGrant { namespaces: vec![], subjects: vec![">".parse().unwrap()] },
            SubjectGrant { namespaces: vec!["*".into(), "Shop".into()], subjects: vec!["a".parse().unwrap()] },
        ];
        let faults = SubjectGrants::new(grants).unwrap_err();
        let paths: Vec<_> = faults.iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(paths, ["[0].namespaces", "[0].subjects[0]", "[1].namespaces[1]"]);
    }

    fn pattern() -> impl Strategy<Value = Pattern> {
        let token = prop::sample::select(vec!["tidings", "tidings-live", "a", "b", "x", "*", "$SYS", "_INBOX"]);
        (prop::collection::vec(token, 1..5), prop::bool::ANY).prop_map(|(mut tokens, tail)| {
            if tail {
                tokens.push(">");
            }
            tokens.join(".").parse().unwrap()
        })
    }

    proptest! {
        /// Whatever is granted to whom, what a Channel has of its own is never another's.
        #[test]
        fn no_grant_gives_away_what_another_channel_owns(
            granted in prop::collection::vec((prop::sample::select(vec!["a", "b", "*"]), pattern()), 0..4),
            wanted in pattern(),
        ) {
            let list: Vec<_> = granted
                .into_iter()
                .map(|(namespace, subject)| SubjectGrant { namespaces: vec![namespace.into()], subjects: vec![subject] })
                .collect();
            if let Ok(grants) = SubjectGrants::new(list) {
                let (ours, theirs) = (ChannelKey::new("a", "x"), ChannelKey::new("b", "x"));
                let base = own_base(&ours).unwrap();
                let below = base.join(&Pattern::tail());
                if wanted.overlaps(&base) || wanted.overlaps(&below) {
                    prop_assert!(grants.allow(&theirs, &wanted).is_err());
                }
                for reserved in ["$SYS.>", "_INBOX.>", "tidings-live.>"] {
                    if wanted.overlaps(&reserved.parse().unwrap()) {
                        prop_assert!(grants.allow(&theirs, &wanted).is_err());
                    }
                }
            }
        }
    }
}
