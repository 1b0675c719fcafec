//! A bound in bytes on what is kept in memory for one purpose, for the whole process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many bytes may be kept, and how many are.
#[derive(Debug)]
pub struct ByteBudget {
    most: usize,
    used: AtomicUsize,
}

/// Bytes that are kept; given back when it is dropped.
#[derive(Debug)]
pub struct Reserved {
    budget: Arc<ByteBudget>,
    bytes: usize,
}

// === impl ByteBudget ===

impl ByteBudget {
    /// Up to so many bytes.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, used: AtomicUsize::new(0) })
    }

    /// How many bytes are kept.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Begins with nothing.
    pub fn reserve(self: &Arc<Self>) -> Reserved {
        Reserved { budget: self.clone(), bytes: 0 }
    }
}

// === impl Reserved ===

impl Reserved {
    /// How many bytes these are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes more; says whether there was room.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let most = self.budget.most;
        let grown = self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|used| *used <= most)
        });
        if grown.is_ok() {
            self.bytes += bytes;
        }
        grown.is_ok()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_bounded_and_given_back() {
        let budget = ByteBudget::new(10);
        let (mut one, mut other) = (budget.reserve(), budget.reserve());
        assert!(one.grow(6) && !other.grow(5) && other.grow(4));
        assert_eq!((one.bytes(), other.bytes(), budget.used()), (6, 4, 10));
        drop(one);
        assert!(other.grow(6) && !other.grow(1) && !other.grow(usize::MAX));
        drop(other);
        assert_eq!(budget.used(), 0);
    }
}
