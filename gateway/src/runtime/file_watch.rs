//! A small file that is looked at every second: settings, keys and secrets, written by people or mounted by Kubernetes.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often to look. A stamp costs a system call, and no event of the kernel is ever missed.
pub const LOOK: Duration = Duration::from_secs(1);

/// None of these files is larger.
const MAX_BYTES: u64 = 1 << 20;

/// A file, and what it looked like when it was last read.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    seen: Option<Stamp>,
}

/// Moves with every write, rename and replacement.
type Stamp = (u64, u64, i64, i64);

// === impl Watched ===

impl Watched {
    /// This file, which was not read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), seen: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What stands in it, unless that is surely what was returned before.
    pub fn look(&mut self) -> io::Result<Option<Vec<u8>>> {
        // Follows links: the files of a mounted Secret are links.
        let metadata = fs::metadata(&self.path)?;
        if self.seen == Some(stamp(&metadata)) {
            return Ok(None);
        }
        if metadata.len() > MAX_BYTES {
            return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
        }
        let bytes = fs::read(&self.path)?;
        // The kernel's file clock ticks every few milliseconds: one that changed just now is read once more.
        let age = metadata.modified().ok().and_then(|at| at.elapsed().ok());
        self.seen = age.is_some_and(|age| age > LOOK).then(|| stamp(&metadata));
        Ok(Some(bytes))
    }
}

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_changes_and_for_a_moment_after() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = Watched::new(dir.path().join("f"));
        assert_eq!(file.look().unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(file.path(), "one").unwrap();
        assert_eq!(file.look().unwrap().as_deref(), Some(&b"one"[..]));
        assert!(file.look().unwrap().is_some(), "written just now, so perhaps written again");
        let old = std::time::SystemTime::now() - Duration::from_secs(60);
        fs::File::options().write(true).open(file.path()).unwrap().set_modified(old).unwrap();
        assert!(file.look().unwrap().is_some());
        assert_eq!(file.look().unwrap(), None);
        fs::write(dir.path().join("g"), "two").unwrap();
        fs::rename(dir.path().join("g"), file.path()).unwrap();
        assert_eq!(file.look().unwrap().as_deref(), Some(&b"two"[..]));
    }
}
