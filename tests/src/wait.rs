//! Waiting for a condition with a deadline: the only way a test lets time pass.
//!
//! Deadlines are long on purpose. They end a test that would hang, and never judge how fast something was.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::Instant;

/// How long a test waits for what must happen, on a machine with other work to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What an attempt came to: `bool`, `Option` or `Result`.
pub trait Outcome {
    /// What a successful attempt yields.
    type Value;

    /// The value, or why there is none yet.
    fn outcome(self) -> Result<Self::Value, String>;
}

impl Outcome for bool {
    type Value = ();

    fn outcome(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "not yet".to_owned())
    }
}

impl<T> Outcome for Option<T> {
    type Value = T;

    fn outcome(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing yet".to_owned())
    }
}

impl<T, E: Debug> Outcome for Result<T, E> {
    type Value = T;

    fn outcome(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

/// Tries again, with pauses from 5 ms growing to 100 ms, until an attempt succeeds.
///
/// # Panics
/// At the deadline, with what was awaited and how the last attempt ended. An attempt that hangs counts as failed.
pub async fn eventually<F, A>(deadline: Duration, what: &str, mut attempt: F) -> <A::Output as Outcome>::Value
where
    F: FnMut() -> A,
    A: Future<Output: Outcome>,
{
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(5);
    let mut last = "no attempt ended".to_owned();
    loop {
        match tokio::time::timeout_at(end, attempt()).await.map(Outcome::outcome) {
            Ok(Ok(value)) => return value,
            Ok(Err(why)) => last = why,
            Err(_) => panic!("{what}: not within {deadline:?}; the last attempt hung; before it: {last}"),
        }
        assert!(Instant::now() + pause < end, "{what}: not within {deadline:?}; the last attempt: {last}");
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(100));
    }
}

/// Awaits `future`, and panics with `what` at the deadline.
pub async fn within<T>(deadline: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(deadline, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {deadline:?}"),
    }
}

/// Holds for the whole of `span`: for what must *not* happen, where no event can be awaited.
pub async fn throughout<F>(span: Duration, what: &str, mut holds: F)
where
    F: FnMut() -> bool,
{
    let end = Instant::now() + span;
    while Instant::now() < end {
        assert!(holds(), "{what}: no longer so");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_later_attempt_may_succeed() {
        let mut attempts = 0;
        let value = eventually(PATIENCE, "the third attempt", || {
            attempts += 1;
            std::future::ready((attempts == 3).then_some(attempts))
        })
        .await;
        assert_eq!(value, 3);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "a miracle: not within 60s; the last attempt: \"still no\"")]
    async fn the_deadline_names_what_was_awaited_and_how_it_went() {
        eventually(PATIENCE, "a miracle", || std::future::ready(Err::<(), _>("still no"))).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "the last attempt hung")]
    async fn an_attempt_that_hangs_ends_at_the_deadline() {
        eventually(PATIENCE, "the end of time", std::future::pending::<bool>).await;
    }
}
