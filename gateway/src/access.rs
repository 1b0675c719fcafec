//! Who may do what with a channel: pure decisions about one request.
//!
//! Nothing is public by silence: only the mode `Public` lets a request without a token in, and only to the topics that
//! the Route grants. Whatever else is asked for, and a channel that does not exist, gets one and the same 401.

use tidings_crds::channel::AccessMode;
use tidings_crds::route::RouteGrant;
use tidings_crds::topic::{TopicFilter, TopicSet};

use crate::problem::Problem;

/// What one direction of a channel grants to everybody; the refusal otherwise. `grant` is absent for an unknown channel.
pub fn granted(grant: Option<&RouteGrant>) -> Result<TopicSet, Problem> {
    let Some(grant) = grant else { return Err(Problem::unauthorized()) };
    match grant.mode {
        AccessMode::Public => TopicSet::new(grant.topics.iter().filter_map(|topic| open_to_all(topic)))
            .ok_or(Problem::not_found("the channel grants no topics to everybody")),
        AccessMode::Token | AccessMode::Disabled => Err(Problem::unauthorized()),
    }
}

/// What is both granted and asked for. Nothing in common is the same as nothing there.
pub fn narrowed(granted: &TopicSet, asked: &TopicSet) -> Result<TopicSet, Problem> {
    granted.intersect(asked).ok_or(Problem::not_found("the channel grants none of these topics"))
}

/// A grant as a filter, unless it is a template: without a token there are no claims to fill it with.
fn open_to_all(topic: &str) -> Option<TopicFilter> {
    match topic {
        ">" => Some(TopicFilter::All),
        _ if topic.contains(['{', '}']) => None,
        _ => topic.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::ProblemKind;

    fn grant(mode: AccessMode, topics: &[&str]) -> RouteGrant {
        RouteGrant { mode, topics: topics.iter().map(ToString::to_string).collect() }
    }

    fn set(filters: &[&str]) -> TopicSet {
        TopicSet::new(filters.iter().map(|filter| filter.parse().unwrap())).unwrap()
    }

    #[test]
    fn a_public_channel_grants_what_its_route_lists() {
        let public = |topics| granted(Some(&grant(AccessMode::Public, topics)));
        assert_eq!(public(&[">"]), Ok(TopicSet::all()));
        assert_eq!(public(&["news", "user.*", "."]), Ok(set(&["news", "user.*", "."])));
        assert_eq!(public(&["news", "user.{sub}"]), Ok(set(&["news"])), "a template needs claims");
        for nothing in [&[][..], &["user.{sub}"], &["a..b"]] {
            assert_eq!(public(nothing).unwrap_err().status(), ProblemKind::NotFound.status(), "{nothing:?}");
        }
    }

    #[test]
    fn everything_else_is_the_same_401_as_a_missing_channel() {
        let missing = granted(None);
        assert_eq!(missing, Err(Problem::unauthorized()));
        assert_eq!(granted(Some(&grant(AccessMode::Token, &[">"]))), missing);
        assert_eq!(granted(Some(&grant(AccessMode::Disabled, &[">"]))), missing);
    }

    #[test]
    fn a_subscriber_receives_what_is_both_granted_and_asked_for() {
        let granted = set(&["news", "user.*"]);
        assert_eq!(narrowed(&granted, &TopicSet::all()), Ok(granted.clone()));
        assert_eq!(narrowed(&granted, &set(&["user.42", "audit"])), Ok(set(&["user.42"])));
        assert_eq!(narrowed(&TopicSet::all(), &set(&["."])), Ok(set(&["."])));
        assert!(narrowed(&granted, &set(&["audit"])).is_err());
    }
}
