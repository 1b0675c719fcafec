//! What one HTTP/2 connection may ask for and take back.
//!
//! A request that is reset before its answer has cost us work and its client nothing; a connection that does so again and
//! again ("rapid reset", CVE-2023-44487) is an attack. h2 itself counts only the resets of requests that nobody has looked
//! at yet. Answers restore the credit, so a proxy's connection that carries many clients does not run out of it over time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::sync::Notify;

/// Streams on one HTTP/2 connection; proxies open another connection for more.
pub const MAX_STREAMS: u32 = 250;

/// As many as may be open at once: who leaves a page takes all its requests back.
const MOST: u32 = MAX_STREAMS;

/// The credit of one connection.
#[derive(Debug)]
pub struct Credit {
    left: AtomicU32,
    used_up: Notify,
}

/// One request without an answer. Dropped before [`Debt::pay`], it costs credit.
#[derive(Debug)]
pub struct Debt {
    credit: Arc<Credit>,
    paid: bool,
}

// === impl Credit ===

impl Credit {
    /// All of it.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { left: AtomicU32::new(MOST), used_up: Notify::new() })
    }

    /// A request has come.
    pub fn ask(self: &Arc<Self>) -> Debt {
        Debt { credit: self.clone(), paid: false }
    }

    /// Waits until none is left.
    pub async fn used_up(&self) {
        self.used_up.notified().await;
    }
}

// === impl Debt ===

impl Debt {
    /// The request is answered.
    pub fn pay(mut self) {
        self.paid = true;
        let _ = self.credit.left.fetch_update(Relaxed, Relaxed, |left| (left < MOST).then_some(left + 1));
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        if !self.paid {
            let before = self.credit.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
            if before.is_ok_and(|left| left == 1) {
                self.credit.used_up.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn requests_taken_back_use_the_credit_up_and_answers_restore_it() {
        let credit = Credit::new();
        let mut used_up = Box::pin(credit.used_up());
        for _ in 0..10 * MOST {
            drop(credit.ask());
            credit.ask().pay();
        }
        for _ in 0..MOST - 1 {
            drop(credit.ask());
        }
        assert!(used_up.as_mut().now_or_never().is_none());
        drop(credit.ask());
        assert!(used_up.now_or_never().is_some());
    }
}
