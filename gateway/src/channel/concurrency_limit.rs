//! How many may do something at the same time: a limit that can be changed while it holds. Others wait for their turn.

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// A limit on what happens at the same time.
#[derive(Debug)]
pub struct Gate {
    permits: Semaphore,
    size: Mutex<Size>,
}

#[derive(Clone, Copy, Debug)]
struct Size {
    /// How many there may be.
    most: usize,
    /// How many permits exist: more than that, while a lowered limit waits for some to leave.
    permits: usize,
}

/// A place inside; free again when it is dropped.
#[derive(Debug)]
pub struct Pass<'g> {
    gate: &'g Gate,
    permit: Option<SemaphorePermit<'g>>,
}

// === impl Gate ===

impl Gate {
    /// Lets so many in.
    pub fn new(most: usize) -> Self {
        Self { permits: Semaphore::new(most), size: Mutex::new(Size { most, permits: most }) }
    }

    /// Lets so many in from now on. Those inside stay.
    pub fn set(&self, most: usize) {
        let mut size = self.size.lock();
        size.most = most;
        if most > size.permits {
            self.permits.add_permits(most - size.permits);
            size.permits = most;
        } else {
            size.permits -= self.permits.forget_permits(size.permits - most);
        }
    }

    /// A place at once, if there is one.
    pub fn try_enter(&self) -> Option<Pass<'_>> {
        self.permits.try_acquire().ok().map(|permit| self.pass(permit))
    }

    /// Waits for a place; who came first goes first.
    pub async fn enter(&self) -> Pass<'_> {
        self.pass(self.permits.acquire().await.expect("nobody closes it"))
    }

    fn pass<'g>(&'g self, permit: SemaphorePermit<'g>) -> Pass<'g> {
        Pass { gate: self, permit: Some(permit) }
    }
}

// === impl Pass ===

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut size = self.gate.size.lock();
        if size.permits > size.most
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
            size.permits -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(gate: &Gate) -> Vec<Pass<'_>> {
        std::iter::from_fn(|| gate.try_enter()).collect()
    }

    #[test]
    fn a_limit_changes_while_it_holds() {
        let gate = Gate::new(2);
        let mut inside = all(&gate);
        assert_eq!(inside.len(), 2);
        gate.set(3);
        inside.extend(all(&gate));
        assert_eq!(inside.len(), 3, "there is room for one more");
        gate.set(1);
        inside.pop();
        assert!(gate.try_enter().is_none(), "two are more than there may be");
        inside.pop();
        assert!(gate.try_enter().is_none(), "one is as many as there may be");
        inside.pop();
        assert_eq!(all(&gate).len(), 1);
        gate.set(4);
        assert_eq!(all(&gate).len(), 4);
        gate.set(2);
        assert_eq!(all(&gate).len(), 2, "those that nobody has go at once");
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_that_is_left() {
        let gate = Gate::new(1);
        let first = gate.enter().await;
        let second = gate.enter();
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert!(futures_util::poll!(&mut second).is_ready());
    }
}
