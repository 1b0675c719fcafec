//! What a TLS port is set up from: PEM files become a configuration, or a reason why they cannot.
//!
//! Pure: who reads the files, and when, is [`crate::server::tls`]'s business.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use time::OffsetDateTime;

use crate::server::certificate_expiry;

/// The content of the files.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    /// The certificate, and those between it and a root, in this order.
    pub chain: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
    /// Who signs the certificates that clients must have; absent: clients need none.
    pub client_ca: Option<Vec<u8>>,
}

/// A configuration for new connections.
#[derive(Clone, Debug)]
pub struct Certified {
    /// As rustls takes it.
    pub config: Arc<ServerConfig>,
    /// When the certificate expires.
    pub expires: OffsetDateTime,
}

/// Why no configuration can be made of the files.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not PEM.
    #[error("failed to read the certificate as PEM")]
    Chain(#[source] pem::Error),
    /// No certificate in it.
    #[error("the certificate file holds no certificate")]
    NoCertificate,
    /// Not an X.509 certificate.
    #[error("the certificate cannot be understood")]
    NotACertificate,
    /// No private key, or not PEM.
    #[error("failed to read the private key as PEM")]
    Key(#[source] pem::Error),
    /// The key is of another certificate, or of a kind that is not supported.
    #[error("failed to use the certificate with its key")]
    Pair(#[source] rustls::Error),
    /// Not PEM.
    #[error("failed to read the authority of clients as PEM")]
    ClientCa(#[source] pem::Error),
    /// Not a certificate that can sign others.
    #[error("failed to use the authority of clients")]
    ClientRoot(#[source] rustls::Error),
    /// None in the file.
    #[error("failed to set up the verification of clients")]
    ClientVerifier(#[source] VerifierBuilderError),
}

/// What clients may choose from, in our order.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

// === impl Pem ===

impl Pem {
    /// Makes a configuration, for TLS 1.3 and 1.2. Each has ticket keys of its own: who was let in under another authority
    /// cannot take that session up again.
    pub fn certified(&self) -> Result<Certified, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(&self.chain).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(CertificateError::Chain)?;
        let expires = chain.first().ok_or(CertificateError::NoCertificate)?;
        let expires = certificate_expiry::not_after(expires).ok_or(CertificateError::NotACertificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(CertificateError::Key)?;
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(CertificateError::Pair)?;
        let builder = match self.client_roots()? {
            None => builder.with_no_client_auth(),
            Some(roots) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(CertificateError::ClientVerifier)?,
            ),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(CertificateError::Pair)?;
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        // Sessions are kept by the clients, in encrypted tickets: nothing to bound here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Ticketer::new().map_err(CertificateError::Pair)?;
        Ok(Certified { config: Arc::new(config), expires })
    }

    fn client_roots(&self) -> Result<Option<RootCertStore>, CertificateError> {
        let Some(pem) = &self.client_ca else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(pem) {
            roots.add(root.map_err(CertificateError::ClientCa)?).map_err(CertificateError::ClientRoot)?;
        }
        Ok(Some(roots))
    }
}

impl fmt::Debug for Pem {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pem").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    /// A self-signed certificate with its key, both as PEM.
    fn pair() -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2051, 2, 3);
        (params.self_signed(&key).unwrap().pem().into_bytes(), key.serialize_pem().into_bytes())
    }

    fn fault(chain: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> String {
        let pem = Pem { chain: chain.to_vec(), key: key.to_vec(), client_ca: client_ca.map(<[u8]>::to_vec) };
        pem.certified().map(|_| "none".to_owned()).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn a_pair_becomes_a_configuration_for_both_protocols() {
        let (chain, key) = pair();
        let certified = Pem { chain, key, client_ca: None }.certified().unwrap();
        assert_eq!(certified.config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        assert_eq!(certified.expires, rcgen::date_time_ymd(2051, 2, 3));
    }

    #[test]
    fn what_is_broken_is_said() {
        let (chain, key) = pair();
        let (other, _) = pair();
        assert_eq!(fault(&chain, &key, Some(&other)), "none");
        assert_eq!(fault(&other, &key, None), "failed to use the certificate with its key");
        assert_eq!(fault(b"", &key, None), "the certificate file holds no certificate");
        assert_eq!(fault(&chain, b"", None), "failed to read the private key as PEM");
        assert_eq!(fault(&chain[..chain.len() / 2], &key, None), "failed to read the certificate as PEM");
        let garbage = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(fault(garbage, &key, None), "the certificate cannot be understood");
        assert_eq!(fault(&chain, &key, Some(garbage)), "failed to use the authority of clients");
        assert_eq!(fault(&chain, &key, Some(b"")), "failed to set up the verification of clients");
    }

    #[test]
    fn the_key_is_never_printed() {
        let (chain, key) = pair();
        assert_eq!(format!("{:?}", Pem { chain, key, client_ca: None }), "Pem { .. }");
    }
}
