//! The tasks without which the gateway only seems to serve, wherever they are spawned. None of them ends before it is told
//! to; if one does, by itself or by a panic, [`crate::run`] ends the process, and its supervisor starts a new one.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Owns such tasks. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct CoreTasks {
    tasks: TaskTracker,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    running: Mutex<Vec<&'static str>>,
    ended: watch::Sender<Option<&'static str>>,
}

/// Lives within a task, and tells when that ends: a panic drops it as well.
struct Watch {
    name: &'static str,
    stop: CancellationToken,
    shared: Arc<Shared>,
}

// === impl CoreTasks ===

impl CoreTasks {
    /// Spawns a task that runs until `stop` is cancelled.
    pub fn spawn(&self, name: &'static str, stop: CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.running.lock().push(name);
        let watch = Watch { name, stop, shared: self.shared.clone() };
        self.tasks.spawn(async move {
            watch.stop.run_until_cancelled(task).await;
        });
    }

    /// Waits until a task has ended that was not told to, and names it.
    pub async fn ended(&self) -> &'static str {
        let mut ended = self.shared.ended.subscribe();
        loop {
            if let Some(name) = *ended.borrow_and_update() {
                return name;
            }
            // The sender lives as long as we do.
            let _ = ended.changed().await;
        }
    }

    /// The names of those that run, in the order in which they began.
    pub fn running(&self) -> Vec<&'static str> {
        self.shared.running.lock().clone()
    }

    /// Waits until all have ended; who spawned them has told them to.
    pub async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut running = self.shared.running.lock();
        if let Some(at) = running.iter().position(|name| *name == self.name) {
            running.remove(at);
        }
        if !self.stop.is_cancelled() {
            tracing::error!(task = self.name, "A core task ended unexpectedly.");
            self.shared.ended.send_if_modified(|first| first.replace(first.unwrap_or(self.name)).is_none());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_panic_in_a_task_is_told_with_its_name() {
        let core = CoreTasks::default();
        core.spawn("the one that stays", CancellationToken::new(), std::future::pending());
        core.spawn("the one that dies", CancellationToken::new(), async { panic!("on purpose") });
        assert_eq!(core.ended().await, "the one that dies");
        assert_eq!(core.ended().await, "the one that dies", "also to who asks later");
        assert_eq!(core.running(), ["the one that stays"]);
    }

    #[tokio::test]
    async fn a_task_that_returns_has_ended_too() {
        let core = CoreTasks::default();
        core.spawn("the hasty one", CancellationToken::new(), async {});
        assert_eq!(core.ended().await, "the hasty one");
    }

    #[tokio::test]
    async fn a_task_that_was_told_to_end_is_no_fault() {
        let (core, stop) = (CoreTasks::default(), CancellationToken::new());
        core.spawn("the obedient one", stop.clone(), std::future::pending());
        stop.cancel();
        core.close().await;
        assert!(core.running().is_empty());
        assert_eq!(core.ended().now_or_never(), None);
    }
}
