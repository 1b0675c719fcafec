//! Writes log lines to standard error, or output, without ever waiting for what reads them.
//!
//! A pipe that is not read blocks a write for as long as it is full, and one whose reader is gone fails it. Neither is a
//! reason to stop serving: lines go into a bounded buffer that a thread of its own empties. What does not fit, or cannot be
//! written, is dropped and counted, and said in the log once it can be said.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// What waits to be written, at most: some thousand lines.
const MOST_BYTES: usize = 1 << 20;

/// The least time between two lines about dropped ones.
const REPORT: Duration = Duration::from_secs(10);

/// The pause while a descriptor that does not block (the parent process may have set it so) takes nothing.
const PAUSE: Duration = Duration::from_millis(20);

/// How long the last lines may take when the process ends.
const FAREWELL: Duration = Duration::from_secs(1);

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines that were dropped since the process began.
pub fn dropped() -> u64 {
    DROPPED.load(Relaxed)
}

/// Where log lines go in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogWriter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: Vec<u8>,
    /// Whether the thread is at work on lines that it has taken.
    writing: bool,
}

/// Writes what is left, for a short time, when it is dropped: at the end of `main`.
#[derive(Debug)]
#[must_use = "the last lines are written when it is dropped"]
pub struct Flush(LogWriter);

// === impl LogWriter ===

impl LogWriter {
    /// Writes to standard error from now on.
    pub fn to_standard_error() -> (Self, Flush) {
        let writer = Self::to(io::stderr);
        (writer.clone(), Flush(writer))
    }

    /// Writes to standard output from now on, for what a process tells beside its log.
    pub fn to_standard_output() -> (Self, Flush) {
        let writer = Self::to(io::stdout);
        (writer.clone(), Flush(writer))
    }

    fn to<W: Write>(target: impl FnOnce() -> W + Send + 'static) -> Self {
        let writer = Self(Arc::default());
        let shared = writer.0.clone();
        let started = std::thread::Builder::new().name("log".to_owned()).spawn(move || shared.run(&mut target()));
        started.expect("a process that cannot start one thread cannot serve");
        writer
    }

    /// Waits until all lines are written, or until this long has passed.
    fn flush(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let mut queue = self.0.lock();
        while queue.writing || !queue.lines.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            queue = self.0.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// One call is one event: `tracing-subscriber` formats it whole and writes it at once.
impl Write for LogWriter {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let mut queue = self.0.lock();
        if queue.lines.len() + event.len() > MOST_BYTES {
            DROPPED.fetch_add(1, Relaxed);
        } else {
            queue.lines.extend_from_slice(event);
            self.0.changed.notify_all();
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for LogWriter {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.0.flush(FAREWELL);
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties the queue for as long as the process lives.
    fn run(&self, target: &mut impl Write) {
        let (mut said, mut at) = (0, None::<Instant>);
        loop {
            let lines = self.next();
            let written = write_all(target, &lines);
            let unwritten = lines.get(written..).unwrap_or_default();
            DROPPED.fetch_add(unwritten.iter().filter(|byte| **byte == b'\n').count() as u64, Relaxed);
            let mut queue = self.lock();
            queue.writing = false;
            self.changed.notify_all();
            let empty = queue.lines.is_empty();
            drop(queue);
            let dropped = dropped();
            if empty && unwritten.is_empty() && dropped > said && at.is_none_or(|at| at.elapsed() >= REPORT) {
                tracing::warn!(
                    lines = dropped - said,
                    "Dropped log lines: the reader of standard error is blocked or gone."
                );
                (said, at) = (dropped, Some(Instant::now()));
            }
        }
    }

    /// Waits for lines, and takes them all.
    fn next(&self) -> Vec<u8> {
        let mut queue = self.lock();
        while queue.lines.is_empty() {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.writing = true;
        std::mem::take(&mut queue.lines)
    }
}

/// How much was written before an error that does not pass.
fn write_all(target: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match target.write(rest) {
            Ok(0) => break,
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
            Err(_) => break,
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Takes what it is allowed to, and fails when no more is allowed.
    struct Gate {
        allowed: mpsc::Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.allowed.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(n: usize) -> Vec<u8> {
        format!("{n:0>99}\n").into_bytes()
    }

    #[test]
    fn a_reader_that_stalls_or_leaves_costs_lines_and_nothing_else() {
        let (allow, allowed) = mpsc::channel();
        let taken = Arc::<Mutex<Vec<u8>>>::default();
        let mut writer = LogWriter::to({
            let taken = taken.clone();
            || Gate { allowed, taken }
        });
        let before = dropped();
        // Nothing is taken: what the thread has and what waits is bounded.
        for n in 0..30_000 {
            writer.write_all(&line(n)).unwrap();
        }
        let lost = dropped() - before;
        assert!((9_000..20_000).contains(&lost), "{lost} of 30,000 lines do not fit into two buffers");
        assert!(writer.0.lock().lines.len() <= MOST_BYTES);
        writer.flush(Duration::from_millis(10));
        // The reader goes on: all that waited is there, in order.
        for _ in 0..100 {
            allow.send(()).unwrap();
        }
        writer.flush(Duration::from_secs(60));
        let text = taken.lock().unwrap().clone();
        let numbers: Vec<usize> =
            text.chunks(100).map(|line| String::from_utf8_lossy(&line[..99]).parse().unwrap()).collect();
        assert!(numbers.is_sorted() && numbers.len() as u64 + lost == 30_000, "{} and {lost}", numbers.len());
        // It leaves: each line is lost by itself.
        drop(allow);
        // What is allowed already is still taken.
        for n in 0..200 {
            writer.write_all(&line(n)).unwrap();
            writer.flush(Duration::from_secs(60));
        }
        let lost_later = dropped() - before - lost;
        assert!((100..=200).contains(&lost_later), "{lost_later}");
    }
}
