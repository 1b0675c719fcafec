//! Who leads, as far as the Lease says: what to do about it. Pure: [`crate::leader::elector`] does it.
//!
//! No two clocks are compared. The Lease of another holder has expired when it was seen unchanged for its whole duration, on a
//! clock of our own that no one sets.

use std::time::{Duration, Instant};

/// The Lease as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenLease {
    /// Its `metadata.resourceVersion`: another one at every renewal.
    pub version: String,
    /// Who holds it; nobody after a leader has ended in order.
    pub holder: Option<String>,
    /// How long it lasts without being renewed.
    pub duration: Duration,
}

/// What to do about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseStep {
    /// There is none.
    Create,
    /// It is ours.
    Renew,
    /// Nobody holds it, or not any more.
    Take,
    /// It is another's.
    Wait,
}

/// One candidate's view of the Lease.
#[derive(Clone, Debug)]
pub struct Candidate {
    identity: String,
    /// The version that was seen last, and when it was seen first.
    seen: Option<(String, Instant)>,
}

// === impl Candidate ===

impl Candidate {
    /// Has seen nothing yet.
    pub fn new(identity: impl Into<String>) -> Self {
        Self { identity: identity.into(), seen: None }
    }

    /// Who it is.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What to do about the Lease as it was read `now`.
    pub fn step(&mut self, lease: Option<&SeenLease>, now: Instant) -> LeaseStep {
        let Some(lease) = lease else { return LeaseStep::Create };
        match lease.holder.as_deref() {
            None | Some("") => return LeaseStep::Take,
            Some(holder) if holder == self.identity => return LeaseStep::Renew,
            Some(_) => {}
        }
        match &self.seen {
            Some((version, since)) if *version == lease.version => {
                let out = now.saturating_duration_since(*since) >= lease.duration;
                if out { LeaseStep::Take } else { LeaseStep::Wait }
            }
            _ => {
                self.seen = Some((lease.version.clone(), now));
                LeaseStep::Wait
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: Duration = Duration::from_secs(15);

    fn lease(version: &str, holder: Option<&str>) -> SeenLease {
        SeenLease { version: version.into(), holder: holder.map(Into::into), duration: LASTS }
    }

    #[test]
    fn a_lease_that_nobody_holds_is_taken_at_once() {
        let (mut candidate, now) = (Candidate::new("a"), Instant::now());
        assert_eq!(candidate.step(None, now), LeaseStep::Create);
        assert_eq!(candidate.step(Some(&lease("1", None)), now), LeaseStep::Take);
        assert_eq!(candidate.step(Some(&lease("2", Some(""))), now), LeaseStep::Take);
        assert_eq!(candidate.step(Some(&lease("3", Some("a"))), now), LeaseStep::Renew);
    }

    #[test]
    fn another_s_lease_is_taken_only_after_standing_still_for_its_duration() {
        let (mut candidate, start) = (Candidate::new("a"), Instant::now());
        let held = |version| lease(version, Some("b"));
        assert_eq!(candidate.step(Some(&held("1")), start), LeaseStep::Wait);
        let almost = start + LASTS - Duration::from_millis(1);
        assert_eq!(candidate.step(Some(&held("1")), almost), LeaseStep::Wait);
        // Renewed in between.
        assert_eq!(candidate.step(Some(&held("2")), almost), LeaseStep::Wait);
        assert_eq!(candidate.step(Some(&held("2")), start + LASTS), LeaseStep::Wait);
        assert_eq!(candidate.step(Some(&held("2")), almost + LASTS), LeaseStep::Take);
    }
}
