//! The query of a request: its known parameters, and what is said about those that are nearly known.
//!
//! A parameter that is ignored is a filter that is not applied: everything would be subscribed to, or the base subject published
//! to. So what is nearly a parameter of ours is refused, in whatever way it was spoilt.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use crate::http::problem::Problem;

/// The parameters of a query, decoded, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query(Vec<(String, String)>);

/// A parameter that a query may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// By exactly this name, in UTF-8.
    Exact(&'static str),
    /// By this name, or in any spelling of it: clients have their own. Bytes that are not UTF-8 are replaced.
    Lenient(&'static str),
}

// === impl Parameter ===

impl Parameter {
    const fn name(self) -> &'static str {
        match self {
            Self::Exact(name) | Self::Lenient(name) => name,
        }
    }
}

// === impl Query ===

impl Query {
    /// Decodes a query string. Parameters that are not known here are left alone (caches and trackers add theirs), but one that is
    /// nearly a known one is refused: `topics=a` would otherwise subscribe to everything.
    pub fn parse(raw: Option<&str>, known: &[Parameter]) -> Result<Self, Problem> {
        let raw = raw.unwrap_or_default();
        run_together(raw, known)?;
        let mut pairs = Vec::new();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name), decoded(value));
            let name = String::from_utf8_lossy(&name);
            match meant(&name, known) {
                Some(Parameter::Lenient(known)) => {
                    pairs.push((known.to_owned(), String::from_utf8_lossy(&value).into_owned()));
                }
                Some(Parameter::Exact(known)) if *known == *name => {
                    let value = std::str::from_utf8(&value);
                    let value =
                        value.map_err(|_| Problem::invalid(format!("the query parameter {known} is not UTF-8")))?;
                    pairs.push((known.to_owned(), value.to_owned()));
                }
                Some(Parameter::Exact(known)) => {
                    return Err(Problem::invalid(format!(
                        "the query parameter is called {known}, not {}",
                        shown(&name)
                    )));
                }
                None => {}
            }
        }
        Ok(Self(pairs))
    }

    /// All values of a parameter.
    pub fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that may be given once.
    pub fn one<'q>(&'q self, name: &'q str) -> Result<Option<&'q str>, Problem> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(Problem::invalid(format!("the query parameter {name} must not be repeated"))),
        }
    }
}

/// As forms encode: `+` is a space.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    match text.contains('+') {
        true => percent_decode(text.replace('+', " ").as_bytes()).collect::<Vec<u8>>().into(),
        false => percent_decode(text.as_bytes()).into(),
    }
}

/// Refuses `?topic=a?from=all` and `?topic=a;from=all`: parameters that stand within the value of another one.
fn run_together(raw: &str, known: &[Parameter]) -> Result<(), Problem> {
    for (at, _) in raw.match_indices(['?', ';']) {
        let rest = raw.get(at + 1..).unwrap_or_default();
        let name = rest.split(['&', '=', '?', ';']).next().unwrap_or_default();
        let is_pair = rest.get(name.len()..).is_some_and(|rest| rest.starts_with('='));
        if is_pair && known.iter().any(|known| known.name() == name) {
            let detail = format!("the query has {} before {name}: parameters are joined by &", shown(&raw[at..=at]));
            return Err(Problem::invalid(detail));
        }
    }
    Ok(())
}

/// The parameter that a name is, or is nearly.
fn meant(name: &str, known: &[Parameter]) -> Option<Parameter> {
    let exact = known.iter().find(|known| known.name() == name);
    let name = plain(name);
    exact.or_else(|| known.iter().find(|known| plain(known.name()) == name)).copied()
}

/// A name without what gets into names by mistake: another case, dashes, underscores, a plural, white space, the brackets of
/// libraries (`topic[]`, `topic[0]`), a question mark too many, an ampersand that was escaped for HTML, quotes.
fn plain(name: &str) -> String {
    let name = name.trim_start_matches(['?', '&', ' ']);
    let name = name.strip_prefix("amp;").or_else(|| name.strip_prefix("#38;")).unwrap_or(name);
    let name = name.split(['[', ']', '(', '{']).next().unwrap_or_default();
    let kept = name.chars().filter(|c| c.is_alphanumeric()).take(32).collect::<String>();
    kept.to_ascii_lowercase().trim_end_matches('s').to_owned()
}

