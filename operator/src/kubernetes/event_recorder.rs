//! Publishes Events for Channels, one after the other, beside the work: an Event that cannot be published is counted and
//! forgotten, since the status says the same.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tidings_crds::definition::API_VERSION;
use tokio::sync::mpsc;
use tracing::debug;

use crate::leader::elector::Leadership;
use crate::leader::fenced_api::{self, ApiError};
use crate::runtime::metrics::Metrics;
use crate::schedule::event_reasons::Notice;
use crate::schedule::observed::ObservedChannel;

/// About a minute of publishing at the speed of an idle API server; what comes on top is dropped and counted.
const MOST_WAITING: usize = 4096;

/// Where Events are handed in; cheap to clone.
#[derive(Clone)]
pub struct Events {
    waiting: mpsc::Sender<(ObjectReference, Notice)>,
    metrics: Arc<Metrics>,
}

/// The task that publishes them.
pub struct Publisher {
    recorder: Recorder,
    waiting: mpsc::Receiver<(ObjectReference, Notice)>,
    leadership: Leadership,
    metrics: Arc<Metrics>,
}

// === impl Events ===

impl Events {
    /// `instance` is the pod that reports.
    pub fn new(client: &Client, instance: &str, leadership: Leadership, metrics: Arc<Metrics>) -> (Self, Publisher) {
        let reporter = Reporter { controller: "tidings-operator".into(), instance: Some(instance.to_owned()) };
        let (sender, waiting) = mpsc::channel(MOST_WAITING);
        let recorder = Recorder::new(client.clone(), reporter);
        let publisher = Publisher { recorder, waiting, leadership, metrics: Arc::clone(&metrics) };
        (Self { waiting: sender, metrics }, publisher)
    }

    /// Hands in what there is to tell about a Channel.
    pub fn tell(&self, channel: &ObservedChannel, notices: Vec<Notice>) {
        for notice in notices {
            let about = ObjectReference {
                api_version: Some(API_VERSION.to_owned()),
                kind: Some("Channel".to_owned()),
                namespace: Some(channel.key.namespace.clone()),
                name: Some(channel.key.name.clone()),
                uid: Some(channel.uid.clone()),
                ..ObjectReference::default()
            };
            if self.waiting.try_send((about, notice)).is_err() {
                self.metrics.event("dropped");
            }
        }
    }
}

// === impl Publisher ===

impl Publisher {
    /// Publishes until nobody hands in Events any more.
    pub async fn serve(mut self) {
        while let Some((about, notice)) = self.waiting.recv().await {
            let name = about.name.clone().unwrap_or_default();
            let event = Event {
                type_: if notice.warning { EventType::Warning } else { EventType::Normal },
                reason: notice.reason,
                note: Some(shortened(notice.note)),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            let call = self.recorder.publish(&event, &about);
            let published = fenced_api::write(&self.leadership, "publish an event for", name, call).await;
            self.metrics.event(match &published {
                Ok(()) => "published",
                // A namespace that is being deleted takes no Events.
                Err(ApiError::Call { .. }) => "refused",
                Err(_) => "failed",
            });
            if let Err(error) = published {
                debug!(error = %tidings_process::error_chain::chain(&error), "Failed to publish an Event.");
            }
        }
    }
}

/// The API takes 1,024 bytes.
fn shortened(mut note: String) -> String {
    if note.len() > 1024 {
        let end = (0..=1021).rev().find(|at| note.is_char_boundary(*at)).unwrap_or_default();
        note.truncate(end);
        note.push('…');
    }
    note
}
