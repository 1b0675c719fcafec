//! Who may do what with a channel: pure decisions about one request.
//!
//! Nothing is public by silence: only the mode `Public` lets a request without a token in, and only to the topics that
//! the Route grants. Without a good token every channel answers the same 401, whether it exists or not. With one, every
//! channel that does not grant it anything answers the same 404 as a missing one.

use tidings_crds::channel::AccessMode;
use tidings_crds::route::{Route, RouteGrant};
use tidings_crds::topic::{TopicFilter, TopicSet};

use crate::auth::grant::{Action, expanded, without_claims};
use crate::auth::issuer::KUBERNETES;
use crate::auth::principal::Caller;

/// Whether the channel is public for this, so that no token is looked at.
pub fn is_public(route: &Route, action: Action) -> bool {
    direction(route, action).mode == AccessMode::Public
}

/// The topics of a channel that a caller may have; everybody's, without one.
pub fn granted(route: &Route, action: Action, caller: Option<&Caller>) -> Option<TopicSet> {
    TopicSet::new(filters(route, action, caller))
}

/// Whether a caller, or everybody without one, may have this topic.
pub fn permits(route: &Route, action: Action, caller: Option<&Caller>, topic: &str) -> bool {
    filters(route, action, caller).iter().any(|filter| filter.matches(topic))
}

fn filters(route: &Route, action: Action, caller: Option<&Caller>) -> Vec<TopicFilter> {
    let grant = direction(route, action);
    match (grant.mode, caller) {
        (AccessMode::Public, _) => without_claims(&grant.topics).collect(),
        (AccessMode::Token, Some(caller)) => to_bearer(route, action, grant, caller),
        (AccessMode::Token, None) | (AccessMode::Disabled, _) => Vec::new(),
    }
}

fn to_bearer(route: &Route, action: Action, grant: &RouteGrant, caller: &Caller) -> Vec<TopicFilter> {
    let principal = &caller.principal;
    let accepted =
        route.access.issuers.as_ref().is_none_or(|names| names.iter().any(|name| **name == *principal.issuer));
    if !accepted || !caller.provenance.suits(route) {
        return Vec::new();
    }
    if *principal.issuer == *KUBERNETES {
        // RBAC grants a channel as a whole; topics that the Channel lists narrow it.
        let allowed = caller.verdict.as_ref().is_some_and(|verdict| verdict.is_allowed());
        return match (allowed, grant.topics.is_empty()) {
            (false, _) => Vec::new(),
            (true, true) => vec![TopicFilter::All],
            (true, false) => expanded(&grant.topics, &principal.claims),
        };
    }
    let mut filters = expanded(&grant.topics, &principal.claims);
    filters.extend(principal.own.topics(action, &route.namespace, &route.name));
    filters
}

