//! `GET /channels/{namespace}/{name}/events`: what a client asks for, and the stream it gets.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, Response};
use tidings_crds::route::{Route, RouteSource};
use tidings_crds::topic::{TopicFilter, TopicSet};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::channel::hub::{FromWhere, Opened, StartAt};
use crate::delivery::h2_body::EventStream;
use crate::delivery::workers::Shards;
use crate::http::problem::Problem;
use crate::http::query::{Parameter, Query, shown};
use crate::http::response::{self, Reply, ReplyBody};
use crate::http::retry;
use crate::limits::quota::MAX_TOPICS;
use crate::server::upgrade::Offer;

/// The parameters of a subscription; `access_token` is only named here so that nothing near it passes unseen. A position has other
/// names in some clients, which append them by themselves when they reconnect (`lastEventId` in event-source-polyfill).
const PARAMETERS: &[Parameter] = &[
    Parameter::Exact("topic"),
    Parameter::Exact("from"),
    Parameter::Lenient("last_event_id"),
    Parameter::Exact("access_token"),
];

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What a subscriber asks for.
#[derive(Debug, PartialEq)]
pub struct Asked {
    /// Of which topics.
    pub topics: TopicSet,
    /// From where on.
    pub start: StartAt,
}

// === impl Asked ===

impl Asked {
    /// Reads query and headers. A position is passed on unread: one that makes no sense is told in the stream.
    pub fn parse(query: Option<&str>, headers: &HeaderMap, topics_at_most: Option<usize>) -> Result<Self, Problem> {
        let query = Query::parse(query, PARAMETERS)?;
        let most = topics_at_most.unwrap_or(MAX_TOPICS);
        Ok(Self { topics: topics(&query, most)?, start: start(&query, headers)? })
    }

    /// Refuses what a channel without history cannot give. A position is no fault: EventSource sends the last id it
    /// knows, whatever the channel was when it got it.
    pub fn fits(&self, route: &Route) -> Result<(), Problem> {
        let history =
            !matches!(self.start, StartAt::From(FromWhere::New) | StartAt::ChannelDefault | StartAt::Position(_));
        if history && route.source == RouteSource::Ephemeral {
            return Err(Problem::invalid("this channel is ephemeral and keeps no history: omit from"));
        }
        Ok(())
    }
}

fn topics(query: &Query, most: usize) -> Result<TopicSet, Problem> {
    let filters: Vec<TopicFilter> = query
        .all("topic")
        .take(most + 1)
        .map(|text| {
            one_topic(text)?;
            text.parse().map_err(|error| Problem::invalid(format!("topic {}: {error}", shown(text))))
        })
        .collect::<Result<_, _>>()?;
    if filters.len() > most {
        return Err(Problem::invalid(format!("at most {most} topics: use wildcards, as in user.* or user.>")));
    }
    Ok(TopicSet::new(filters).unwrap_or_else(TopicSet::all))
}

/// Refuses a list in one parameter, and a variable that was empty.
pub fn one_topic(text: &str) -> Result<(), Problem> {
    if text.contains(',') {
        let detail = format!("topic {}: one topic a parameter, as in topic=a&topic=b", shown(text));
        return Err(Problem::invalid(detail));
    }
    if text.is_empty() {
        let detail = "topic is empty, and a topic has no empty tokens: write . for the empty topic, or leave topic out";
        return Err(Problem::invalid(detail));
    }
    Ok(())
}

/// The header wins over the query, because EventSource repeats its address on every reconnect. Empty is absent.
fn start(query: &Query, headers: &HeaderMap) -> Result<StartAt, Problem> {
    // Read even where a position wins, so that a fault shows at the first try and not at some reconnect.
    let from = query.one("from")?.filter(|text| !text.is_empty()).map(from).transpose()?;
    let header =
        headers.get_all(LAST_EVENT_ID).iter().next_back().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let position = header
        .filter(|text| !text.is_empty())
        .map(|text| text.into_owned())
        .or_else(|| query.all("last_event_id").last().filter(|text| !text.is_empty()).map(str::to_owned));
    Ok(match (position, from) {
        (Some(position), _) => StartAt::Position(position),
        (None, Some(from)) => StartAt::From(from),
        (None, None) => StartAt::ChannelDefault,
    })
}

fn from(text: &str) -> Result<FromWhere, Problem> {
    match text {
        "new" => Ok(FromWhere::New),
        "all" => Ok(FromWhere::All),
        "last" => Ok(FromWhere::Last),
        "last-per-topic" => Ok(FromWhere::LastPerTopic),
        _ => time(text).map(FromWhere::Time).ok_or_else(|| {
            Problem::invalid(format!(
                "from is {}: write new, all, last, last-per-topic or a time as in 2026-11-01T12:00:00Z",
                shown(text)
            ))
        }),
    }
}

/// RFC 3339. A `+` that was not percent-encoded arrives as a space; a time has no other. Before 1970 is 1970.
fn time(text: &str) -> Option<SystemTime> {
    let time = OffsetDateTime::parse(&text.replace(' ', "+"), &Rfc3339).ok()?;
    Some(SystemTime::from(time).max(SystemTime::UNIX_EPOCH))
}

/// The answer that carries the stream; or its head alone, where a connection offers its socket and shards write the rest.
pub fn stream(opened: Opened, offer: Option<(&Offer, &Shards)>) -> Reply {
    match offer {
        Some((offer, shards)) => {
            shards.take_up(offer, opened);
            head()
        }
        None => {
            let mut reply = Response::new(ReplyBody::new(EventStream::new(opened.stream, opened.opening)));
            retry::stream_headers(reply.headers_mut());
            reply
        }
    }
}

