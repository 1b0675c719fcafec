//! What NATS has refused this connection, as far as it said so. Pure: time is passed in.
//!
//! A request that NATS does not permit gets no answer: it times out. The refusal comes by itself, on the connection, so that the
//! two have to be brought together.

use std::time::{Duration, Instant};

/// Longer than a request waits for its answer.
const FRESH: Duration = Duration::from_secs(15);

/// More than are asked for at a time.
const MOST: usize = 64;

/// Refusals of late.
#[derive(Debug, Default)]
pub struct Refusals(Vec<(Refusal, Instant)>);

/// One thing that is not permitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    verb: &'static str,
    subject: String,
}

// === impl Refusals ===

impl Refusals {
    /// Takes what the server said, if it is a refusal.
    pub fn take(&mut self, said: &str, now: Instant) {
        let Some(refusal) = Refusal::read(said) else { return };
        self.0.retain(|(known, at)| *known != refusal && now.saturating_duration_since(*at) < FRESH);
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        self.0.push((refusal, now));
    }

    /// Why a request on this subject gets no answer: it may not be sent, or its answer may not be listened to, below `inbox`.
    pub fn of(&self, subject: &str, inbox: &str, now: Instant) -> Option<Refusal> {
        let fresh = self.0.iter().filter(|(_, at)| now.saturating_duration_since(*at) < FRESH);
        let mut refusals = fresh.map(|(refusal, _)| refusal);
        let concerns = |refusal: &&Refusal| match refusal.verb {
            "publish to" => refusal.subject == subject,
            _ => refusal.subject.starts_with(inbox),
        };
        refusals.find(concerns).cloned()
    }
}

// === impl Refusal ===

impl Refusal {
    /// Reads `Permissions Violation for Publish to "SUBJECT"`.
    fn read(said: &str) -> Option<Self> {
        let lower = said.to_ascii_lowercase();
        let verb = match lower.strip_prefix("permissions violation for ")? {
            rest if rest.starts_with("publish to") => "publish to",
            rest if rest.starts_with("subscription to") => "subscribe to",
            _ => return None,
        };
        let subject = said.split('"').nth(1)?;
        Some(Self { verb, subject: subject.to_owned() })
    }

    /// The permission as the reference gives it out: for every stream, not for one.
    fn permission(&self) -> String {
        let tokens: Vec<&str> = self.subject.split('.').collect();
        match tokens.as_slice() {
            [head @ .., "INFO", _] => format!("{}.INFO.>", head.join(".")),
            [head @ .., verb @ ("CREATE" | "UPDATE" | "DELETE"), _] => format!("{}.{verb}.*", head.join(".")),
            [inbox, _, ..] if inbox.starts_with("_INBOX") => format!("{inbox}.>"),
            _ => self.subject.clone(),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { verb, .. } = self;
        write!(f, "the operator is not permitted to {verb} {}: add the permission to its NATS user", self.permission())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(said: &str, request: &str) -> Option<String> {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        refusals.take(said, now);
        refusals.of(request, "_INBOX_tidings_operator", now).map(|refusal| refusal.to_string())
    }

    #[test]
    fn a_request_without_an_answer_is_brought_together_with_its_refusal() {
        let publish = "Permissions Violation for Publish to \"$JS.API.STREAM.CREATE.TIDINGS_shop_orders\"";
        assert_eq!(
            said(publish, "$JS.API.STREAM.CREATE.TIDINGS_shop_orders").as_deref(),
            Some(
                "the operator is not permitted to publish to $JS.API.STREAM.CREATE.*: add the permission to its NATS user"
            )
        );
        assert_eq!(said(publish, "$JS.API.STREAM.CREATE.TIDINGS_shop_other"), None);
        let info = "permissions violation for publish to \"$JS.API.STREAM.INFO.TIDINGS_shop_orders\"";
        assert!(said(info, "$JS.API.STREAM.INFO.TIDINGS_shop_orders").is_some_and(|text| text.contains(".INFO.>:")));
        let list = "Permissions Violation for Publish to \"$JS.API.STREAM.LIST\"";
        assert!(said(list, "$JS.API.STREAM.LIST").is_some_and(|text| text.contains(" $JS.API.STREAM.LIST:")));
        let inbox = "Permissions Violation for Subscription to \"_INBOX_tidings_operator.abc.*\"";
        assert_eq!(
            said(inbox, "$JS.API.STREAM.LIST").as_deref(),
            Some(
                "the operator is not permitted to subscribe to _INBOX_tidings_operator.>: add the permission to its NATS user"
            )
        );
        assert_eq!(said("Permissions Violation for Subscription to \"tidings-beat.a.b\"", "$JS.API.STREAM.LIST"), None);
        assert_eq!(said("stale connection", "$JS.API.STREAM.LIST"), None);
    }

    #[test]
    fn refusals_are_forgotten() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        for number in 0..2 * MOST {
            refusals.take(&format!("Permissions Violation for Publish to \"a.{number}\""), now);
        }
        assert_eq!(refusals.0.len(), MOST);
        assert!(refusals.of("a.127", "_INBOX", now).is_some());
        assert!(refusals.of("a.127", "_INBOX", now + FRESH).is_none());
    }
}
