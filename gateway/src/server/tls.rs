//! TLS on the public port: reads the certificate's files again and again, and shakes hands with clients.
//!
//! What is in force changes for new connections only. Files that make no usable pair, as between the two writes of a
//! renewal, leave the last good one in force; what makes one is decided in [`crate::server::certificate`].

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{info, warn};

use crate::metrics::registry::{CertificateChange, Handshake, Metrics};
use crate::server::certificate::{CertificateError, Pem};

/// The files that TLS is set up from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those between it and a root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who signs the certificates that clients must have.
    pub client_ca: Option<PathBuf>,
}

/// TLS for the connections of a port.
#[derive(Debug)]
pub struct Tls {
    config: ArcSwap<ServerConfig>,
    metrics: Arc<Metrics>,
}

/// Keeps a [`Tls`] up to date with its files.
#[derive(Debug)]
pub struct TlsFollower {
    tls: Arc<Tls>,
    files: TlsFiles,
    /// What was read last, usable or not: each content is judged once. An error is its `Debug` text.
    read: Result<Pem, String>,
}

/// Why a port cannot be set up for TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("failed to read {file}")]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// They make no usable pair.
    #[error("failed to set up TLS from {cert}")]
    Unusable {
        /// The certificate's file.
        cert: PathBuf,
        /// Why.
        source: CertificateError,
    },
}

/// How often the files are read: three small ones. Nothing else notices every way in which files are replaced.
const LOOK: Duration = Duration::from_secs(2);

/// A chain of certificates has a few kilobytes, a bundle of authorities some hundred.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// What one connection may have unsent in its session, in plain text; beyond it, writing waits. The frames that a
/// subscriber shares with others become its own here.
pub(crate) const UNSENT_BYTES: usize = 16 << 10;

// === impl Tls ===

impl Tls {
    /// Sets TLS up, and returns with it who keeps it up to date.
    pub fn open(files: TlsFiles, metrics: Arc<Metrics>) -> Result<(Arc<Self>, TlsFollower), TlsError> {
        let pem = files.read()?;
        let certified = pem.certified().map_err(|source| TlsError::Unusable { cert: files.cert.clone(), source })?;
        metrics.certificate(certified.expires);
        say(&files, certified.expires, "Loaded the certificate.");
        let tls = Arc::new(Self { config: ArcSwap::new(certified.config), metrics });
        let follower = TlsFollower { tls: tls.clone(), files, read: Ok(pem) };
        Ok((tls, follower))
    }

    /// Shakes hands with a client, until the deadline. How it went is counted.
    pub async fn accept(&self, stream: TcpStream, deadline: Instant) -> Result<TlsStream<TcpStream>, Handshake> {
        let acceptor = TlsAcceptor::from(self.config.load_full());
        let shaken =
            timeout_at(deadline, acceptor.accept_with(stream, |session| session.set_buffer_limit(Some(UNSENT_BYTES))))
                .await;
        let outcome = match &shaken {
            Ok(Ok(_)) => Handshake::Done,
            Ok(Err(error)) => failure(error),
            Err(_) => Handshake::Timeout,
        };
        self.metrics.handshake(outcome);
        shaken.ok().and_then(Result::ok).ok_or(outcome)
    }
}

/// Why there is no session.
fn failure(error: &io::Error) -> Handshake {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_)) => {
            Handshake::ClientCertificate
        }
        Some(rustls::Error::AlertReceived(_)) => Handshake::Refused,
        Some(_) => Handshake::Protocol,
        None => Handshake::Gone,
    }
}

// === impl TlsFiles ===

impl TlsFiles {
    fn read(&self) -> Result<Pem, TlsError> {
        Ok(Pem {
            chain: read(&self.cert)?,
            key: read(&self.key)?,
            client_ca: self.client_ca.as_deref().map(read).transpose()?,
        })
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(file)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE_BYTES { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
    };
    read().map_err(|source| TlsError::Read { file: file.to_owned(), source })
}

// === impl TlsFollower ===

impl TlsFollower {
    /// Follows the files for ever; returns only if reading them made the thread panic.
    pub async fn follow(mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let looked = tokio::task::spawn_blocking(move || {
                self.look();
                self
            });
            self = match looked.await {
                Ok(follower) => follower,
                Err(_) => return,
            };
        }
    }

    fn look(&mut self) {
        let read = self.files.read();
        let known = match (&read, &self.read) {
            (Ok(read), Ok(known)) => read == known,
            (Err(error), Err(known)) => *known == format!("{error:?}"),
            _ => false,
        };
        if known {
            return;
        }
        let made = read.and_then(|pem| {
            let certified = pem.certified();
            self.read = Ok(pem);
            certified.map_err(|source| TlsError::Unusable { cert: self.files.cert.clone(), source })
        });
        match made {
            Ok(certified) => {
                self.tls.config.store(certified.config);
                self.tls.metrics.certificate(certified.expires);
                self.tls.metrics.certificate_changed(CertificateChange::Applied);
                say(&self.files, certified.expires, "Applied a new certificate.");
            }
            Err(error) => {
                if matches!(error, TlsError::Read { .. }) {
                    self.read = Err(format!("{error:?}"));
                }
                self.tls.metrics.certificate_changed(CertificateChange::Refused);
                let error: &dyn std::error::Error = &error;
                warn!(error, "Rejected a new certificate; the previous one stays in force.");
            }
        }
    }
}

fn say(files: &TlsFiles, expires: OffsetDateTime, what: &'static str) {
    let until = expires.format(&Rfc3339).unwrap_or_default();
    let cert = files.cert.display();
    if expires <= OffsetDateTime::now_utc() {
        warn!(%cert, until, "{what} It has expired: clients will refuse it.");
    } else {
        info!(%cert, until, clients = files.client_ca.is_some(), "{what}");
    }
}
