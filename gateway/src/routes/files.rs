//! Follows a directory of Route files.
//!
//! The kernel tells of changes; a slow resync catches what it did not tell (network file systems, a directory that was
//! replaced, an overflown queue). A [`RoutePublisher`] puts into force what is seen here.

use std::collections::{HashMap, HashSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task::JoinError;
use tracing::warn;

use crate::routes::RoutePublisher;
use crate::routes::table::Seen;

/// Reads the files `*.yaml` and `*.yml` of a directory.
pub struct RouteFiles {
    dir: PathBuf,
    /// What each file looked like when it was last read.
    read: HashMap<String, Stamp>,
}

/// Tells whether a file was written or replaced.
type Stamp = (u64, u64, i64, i64);

/// How long to gather changes before they are read: an operator writes many files at once.
const SETTLE: Duration = Duration::from_millis(20);

/// The first look waits until nothing has changed for so long: an operator that starts writes one Route after the other, and
/// what is not there yet would be told not to exist.
const QUIET: Duration = Duration::from_millis(500);

/// For how long at most: others may write there all the time.
const QUIET_WITHIN: Duration = Duration::from_secs(5);

/// 10,000 files cost about 20 ms of `stat`, so every 5 s is next to nothing.
const RESYNC: Duration = Duration::from_secs(5);

/// A directory that does not exist yet cannot be watched: `stat` is all there is.
const RETRY: Duration = Duration::from_millis(250);

/// A Route is a few kilobytes; this is no Route.
const MAX_FILE_BYTES: u64 = 1 << 20;

// === impl RouteFiles ===

impl RouteFiles {
    /// Reads this directory, which need not exist yet.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, read: HashMap::new() }
    }

    /// Follows the directory for ever. Returns only after a panic.
    pub async fn follow(mut self, mut publisher: RoutePublisher) -> JoinError {
        let wake = Arc::new(Notify::new());
        let mut watched = None;
        let mut first_seen = None;
        loop {
            // Watch before reading: what changes in between wakes the next round.
            watch(&self.dir, &mut watched, &wake);
            let scanned = tokio::task::spawn_blocking(move || {
                let outcome = self.scan();
                (self, outcome)
            });
            let outcome;
            (self, outcome) = match scanned.await {
                Ok(scanned) => scanned,
                Err(error) => return error,
            };
            match outcome {
                Ok(_) if !publisher.is_loaded() && self.is_busy(*first_seen.get_or_insert_with(Instant::now)) => {
                    self.read.clear();
                    tokio::time::sleep(QUIET / 5).await;
                    continue;
                }
                Ok(seen) => {
                    if let Err(error) = publisher.publish(seen).await {
                        return error;
                    }
                }
                Err(error) => {
                    publisher.failed(&error);
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
            let wait = publisher.next_expiry().map_or(RESYNC, |at| at.duration_since(Instant::now()).min(RESYNC));
            if tokio::time::timeout(wait, wake.notified()).await.is_ok() {
                tokio::time::sleep(SETTLE).await;
            }
        }
    }

    fn scan(&mut self) -> io::Result<Vec<(String, Seen)>> {
        let mut seen = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Hidden files are other people's: half-written ones, and the `..data` of a mounted ConfigMap.
            let ours = !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml"));
            if ours && let Some(what) = self.look(&name, &entry.path()) {
                seen.push((name, what));
            }
        }
        let names: HashSet<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
        self.read.retain(|name, _| names.contains(name.as_str()));
        Ok(seen)
    }

    /// Whether the directory has just been written to.
    fn is_busy(&self, first_seen: Instant) -> bool {
        let changed = fs::metadata(&self.dir).and_then(|metadata| metadata.modified()).ok();
        let age = changed.and_then(|at| at.elapsed().ok());
        age.is_some_and(|age| age < QUIET) && first_seen.elapsed() < QUIET_WITHIN
    }

    /// `None`: it is gone, or not a file.
    fn look(&mut self, name: &str, path: &Path) -> Option<Seen> {
        // Follows links: the files of a mounted ConfigMap are links.
        let metadata = match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return Some(self.unreadable(name, &error)),
        };
        if self.read.get(name) == Some(&stamp(&metadata)) {
            return Some(Seen::Unchanged);
        }
        if metadata.len() > MAX_FILE_BYTES {
            let error = io::Error::other(format!("a route has at most {MAX_FILE_BYTES} bytes"));
            return Some(self.unreadable(name, &error));
        }
        match fs::read_to_string(path) {
            Ok(text) => {
                match settled(&metadata) {
                    true => drop(self.read.insert(name.to_owned(), stamp(&metadata))),
                    false => drop(self.read.remove(name)),
                }
                Some(Seen::Text(text))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(self.unreadable(name, &error)),
        }
    }

    fn unreadable(&mut self, name: &str, error: &io::Error) -> Seen {
        self.read.remove(name);
        Seen::Unreadable(error.to_string())
    }
}

/// Whether a later write would show in the stamp. The kernel's file clock ticks every few milliseconds, so a file that
/// changed just now is read once more.
fn settled(metadata: &Metadata) -> bool {
    let age = metadata.modified().ok().and_then(|at| at.elapsed().ok());
    age.is_some_and(|age| age > Duration::from_secs(1))
}

/// Reading the directory is an event too; only writing is news. Lost events (an error, a full queue) count as news.
fn is_change(event: &notify::Result<notify::Event>) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    match event {
        Ok(event) => match event.kind {
            EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
            _ => true,
        },
        Err(_) => true,
    }
}

