//! Whether anything that was said holds a token, or a good part of one.
//!
//! Tokens are made of few characters, and so are their percent-encoded and quoted forms. So a text is cut into runs of these,
//! and whatever stands in a run for `WIDTH` characters is looked up.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use crate::evidence::{LOGS, SERIES, TOKENS};

/// Every part of a token that is looked for.
#[derive(Debug, Default)]
pub struct Tokens {
    parts: HashSet<[u8; WIDTH]>,
    count: usize,
}

/// What a search came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// How many tokens were looked for.
    pub tokens: usize,
    /// How many logs were read.
    pub logs: usize,
    /// How many series of metrics.
    pub series: usize,
    /// How many bytes altogether.
    pub bytes: usize,
    /// The lines that tell a token, each with its file and number, without the line itself.
    pub told: Vec<String>,
}

/// So much of a token is not a coincidence: 18 bytes.
const WIDTH: usize = 24;

/// From one part to the next: of any 31 characters of a token one part is found.
const STRIDE: usize = 8;

/// More is not listed.
const LISTED: usize = 50;

// === impl Tokens ===

impl Tokens {
    /// One more to look for.
    pub fn add(&mut self, token: &str) {
        let before = self.parts.len();
        for run in runs(token.as_bytes()) {
            self.parts.extend(run.windows(WIDTH).step_by(STRIDE).filter_map(|part| <[u8; WIDTH]>::try_from(part).ok()));
        }
        self.count += usize::from(self.parts.len() > before);
    }

    /// Whether a line holds a part of one.
    pub fn are_in(&self, line: &[u8]) -> bool {
        runs(line).any(|run| run.windows(WIDTH).any(|part| self.parts.contains(part)))
    }
}

// === impl Search ===

impl Search {
    /// Searches what a run has left in a directory.
    pub fn of(evidence: &Path) -> io::Result<Self> {
        let (mut tokens, mut search) = (Tokens::default(), Self::default());
        for file in files(&evidence.join(TOKENS))? {
            std::fs::read_to_string(file)?.lines().for_each(|token| tokens.add(token));
        }
        search.tokens = tokens.count;
        for file in files(&evidence.join(LOGS))? {
            search.logs += 1;
            search.read(&file, &tokens)?;
        }
        for file in files(&evidence.join(SERIES))? {
            search.series += search.read(&file, &tokens)?;
        }
        Ok(search)
    }

    /// Whether there was something to search, and nothing was found.
    pub fn is_clean(&self) -> bool {
        self.told.is_empty() && self.tokens > 0 && self.logs > 0 && self.series > 0
    }

    /// Reads a file; how many lines it has.
    fn read(&mut self, file: &Path, tokens: &Tokens) -> io::Result<usize> {
        let bytes = std::fs::read(file)?;
        self.bytes += bytes.len();
        let mut lines = 0;
        for line in bytes.split(|byte| *byte == b'\n') {
            lines += 1;
            if self.told.len() < LISTED && tokens.are_in(line) {
                self.told.push(format!("{}:{lines}", file.display()));
            }
        }
        Ok(lines)
    }
}

fn files(folder: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

/// The runs of base64url that are long enough.
fn runs(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_other = |byte: &u8| !(byte.is_ascii_alphanumeric() || *byte == b'-' || *byte == b'_');
    text.split(is_other).filter(|run| run.len() >= WIDTH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Draft, TokenKey};

    fn run(log: &str, series: &str) -> Search {
        let evidence = tempfile::tempdir().expect("a directory");
        let token = TokenKey::shared(b"a secret of this test and of nobody").sign(&Draft::new("issuer", "ann"));
        for (folder, text) in [(TOKENS, "TOKEN\n"), (LOGS, log), (SERIES, series)] {
            std::fs::create_dir(evidence.path().join(folder)).expect("a folder");
            let signature = token.rsplit('.').next().expect("a token has three parts");
            let text = text.replace("TOKEN", &token).replace("PART", &signature[5..40]);
            std::fs::write(evidence.path().join(folder).join("1"), text).expect("written");
        }
        Search::of(evidence.path()).expect("a search")
    }

    #[test]
    fn a_planted_token_is_found_wherever_it_stands() {
        let harmless = "INFO Answered. path=/channels/test/orders/events id=1cqk2v7q3x1a-1041-k3j9x2\n";
        assert!(run(harmless, "a_total{b=\"c\"}\n").is_clean());
        for planted in [
            "token=TOKEN",
            "GET /events?access_token=TOKEN&topic=a",
            "{\"authorization\":\"Bearer TOKEN\"}",
            "cookie: a=b; tidings_token=TOKEN",
            "a part of it: PART…",
            "%22TOKEN%22",
        ] {
            let log = run(&format!("{harmless}{planted}\n"), "a_total\n");
            assert_eq!((log.told.len(), log.is_clean()), (1, false), "{planted}");
            assert!(log.told[0].ends_with("logs/1:2"), "{:?}", log.told);
            let series = run(harmless, &format!("a_total{{b=\"{planted}\"}}\n"));
            assert_eq!((series.told.len(), series.is_clean()), (1, false), "{planted}");
        }
    }

    #[test]
    fn a_search_of_nothing_is_no_success() {
        let evidence = tempfile::tempdir().expect("a directory");
        assert!(Search::of(evidence.path()).is_err());
        for folder in [TOKENS, LOGS, SERIES] {
            std::fs::create_dir(evidence.path().join(folder)).expect("a folder");
        }
        assert!(!Search::of(evidence.path()).expect("a search").is_clean());
    }
}
