//! Listens to the beats of the gateways.

use std::sync::Arc;

use futures_util::StreamExt;
use tidings_crds::beat::Beat;
use tidings_crds::release::Release;
use tidings_process::error_chain::chain;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::nats::streams::Streams;
use crate::runtime::metrics::Metrics;

/// Hands on every beat of the release's gateways, until nobody listens any more. The connection keeps the subscription
/// over reconnects; a beat that is lost is made up for by the next full one.
pub async fn listen(streams: Streams, release: Release, metrics: Arc<Metrics>, to: mpsc::Sender<Beat>) {
    let subject = release.beat_subject();
    let mut messages = match streams.client().subscribe(subject.clone()).await {
        Ok(messages) => messages,
        Err(error) => {
            warn!(subject, error = %chain(&error), "Failed to subscribe to the gateways' beats.");
            return;
        }
    };
    while let Some(message) = messages.next().await {
        match Beat::from_json(&message.payload) {
            Ok(beat) if beat.release == release => {
                if to.send(beat).await.is_err() {
                    return;
                }
            }
            Ok(beat) => {
                metrics.error("beat_unreadable");
                debug!(release = %beat.release, "Ignored a beat of another release.");
            }
            Err(error) => {
                metrics.error("beat_unreadable");
                debug!(error = %chain(&error), "Ignored a message that is not a beat.");
            }
        }
    }
}