/// The inode and the change time move with every write, rename and replacement, even within one second.
fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec())
}

/// Watches the directory, and again if it is another one than before. Without a watch the resync is all there is.
fn watch(dir: &Path, watched: &mut Option<(u64, RecommendedWatcher)>, wake: &Arc<Notify>) {
    let inode = fs::metadata(dir).map(|metadata| metadata.ino()).ok();
    if watched.as_ref().map(|(inode, _)| *inode) == inode {
        return;
    }
    *watched = inode.and_then(|inode| {
        let wake = wake.clone();
        let mut watcher = notify::recommended_watcher(move |event| {
            if is_change(&event) {
                wake.notify_one();
            }
        })
        .inspect_err(|error| warn!(%error, "Failed to watch the directory of Routes; polling it every 5 s instead."))
        .ok()?;
        watcher.watch(dir, RecursiveMode::NonRecursive).ok()?;
        Some((inode, watcher))
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::route_fixture::document;
    use crate::metrics::registry::Metrics;
    use crate::routes::Routes;
    use crate::routes::table::{Change, RouteTable};
    use parking_lot::Mutex;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;
    use tokio::task::JoinHandle;

    /// The keys and retry times that were told, in order.
    type Told = Vec<(String, Option<u32>)>;

    struct Followed {
        dir: TempDir,
        routes: Arc<Routes>,
        told: Arc<Mutex<Told>>,
        task: JoinHandle<JoinError>,
    }

    impl Drop for Followed {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    impl Followed {
        fn new(dir: TempDir, path: PathBuf) -> Self {
            let (routes, told) = (Arc::new(Routes::default()), Arc::<Mutex<Vec<_>>>::default());
            let log = told.clone();
            let changed = move |changes: &[Change]| {
                let retry = |change: &Change| change.route.as_ref().map(|route| route.events.retry_milliseconds);
                log.lock().extend(changes.iter().map(|change| (change.key.clone(), retry(change))));
            };
            let publisher =
                RoutePublisher::new("test", RouteTable::default(), routes.clone(), Metrics::new(0), Box::new(changed));
            let task = tokio::spawn(RouteFiles::new(path).follow(publisher));
            Self { dir, routes, told, task }
        }

        /// As an operator does: written aside, then renamed.
        fn write(&self, name: &str, text: &str) {
            let aside = self.dir.path().join(".new");
            fs::write(&aside, text).unwrap();
            fs::rename(aside, self.dir.path().join(name)).unwrap();
        }

        async fn until(&self, what: &str, condition: impl Fn(&Routes) -> bool) {
            let deadline = Instant::now() + Duration::from_secs(20);
            while !condition(&self.routes) {
                assert!(Instant::now() < deadline, "{what}; told: {:?}", self.told.lock());
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }

        fn retry(&self, key: &str) -> Option<u32> {
            self.routes.get(key).map(|served| served.route.events.retry_milliseconds)
        }
    }

    #[tokio::test]
    async fn files_come_change_and_are_removed_while_the_gateway_runs() {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("a.yaml"), document("a", 1000, "Active")).unwrap();
        fs::write(dir.path().join("notes.txt"), "not a route").unwrap();
        let path = dir.path().to_owned();
        let followed = Followed::new(dir, path);
        followed.until("loaded", Routes::is_loaded).await;
        assert_eq!((followed.retry("demo/a"), followed.routes.len()), (Some(1000), 1));
        let usage = followed.routes.get("demo/a").unwrap().usage.clone();

        followed.write("a.yaml", &document("a", 2000, "Active"));
        followed.until("changed", |_| followed.retry("demo/a") == Some(2000)).await;
        assert!(Arc::ptr_eq(&usage, &followed.routes.get("demo/a").unwrap().usage), "the counts go on");

        followed.write("b.yaml", "garbage");
        followed.write("a.yaml", &document("a", 3000, "Active"));
        followed.until("changed beside garbage", |_| followed.retry("demo/a") == Some(3000)).await;

        followed.write("a.yaml", &document("a", 3000, "Removed"));
        followed.until("removed", Routes::is_empty).await;
        let told = followed.told.lock().clone();
        let a = |retry| ("demo/a".to_owned(), retry);
        assert_eq!(told, [a(Some(1000)), a(Some(2000)), a(Some(3000)), a(None)]);
    }

    #[tokio::test]
    async fn a_directory_that_comes_late_is_waited_for() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("routes");
        let followed = Followed::new(dir, path.clone());
        tokio::task::yield_now().await;
        assert!(!followed.routes.is_loaded());
        fs::create_dir(&path).unwrap();
        fs::write(path.join("a.yaml"), document("a", 1000, "Active")).unwrap();
        followed.until("loaded", |routes| routes.len() == 1).await;
    }

    #[tokio::test]
    async fn what_an_operator_is_still_writing_is_waited_for() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().to_owned();
        let followed = Followed::new(dir, path);
        for number in 0..5 {
            tokio::task::yield_now().await;
            followed.write(&format!("r{number}.yaml"), &document(&format!("r{number}"), 1000, "Active"));
        }
        followed.until("loaded", Routes::is_loaded).await;
        assert_eq!(followed.routes.len(), 5);
    }

    #[tokio::test]
    async fn a_mounted_configmap_is_followed_through_its_links() {
        let dir = TempDir::new().unwrap();
        let volume = dir.path().to_owned();
        let fill = |version: &str, retry| {
            fs::create_dir(volume.join(version)).unwrap();
            fs::write(volume.join(version).join("a.yaml"), document("a", retry, "Active")).unwrap();
            symlink(version, volume.join("..tmp")).unwrap();
            fs::rename(volume.join("..tmp"), volume.join("..data")).unwrap();
        };
        fill("..1", 1000);
        symlink("..data/a.yaml", volume.join("a.yaml")).unwrap();
        let followed = Followed::new(dir, volume.clone());
        followed.until("loaded", |_| followed.retry("demo/a") == Some(1000)).await;
        fill("..2", 2000);
        followed.until("changed", |_| followed.retry("demo/a") == Some(2000)).await;
    }
}
