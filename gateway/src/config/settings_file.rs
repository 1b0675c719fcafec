//! The settings file, followed for as long as the gateway runs: a change counts within two seconds.

use std::path::PathBuf;
use std::sync::Arc;

use tracing::{info, warn};

use crate::auth::authenticator::Authority;
use crate::channel::hub::Hub;
use crate::config::settings::{Settings, SettingsError};
use crate::limits::metrics::LimitMetrics;
use crate::limits::quota::{DEFAULT_BACKFILLS, Quotas};
use crate::metrics::registry::{Metrics, SettingsChange};
use crate::runtime::file_watch::{LOOK, Watched};

/// The settings file.
#[derive(Debug)]
pub struct SettingsFile {
    file: Watched,
    /// The last fault, told once and not every second.
    fault: Option<String>,
}

/// Why the settings cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SettingsFileError {
    /// The file cannot be read.
    #[error("failed to read the settings {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// It is none.
    #[error("failed to read the settings {0}")]
    Faulty(PathBuf, #[source] SettingsError),
}

// === impl SettingsFile ===

impl SettingsFile {
    /// Reads it for the first time. A gateway does not start with settings that it does not understand.
    pub fn open(path: PathBuf) -> Result<(Self, Settings), SettingsFileError> {
        let mut file = Watched::new(path.clone());
        let bytes = file.look().map_err(|error| SettingsFileError::Read(path.clone(), error))?;
        let settings = Settings::from_yaml(&String::from_utf8_lossy(&bytes.unwrap_or_default()))
            .map_err(|error| SettingsFileError::Faulty(path, error))?;
        Ok((Self { file, fault: None }, settings))
    }

    /// Follows it for ever: tokens are checked by what stands in it, and open streams are held against it. What cannot be
    /// read leaves the last good settings in force.
    pub async fn follow(mut self, authority: Arc<Authority>, hub: Hub, told: Arc<LimitMetrics>, metrics: Arc<Metrics>) {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.read() {
                Ok(None) => {}
                Ok(Some(settings)) => {
                    self.fault = None;
                    let (rules, Settings { auth, limits }) = (authority.rules(), settings);
                    if auth != *rules.settings() || limits != *rules.limits() {
                        enforce(&limits, &hub, &told);
                        rules.replace(auth, limits);
                        authority.update();
                        hub.recheck(None);
                        metrics.settings_changed(SettingsChange::Applied);
                        info!(file = %self.file.path().display(), "Applied the settings.");
                    }
                }
                Err(fault) => {
                    if self.fault.as_ref() != Some(&fault) {
                        metrics.settings_changed(SettingsChange::Refused);
                        let file = self.file.path().display();
                        warn!(%file, error = fault, "Failed to read the settings; the last good ones stay in force.");
                        self.fault = Some(fault);
                    }
                }
            }
        }
    }

    fn read(&mut self) -> Result<Option<Settings>, String> {
        let Some(bytes) = self.file.look().map_err(|error| error.to_string())? else { return Ok(None) };
        Settings::from_yaml(&String::from_utf8_lossy(&bytes)).map(Some).map_err(|error| error.to_string())
    }
}

/// Puts those limits into force that nobody looks up when they are needed, and tells all of them.
pub fn enforce(limits: &Quotas, hub: &Hub, metrics: &LimitMetrics) {
    hub.limit_backfills(limits.backfills.unwrap_or(DEFAULT_BACKFILLS));
    limits.each().into_iter().for_each(|(limit, most)| metrics.set(limit, most));
}
