//! Memory that a crowd leaves behind. glibc keeps what was freed for later allocations, in pieces between what is still in use: of
//! ten thousand TLS sessions it kept 77 MB. So once a crowd has left, it is told to give that back to the kernel.
//!
//! Not at every departure: giving back holds up those who allocate, and later allocations have to ask the kernel again.

use std::time::Duration;

use tokio::time::sleep;
use tracing::debug;

/// Looks how many are here and how many have left, and says when memory is to be given back.
#[derive(Debug, Default)]
pub struct Slack {
    /// How many had left when memory was given back last.
    given: u64,
    /// How many had left at the last look.
    last: u64,
}

/// How many came, from the beginning, and how many of them are here. Both at once or the other way round: a crowd may come and
/// leave between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowd {
    /// Who came.
    pub came: u64,
    /// Who is here.
    pub here: u64,
}

/// A crowd are so many: some hundred kilobytes on plain connections, some megabytes on TLS.
const MANY: u64 = 500;

/// How often to look.
const LOOK: Duration = Duration::from_secs(1);

// === impl Slack ===

impl Slack {
    /// Whether memory is to be given back now: when a crowd has left since the last time, at least as many as are here, and
    /// nobody is leaving any more.
    pub fn look(&mut self, crowd: Crowd) -> bool {
        let left = crowd.came.saturating_sub(crowd.here);
        let leaving = std::mem::replace(&mut self.last, left) != left;
        let since = left.saturating_sub(self.given);
        if leaving || since < MANY || since < crowd.here {
            return false;
        }
        self.given = left;
        true
    }
}

/// Gives memory back for ever, as those who came leave.
pub async fn give_back(crowd: impl Fn() -> Crowd) {
    let mut slack = Slack::default();
    loop {
        sleep(LOOK).await;
        if slack.look(crowd()) {
            // Some milliseconds for each hundred megabytes.
            let _ = tokio::task::spawn_blocking(trim).await;
            debug!("Returned freed memory to the OS after a mass disconnect.");
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

    fn told(looks: &[(u64, u64)]) -> Vec<bool> {
        let mut slack = Slack::default();
        looks.iter().map(|(came, here)| slack.look(Crowd { came: *came, here: *here })).collect()
    }

    #[test]
    fn memory_is_given_back_once_a_crowd_has_left_and_not_while_it_leaves() {
        let looks = [(0, 0), (4_000, 4_000), (10_000, 10_000), (10_000, 4_000), (10_000, 1_000), (10_000, 1_000)];
        assert_eq!(told(&looks), [false, false, false, false, false, true]);
        // Then for the last thousand, which was all who were left.
        let looks = [&looks[..], &[(10_000, 1_000), (10_000, 0), (10_000, 0), (10_000, 0)]].concat();
        assert_eq!(told(&looks)[6..], [false, false, true, false]);
    }

    #[test]
    fn a_crowd_that_comes_and_leaves_between_two_looks_is_one() {
        assert_eq!(told(&[(10, 10), (10_010, 10), (10_010, 10), (10_010, 10)]), [false, false, true, false]);
    }

    #[test]
    fn a_few_who_come_and_go_are_no_crowd() {
        let looks = [(10, 10), (10, 0), (499, 490), (499, 0), (499, 0), (499, 0)];
        assert!(told(&looks).iter().all(|told| !told));
        let looks = [(5_000, 5_000), (5_000, 4_000), (5_000, 4_000), (6_000, 3_500), (6_000, 3_500)];
        assert!(told(&looks).iter().all(|told| !told), "not yet a half");
    }
}
