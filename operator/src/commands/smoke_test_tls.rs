//! TLS as `tidings-operator try` speaks it: to a server that shows one known certificate, whatever its issuer and whatever name
//! it is for. Within a cluster a gateway is asked for by its Service's name, and its certificate is for the public's.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The certificate that a server has to show, to the byte. It must own the certificate's key too: that is checked as ever.
#[derive(Clone, Debug)]
pub struct Pin {
    certificate: CertificateDer<'static>,
}

/// Why there is no certificate to expect.
#[derive(Debug, thiserror::Error)]
#[error("--certificate: failed to read a certificate from {file}")]
pub struct PinError {
    file: String,
    #[source]
    source: pem::Error,
}

/// Accepts the pinned certificate, and no other.
#[derive(Debug)]
struct Verifier {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

// === impl Pin ===

impl Pin {
    /// A server that shows this certificate.
    pub fn of(certificate: CertificateDer<'static>) -> Self {
        Self { certificate }
    }

    /// A server that shows the first certificate of a PEM file, as `tls.crt` in a Secret is.
    ///
    /// # Errors
    /// When there is none.
    pub fn read(file: &Path) -> Result<Self, PinError> {
        let read = CertificateDer::from_pem_file(file);
        read.map(Self::of).map_err(|source| PinError { file: file.display().to_string(), source })
    }

    /// Shakes hands with the server at the other end.
    ///
    /// # Errors
    /// When it speaks no TLS, shows another certificate, or does not own it.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Verifier { pin: self.clone(), provider: Arc::clone(&provider) };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(std::io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

// === impl Verifier ===

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.pin.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    fn identity() -> CertifiedKey<KeyPair> {
        generate_simple_self_signed(["push.example".to_owned()]).expect("a certificate")
    }

    /// Whether a client that expects one certificate shakes hands with a server that shows another.
    async fn shakes_hands(expected: &CertifiedKey<KeyPair>, shown: &CertifiedKey<KeyPair>) -> bool {
        let key = PrivateKeyDer::try_from(shown.signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("they are known")
            .with_no_client_auth()
            .with_single_cert(vec![shown.cert.der().clone()], key)
            .expect("a pair");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a client");
            let _ = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
        });
        let stream = TcpStream::connect(address).await.expect("a connection");
        let connected = Pin::of(expected.cert.der().clone()).connect("gateway.namespace.svc", stream).await;
        server.abort();
        connected.is_ok()
    }

    #[tokio::test]
    async fn the_pinned_certificate_is_accepted_whatever_name_it_is_for_and_no_other_one_is() {
        let (ours, theirs) = (identity(), identity());
        assert!(shakes_hands(&ours, &ours).await);
        assert!(!shakes_hands(&ours, &theirs).await);
    }
}
