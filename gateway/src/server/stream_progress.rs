//! Whether the peer of an HTTP/2 stream takes what is there for it.
//!
//! hyper asks a body for more only when there is room to send it in: a window of the stream, of the connection, and in its own
//! buffer. So a body that is no longer asked has a reader that does not read. It can do nothing about that itself, as it is not
//! polled; the task that it lives in can. [`StreamExecutor`] runs each stream's task and ends one that stands still for too long,
//! which resets the stream and leaves the others of its connection alone.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

tokio::task_local! {
    static CURRENT: Arc<Progress>;
}

/// What is known of one stream.
#[derive(Debug, Default)]
pub struct Progress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Whether there is a body at all.
    has_body: bool,
    /// Whether the body was asked in this turn of the task.
    asked: bool,
    /// Since when something waits for room.
    waits: Option<Instant>,
    /// Whether the stream was ended for that.
    slow: bool,
}

/// Runs the tasks of HTTP/2 streams.
#[derive(Clone, Copy, Debug)]
pub struct StreamExecutor {
    longest: Duration,
}

/// The progress of the stream whose task this is; none outside of one.
pub fn current() -> Option<Arc<Progress>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Whether the stream whose task this is ends because its reader does not read.
pub fn is_slow() -> bool {
    CURRENT.try_with(|progress| progress.0.lock().slow).unwrap_or(false)
}

// === impl Progress ===

impl Progress {
    /// There is a body now, and nothing of it was asked for yet.
    pub fn begins(&self) {
        let mut state = self.0.lock();
        (state.has_body, state.waits) = (true, Some(Instant::now()));
    }

    /// The body was asked, and had something or nothing to give.
    pub fn asked(&self, gave: bool) {
        let mut state = self.0.lock();
        (state.asked, state.waits) = (true, gave.then(Instant::now));
    }

    /// The body is gone: all of it was handed over, or nobody wants it.
    pub fn ends(&self) {
        let mut state = self.0.lock();
        (state.has_body, state.waits) = (false, None);
    }

    fn turn_begins(&self) {
        self.0.lock().asked = false;
    }

    /// Since when something waits, after a turn of the task. One that woke the task and was not asked for found no room.
    fn waits(&self) -> Option<Instant> {
        let mut state = self.0.lock();
        if state.has_body && !state.asked && state.waits.is_none() {
            state.waits = Some(Instant::now());
        }
        state.waits
    }

    fn is_too_slow(&self) {
        self.0.lock().slow = true;
    }
}

// === impl StreamExecutor ===

impl StreamExecutor {
    /// Ends streams that stand still for longer.
    pub fn new(longest: Duration) -> Self {
        Self { longest }
    }
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    // The connection owns it: it ends with it, or here.
    fn execute(&self, stream: F) {
        let (progress, longest) = (Arc::<Progress>::default(), self.longest);
        tokio::spawn(CURRENT.scope(progress.clone(), run(stream, progress, longest)));
    }
}

async fn run<F: Future>(stream: F, progress: Arc<Progress>, longest: Duration) {
    let mut stream = pin!(stream);
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        progress.turn_begins();
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(since) = progress.waits() else {
            // It would wake a task that nothing has happened to.
            timer = None;
            return Poll::Pending;
        };
        let until = since + longest;
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        std::task::ready!(timer.as_mut().poll(cx));
        progress.is_too_slow();
        Poll::Ready(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::sync::mpsc;

    /// A stream whose body is asked when it is told to; says at its end whether it was slow.
    struct Stream {
        told: mpsc::UnboundedReceiver<Option<bool>>,
        slow: Arc<AtomicBool>,
    }

    impl Drop for Stream {
        fn drop(&mut self) {
            self.slow.store(is_slow(), Ordering::Relaxed);
        }
    }

    impl Stream {
        async fn run(mut self) {
            let progress = current().unwrap();
            progress.begins();
            while let Some(told) = self.told.recv().await {
                if let Some(gave) = told {
                    progress.asked(gave);
                }
            }
            progress.ends();
        }
    }

    fn start() -> (mpsc::UnboundedSender<Option<bool>>, tokio::task::JoinHandle<()>, Arc<AtomicBool>) {
        let (tell, told) = mpsc::unbounded_channel();
        let slow = Arc::new(AtomicBool::new(false));
        let stream = Stream { told, slow: slow.clone() };
        let progress = Arc::<Progress>::default();
        let task = CURRENT.scope(progress.clone(), run(stream.run(), progress, Duration::from_secs(10)));
        (tell, tokio::spawn(task), slow)
    }

    async fn after(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_body_is_not_asked_any_more_ends_as_slow() {
        for first in [None, Some(true)] {
            let (tell, task, slow) = start();
            first.into_iter().for_each(|gave| tell.send(Some(gave)).unwrap());
            after(9).await;
            assert!(!task.is_finished());
            after(2).await;
            assert!(task.is_finished() && slow.load(Ordering::Relaxed), "{first:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_asked_goes_on_for_ever_and_one_that_has_nothing_to_give_too() {
        let (tell, task, slow) = start();
        for _ in 0..5 {
            tell.send(Some(true)).unwrap();
            after(9).await;
        }
        tell.send(Some(false)).unwrap();
        after(1_000).await;
        assert!(!task.is_finished());
        drop(tell);
        task.await.unwrap();
        assert!(!slow.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn news_that_find_no_room_wait_as_well() {
        let (tell, task, slow) = start();
        tell.send(Some(false)).unwrap();
        after(1_000).await;
        // Woken, and not asked.
        tell.send(None).unwrap();
        after(11).await;
        assert!(task.is_finished() && slow.load(Ordering::Relaxed));
    }
}