fn direction(route: &Route, action: Action) -> &RouteGrant {
    match action {
        Action::Subscribe => &route.access.subscribe,
        Action::Publish => &route.access.publish,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::auth::claims::Claims;
    use crate::auth::credential::{Provenance, Sender};
    use crate::auth::jwt::Verified;
    use crate::auth::principal::{Principal, Verdict};
    use crate::auth::route_fixture::document;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::sync::Arc;
    use std::time::SystemTime;
    use tidings_crds::channel::TokenSource;

    pub(crate) fn route(mode: AccessMode, topics: &[&str]) -> Route {
        let mut route = Route::from_yaml(&document("orders", 1, "Active")).unwrap();
        route.access.subscribe = RouteGrant { mode, topics: topics.iter().map(ToString::to_string).collect() };
        route
    }

    pub(crate) fn caller(issuer: &str, claims: Value) -> Caller {
        let claims = Claims::new(claims.as_object().unwrap().clone());
        let principal = Principal::new(issuer.into(), Verified { claims, until: SystemTime::UNIX_EPOCH });
        let provenance = Provenance { source: TokenSource::Header, sender: Sender::Own };
        Caller { principal: Arc::new(principal), provenance, verdict: None }
    }

    /// What a caller receives of what it asks for, as [`crate::http::router`] has it.
    pub(crate) fn entitled(route: &Route, caller: Option<&Caller>, asked: &TopicSet) -> Option<TopicSet> {
        granted(route, Action::Subscribe, caller)?.intersect(asked).unwrap()
    }

    fn set(filters: &[&str]) -> TopicSet {
        TopicSet::new(filters.iter().map(|filter| filter.parse().unwrap())).unwrap()
    }

    fn subscribe(route: &Route, caller: Option<&Caller>) -> Option<TopicSet> {
        granted(route, Action::Subscribe, caller)
    }

    #[test]
    fn a_public_channel_grants_everybody_what_its_route_lists() {
        let public = |topics| subscribe(&route(AccessMode::Public, topics), None);
        assert_eq!(public(&[">"]), Some(TopicSet::all()));
        assert_eq!(public(&["news", "user.*", "."]), Some(set(&["news", "user.*", "."])));
        assert_eq!(public(&["news", "user.{sub}"]), Some(set(&["news"])), "a template needs claims");
        for nothing in [&[][..], &["user.{sub}"], &["a..b"]] {
            assert_eq!(public(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn a_token_gives_what_the_channel_grants_its_claims_and_what_it_grants_itself() {
        let ann = caller("main", json!({"sub": "ann", "groups": ["red"]}));
        let ticket = caller(
            "main",
            json!({"sub": "x", "tidings": {
                "subscribe": [{"channels": ["demo/orders"], "topics": ["one"]}],
                "publish": [{"channels": ["*/*"], "topics": [">"]}],
            }}),
        );
        let of = |mode, topics: &[&str], caller| subscribe(&route(mode, topics), caller);
        let token = AccessMode::Token;
        assert_eq!(of(token, &["all", "user.{sub}"], Some(&ann)), Some(set(&["all", "user.ann"])));
        assert_eq!(of(token, &["{missing}"], Some(&ann)), None);
        assert_eq!(of(token, &[], Some(&ann)), None, "absent topics grant nothing");
        assert_eq!(of(token, &[], Some(&ticket)), Some(set(&["one"])), "but the token's own grants count");
        assert_eq!(of(token, &["user.{sub}"], Some(&ticket)), Some(set(&["one", "user.x"])));
        assert_eq!(of(token, &[">"], None), None);
        assert_eq!(of(AccessMode::Disabled, &[">"], Some(&ticket)), None);
        let publish = granted(&route(token, &[]), Action::Publish, Some(&ticket));
        assert_eq!(publish, Some(TopicSet::all()), "the document lets everybody publish");
    }

    #[test]
    fn a_channel_chooses_its_issuers_and_where_tokens_stand() {
        let mut orders = route(AccessMode::Token, &["all"]);
        let ann = caller("main", json!({"sub": "ann"}));
        orders.access.issuers = Some(vec!["other".into(), "main".into()]);
        assert!(subscribe(&orders, Some(&ann)).is_some());
        orders.access.issuers = Some(vec!["other".into()]);
        assert_eq!(subscribe(&orders, Some(&ann)), None);
        orders.access.issuers = None;
        orders.access.token_sources = vec![TokenSource::Cookie];
        assert_eq!(subscribe(&orders, Some(&ann)), None);
    }

    #[test]
    fn an_identity_of_the_cluster_gets_what_rbac_and_the_channel_both_grant() {
        let robot = |allowed: bool| {
            let claims = json!({"sub": "robot", "groups": ["g"], "tidings": {
                "subscribe": [{"channels": ["*/*"], "topics": [">"]}],
            }});
            Caller { verdict: Some(Arc::new(Verdict::new(allowed))), ..caller(KUBERNETES, claims) }
        };
        let of = |topics: &[&str], caller: &Caller| subscribe(&route(AccessMode::Token, topics), Some(caller));
        assert_eq!(of(&[], &robot(true)), Some(TopicSet::all()), "RBAC grants a channel as a whole");
        assert_eq!(of(&["user.{sub}", "all"], &robot(true)), Some(set(&["all", "user.robot"])));
        assert_eq!(of(&["{missing}"], &robot(true)), None);
        assert_eq!(of(&["all"], &robot(false)), None, "and without RBAC topics grant nothing, nor does the token");
        assert_eq!(of(&["all"], &Caller { verdict: None, ..robot(true) }), None);
        let mut orders = route(AccessMode::Token, &[]);
        orders.access.issuers = Some(vec!["main".into()]);
        assert_eq!(subscribe(&orders, Some(&robot(true))), None);
        orders.access.issuers = Some(vec![KUBERNETES.into()]);
        assert!(subscribe(&orders, Some(&robot(true))).is_some());
    }

    #[test]
    fn a_subscriber_receives_what_is_both_granted_and_asked_for() {
        let orders = route(AccessMode::Public, &["news", "user.*"]);
        let entitled = |asked| entitled(&orders, None, &asked);
        assert_eq!(
            entitled(TopicSet::all()),
            Some(set(&["news", "user.*"])),
            "asking for all is asking for what is granted"
        );
        assert_eq!(entitled(set(&["user.42", "audit"])), Some(set(&["user.42"])));
        assert_eq!(entitled(set(&["audit"])), None);
    }

    /// Whether a topic passes a filter, told apart from the code under test: token by token, without sets.
    fn passes(filter: &str, topic: &str) -> bool {
        match (filter, topic) {
            (">", _) => true,
            (".", topic) => topic.is_empty(),
            (_, "") => false,
            _ => {
                let (wanted, tokens): (Vec<_>, Vec<_>) = (filter.split('.').collect(), topic.split('.').collect());
                let tail = wanted.last() == Some(&">");
                let fixed = if tail { wanted.len() - 1 } else { wanted.len() };
                (if tail { tokens.len() > fixed } else { tokens.len() == fixed })
                    && wanted.iter().take(fixed).zip(&tokens).all(|(wanted, token)| *wanted == "*" || wanted == token)
            }
        }
    }

    fn word() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "b", "user", "a.b", "*", ">", "%", "", " "]).prop_map(str::to_owned)
    }

    fn template() -> impl Strategy<Value = String> {
        let token = prop::sample::select(vec!["a", "b", "user", "*", "{sub}", "{groups}", "x-{sub}", "{none}"]);
        let many = (prop::collection::vec(token, 1..4), prop::bool::ANY).prop_map(|(mut tokens, tail)| {
            tokens.extend(tail.then_some(">"));
            tokens.join(".")
        });
        prop_oneof![8 => many, 1 => Just(".".to_owned()), 1 => Just(">".to_owned())]
    }

    fn topic() -> impl Strategy<Value = String> {
        let token = prop::sample::select(vec!["a", "b", "user", "x-a", "a%2Eb", "%2A", "%3E", "*", ">", "%25", "%20"]);
        prop::collection::vec(token, 0..4).prop_map(|tokens| tokens.join("."))
    }

    /// The filters that a template stands for, filled by plain replacement.
    fn filled(template: &str, sub: &str, groups: &[String]) -> Vec<String> {
        let token = |value: &str| crate::auth::claims::encoded(value);
        if template.contains("{none}") {
            return Vec::new();
        }
        let sub = match (template.contains("{sub}"), token(sub)) {
            (true, None) => return Vec::new(),
            (_, sub) => template.replace("{sub}", &sub.unwrap_or_default()),
        };
        let mut made = vec![sub];
        while made.iter().any(|text| text.contains("{groups}")) {
            let values: Vec<String> = groups.iter().filter_map(|group| token(group)).collect();
            made = made.iter().flat_map(|text| values.iter().map(|v| text.replacen("{groups}", v, 1))).collect();
        }
        made
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Whatever is granted, asked for and published: what passes was granted and asked for, and everything that was
        /// passes.
        #[test]
        fn a_topic_passes_exactly_when_it_is_granted_and_asked_for(
            templates in prop::collection::vec(template(), 0..4),
            own in prop::collection::vec(template().prop_filter("literal", |t| !t.contains('{')), 0..3),
            sub in word(),
            groups in prop::collection::vec(word(), 0..3),
            asked in prop::collection::vec(template().prop_filter("literal", |t| !t.contains('{') && t != ">"), 0..3),
            topics in prop::collection::vec(topic(), 1..12),
        ) {
            let templates: Vec<&str> = templates.iter().map(String::as_str).collect();
            let route = route(AccessMode::Token, &templates);
            let caller = caller("main", json!({
                "sub": sub, "groups": groups,
                "tidings": {"subscribe": [{"channels": ["demo/orders"], "topics": own}]},
            }));
            let wanted = TopicSet::new(asked.iter().map(|text| text.parse().unwrap())).unwrap_or_else(TopicSet::all);
            let set = entitled(&route, Some(&caller), &wanted);
            let grants: Vec<String> =
                templates.iter().flat_map(|template| filled(template, &sub, &groups)).chain(own.clone()).collect();
            for topic in &topics {
                let granted = grants.iter().any(|filter| passes(filter, topic));
                let asked = asked.is_empty() || asked.iter().any(|filter| passes(filter, topic));
                let passed = set.as_ref().is_some_and(|set| set.matches(topic));
                prop_assert_eq!(passed, granted && asked, "{:?} of {:?}", topic, set);
            }
        }
    }
}
