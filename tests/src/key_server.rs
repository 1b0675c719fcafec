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
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::token::TokenKey;

/// How the server answers.
#[derive(Clone, Debug)]
pub enum Day {
    /// With this document.
    Good(Bytes),
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

    async fn answer(self) -> Response<Full<Bytes>> {
        let response = Response::builder();
        let response = match self {
            Self::Good(document) => response.body(document.into()),
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
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let port = listener.local_addr().expect("it is bound").port();
        let (day, requests) = (Arc::new(Mutex::new(day)), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn(serve(listener, day.clone(), requests.clone()));
        Self { port, day, requests, task }
    }

    /// The address of the keys.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/keys", self.port)
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

async fn serve(listener: TcpListener, day: Arc<Mutex<Day>>, requests: Arc<AtomicUsize>) {
    // Aborting this ends the connections too.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (day, requests) = (day.clone(), requests.clone());
        let service = service_fn(move |_: Request<hyper::body::Incoming>| {
            requests.fetch_add(1, Ordering::SeqCst);
            let day = day.lock().expect("no holder panics").clone();
            async move { Ok::<_, Infallible>(day.answer().await) }
        });
        connections.spawn(async move {
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