/// What a client sent, safe and short enough to be told back.
pub fn shown(text: &str) -> String {
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(64).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use Parameter::{Exact, Lenient};

    const KNOWN: &[Parameter] = &[Exact("topic"), Exact("from"), Lenient("last_event_id")];

    #[test]
    fn parameters_are_decoded_and_may_repeat() {
        let query = Query::parse(Some("topic=a.%2A&topic=b+c&from=all&utm_source=x&_=1&&="), KNOWN).unwrap();
        assert_eq!(query.all("topic").collect::<Vec<_>>(), ["a.*", "b c"]);
        assert_eq!(query.one("from"), Ok(Some("all")));
        assert_eq!(query.one("last_event_id"), Ok(None));
        assert!(query.one("topic").is_err());
        assert_eq!(Query::parse(Some("topic"), KNOWN).unwrap().one("topic"), Ok(Some("")), "without a value");
    }

    #[test]
    fn a_nearly_known_parameter_is_refused_and_named() {
        for query in [
            "topics=x",
            "Topic=x",
            "FROM=x",
            "topic[]=x",
            "topic%5B%5D=x",
            "topic[0]=x",
            "topic%5B0%5D=x",
            "topic[a][b]=x",
            "topics[]=x",
            "%20topic=x",
            "topic%20=x",
            "+topic=x",
            "topic%09=x",
            "topic%0A=x",
            "?topic=x",
            "a=b&?topic=x",
            "amp;topic=x",
            "a=b&amp;topic=x",
            "%26topic=x",
            "&amp;from=x",
            "#38;topic=x",
            "topic.=x",
            "'topic'=x",
            "topic{}=x",
            "to-pic=x",
            "Topic",
            "topic%00=x",
            "\u{201c}topic\u{201d}=x",
        ] {
            let problem = Query::parse(Some(query), KNOWN).map_err(|problem| format!("{problem:?}"));
            // What stands behind a question mark or a semicolon too many is told as such.
            let told = |problem: &String| problem.contains("is called") || problem.contains("joined by &");
            assert!(problem.as_ref().is_err_and(told), "{query}: {problem:?}");
        }
        for name in ["t", "since", "topic2", "form", "last_event", "subtopic", "top.ic.x"] {
            assert!(Query::parse(Some(&format!("{name}=x")), KNOWN).is_ok(), "{name}");
        }
    }

    #[test]
    fn parameters_that_are_not_joined_by_an_ampersand_are_refused() {
        for query in ["topic=a?from=all", "topic=a;from=all", "x=y?topic=a", "from=all;topic=a"] {
            let problem = format!("{:?}", Query::parse(Some(query), KNOWN).unwrap_err());
            assert!(problem.contains("joined by &"), "{query}: {problem}");
        }
        for query in ["topic=a?", "topic=a;b", "x=y;z=1&topic=a", "callback=https://x/?a=b"] {
            assert!(Query::parse(Some(query), KNOWN).is_ok(), "{query}");
        }
    }

    #[test]
    fn a_lenient_parameter_is_known_by_every_spelling_and_takes_any_bytes() {
        for name in ["last_event_id", "lastEventId", "lastEventID", "last-event-id", "Last-Event-ID"] {
            let query = Query::parse(Some(&format!("{name}=e-1%ff")), KNOWN).unwrap();
            assert_eq!(query.all("last_event_id").collect::<Vec<_>>(), ["e-1\u{fffd}"], "{name}");
        }
    }

    #[test]
    fn what_is_not_utf_8_is_refused_and_not_replaced() {
        for query in ["topic=%ff", "topic=a%c3", "from=%80"] {
            let problem = format!("{:?}", Query::parse(Some(query), KNOWN).unwrap_err());
            assert!(problem.contains("not UTF-8"), "{query}: {problem}");
        }
        assert!(Query::parse(Some("utm=%ff&%ff=x"), KNOWN).is_ok(), "others' parameters are left alone");
    }

    #[test]
    fn what_is_told_back_is_short_and_has_no_control_characters() {
        assert_eq!(shown("a\r\nb\0"), "\"ab…\"");
        assert_eq!(shown(&"x".repeat(100)).chars().count(), 67);
    }
}
