//! Memory that a crowd leaves behind. glibc keeps what was freed for whoever comes next, in pieces between what is still in use: of
//! ten thousand TLS sessions it kept 77 MB. So once a crowd has left, it is told to give that back to the kernel.
//!
//! Not at every departure: giving back holds up those who allocate, and whoever comes next has to ask the kernel again.

use std::time::Duration;

use tokio::time::sleep;
use tracing::debug;

/// Looks how many are here, and says when memory is to be given back.
#[derive(Debug, Default)]
pub struct Slack {
    /// The most since memory was given back last.
    most: u64,
    /// How many were here at the last look.
    last: u64,
}

/// A crowd: some hundred kilobytes on plain connections, some megabytes on TLS.
const CROWD: u64 = 500;

/// How often to look.
const LOOK: Duration = Duration::from_secs(1);

// === impl Slack ===

impl Slack {
    /// Whether memory is to be given back now that so many are here: when a crowd has left, which was at least half of all,
    /// and nobody is leaving any more.
    pub fn look(&mut self, here: u64) -> bool {
        self.most = self.most.max(here);
        let leaving = std::mem::replace(&mut self.last, here) > here;
        let left = self.most - here;
        if leaving || left < CROWD || left < self.most / 2 {
            return false;
        }
        self.most = here;
        true
    }
}

/// Gives memory back for ever, as those who are here leave.
pub async fn give_back(here: impl Fn() -> u64) {
    let mut slack = Slack::default();
    loop {
        sleep(LOOK).await;
        if slack.look(here()) {
            // Some milliseconds for each hundred megabytes.
            let _ = tokio::task::spawn_blocking(trim).await;
            debug!("A crowd has left: gave memory back.");
        }
    }
}

/// Gives whole free pages back.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator has no safe way in")]
fn trim() {
    // SAFETY: it takes a number, no pointer, may be called from any thread, and touches only what was freed (malloc_trim(3)).
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators see for themselves.
#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_a_crowd_has_left_and_not_while_it_leaves() {
        let mut slack = Slack::default();
        let told = [0, 4_000, 10_000, 9_000, 4_000, 1_000, 1_000, 1_000, 0, 0].map(|here| slack.look(here));
        // Once for the nine thousand; then for the last thousand, which was no half of all but all who were left.
        assert_eq!(told, [false, false, false, false, false, false, true, false, false, true]);
    }

    #[test]
    fn a_few_who_come_and_go_are_no_crowd() {
        let mut slack = Slack::default();
        assert!([10, 0, 499, 0, 0, 300, 10, 10].iter().all(|here| !slack.look(*here)));
        let mut slack = Slack::default();
        assert!([5_000, 4_000, 4_000, 5_000, 3_000, 3_000].iter().all(|here| !slack.look(*here)), "not yet a half");
    }
}