/// The same head without a stream, for `HEAD`: without a length, as `GET` has none (RFC 9110, section 8.6).
pub fn head() -> Reply {
    let mut reply = Response::new(response::unmeasured());
    retry::stream_headers(reply.headers_mut());
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;
    use std::time::Duration;

    fn asked(query: &str) -> Result<Asked, Problem> {
        Asked::parse(Some(query), &HeaderMap::new(), None)
    }

    proptest! {
        #[test]
        fn no_request_panics(query in ".{0,200}", header in proptest::collection::vec(any::<u8>(), 0..60)) {
            let headers: HeaderMap = HeaderValue::from_bytes(&header).map(|v| (LAST_EVENT_ID, v)).into_iter().collect();
            let _ = Asked::parse(Some(&query), &headers, None);
            let _ = Asked::parse(Some(&format!("topic={query}&from={query}")), &headers, None);
        }
    }

    fn set(filters: &[&str]) -> TopicSet {
        TopicSet::new(filters.iter().map(|filter| filter.parse().unwrap())).unwrap()
    }

    #[test]
    fn topics_repeat_and_none_is_all() {
        for (query, topics) in [
            ("", TopicSet::all()),
            ("topic=user.42", set(&["user.42"])),
            ("topic=user.*&topic=news.%3E", set(&["user.*", "news.>"])),
            ("topic=.", set(&["."])),
            ("topic=>", set(&[">"])),
            ("topic=a&topic=a", set(&["a"])),
            ("utm_source=x&topic=a&_=1700000000", set(&["a"])),
        ] {
            assert_eq!(asked(query).unwrap().topics, topics, "{query}");
        }
    }

    #[test]
    fn a_faulty_query_says_what_to_write() {
        for (query, hint) in [
            ("topic=", "no empty tokens"),
            ("topic=a..b", "no empty tokens"),
            ("topic=a.x*", "a wildcard is a whole token"),
            ("topic=a%20b", "no white space"),
            ("topics=a", "is called topic"),
            ("from=yesterday", "write new, all, last"),
            ("from=NEW", "write new, all, last"),
            ("from=2026-11-01", "a time as in"),
            ("from=all&from=new", "must not be repeated"),
            ("topic=a,b", "topic=a&topic=b"),
            ("topic[]=a", "is called topic"),
            ("topic=%ff", "not UTF-8"),
        ] {
            let problem = format!("{:?}", asked(query).unwrap_err());
            assert!(problem.contains(hint), "{query}: {problem}");
        }
        let many = "topic=a&".repeat(65);
        assert!(asked(&many).is_err() && asked(&"topic=a&".repeat(64)).is_ok());
    }

    #[test]
    fn a_start_is_a_word_or_a_time() {
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_793_534_400);
        for (query, start) in [
            ("", StartAt::ChannelDefault),
            ("from=", StartAt::ChannelDefault),
            ("from=new", StartAt::From(FromWhere::New)),
            ("from=all", StartAt::From(FromWhere::All)),
            ("from=last", StartAt::From(FromWhere::Last)),
            ("from=last-per-topic", StartAt::From(FromWhere::LastPerTopic)),
            ("from=2026-11-01T12:00:00Z", StartAt::From(FromWhere::Time(noon))),
            ("from=2026-11-01T14:00:00%2B02:00", StartAt::From(FromWhere::Time(noon))),
            ("from=2026-11-01T14:00:00+02:00", StartAt::From(FromWhere::Time(noon))),
            ("from=1900-01-01T00:00:00Z", StartAt::From(FromWhere::Time(SystemTime::UNIX_EPOCH))),
        ] {
            assert_eq!(asked(query).unwrap().start, start, "{query}");
        }
    }

    #[test]
    fn the_header_wins_then_the_query_then_from() {
        let position = |text: &str| StartAt::Position(text.to_owned());
        for (header, query, start) in [
            (Some("e-1"), "last_event_id=e-2&from=all", position("e-1")),
            (Some(""), "last_event_id=e-2&from=all", position("e-2")),
            (None, "last_event_id=e-2&from=all", position("e-2")),
            (None, "last_event_id=&from=all", StartAt::From(FromWhere::All)),
            (None, "last_event_id=e-2&last_event_id=e-3", position("e-3")),
            (None, "last_event_id=e-2&lastEventId=e-3", position("e-3")),
            (None, "lastEventId=e-2&from=all", position("e-2")),
            (Some("\u{e9}\u{7f}"), "", position("\u{e9}\u{7f}")),
        ] {
            let headers: HeaderMap = header
                .map(|value| (LAST_EVENT_ID, HeaderValue::from_bytes(value.replace('\u{7f}', "").as_bytes()).unwrap()))
                .into_iter()
                .collect();
            let start = match start {
                StartAt::Position(text) => position(&text.replace('\u{7f}', "")),
                other => other,
            };
            assert_eq!(Asked::parse(Some(query), &headers, None).unwrap().start, start, "{header:?} {query}");
        }
        let garbage: HeaderMap = [(LAST_EVENT_ID, HeaderValue::from_bytes(b"\xff\xfe").unwrap())].into_iter().collect();
        assert_eq!(Asked::parse(None, &garbage, None).unwrap().start, position("\u{fffd}\u{fffd}"));
    }
}
