//! The deny list: whose tokens are refused although they are valid. Pure.

use std::collections::HashSet;

use serde::Deserialize;
use tidings_crds::fault::Fault;

/// Subjects and tokens that are refused, and whose open streams end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denied {
    /// Of one issuer, or of all of them (`None`).
    subjects: HashSet<(Option<String>, String)>,
    tokens: HashSet<(Option<String>, String)>,
}

/// One entry as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeniedDocument {
    issuer: Option<String>,
    subject: Option<String>,
    token: Option<String>,
}

// === impl Denied ===

impl Denied {
    /// Reads the list.
    pub fn read(documents: Vec<DeniedDocument>) -> Result<Self, Vec<Fault>> {
        let (mut denied, mut faults) = (Self::default(), Vec::new());
        for (at, DeniedDocument { issuer, subject, token }) in documents.into_iter().enumerate() {
            match (subject, token) {
                (Some(subject), None) => drop(denied.subjects.insert((issuer, subject))),
                (None, Some(token)) => drop(denied.tokens.insert((issuer, token))),
                _ => {
                    let message = "write either subject, which is sub of the tokens, or token, which is jti of one";
                    faults.push(Fault::new(format!("denied[{at}]"), message));
                }
            }
        }
        if faults.is_empty() { Ok(denied) } else { Err(faults) }
    }

    /// Whether a token with this `sub` and `jti` of this issuer is refused.
    pub fn contains(&self, issuer: &str, subject: Option<&str>, token: Option<&str>) -> bool {
        let listed = |set: &HashSet<(Option<String>, String)>, word: Option<&str>| {
            let Some(word) = word.filter(|_| !set.is_empty()) else { return false };
            let of = |issuer: Option<&str>| set.contains(&(issuer.map(str::to_owned), word.to_owned()));
            of(None) || of(Some(issuer))
        };
        listed(&self.subjects, subject) || listed(&self.tokens, token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<Denied, Vec<Fault>> {
        Denied::read(serde_yaml::from_str(yaml).unwrap())
    }

    #[test]
    fn subjects_and_tokens_are_denied_of_one_issuer_or_of_all() {
        let denied = read("[{subject: ann}, {subject: bob, issuer: main}, {token: t1, issuer: other}, {token: t2}]");
        let denied = denied.unwrap();
        for (issuer, subject, token, expected) in [
            ("main", Some("ann"), None, true),
            ("other", Some("ann"), None, true),
            ("main", Some("bob"), None, true),
            ("other", Some("bob"), None, false),
            ("main", Some("carl"), Some("t1"), false),
            ("other", Some("carl"), Some("t1"), true),
            ("main", None, Some("t2"), true),
            ("main", Some("t2"), None, false),
            ("main", None, None, false),
        ] {
            assert_eq!(denied.contains(issuer, subject, token), expected, "{issuer} {subject:?} {token:?}");
        }
    }

    #[test]
    fn an_entry_denies_one_thing() {
        let faults = read("[{subject: a}, {subject: a, token: b}, {issuer: main}]").unwrap_err();
        assert_eq!(faults.iter().map(|fault| fault.path.as_str()).collect::<Vec<_>>(), ["denied[1]", "denied[2]"]);
    }
}
