//! Settings of the file front end.

use std::path::PathBuf;
use std::time::Duration;

/// The file front end.
#[derive(Clone, Debug)]
pub struct FilesConfig {
    /// The directory of manifests.
    pub channels: PathBuf,
    /// The directory of Route files.
    pub routes: PathBuf,
    /// Time that a manifest must be missing before its Channel counts as removed.
    pub removal_delay: Duration,
}
