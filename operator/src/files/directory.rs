//! Reads a directory of manifests, each file whole, and tells when it may have changed.
//!
//! What the files mean is decided in [`crate::files::inventory`].

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tracing::warn;

/// A file that was written this recently may be half written: a limit cut short would delete events.
const SETTLED: Duration = Duration::from_millis(250);

/// A manifest is a few kilobytes; thousands of Channels in one file fit.
pub const MAX_FILE_BYTES: u64 = 8 << 20;

/// What one file of the directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Its text.
    Text(String),
    /// It cannot be read, and why.
    Unreadable(String),
    /// It is just being written.
    Unsettled,
}

/// All manifests of a directory, by file name.
pub type Snapshot = BTreeMap<PathBuf, Content>;

/// Reads every `*.yaml`, `*.yml` and `*.json` of a directory, except hidden ones.
///
/// # Errors
/// When the directory cannot be listed: nothing is known then, not even that files are gone.
pub fn read_directory(dir: &Path) -> io::Result<Snapshot> {
    let mut snapshot = Snapshot::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if !is_manifest(&path) {
            continue;
        }
        let content = match read_file(&path) {
            Ok(None) => continue,
            Ok(Some(content)) => content,
            // Gone since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(&path).is_err() => continue,
            Err(error) => Content::Unreadable(error.to_string()),
        };
        snapshot.insert(path, content);
    }
    Ok(snapshot)
}

/// `None` for what is no file, such as a directory with a misleading name.
fn read_file(path: &Path) -> io::Result<Option<Content>> {
    let before = fs::metadata(path)?;
    if !before.is_file() {
        return Ok(None);
    }
    if before.len() > MAX_FILE_BYTES {
        let message = format!("larger than {} MiB, which is no manifest", MAX_FILE_BYTES >> 20);
        return Ok(Some(Content::Unreadable(message)));
    }
    let bytes = fs::read(path)?;
    let after = fs::metadata(path)?;
    if stamp(&before) != stamp(&after) || is_fresh(&after) {
        return Ok(Some(Content::Unsettled));
    }
    Ok(Some(match String::from_utf8(bytes) {
        Ok(text) => Content::Text(text),
        Err(_) => Content::Unreadable("not UTF-8 text".to_owned()),
    }))
}

fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().and_then(OsStr::to_str).is_none_or(|name| name.starts_with('.'));
    let known = path.extension().and_then(OsStr::to_str).is_some_and(|ext| matches!(ext, "yaml" | "yml" | "json"));
    known && !hidden
}

fn stamp(metadata: &Metadata) -> (u64, u64, i64, i64) {
    (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// A time in the future (another machine's clock) counts as settled; waiting for it could take for ever.
fn is_fresh(metadata: &Metadata) -> bool {
    let age = metadata.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
    age.is_some_and(|age| age < SETTLED)
}

/// Tells that the directory may have changed. Without it (too few inotify watches, a network file system) the slow
/// resync finds changes.
pub struct Watch {
    dir: PathBuf,
    changed: Arc<Notify>,
    watcher: Option<(RecommendedWatcher, Option<(u64, u64)>)>,
    complained: bool,
}

// === impl Watch ===

impl Watch {
    /// Watches nothing yet.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, changed: Arc::new(Notify::new()), watcher: None, complained: false }
    }

    /// Starts watching, or starts again where the directory was replaced. Call it before reading, so that what changes
    /// while reading is told.
    pub fn renew(&mut self) {
        let identity = fs::metadata(&self.dir).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        if identity.is_none() || self.watcher.as_ref().is_some_and(|(_, watched)| *watched == identity) {
            return;
        }
        self.watcher = match self.start() {
            Ok(watcher) => Some((watcher, identity)),
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    warn!(dir = %self.dir.display(), %error, "Failed to watch the directory; changes are found by the resync.");
                }
                None
            }
        };
    }

    /// Completes when something changed since the last call, after a moment in which nothing more did.
    pub async fn changed(&self) {
        self.changed.notified().await;
        // An end, for a directory that never rests; files that are being written are left out by their times.
        for _ in 0..20 {
            if tokio::time::timeout(SETTLED / 5, self.changed.notified()).await.is_err() {
                return;
            }
        }
    }

    fn start(&self) -> notify::Result<RecommendedWatcher> {
        let changed = Arc::clone(&self.changed);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the files is an event as well, and ours.
            if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
                changed.notify_one();
            }
        })?;
        watcher.watch(&self.dir, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }
}

/// When a file that is just being written is worth another look.
pub const LOOK_AGAIN: Duration = SETTLED;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn old(path: &Path, text: &[u8]) {
        fs::write(path, text).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn only_manifests_are_read() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.yaml", "b.yml", "c.json", ".hidden.yaml", "d.yaml~", "e.swp", "README.md"] {
            old(&dir.path().join(name), b"kind: Channel");
        }
        fs::create_dir(dir.path().join("directory.yaml")).unwrap();
        let names: Vec<_> = read_directory(dir.path()).unwrap().into_keys().collect();
        assert_eq!(names, ["a.yaml", "b.yml", "c.json"].map(|name| dir.path().join(name)));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_there_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        old(&dir.path().join("latin.yaml"), &[0xe9]);
        std::os::unix::fs::symlink("nowhere", dir.path().join("broken.yaml")).unwrap();
        let snapshot = read_directory(dir.path()).unwrap();
        assert_eq!(snapshot[&dir.path().join("latin.yaml")], Content::Unreadable("not UTF-8 text".into()));
        assert!(matches!(snapshot[&dir.path().join("broken.yaml")], Content::Unreadable(_)));
        assert!(read_directory(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn a_file_that_is_being_written_is_not_believed_yet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        fs::write(&path, "spec: {history: {maxAgeSeconds: 86").unwrap();
        assert_eq!(read_directory(dir.path()).unwrap()[&path], Content::Unsettled);
        old(&path, b"spec: {}");
        assert_eq!(read_directory(dir.path()).unwrap()[&path], Content::Text("spec: {}".into()));
    }

    #[tokio::test]
    async fn a_change_is_told_and_reading_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(dir.path().to_owned());
        watch.renew();
        fs::write(dir.path().join("a.yaml"), "kind: Channel").unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.unwrap();
        let begun = Instant::now();
        read_directory(dir.path()).unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(300), watch.changed()).await.is_err(),
            "{:?}",
            begun.elapsed()
        );
    }
}
