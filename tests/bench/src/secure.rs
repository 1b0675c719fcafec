//! TLS: the certificate that a measured server shows, and the client that trusts nothing else.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::client::Client;
use crate::payload::Payload;

/// A certificate for 127.0.0.1 in files, and whom it is shown to.
#[derive(Debug)]
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    trusting: Arc<ClientConfig>,
}

/// One subscriber's session.
#[derive(Debug)]
pub(crate) struct Session {
    tls: ClientConnection,
    pub(crate) client: Client,
}

// === impl Certificate ===

impl Certificate {
    /// Makes one (ECDSA P-256), and writes it into this folder.
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let made = params.self_signed(&key)?;
        let mut roots = RootCertStore::empty();
        roots.add(made.der().clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        // A ticket would save the next one the handshake: each of ours is a client of its own.
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let file = |name: &str, text: String| fs::write(folder.join(name), text).map(|()| folder.join(name));
        Ok(Self {
            certificate: file("tls.crt", made.pem())?,
            key: file("tls.key", key.serialize_pem())?,
            trusting: Arc::new(config),
        })
    }
}

// === impl Session ===

impl Session {
    /// Begins to shake hands; the request goes out as soon as that is done.
    pub(crate) fn begin(certificate: &Certificate, socket: &mut TcpStream, request: &[u8]) -> Result<Self> {
        let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
        let mut tls = ClientConnection::new(certificate.trusting.clone(), name)?;
        tls.writer().write_all(request)?;
        while tls.wants_write() {
            tls.write_tls(socket)?;
        }
        Ok(Self { tls, client: Client::default() })
    }

    /// Reads what came; tells each event. False at the end of the connection.
    pub(crate) fn read(
        &mut self,
        socket: &mut TcpStream,
        buffer: &mut [u8],
        seen: &mut impl FnMut(Payload),
    ) -> Result<bool> {
        match self.tls.read_tls(socket) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(_) => return Ok(false),
        }
        self.tls.process_new_packets()?;
        while self.tls.wants_write() {
            // A handshake's few bytes always fit.
            self.tls.write_tls(socket)?;
        }
        loop {
            match self.tls.reader().read(buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => self.client.feed(buffer.get(..read).unwrap_or_default(), seen),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
