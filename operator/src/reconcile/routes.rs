//! Where Routes go: one YAML file for each Channel, for gateways started with `--routes DIR`.
//!
//! A reader never sees half a file: each is written beside its place and renamed into it. A Route is marked
//! `state: Removed` before its file goes, so that gateways end its streams at once. Files of others are never deleted.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tidings_crds::key::ChannelKey;
use tidings_crds::route::{Route, RouteError, RouteState};

use crate::runtime::metrics::Metrics;

/// A temporary file older than this was left by a process that ended in between.
const ABANDONED: Duration = Duration::from_secs(60);

/// The directory of Route files of one installation.
#[derive(Clone)]
pub struct RouteFiles {
    dir: Arc<PathBuf>,
    head: Arc<str>,
    metrics: Arc<Metrics>,
}

/// What stands in the place of a Channel's Route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No file.
    Nothing,
    /// A Route.
    Route(Box<Route>),
    /// Something that is none; it is written over.
    Garbage,
}

/// A Route file that this installation wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnRoute {
    /// Whose it is.
    pub key: ChannelKey,
    /// Whether gateways serve it.
    pub state: RouteState,
}

/// What went wrong with a Route file.
#[derive(Debug, thiserror::Error)]
pub enum RouteFileError {
    /// Reading.
    #[error("failed to read the route file {path}")]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Writing or deleting.
    #[error("failed to {verb} the route file {path}")]
    Write {
        /// What was tried.
        verb: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory itself.
    #[error("failed to open the directory of routes {path}")]
    Directory {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread that did it ended early.
    #[error("failed to finish work on a route file")]
    Thread(#[from] tokio::task::JoinError),
}

// === impl RouteFileError ===

impl RouteFileError {
    /// The stable name of this kind of failure, for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::Directory { .. } => "route_read",
            Self::Write { .. } | Self::Thread(_) => "route_write",
        }
    }
}

// === impl RouteFiles ===

impl RouteFiles {
    /// Opens the directory, creates it if it is missing, and clears what an earlier process left half done.
    ///
    /// # Errors
    /// When it cannot be created or listed.
    pub fn open(dir: &Path, cluster: &str, metrics: Arc<Metrics>) -> Result<Self, RouteFileError> {
        let failed = |source| RouteFileError::Directory { path: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        for entry in fs::read_dir(dir).map_err(failed)?.flatten() {
            if is_abandoned(&entry) {
                // A second operator may have been faster.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Self { dir: Arc::new(dir.to_owned()), head: head(cluster).into(), metrics })
    }

    /// What stands in the place of this Channel's Route.
    pub async fn read(&self, key: &ChannelKey) -> Result<Found, RouteFileError> {
        let path = self.path(key);
        let text = tokio::task::spawn_blocking({
            let path = path.clone();
            move || fs::read(path)
        });
        match text.await? {
            Ok(bytes) => Ok(found(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
            Err(source) => Err(RouteFileError::Read { path, source }),
        }
    }

    /// Writes a Route, unless its file says the same already. Whether it wrote.
    pub async fn write(&self, route: &Route) -> Result<bool, RouteFileError> {
        let key = ChannelKey::new(&route.namespace, &route.name);
        let path = self.path(&key);
        let text = format!("{}{}", self.head, route.to_yaml());
        let action = match route.state {
            RouteState::Active => "write",
            RouteState::Removed => "mark_removed",
        };
        let written = tokio::task::spawn_blocking(move || {
            if fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
                return Ok(false);
            }
            replace(&path, text.as_bytes()).map_err(|source| RouteFileError::Write { verb: "write", path, source })?;
            Ok(true)
        });
        let written: Result<bool, RouteFileError> = written.await?;
        let written = written?;
        if written {
            self.metrics.route_written(action);
        }
        Ok(written)
    }

    /// Tells gateways that the Channel is gone; its file stays for now. Whether anything changed.
    pub async fn mark_removed(&self, key: &ChannelKey) -> Result<bool, RouteFileError> {
        match self.read(key).await? {
            Found::Route(route) if route.state == RouteState::Active => {
                self.write(&Route { state: RouteState::Removed, ..*route }).await
            }
            Found::Route(_) | Found::Garbage | Found::Nothing => Ok(false),
        }
    }

    /// Deletes the file of a Channel; it may be gone already.
    pub async fn delete(&self, key: &ChannelKey) -> Result<(), RouteFileError> {
        let path = self.path(key);
        let deleted = tokio::task::spawn_blocking({
            let path = path.clone();
            move || fs::remove_file(path)
        });
        match deleted.await? {
            Ok(()) => {
                self.metrics.route_written("delete");
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(RouteFileError::Write { verb: "delete", path, source }),
        }
    }

    /// The Routes that this installation wrote.
    pub async fn list(&self) -> Result<Vec<OwnRoute>, RouteFileError> {
        let (dir, head) = (Arc::clone(&self.dir), Arc::clone(&self.head));
        let listed = tokio::task::spawn_blocking(move || list(&dir, &head).map_err(|source| (dir, source)));
        listed.await?.map_err(|(dir, source)| RouteFileError::Directory { path: dir.to_path_buf(), source })
    }

    fn path(&self, key: &ChannelKey) -> PathBuf {
        self.dir.join(file_name(key))
    }
}

/// Namespaces and names of Channels are DNS labels: the dot between them is the only one.
fn file_name(key: &ChannelKey) -> String {
    format!("{}.{}.yaml", key.namespace, key.name)
}

/// The first line of our files; a comment to those who read the Route.
fn head(cluster: &str) -> String {
    format!("# Written by tidings-operator for {cluster}; changes here are overwritten.\n")
}

/// Reads what stands in the place of a Route.
pub(crate) fn found(bytes: &[u8]) -> Found {
    let route = std::str::from_utf8(bytes).ok().map(Route::from_yaml);
    match route {
        Some(Ok(route)) => Found::Route(Box::new(route)),
        // Another version's Route is as good as none: this version writes its own.
        Some(Err(RouteError::Yaml(_) | RouteError::Version(_))) | None => Found::Garbage,
    }
}

fn list(dir: &Path, head: &str) -> io::Result<Vec<OwnRoute>> {
    let mut own = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // One that cannot be read, or has just gone, is not known to be ours.
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        if !text.starts_with(head) {
            continue;
        }
        let Ok(route) = Route::from_yaml(&text) else { continue };
        let key = ChannelKey::new(&route.namespace, &route.name);
        // A copy under another name was not made by the operator.
        if entry.file_name().to_str() == Some(&file_name(&key)) {
            own.push(OwnRoute { key, state: route.state });
        }
    }
    Ok(own)
}

/// Writes beside the place, then renames: readers get all of the old or all of the new.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Hidden, so that gateways do not take it for a Route; unique, so that two operators do not share one.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let beside = path.with_file_name(format!(".{name}.{}.{next}.tmp", std::process::id()));
    let written = fs::File::create(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        // A rename can outlive a power cut that the content did not.
        file.sync_all()?;
        crate::runtime::failpoint::reached("route-renamed");
        fs::rename(&beside, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

fn is_abandoned(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    let ours =
        name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(".tmp") && name.contains(".yaml."));
    let age = || SystemTime::now().duration_since(entry.metadata().ok()?.modified().ok()?).ok();
    ours && age().is_some_and(|age| age > ABANDONED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidings_crds::channel::{AccessMode, Encoding, Start};
    use tidings_crds::route::{
        ROUTE_VERSION, RouteAccess, RouteCors, RouteEvents, RouteGrant, RouteLimits, RouteSource,
    };
    use tidings_crds::topic::TopicSpace;

    fn route(name: &str, heartbeat_seconds: u32) -> Route {
        let nobody = RouteGrant { mode: AccessMode::Disabled, topics: Vec::new() };
        Route {
            version: ROUTE_VERSION,
            namespace: "shop".into(),
            name: name.into(),
            generation: 0,
            state: RouteState::Active,
            source: RouteSource::Ephemeral,
            topics: TopicSpace::Below { base: format!("tidings.shop.{name}").parse().unwrap() },
            events: RouteEvents {
                from: Start::New,
                encoding: Encoding::Text,
                heartbeat_seconds,
                retry_milliseconds: 3000,
                max_event_bytes: 65536,
            },
            access: RouteAccess {
                issuers: None,
                token_sources: Vec::new(),
                subscribe: nobody.clone(),
                publish: nobody,
            },
            cors: RouteCors { origins: Vec::new(), allow_credentials: false },
            limits: RouteLimits::default(),
        }
    }

    fn open(dir: &Path, cluster: &str) -> RouteFiles {
        RouteFiles::open(dir, cluster, Arc::default()).unwrap()
    }

    fn key(name: &str) -> ChannelKey {
        ChannelKey::new("shop", name)
    }

    #[tokio::test]
    async fn a_route_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let routes = open(&dir.path().join("made/on/demand"), "c");
        assert_eq!(routes.read(&key("orders")).await.unwrap(), Found::Nothing);
        assert!(routes.write(&route("orders", 15)).await.unwrap());
        assert!(!routes.write(&route("orders", 15)).await.unwrap());
        assert_eq!(routes.read(&key("orders")).await.unwrap(), Found::Route(Box::new(route("orders", 15))));
    }

    #[tokio::test]
    async fn a_route_is_marked_before_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let routes = open(dir.path(), "c");
        routes.write(&route("orders", 15)).await.unwrap();
        assert!(routes.mark_removed(&key("orders")).await.unwrap());
        assert!(!routes.mark_removed(&key("orders")).await.unwrap());
        let own = OwnRoute { key: key("orders"), state: RouteState::Removed };
        assert_eq!(routes.list().await.unwrap(), [own]);
        routes.delete(&key("orders")).await.unwrap();
        routes.delete(&key("orders")).await.unwrap();
        assert_eq!(routes.list().await.unwrap(), []);
    }

    #[tokio::test]
    async fn only_what_this_installation_wrote_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), "other").write(&route("theirs", 15)).await.unwrap();
        fs::write(dir.path().join("shop.handmade.yaml"), route("handmade", 15).to_yaml()).unwrap();
        let ours = open(dir.path(), "c");
        ours.write(&route("ours", 15)).await.unwrap();
        fs::copy(dir.path().join("shop.ours.yaml"), dir.path().join("copy.yaml")).unwrap();
        let own = OwnRoute { key: key("ours"), state: RouteState::Active };
        assert_eq!(ours.list().await.unwrap(), [own]);
    }

    #[tokio::test]
    async fn garbage_in_a_route_s_place_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let routes = open(dir.path(), "c");
        fs::write(dir.path().join("shop.orders.yaml"), [0xff, 0xfe]).unwrap();
        assert_eq!(routes.read(&key("orders")).await.unwrap(), Found::Garbage);
        assert!(routes.write(&route("orders", 15)).await.unwrap());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_reader_never_sees_half_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let routes = open(dir.path(), "c");
        routes.write(&route("orders", 1)).await.unwrap();
        let path = dir.path().join("shop.orders.yaml");
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let reader = std::thread::spawn(move || {
            let mut read = 0_u64;
            while stopped.try_recv().is_err() {
                Route::from_yaml(&fs::read_to_string(&path).unwrap()).unwrap();
                read += 1;
            }
            read
        });
        let second = open(dir.path(), "c");
        for seconds in 2..200 {
            let (long, short) = (route("orders", seconds), route("orders", 1));
            let (a, b) = tokio::join!(routes.write(&long), second.write(&short));
            a.unwrap();
            b.unwrap();
        }
        stop.send(()).unwrap();
        assert!(reader.join().unwrap() > 0);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["shop.orders.yaml"]);
    }
}
