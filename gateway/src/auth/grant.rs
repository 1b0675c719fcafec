//! What a caller is granted: by the channel's templates over its claims, and by its token's own claim `tidings`. Pure.
//!
//! ```json
//! "tidings": {
//!   "subscribe": [{ "channels": ["shop/orders", "news/*"], "topics": ["user.42", "public.>", "."] }],
//!   "publish":   [{ "channels": ["shop/orders"], "topics": ["user.42"] }]
//! }
//! ```

use std::str::FromStr;

use serde::Deserialize;
use serde_json::Value;
use tidings_crds::template::{Part, TopicTemplate};
use tidings_crds::topic::TopicFilter;

use crate::auth::claims::{Claims, encoded};

/// What a client wants to do with a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read its events.
    Subscribe,
    /// Publish to it over HTTP.
    Publish,
}

/// What a token grants by itself, whatever the channels' templates say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnGrants {
    subscribe: Vec<OwnGrant>,
    publish: Vec<OwnGrant>,
}

#[derive(Clone, Debug, PartialEq)]
struct OwnGrant {
    channels: Vec<ChannelPattern>,
    topics: Vec<TopicFilter>,
}

/// `shop/orders`, `shop/*`, `*/orders` or `*/*`.
#[derive(Clone, Debug, PartialEq)]
struct ChannelPattern {
    /// Absent is every namespace.
    namespace: Option<String>,
    /// Absent is every name.
    name: Option<String>,
}

/// The claim as it is written. A field that is not known may be meant to restrict, so the whole claim then grants nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    subscribe: Vec<WrittenGrant>,
    #[serde(default)]
    publish: Vec<WrittenGrant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGrant {
    channels: Vec<String>,
    topics: Vec<String>,
}

/// The claim that holds a token's own grants.
pub const OWN_GRANTS: &str = "tidings";

/// The most filters that the templates of a channel make of one token's claims, and that a token grants by itself. What
/// is beyond is not granted.
pub const MAX_FILTERS: usize = 256;

/// The most values that are tried in the templates of a channel, whether they make a filter or not.
const MAX_TRIES: usize = 4 * MAX_FILTERS;

// === impl OwnGrants ===

impl OwnGrants {
    /// The grants in a token; none if the claim is not what it should be.
    pub fn of(claims: &Claims) -> Self {
        claims.get(OWN_GRANTS).and_then(Self::read).unwrap_or_default()
    }

    /// The topics of the channel `namespace/name` that are granted.
    pub fn topics(&self, action: Action, namespace: &str, name: &str) -> Vec<TopicFilter> {
        let grants = match action {
            Action::Subscribe => &self.subscribe,
            Action::Publish => &self.publish,
        };
        let ours = grants.iter().filter(|grant| grant.channels.iter().any(|channel| channel.is_for(namespace, name)));
        ours.flat_map(|grant| &grant.topics).take(MAX_FILTERS).cloned().collect()
    }

    fn read(claim: &Value) -> Option<Self> {
        let written = Written::deserialize(claim).ok()?;
        let grants = |list: Vec<WrittenGrant>| list.into_iter().map(OwnGrant::read).collect::<Option<Vec<_>>>();
        Some(Self { subscribe: grants(written.subscribe)?, publish: grants(written.publish)? })
    }
}

// === impl OwnGrant ===

impl OwnGrant {
    fn read(written: WrittenGrant) -> Option<Self> {
        let channels = written.channels.iter().map(|text| text.parse().ok()).collect::<Option<_>>()?;
        let topics = written.topics.iter().map(|text| filter(text)).collect::<Option<_>>()?;
        Some(Self { channels, topics })
    }
}

// === impl ChannelPattern ===

impl ChannelPattern {
    fn is_for(&self, namespace: &str, name: &str) -> bool {
        let matches = |wanted: &Option<String>, part: &str| wanted.as_ref().is_none_or(|wanted| wanted == part);
        matches(&self.namespace, namespace) && matches(&self.name, name)
    }
}

impl FromStr for ChannelPattern {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let part = |part: &str| match part {
            "*" => Ok(None),
            _ if part.is_empty() || part.contains(['*', '/']) => Err(()),
            _ => Ok(Some(part.to_owned())),
        };
        let (namespace, name) = text.split_once('/').ok_or(())?;
        Ok(Self { namespace: part(namespace)?, name: part(name)? })
    }
}

/// A filter as a grant: `>` is every topic, the empty one included.
fn filter(text: &str) -> Option<TopicFilter> {
    if text == ">" { Some(TopicFilter::All) } else { text.parse().ok() }
}

/// The filters that a channel's templates make of these claims. A template with a claim that the token does not have, or
/// whose result is no topic, grants nothing.
pub fn expanded(templates: &[String], claims: &Claims) -> Vec<TopicFilter> {
    let templates = templates.iter().filter_map(|text| text.parse::<TopicTemplate>().ok());
    let mut tries = MAX_TRIES;
    templates.flat_map(|template| expand(&template, claims, &mut tries)).take(MAX_FILTERS).collect()
}

/// The filters among a channel's templates that need no claims.
pub fn without_claims(templates: &[String]) -> impl Iterator<Item = TopicFilter> {
    templates.iter().filter_map(|text| text.parse::<TopicTemplate>().ok()?.filter())
}

