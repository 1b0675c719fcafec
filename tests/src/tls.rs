//! TLS as clients of the tests speak it, and files with certificates as servers read them.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, IpAddr, PrivateKeyDer, ServerName};
use rustls::version::TLS12;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kube_authority::{Identity, KubeAuthority};

/// Whom a client trusts, and what it shows of itself.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    server: ServerName<'static>,
}

/// Files of a server: `tls.crt`, `tls.key` and `ca.crt`, as a Kubernetes Secret holds them.
#[derive(Debug)]
pub struct TlsFolder(TempDir);

// === impl TlsClient ===

impl TlsClient {
    /// Trusts an authority, and shows nothing.
    pub fn trusting(authority: &KubeAuthority) -> Self {
        Self::new(&authority.certificate(), None, rustls::DEFAULT_VERSIONS)
    }

    /// Trusts an authority, and shows a certificate of any other.
    pub fn showing_to(authority: &KubeAuthority, identity: &Identity) -> Self {
        Self::new(&authority.certificate(), Some(identity), rustls::DEFAULT_VERSIONS)
    }

    /// Trusts an authority, and knows no newer protocol than TLS 1.2.
    pub fn old(authority: &KubeAuthority) -> Self {
        Self::new(&authority.certificate(), None, &[&TLS12])
    }

    /// Trusts the authorities in a PEM file, for the server of this name.
    ///
    /// # Panics
    /// When no certificate could be for it.
    pub fn of_roots(trusted: &str, server: &str) -> Self {
        let server = ServerName::try_from(server.to_owned()).expect("a host's name or address");
        Self { server, ..Self::new(trusted, None, rustls::DEFAULT_VERSIONS) }
    }

    fn new(trusted: &str, shown: Option<&Identity>, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(trusted.as_bytes()) {
            roots.add(root.expect("PEM")).expect("an authority");
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(versions).expect("they are known").with_root_certificates(roots);
        let config = match shown {
            None => builder.with_no_client_auth(),
            Some(Identity { certificate, key }) => {
                let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain.expect("PEM"), key).expect("a pair")
            }
        };
        let server = ServerName::IpAddress(IpAddr::from(std::net::IpAddr::from([127, 0, 0, 1])));
        Self { config: Arc::new(config), server }
    }

    /// Shakes hands with who listens at the other end, as 127.0.0.1 unless another name was given, and offers this protocol.
    pub async fn connect(&self, stream: TcpStream, protocol: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        TlsConnector::from(Arc::new(config)).connect(self.server.clone(), stream).await
    }
}

// === impl TlsFolder ===

impl TlsFolder {
    /// A folder with a certificate of this authority for 127.0.0.1.
    pub fn of(authority: &KubeAuthority) -> Self {
        let folder = Self(tempfile::Builder::new().prefix("tidings-tls-").tempdir().expect("a temporary directory"));
        folder.write("ca.crt", &authority.certificate());
        folder.renew(authority);
        folder
    }

    /// Writes a new certificate of this authority, and its key.
    pub fn renew(&self, authority: &KubeAuthority) {
        let Identity { certificate, key } = authority.server("gateway", &[]).expect("a certificate");
        self.write("tls.crt", &certificate);
        self.write("tls.key", &key);
    }

    /// Writes a file.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("the directory can be written");
    }

    /// Where a file is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A flag that names a file: `--flag=path`.
    pub fn flag(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.path(name).display())
    }
}
