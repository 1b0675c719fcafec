//! The keys of an issuer in files: what a look at them brings. Takes the time as an argument.
//!
//! What was read is taken up only once all of it was understood, and until then every look says again what is wrong: a file that
//! cannot be read, or has a fault in it, is never mistaken for one that has not changed.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jsonwebtoken::Algorithm;
use sha2::{Digest, Sha256};

use crate::auth::issuer::KeySource;
use crate::auth::key_set::{KeySet, KeySetError};
use crate::runtime::file_watch::Watched;

/// The files of one issuer.
#[derive(Debug)]
pub struct KeyFiles {
    kind: Kind,
    algorithms: Vec<Algorithm>,
    current: File,
    /// A secret that was in use before; it may be missing.
    previous: Option<File>,
    /// Of the contents that were taken up last.
    taken: Option<[u8; 32]>,
    /// Of contents with a fault, and the fault.
    faulty: Option<([u8; 32], KeySetError)>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Jwks,
    Secrets,
}

#[derive(Debug)]
struct File {
    watched: Watched,
    /// What was read last.
    content: Option<Vec<u8>>,
    missing_since: Option<Instant>,
}

/// What a look at the files has brought.
#[derive(Debug)]
pub struct Look {
    /// Other keys than before.
    pub keys: Option<KeySet>,
    /// Why not all files could be read or understood. What could not stays as it was.
    pub fault: Option<KeyFileError>,
}

/// Why there are no keys in a file.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("failed to read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// It holds no keys.
    #[error("failed to take up the keys in {0}")]
    Faulty(PathBuf, #[source] KeySetError),
}

/// So long may the file of the previous secret be missing, as while it is being replaced, before that secret counts as withdrawn.
pub const WITHDRAWN_AFTER: Duration = Duration::from_secs(10);

// === impl KeyFiles ===

impl KeyFiles {
    /// The files of a source; `None` if its keys are not in files.
    pub fn of(source: &KeySource, algorithms: &[Algorithm]) -> Option<Self> {
        let (kind, current, previous) = match source {
            KeySource::Url { .. } | KeySource::Discovered { .. } => return None,
            KeySource::File(file) => (Kind::Jwks, file, None),
            KeySource::Secret { file, previous } => (Kind::Secrets, file, previous.as_ref()),
        };
        let previous = previous.map(File::new);
        let algorithms = algorithms.to_vec();
        Some(Self { kind, algorithms, current: File::new(current), previous, taken: None, faulty: None })
    }

    /// Looks at the files.
    pub fn look(&mut self, now: Instant) -> Look {
        let read = self.current.read();
        let mut fault = read.err();
        if let Some(previous) = &mut self.previous {
            fault = fault.or(previous.read_optional(now).err());
        }
        match self.changed() {
            Ok(keys) => Look { keys, fault },
            Err(error) => Look { keys: None, fault: fault.or(Some(error)) },
        }
    }

    /// The keys in what was read last, if they are not those that were taken up last.
    fn changed(&mut self) -> Result<Option<KeySet>, KeyFileError> {
        let Some(current) = &self.current.content else { return Ok(None) };
        let previous = self.previous.as_ref().and_then(|file| file.content.as_ref());
        let digest = digest(current, previous);
        if self.taken == Some(digest) {
            self.faulty = None;
            return Ok(None);
        }
        let told = |error| KeyFileError::Faulty(self.current.watched.path().to_owned(), error);
        if let Some((_, error)) = self.faulty.as_ref().filter(|(of, _)| *of == digest) {
            return Err(told(error.clone()));
        }
        let read = match self.kind {
            Kind::Jwks => KeySet::from_jwks(current, &self.algorithms),
            Kind::Secrets => KeySet::from_secrets(std::iter::once(current).chain(previous), &self.algorithms),
        };
        match read {
            Ok(keys) => {
                (self.taken, self.faulty) = (Some(digest), None);
                Ok(Some(keys))
            }
            Err(error) => {
                self.faulty = Some((digest, error.clone()));
                Err(told(error))
            }
        }
    }
}

fn digest(current: &[u8], previous: Option<&Vec<u8>>) -> [u8; 32] {
    let hash = Sha256::new().chain_update(Sha256::digest(current));
    match previous {
        Some(previous) => hash.chain_update(Sha256::digest(previous)).finalize().into(),
        None => hash.finalize().into(),
    }
}

// === impl File ===

impl File {
    fn new(path: &PathBuf) -> Self {
        Self { watched: Watched::new(path), content: None, missing_since: None }
    }

