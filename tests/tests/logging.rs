//! Both programs with a standard error that nobody reads, and with one whose reader has left: neither costs anything but
//! log lines.

use std::io::{PipeReader, Write, pipe};

use tempfile::TempDir;
use tidings_tests::metrics::Samples;
use tidings_tests::nats::Nats;
use tidings_tests::ports::Port;
use tidings_tests::process::{Process, Program};
use tidings_tests::wait::{PATIENCE, eventually};
use tidings_tests::web::{Reply, Request};

/// What a pipe holds on Linux (pipe(7)).
const PIPE_BYTES: usize = 64 << 10;

/// What becomes of the other end of standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// It is there, the pipe is full, and nothing is read.
    Stalled,
    /// It is gone.
    Gone,
}

/// A program whose standard error is such a pipe.
struct Running {
    process: Process,
    admin: Port,
    public: Port,
    nats: Nats,
    _reader: Option<PipeReader>,
    _directory: TempDir,
}

impl Running {
    async fn start(program: &str, reader: Reader) -> Self {
        let nats = Nats::start().await;
        let directory = tempfile::tempdir().expect("a directory");
        let (channels, routes) = (directory.path().join("channels"), directory.path().join("routes"));
        for folder in [&channels, &routes] {
            std::fs::create_dir(folder).expect("a folder");
        }
        let (admin, public) = (Port::free(), Port::free());
        let program = Program::built(program)
            .args(["--nats", &nats.url(), "--admin", &admin.address().to_string()])
            .env("TIDINGS_LOG", "trace")
            .arg("--routes")
            .arg(&routes);
        let program = if program_serves(&program) {
            program.args(["--listen", &public.address().to_string(), "--drain-delay", "0s", "--drain-window", "1s"])
        } else {
            program.arg("--channels").arg(&channels)
        };
        let (read, mut write) = pipe().expect("a pipe");
        let read = match reader {
            Reader::Stalled => {
                write.write_all(&vec![b'.'; PIPE_BYTES]).expect("an empty pipe takes as much");
                Some(read)
            }
            Reader::Gone => None,
        };
        let process = program.start_into(write);
        Self { process, admin, public, nats, _reader: read, _directory: directory }
    }

    async fn admin(&self, path: &str) -> Option<Reply> {
        Request::get(format!("http://{}{path}", self.admin.address())).try_send().await.ok()
    }

    async fn answers(&self, path: &str) {
        let ok = || async { self.admin(path).await.is_some_and(|reply| reply.status == 200) };
        self.process.ready(ok).await;
    }

    async fn dropped(&self, metric: &str) -> f64 {
        self.admin("/metrics").await.map_or(0.0, |reply| Samples::read(&reply.text()).sum(metric))
    }
}

fn program_serves(program: &Program) -> bool {
    format!("{program:?}").contains("tidings-gateway")
}

async fn the_gateway_serves_without_a_log(reader: Reader) {
    let mut running = Running::start("tidings-gateway", reader).await;
    running.answers("/readyz").await;
    // Each is told in the log with its path; together they are more than the buffer holds.
    let long = format!("http://{}/{}", running.public.address(), "x".repeat(7 << 10));
    eventually(PATIENCE, "log lines are dropped", || async {
        for _ in 0..20 {
            assert_eq!(Request::get(&long).send().await.status, 404);
        }
        running.dropped("tidings_log_lines_dropped_total").await > 0.0
    })
    .await;
    running.nats.kill9(0);
    eventually(PATIENCE, "what happens is still noticed", || async {
        running.admin("/readyz").await.is_some_and(|reply| reply.status == 503)
    })
    .await;
    running.answers("/livez").await;
    assert!(running.process.terminate().await.success());
}

async fn the_operator_works_without_a_log(reader: Reader) {
    let running = Running::start("tidings-operator", reader).await;
    running.answers("/livez").await;
    running.answers("/readyz").await;
    if reader == Reader::Gone {
        let dropped = || async { running.dropped("tidings_operator_log_lines_dropped_total").await > 0.0 };
        eventually(PATIENCE, "log lines are dropped", dropped).await;
    }
    assert!(running.process.terminate().await.success());
}

#[tokio::test]
async fn a_gateway_whose_log_is_not_read_serves_and_ends() {
    the_gateway_serves_without_a_log(Reader::Stalled).await;
}

#[tokio::test]
async fn a_gateway_whose_log_has_no_reader_serves_and_ends() {
    the_gateway_serves_without_a_log(Reader::Gone).await;
}

#[tokio::test]
async fn an_operator_whose_log_is_not_read_works_and_ends() {
    the_operator_works_without_a_log(Reader::Stalled).await;
}

#[tokio::test]
async fn an_operator_whose_log_has_no_reader_works_and_ends() {
    the_operator_works_without_a_log(Reader::Gone).await;
}
