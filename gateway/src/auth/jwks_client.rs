//! Fetching a small document over HTTPS, from an address that the administrator has chosen and from nowhere else.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, LOCATION, USER_AGENT};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The certificate authorities cannot be read.
    #[error("failed to read the certificate authorities")]
    Authorities(#[source] io::Error),
    /// No connection, or it broke.
    #[error("failed to reach {0}")]
    Unreachable(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another answer than 200.
    #[error("{0} answered {1}")]
    Status(String, StatusCode),
    /// It sends us to another host, or in circles.
    #[error("{0} redirects to another place: write the final address")]
    Redirect(String),
    /// The discovery document is none, or is another issuer's.
    #[error("the discovery document at {0} {1}")]
    Discovery(String, &'static str),
    /// More than any such document has.
    #[error("the document has more than {MAX_BYTES} bytes")]
    TooLarge,
    /// Not within the time.
    #[error("no document within {0:?}")]
    Timeout(Duration),
}

/// For everything, from the name to the last byte.
const DEADLINE: Duration = Duration::from_secs(5);

/// A key set with a hundred keys and their certificates has a tenth of it.
const MAX_BYTES: usize = 512 << 10;

/// On the same host: `/keys` to `/keys/` to `/keys/v1`.
const MAX_REDIRECTS: usize = 3;

type Fetcher = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Fetches the document. `ca` are the authorities to trust instead of the system's.
///
/// Nothing is kept between two calls: they are minutes apart, and a certificate that was replaced counts at once.
pub async fn fetch(url: &Uri, ca: Option<&Path>) -> Result<Bytes, FetchError> {
    let roots = if url.scheme_str() == Some("https") { authorities(ca).await? } else { RootCertStore::empty() };
    let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::Authorities(io::Error::other(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    let client: Fetcher = Client::builder(TokioExecutor::new()).build(connector);
    tokio::time::timeout(DEADLINE, follow(&client, url)).await.map_err(|_| FetchError::Timeout(DEADLINE))?
}

/// Where the keys of an issuer are, by its discovery document (OpenID Connect Discovery 1.0, section 4). The document comes from
/// the issuer itself, so it may name another host.
pub async fn discover(issuer: &str, at: &Uri, ca: Option<&Path>) -> Result<Uri, FetchError> {
    let document = fetch(at, ca).await?;
    jwks_uri(issuer, &document).map_err(|fault| FetchError::Discovery(place(at), fault))
}

fn jwks_uri(issuer: &str, document: &[u8]) -> Result<Uri, &'static str> {
    #[derive(Deserialize)]
    struct Document {
        issuer: String,
        jwks_uri: String,
    }
    let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
    let Document { issuer: named, jwks_uri } =
        serde_json::from_slice(document).map_err(|_| "is no JSON object with issuer and jwks_uri")?;
    if named != issuer {
        let but_for_a_slash = named.trim_end_matches('/') == issuer.trim_end_matches('/');
        return Err(match but_for_a_slash {
            true => "names an issuer that differs by a final slash: write it in the settings as it stands there",
            false => "names another issuer",
        });
    }
    let url: Uri = jwks_uri.parse().map_err(|_| "has a jwks_uri that is no address")?;
    if is_private(&url) { Ok(url) } else { Err("has a jwks_uri that is not https") }
}

/// Whether nobody on the way can change what comes from there.
pub fn is_private(url: &Uri) -> bool {
    match url.scheme_str() {
        Some("https") => true,
        Some("http") => is_loopback(url),
        _ => false,
    }
}

/// Nobody is on the way to this machine itself.
fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

async fn follow(client: &Fetcher, url: &Uri) -> Result<Bytes, FetchError> {
    let mut at = url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let answer = get(client, &at).await?;
        match answer.status() {
            StatusCode::OK => return body(answer, &at).await,
            status if status.is_redirection() => {
                at = redirected(&at, &answer).ok_or_else(|| FetchError::Redirect(place(url)))?;
            }
            status => return Err(FetchError::Status(place(url), status)),
        }
    }
    Err(FetchError::Redirect(place(url)))
}

async fn get(client: &Fetcher, at: &Uri) -> Result<Response<Incoming>, FetchError> {
    let unreachable = |error: Box<dyn std::error::Error + Send + Sync>| FetchError::Unreachable(place(at), error);
    let request = Request::get(at.clone())
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("tidings-gateway/", env!("CARGO_PKG_VERSION")))
        .body(Empty::new())
        .map_err(|error| unreachable(error.into()))?;
    client.request(request).await.map_err(|error| unreachable(error.into()))
}

async fn body(answer: Response<Incoming>, at: &Uri) -> Result<Bytes, FetchError> {
    match Limited::new(answer.into_body(), MAX_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge),
        Err(error) => Err(FetchError::Unreachable(place(at), error)),
    }
}

