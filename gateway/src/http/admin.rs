//! The admin port: `/livez`, `/readyz`, `/metrics`.
//!
//! Alive means that the process answers. Ready means that a subscriber would be served; the body says what is missing.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::middleware::map_response;
use axum::routing::get;
use http::header::VARY;
use http::{HeaderMap, HeaderValue, StatusCode};
use tracing::error;

use crate::channel::hub::Hub;
use crate::http::problem::Problem;
use crate::http::response::{self, Reply};
use crate::metrics::exposition::Exposition;
use crate::metrics::registry::Metrics;
use crate::routes::Routes;
use crate::runtime::drain::{Drain, Phase};

/// The admin port.
pub struct Admin {
    /// The Routes in force.
    pub routes: Arc<Routes>,
    /// Knows whether NATS is connected.
    pub hub: Hub,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether the process is on its way out.
    pub drain: Arc<Drain>,
}

const TEXT: &str = "text/plain; charset=utf-8";

// === impl Admin ===

impl Admin {
    /// The admin port's router.
    pub fn router(self) -> Router {
        Router::new()
            .route("/livez", get(async || response::document(TEXT, "alive\n")))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .method_not_allowed_fallback(async || Reply::from(Problem::method_not_allowed("GET, HEAD")))
            .fallback(async || Reply::from(Problem::not_found("this port has /livez, /readyz and /metrics")))
            .layer(map_response(async |mut reply: Reply| {
                response::common_headers(reply.headers_mut());
                reply
            }))
            .with_state(Arc::new(self))
    }
}

async fn ready(State(admin): State<Arc<Admin>>) -> Reply {
    readiness(admin.hub.is_connected(), admin.routes.is_loaded(), admin.drain.phase())
}

async fn metrics(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Reply {
    let format = Exposition::asked(&headers);
    match admin.metrics.text() {
        Ok(text) => {
            let mut reply = response::document(format.content_type(), format.of(text));
            reply.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
            reply
        }
        Err(error) => {
            error!(%error, "Failed to write the metrics.");
            failed(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written; see the log\n")
        }
    }
}

/// One line for each thing that is missing.
fn readiness(connected: bool, loaded: bool, phase: Phase) -> Reply {
    let missing: String = [
        (!connected, "NATS is not connected\n"),
        (!loaded, "the routes have not been read\n"),
        (phase > Phase::Serving, "shutting down\n"),
    ]
    .into_iter()
    .filter_map(|(missing, line)| missing.then_some(line))
    .collect();
    if missing.is_empty() {
        response::document(TEXT, "ready\n")
    } else {
        failed(StatusCode::SERVICE_UNAVAILABLE, missing)
    }
}

fn failed(status: StatusCode, text: impl Into<bytes::Bytes>) -> Reply {
    let mut reply = response::document(TEXT, text);
    *reply.status_mut() = status;
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn readiness_names_all_that_is_missing() {
        let nats = "NATS is not connected\n";
        let routes = "the routes have not been read\n";
        for (connected, loaded, phase, status, body) in [
            (true, true, Phase::Serving, 200, "ready\n".to_owned()),
            (false, true, Phase::Serving, 503, nats.to_owned()),
            (false, false, Phase::Serving, 503, format!("{nats}{routes}")),
            (true, true, Phase::Leaving, 503, "shutting down\n".to_owned()),
            (true, true, Phase::Draining, 503, "shutting down\n".to_owned()),
        ] {
            let reply = readiness(connected, loaded, phase);
            assert_eq!(reply.status(), status);
            assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), body);
        }
    }
}
