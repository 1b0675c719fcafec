//! The address behind which an issuer publishes its keys, as a real HTTP server with good and bad days.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::kube_authority::Identity;
use crate::token::TokenKey;

/// How the server answers.
#[derive(Clone, Debug)]
pub enum Day {
    /// With this document.
    Good(Bytes),
    /// As an OpenID Connect provider: with this discovery document at its place, with these keys elsewhere.
    Provider {
        /// What stands at `/.well-known/openid-configuration`.
        discovery: Bytes,
        /// The keys.
        keys: Bytes,
    },
    /// With a status.
    Status(u16),
    /// With so many bytes of JSON.
    Huge(usize),
    /// With a redirect.
    Redirect(String),
    /// Not at all.
    Silent,
}

/// A server of keys. Dropping it ends it.
#[derive(Debug)]
pub struct KeyServer {
    port: u16,
    secured: bool,
    day: Arc<Mutex<Day>>,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

// === impl Day ===

impl Day {
    /// A key set with these keys.
    pub fn keys(keys: &[&TokenKey]) -> Self {
        let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
        Self::Good(json!({ "keys": keys }).to_string().into())
    }

    async fn answer(self, path: &str) -> Response<Full<Bytes>> {
        let response = Response::builder();
        let response = match self {
            Self::Good(document) => response.body(document.into()),
            Self::Provider { discovery, keys } => match path {
                "/.well-known/openid-configuration" => response.body(discovery.into()),
                _ => response.body(keys.into()),
            },
            Self::Status(status) => {
                response.status(StatusCode::from_u16(status).expect("a status")).body(Bytes::new().into())
            }
            Self::Huge(bytes) => response.body(Bytes::from(format!("{{\"keys\":[{}7]}}", " ".repeat(bytes))).into()),
            Self::Redirect(to) => response.status(302).header("location", to).body(Bytes::new().into()),
            Self::Silent => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                response.body(Bytes::new().into())
            }
        };
        response.expect("a plain answer")
    }
}

// === impl KeyServer ===

impl KeyServer {
    /// Starts one on loopback.
    pub async fn start(day: Day) -> Self {
        Self::start_with(day, None).await
    }

    /// Starts one on loopback that speaks TLS and shows this certificate.
    pub async fn start_tls(day: Day, shown: &Identity) -> Self {
        Self::start_with(day, Some(acceptor(shown))).await
    }

    async fn start_with(day: Day, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let port = listener.local_addr().expect("it is bound").port();
        let (day, requests) = (Arc::new(Mutex::new(day)), Arc::new(AtomicUsize::new(0)));
        let secured = tls.is_some();
        let task = tokio::spawn(serve(listener, tls, day.clone(), requests.clone()));
        Self { port, secured, day, requests, task }
    }

    /// The address of the keys.
    pub fn url(&self) -> String {
        format!("http{}://127.0.0.1:{}/keys", if self.secured { "s" } else { "" }, self.port)
    }

    /// Its address without a path: what it is called as an issuer.
    pub fn issuer(&self) -> String {
        self.url().trim_end_matches("/keys").to_owned()
    }

    /// From now on it answers as a provider whose discovery document names this issuer.
    pub fn set_provider(&self, issuer: &str, keys: &[&TokenKey]) {
        let discovery = json!({ "issuer": issuer, "jwks_uri": self.url(), "scopes_supported": ["openid"] });
        let Day::Good(keys) = Day::keys(keys) else { unreachable!("keys are a good day") };
        self.set(Day::Provider { discovery: discovery.to_string().into(), keys });
    }

    /// From now on it answers so.
    pub fn set(&self, day: Day) {
        *self.day.lock().expect("no holder panics") = day;
    }

    /// How often it was asked.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn acceptor(shown: &Identity) -> TlsAcceptor {
    let chain = CertificateDer::pem_slice_iter(shown.certificate.as_bytes()).collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).expect("a key");
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(rustls::DEFAULT_VERSIONS).expect("they are known");
    let config = builder.with_no_client_auth().with_single_cert(chain.expect("PEM"), key).expect("a pair");
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, day: Arc<Mutex<Day>>, requests: Arc<AtomicUsize>) {
    // Aborting this ends the connections too.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (day, requests) = (day.clone(), requests.clone());
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            requests.fetch_add(1, Ordering::SeqCst);
            let day = day.lock().expect("no holder panics").clone();
            async move { Ok::<_, Infallible>(day.answer(request.uri().path()).await) }
        });
        let tls = tls.clone();
        connections.spawn(async move {
            let Some(tls) = tls else {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                return;
            };
            if let Ok(stream) = tls.accept(stream).await {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        });
    }
}