    fn read(&mut self) -> Result<(), KeyFileError> {
        match self.watched.look() {
            Ok(read) => {
                self.missing_since = None;
                self.content = read.or(self.content.take());
                Ok(())
            }
            Err(error) => Err(KeyFileError::Read(self.watched.path().to_owned(), error)),
        }
    }

    /// The same for a file that may be missing: what it held is withdrawn then, though not at once.
    fn read_optional(&mut self, now: Instant) -> Result<(), KeyFileError> {
        match self.read() {
            Err(KeyFileError::Read(_, error)) if error.kind() == io::ErrorKind::NotFound && self.content.is_none() => {
                Ok(())
            }
            Err(KeyFileError::Read(path, error)) if error.kind() == io::ErrorKind::NotFound => {
                let since = *self.missing_since.get_or_insert(now);
                if now.saturating_duration_since(since) < WITHDRAWN_AFTER {
                    return Err(KeyFileError::Read(path, error));
                }
                *self = Self::new(&path);
                Ok(())
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct House {
        dir: tempfile::TempDir,
        files: KeyFiles,
        now: Instant,
    }

    impl House {
        fn secrets() -> Self {
            Self::of(
                |dir| KeySource::Secret { file: dir.join("now"), previous: Some(dir.join("before")) },
                Algorithm::HS256,
            )
        }

        fn of(source: impl FnOnce(&std::path::Path) -> KeySource, algorithm: Algorithm) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let files = KeyFiles::of(&source(dir.path()), &[algorithm]).unwrap();
            Self { dir, files, now: Instant::now() }
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.dir.path().join("new"), text).unwrap();
            fs::rename(self.dir.path().join("new"), self.dir.path().join(name)).unwrap();
        }

        /// A look a second later: how many keys it has brought, and whether it found a fault.
        fn look(&mut self) -> (Option<usize>, bool) {
            self.now += Duration::from_secs(1);
            let look = self.files.look(self.now);
            (look.keys.map(|keys| keys.len()), look.fault.is_some())
        }
    }

    fn secret(letter: &str) -> String {
        letter.repeat(32)
    }

    #[test]
    fn a_new_secret_counts_at_once_whatever_has_become_of_the_previous_one() {
        let mut house = House::secrets();
        house.write("now", &secret("a"));
        house.write("before", &secret("z"));
        assert_eq!(house.look(), (Some(2), false));
        assert_eq!(house.look(), (None, false));
        fs::remove_file(house.dir.path().join("before")).unwrap();
        house.write("now", &secret("b"));
        assert_eq!(house.look(), (Some(2), true), "the new one and the last one before, which may only be away");
        assert_eq!(house.look(), (None, true));
        house.write("before", &secret("a"));
        assert_eq!(house.look(), (Some(2), false));
    }

    #[test]
    fn a_previous_secret_whose_file_is_gone_is_withdrawn_after_a_while() {
        let mut house = House::secrets();
        house.write("now", &secret("a"));
        house.write("before", &secret("z"));
        assert_eq!(house.look(), (Some(2), false));
        fs::remove_file(house.dir.path().join("before")).unwrap();
        for _ in 0..10 {
            assert_eq!(house.look(), (None, true), "told until then");
        }
        assert_eq!(house.look(), (Some(1), false));
        assert_eq!(house.look(), (None, false));
        house.write("before", &secret("z"));
        assert_eq!(house.look(), (Some(2), false), "and counts again when it is back");
    }

    #[test]
    fn no_previous_secret_is_no_fault() {
        let mut house = House::secrets();
        house.write("now", &secret("a"));
        assert_eq!(house.look(), (Some(1), false));
        assert_eq!(house.look(), (None, false));
    }

    #[test]
    fn a_fault_is_told_by_every_look_until_it_is_gone() {
        let mut house = House::of(|dir| KeySource::File(dir.join("keys")), Algorithm::RS256);
        assert_eq!(house.look(), (None, true), "missing");
        house.write("keys", "{}");
        for _ in 0..3 {
            assert_eq!(house.look(), (None, true), "no keys");
        }
        let n = "xcXF".repeat(85) + "xQ";
        let good = format!(r#"{{"keys": [{{"kty": "RSA", "kid": "a", "n": "{n}", "e": "AQAB"}}]}}"#);
        house.write("keys", &good);
        assert_eq!(house.look(), (Some(1), false));
        house.write("keys", "{");
        assert_eq!([house.look(), house.look()], [(None, true), (None, true)]);
        fs::remove_file(house.dir.path().join("keys")).unwrap();
        assert_eq!(house.look(), (None, true));
        house.write("keys", &good);
        assert_eq!(house.look(), (None, false), "the keys in force");
    }
}