fn expand(template: &TopicTemplate, claims: &Claims, tries: &mut usize) -> Vec<TopicFilter> {
    if let Some(filter) = template.filter() {
        return vec![filter];
    }
    let mut texts = vec![String::new()];
    for part in template.parts() {
        match part {
            Part::Text(text) => texts.iter_mut().for_each(|made| made.push_str(text)),
            Part::Claim(name) => {
                let values: Vec<String> = claims.values(name).iter().filter_map(|value| encoded(value)).collect();
                let all = texts.iter().flat_map(|made| values.iter().map(move |value| format!("{made}{value}")));
                texts = all.take(MAX_FILTERS.min(*tries)).collect();
                *tries = tries.saturating_sub(texts.len());
            }
        }
    }
    texts.iter().filter_map(|text| text.parse().ok().map(TopicFilter::Pattern)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(value: Value) -> Claims {
        Claims::new(value.as_object().unwrap().clone())
    }

    fn written(filters: &[TopicFilter]) -> Vec<String> {
        filters.iter().map(ToString::to_string).collect()
    }

    fn made(templates: &[&str], of: Value) -> Vec<String> {
        let templates: Vec<String> = templates.iter().map(ToString::to_string).collect();
        written(&expanded(&templates, &claims(of)))
    }

    #[test]
    fn templates_are_filled_with_every_value_of_their_claims() {
        let of = json!({"sub": "ann.b", "groups": ["red", "*"], "empty": "", "none": []});
        assert_eq!(made(&["all", "user.{sub}"], of.clone()), ["all", "user.ann%2Eb"]);
        assert_eq!(made(&["team-{groups}.>"], of.clone()), ["team-red.>", "team-%2A.>"]);
        assert_eq!(made(&["{groups}.{groups}"], of.clone()).len(), 4);
        assert_eq!(made(&[">", "."], of.clone()), ["(all)", "."]);
        for nothing in ["user.{missing}", "user.{empty}", "{none}", "{empty}.{sub}", "a..b", "{sub"] {
            assert_eq!(made(&[nothing], of.clone()), [""; 0], "{nothing}");
        }
        let long = json!({"sub": "x".repeat(300)});
        assert_eq!(made(&["user.{sub}"], long), [""; 0]);
    }

    #[test]
    fn no_claims_make_more_filters_than_can_be_compared() {
        let many: Vec<String> = (0..300).map(|n| n.to_string()).collect();
        assert_eq!(made(&["{g}.{g}.{g}", "{g}"], json!({"g": many})).len(), MAX_FILTERS);
    }

    #[test]
    fn values_that_make_no_topic_are_not_tried_for_ever() {
        let many: Vec<String> = (0..256).map(|n| format!("{n:0>20}")).collect();
        let (mut templates, long) = (vec!["x".repeat(250) + "{g}"; 60], "{g}".to_owned());
        templates.push(long);
        let filters = expanded(&templates, &claims(json!({"g": many})));
        assert!(filters.len() <= MAX_FILTERS && filters.iter().all(|filter| filter.to_string().len() < 255));
        let mut tries = MAX_TRIES;
        let template: TopicTemplate = templates.first().unwrap().parse().unwrap();
        (0..60).for_each(|_| drop(expand(&template, &claims(json!({"g": many})), &mut tries)));
        assert_eq!(tries, 0);
    }

    #[test]
    fn a_token_grants_topics_of_channels_by_itself() {
        let own = OwnGrants::of(&claims(json!({"tidings": {
            "subscribe": [
                {"channels": ["shop/orders", "news/*"], "topics": ["user.42", "."]},
                {"channels": ["*/orders"], "topics": ["all.>"]},
            ],
            "publish": [{"channels": ["*/*"], "topics": [">"]}],
        }})));
        let topics = |action, namespace, name| written(&own.topics(action, namespace, name));
        assert_eq!(topics(Action::Subscribe, "shop", "orders"), ["user.42", ".", "all.>"]);
        assert_eq!(topics(Action::Subscribe, "news", "eu"), ["user.42", "."]);
        assert_eq!(topics(Action::Subscribe, "shop", "orders2"), [""; 0]);
        assert_eq!(topics(Action::Publish, "any", "thing"), ["(all)"]);
    }

    #[test]
    fn a_claim_that_is_not_understood_grants_nothing_at_all() {
        let good = json!({"channels": ["a/b"], "topics": ["x"]});
        for claim in [
            json!("a/b"),
            json!({"subscribe": [good, {"channels": ["a/b"], "topics": ["x"], "except": ["y"]}]}),
            json!({"subscribe": [good], "deny": []}),
            json!({"subscribe": [good, {"channels": ["a"], "topics": ["x"]}]}),
            json!({"subscribe": [good, {"channels": ["a/b*"], "topics": ["x"]}]}),
            json!({"subscribe": [good, {"channels": ["a/b/c"], "topics": ["x"]}]}),
            json!({"subscribe": [good, {"channels": ["a/b"], "topics": ["x..y"]}]}),
            json!({"subscribe": [good, {"channels": ["a/b"], "topics": [7]}]}),
        ] {
            let own = OwnGrants::of(&claims(json!({"tidings": claim})));
            assert_eq!(own, OwnGrants::default(), "{claim}");
        }
        assert_eq!(OwnGrants::of(&Claims::default()), OwnGrants::default());
    }
}