/// The next address, if it is one of the same scheme, host and port.
fn redirected<B>(from: &Uri, answer: &Response<B>) -> Option<Uri> {
    let location = answer.headers().get(LOCATION)?.to_str().ok()?;
    let to: Uri = location.parse().ok()?;
    if to.authority().is_none() {
        let path = to
            .path_and_query()
            .filter(|path| path.as_str().starts_with('/') && !path.as_str().starts_with("//"))?
            .clone();
        let mut parts = from.clone().into_parts();
        parts.path_and_query = Some(path);
        return Uri::from_parts(parts).ok();
    }
    (to.scheme() == from.scheme() && to.authority() == from.authority()).then_some(to)
}

/// An address for people: a query may hold a secret.
fn place(url: &Uri) -> String {
    format!("{}://{}{}", url.scheme_str().unwrap_or_default(), url.host().unwrap_or_default(), url.path())
}

async fn authorities(ca: Option<&Path>) -> Result<RootCertStore, FetchError> {
    let ca = ca.map(Path::to_owned);
    let read = tokio::task::spawn_blocking(move || match ca {
        Some(file) => {
            let certificates: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(&file).and_then(|certificates| certificates.collect());
            certificates.map_err(|error| io::Error::other(format!("{}: {error}", file.display())))
        }
        // Certificates that cannot be read are other people's; without any, nothing is trusted.
        None => Ok(rustls_native_certs::load_native_certs().certs),
    });
    let certificates = read.await.map_err(io::Error::other).and_then(|read| read).map_err(FetchError::Authorities)?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        let error = io::Error::new(io::ErrorKind::NotFound, "there is none: set SSL_CERT_FILE, or write caFile");
        return Err(FetchError::Authorities(error));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_stays_on_its_host() {
        let to = |location: &str| {
            let answer = Response::builder().header(LOCATION, location).body(()).unwrap();
            redirected(&Uri::from_static("https://id.example:8443/keys?x=1"), &answer).map(|uri| uri.to_string())
        };
        assert_eq!(to("/v1/keys").as_deref(), Some("https://id.example:8443/v1/keys"));
        assert_eq!(to("https://id.example:8443/k?y").as_deref(), Some("https://id.example:8443/k?y"));
        for elsewhere in [
            "https://id.example/keys",
            "http://id.example:8443/keys",
            "https://169.254.169.254/keys",
            "//evil.example/keys",
            "keys",
            "",
        ] {
            assert_eq!(to(elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn a_discovery_document_is_its_issuers_and_names_a_safe_address() {
        let read = |text: &str| jwks_uri("https://id.example", text.as_bytes()).map(|url| url.to_string());
        let good = r#"{"issuer": "https://id.example", "jwks_uri": "https://keys.example/k", "scopes_supported": []}"#;
        assert_eq!(read(good).as_deref(), Ok("https://keys.example/k"));
        assert_eq!(read(&format!("\u{feff}{good}")).as_deref(), Ok("https://keys.example/k"));
        for (from, to, hint) in [
            ("id.example", "id.example/", "final slash"),
            ("id.example", "evil.example", "another issuer"),
            ("https://keys", "http://keys", "not https"),
            ("jwks_uri", "jwks", "no JSON object"),
            ("{", "[", "no JSON object"),
        ] {
            assert!(read(&good.replacen(from, to, 1)).unwrap_err().contains(hint), "{to}");
        }
    }

    #[test]
    fn an_address_is_told_without_its_query() {
        assert_eq!(place(&Uri::from_static("https://u:p@id.example/keys?secret=1")), "https://id.example/keys");
    }
}
