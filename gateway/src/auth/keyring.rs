//! The keys of one issuer, kept up to date by one task: however many requests miss a key, it is asked for once.
//!
//! What a missing key means, and when to ask again, is decided in [`crate::auth::key_set`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::Mutex;
use tidings_process::error_chain::chain;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::auth::issuer::{Issuer, KeySource};
use crate::auth::jwks_client::{FetchError, discover, fetch};
use crate::auth::key_files::{KeyFiles, Look};
use crate::auth::key_set::{KeySet, KeySetError, LeftOut, Lookup, REFRESH, Ring};
use crate::auth::metrics::{KeyRead, TokenMetrics};
use crate::runtime::file_watch::LOOK;

/// The keys of one issuer.
#[derive(Debug)]
pub struct Keyring {
    issuer: Arc<Issuer>,
    ring: Mutex<Ring>,
    /// A token names a key that is not known.
    missed: Notify,
    /// Counts the answers.
    answers: watch::Sender<u64>,
    /// When a failure was logged last, and which.
    told: Mutex<Option<(Instant, String)>>,
}

/// Why there are no keys for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoKeys {
    /// The issuer has no such key.
    Unknown,
    /// The issuer cannot be asked.
    Unavailable,
}

/// How often a failure that lasts is logged.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(300);

/// Longer than one fetch takes at most.
const PATIENCE: Duration = Duration::from_secs(7);

// === impl Keyring ===

impl Keyring {
    /// The keys of this issuer, unknown until [`Keyring::follow`] runs.
    pub fn new(issuer: Arc<Issuer>) -> Self {
        Self {
            issuer,
            ring: Mutex::default(),
            missed: Notify::new(),
            answers: watch::Sender::new(0),
            told: Mutex::default(),
        }
    }

    /// Whose keys they are.
    pub fn issuer(&self) -> &Arc<Issuer> {
        &self.issuer
    }

    /// Whether any key is known.
    pub fn has_keys(&self) -> bool {
        self.ring.lock().known().is_some()
    }

    /// Whether a token that none of the known secrets has signed may be signed with one that cannot be read now. Keys of a set are
    /// named; secrets are not.
    pub fn misses_a_secret(&self) -> bool {
        matches!(self.issuer.keys, KeySource::Secret { .. }) && self.ring.lock().is_failing()
    }

    /// The keys that a token may be signed with, asked for once more if there is none.
    pub async fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Vec<DecodingKey>, NoKeys> {
        let look = || self.ring.lock().find(id, algorithm, Instant::now());
        let mut lookup = look();
        if matches!(lookup, Lookup::Ask) {
            // From here on no answer is missed.
            let mut answers = self.answers.subscribe();
            lookup = look();
            if matches!(lookup, Lookup::Ask) {
                self.missed.notify_one();
                let _ = tokio::time::timeout(PATIENCE, answers.changed()).await;
                lookup = look();
            }
        }
        match lookup {
            Lookup::Found(keys) => Ok(keys),
            Lookup::Unknown => Err(NoKeys::Unknown),
            Lookup::Unavailable | Lookup::Ask => Err(NoKeys::Unavailable),
        }
    }

    /// Keeps the keys up to date for ever.
    pub async fn follow(&self, metrics: &TokenMetrics) {
        match &self.issuer.keys {
            KeySource::Url { .. } | KeySource::Discovered { .. } => loop {
                match self.fetch().await {
                    Ok(document) => self.take(KeySet::from_jwks(&document, &self.issuer.algorithms), metrics),
                    Err(error) => self.failed(&error, metrics),
                }
                self.until_due().await;
            },
            KeySource::File(_) | KeySource::Secret { .. } => {
                let Some(mut files) = KeyFiles::of(&self.issuer.keys, &self.issuer.algorithms) else { return };
                loop {
                    self.look(&mut files, metrics);
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }

    async fn fetch(&self) -> Result<Bytes, FetchError> {
        match &self.issuer.keys {
            KeySource::Url { url, ca } => fetch(url, ca.as_deref()).await,
            KeySource::Discovered { at, ca } => {
                let url = discover(&self.issuer.issuer, at, ca.as_deref()).await?;
                fetch(&url, ca.as_deref()).await
            }
            // Files are looked at, not fetched.
            KeySource::File(_) | KeySource::Secret { .. } => Ok(Bytes::new()),
        }
    }

    /// Looks at the files once.
    fn look(&self, files: &mut KeyFiles, metrics: &TokenMetrics) {
        let Look { keys, fault } = files.look(Instant::now());
        let changed = keys.is_some();
        if let Some(keys) = keys {
            self.take(Ok(keys), metrics);
        }
        match fault {
            Some(fault) => self.failed(&fault, metrics),
            None if !changed => self.ring.lock().confirmed(Instant::now()),
            None => {}
        }
    }

    /// Until a token names an unknown key, the keys are old, or a failed attempt can be repeated.
    async fn until_due(&self) {
        loop {
            let (pause, failing) = {
                let ring = self.ring.lock();
                (ring.pause(), ring.is_failing())
            };
            let wait = if failing { pause } else { REFRESH.mul_f64(0.8 + 0.4 * rand::random::<f64>()) };
            if tokio::time::timeout(wait, self.missed.notified()).await.is_err()
                || self.ring.lock().may_ask(Instant::now())
            {
                return;
            }
            // Missed while the last answer was on its way: it counts for this one too.
            self.answers.send_modify(|count| *count += 1);
        }
    }

    fn take(&self, read: Result<KeySet, KeySetError>, metrics: &TokenMetrics) {
        match read {
            Ok(set) => {
                let (keys, left_out) = (set.len(), set.left_out().to_vec());
                metrics.keys_read(KeyRead::Taken);
                if self.answered(Some(set)) {
                    info!(issuer = &*self.issuer.name, keys, "Loaded the keys of an issuer.");
                    for LeftOut { key_id, reason } in left_out {
                        info!(issuer = &*self.issuer.name, key_id, reason, "Ignored a key of an issuer.");
                    }
                }
            }
            Err(error) => self.failed(&error, metrics),
        }
    }

    fn failed(&self, error: &dyn std::error::Error, metrics: &TokenMetrics) {
        metrics.keys_read(KeyRead::Failed);
        let (known, cause) = (self.has_keys(), chain(error));
        if self.is_to_be_told(&cause, Instant::now()) {
            warn!(
                issuer = &*self.issuer.name,
                known,
                error = cause,
                "Failed to read the keys of an issuer; the last ones stay in force."
            );
        }
        self.answered(None);
    }

    /// Whether a failure is the first one or another one, or has lasted so long that it is told again: a key that was withdrawn counts
    /// until then.
    fn is_to_be_told(&self, cause: &str, now: Instant) -> bool {
        let mut told = self.told.lock();
        let is_old = told
            .as_ref()
            .is_none_or(|(at, last)| last != cause || now.saturating_duration_since(*at) >= TELL_AGAIN_AFTER);
        let is_due = is_old || !self.ring.lock().is_failing();
        if is_due {
            *told = Some((now, cause.to_owned()));
        }
        is_due
    }

    /// Whether the answer brought anything new.
    fn answered(&self, set: Option<KeySet>) -> bool {
        let news = self.ring.lock().answered(set, Instant::now());
        self.answers.send_modify(|count| *count += 1);
        news
    }
}
