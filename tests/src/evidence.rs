//! What a whole run leaves behind for the search for tokens at its end ([`crate::token_search`]): everything that
//! processes said, every series that was scraped, and every token that was made.
//!
//! `TIDINGS_EVIDENCE` names the directory, as `scripts/test.sh` sets it. Without it nothing is kept.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use tempfile::NamedTempFile;

/// The variable that names the directory.
pub const VARIABLE: &str = "TIDINGS_EVIDENCE";

/// Where the output of processes is kept, a file each.
pub const LOGS: &str = "logs";

/// Where the series of metrics are kept, a file for each process of tests.
pub const SERIES: &str = "series";

/// Where the tokens are kept, a file for each process of tests, a line for each token.
pub const TOKENS: &str = "tokens";

static DIRECTORY: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let directory = PathBuf::from(std::env::var_os(VARIABLE)?);
    for folder in [LOGS, SERIES, TOKENS] {
        std::fs::create_dir_all(directory.join(folder)).expect("the directory for evidence can be written");
    }
    Some(directory)
});

/// The series that were written already: a scrape repeats thousands.
static WRITTEN: LazyLock<Mutex<HashSet<u64>>> = LazyLock::new(Mutex::default);

/// A file for what a process says. It goes away with its handle, unless evidence is kept.
pub fn output_file(name: &str) -> NamedTempFile {
    let mut builder = tempfile::Builder::new();
    let prefix = format!("tidings-{name}-");
    let file = match DIRECTORY.as_deref() {
        Some(directory) => {
            builder.prefix(&prefix).suffix(".log").disable_cleanup(true).tempfile_in(directory.join(LOGS))
        }
        None => builder.prefix(&prefix).tempfile(),
    };
    file.expect("a temporary file")
}

/// A token was made, or anything else that only its bearer may know.
pub fn made(token: &str) {
    append(TOKENS, &[token]);
}

/// Metrics were scraped.
pub fn scraped(text: &str) {
    if DIRECTORY.is_none() {
        return;
    }
    let new: Vec<&str> = {
        let mut written = WRITTEN.lock().expect("no holder panics");
        text.lines().map(series).filter(|series| written.insert(hash(series))).collect()
    };
    append(SERIES, &new);
}

/// Scrapes the metrics of a process that is about to end; waits for nothing.
pub fn scrape(admin: SocketAddr) {
    if DIRECTORY.is_none() || std::thread::panicking() {
        return;
    }
    let scrape = || {
        let mut socket = TcpStream::connect_timeout(&admin, Duration::from_millis(200))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: evidence\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).map(|_| answer)
    };
    // One that has ended or stands still says nothing.
    if let Ok(answer) = scrape() {
        scraped(&answer);
    }
}

/// A sample without its value.
fn series(line: &str) -> &str {
    match line.rsplit_once(' ') {
        Some((series, value)) if value.parse::<f64>().is_ok() => series,
        _ => line,
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn append(folder: &str, lines: &[&str]) {
    let Some(directory) = DIRECTORY.as_deref().filter(|_| !lines.is_empty()) else { return };
    write(&directory.join(folder), lines).expect("the directory for evidence can be written");
}

/// In one write: the tests of a binary are threads.
fn write(folder: &Path, lines: &[&str]) -> std::io::Result<()> {
    let file = folder.join(std::process::id().to_string());
    let mut file = std::fs::File::options().create(true).append(true).open(file)?;
    file.write_all((lines.join("\n") + "\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_a_sample_without_its_value() {
        assert_eq!(series("a_total{x=\"1 2\"} 3.5"), "a_total{x=\"1 2\"}");
        assert_eq!(series("b_bucket{le=\"+Inf\"} 1e3"), "b_bucket{le=\"+Inf\"}");
        for whole in ["# HELP a Some words.", "# EOF", ""] {
            assert_eq!(series(whole), whole);
        }
    }
}
