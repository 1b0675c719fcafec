//! The query of a request: its known parameters, and what is said about those that are nearly known.

use crate::http::problem::Problem;

/// The parameters of a query, decoded, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query(Vec<(String, String)>);

// === impl Query ===

impl Query {
    /// Decodes a query string. Parameters that nobody here knows are left alone (caches and trackers add theirs), but
    /// one that is nearly a known one is refused: `topics=a` would otherwise subscribe to everything.
    pub fn parse(raw: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let pairs: Vec<(String, String)> =
            form_urlencoded::parse(raw.unwrap_or_default().as_bytes()).into_owned().collect();
        for (name, _) in pairs.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
            if let Some(meant) = known.iter().find(|known| alike(known, name)) {
                return Err(Problem::invalid(format!("the query parameter is called {meant}, not {}", shown(name))));
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
            (_, Some(_)) => Err(Problem::invalid(format!("the query parameter {name} may be given once"))),
        }
    }
}

/// What a client sent, safe and short enough to be told back.
pub fn shown(text: &str) -> String {
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(64).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

/// Whether two names differ in nothing but case, dashes, underscores and a plural.
fn alike(known: &str, name: &str) -> bool {
    let plain = |text: &str| -> String {
        let text: String = text.chars().filter(|c| !matches!(c, '-' | '_')).take(32).collect();
        text.to_ascii_lowercase().trim_end_matches('s').to_owned()
    };
    plain(known) == plain(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["topic", "from", "last_event_id"];

    #[test]
    fn parameters_are_decoded_and_may_repeat() {
        let query = Query::parse(Some("topic=a.%2A&topic=b+c&from=all&utm_source=x&_=1"), KNOWN).unwrap();
        assert_eq!(query.all("topic").collect::<Vec<_>>(), ["a.*", "b c"]);
        assert_eq!(query.one("from"), Ok(Some("all")));
        assert_eq!(query.one("last_event_id"), Ok(None));
        assert!(query.one("topic").is_err());
    }

    #[test]
    fn a_nearly_known_parameter_is_refused_and_named() {
        for name in ["topics", "Topic", "lastEventID", "last-event-id", "LastEventId", "FROM"] {
            assert!(Query::parse(Some(&format!("{name}=x")), KNOWN).is_err(), "{name}");
        }
        for name in ["t", "since", "topic2", "form", "last_event"] {
            assert!(Query::parse(Some(&format!("{name}=x")), KNOWN).is_ok(), "{name}");
        }
    }

    #[test]
    fn what_is_told_back_is_short_and_has_no_control_characters() {
        assert_eq!(shown("a\r\nb\0"), "\"ab…\"");
        assert_eq!(shown(&"x".repeat(100)).chars().count(), 67);
    }
}
