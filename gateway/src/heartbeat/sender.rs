//! Sends the beats, by which the operator knows what this gateway serves. [`crate::heartbeat::schedule`] decides when and what.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tidings_crds::beat::{Beat, ChannelBeat, Channels, Sender};
use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout};
use tracing::warn;

use crate::channel::hub::Hub;
use crate::heartbeat::schedule::{Beats, Scope};
use crate::nats::connection::{Link, REQUEST};
use crate::routes::Routes;
use crate::routes::table::Change;

/// What this gateway tells the operator. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pulse {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    sender: Sender,
    subject: String,
    routes: Arc<Routes>,
    hub: Hub,
    beats: Mutex<Beats>,
    wake: Notify,
}

// === impl Pulse ===

impl Pulse {
    /// The pulse of this process, which has not begun to beat.
    pub fn new(sender: Sender, routes: Arc<Routes>, hub: Hub) -> Self {
        let (subject, beats, wake) = (sender.release().beat_subject(), Mutex::default(), Notify::new());
        Self { inner: Arc::new(Inner { sender, subject, routes, hub, beats, wake }) }
    }

    /// Routes have changed; the first time, all have been read.
    pub fn changed(&self, changes: &[Change]) {
        let keys = changes.iter().map(|change| change.key.clone());
        self.inner.beats.lock().changed(keys, Instant::now());
        self.inner.wake.notify_one();
    }

    /// Beats for ever.
    pub async fn beat(self, link: Link) {
        let mut health = link.health();
        let mut connects = 0;
        loop {
            // Whatever was said while NATS was away would only be late.
            let Ok(now) = health.wait_for(|health| health.connected).await.map(|health| health.connects) else {
                // The link has ended, and with it the process.
                return std::future::pending().await;
            };
            if std::mem::replace(&mut connects, now) != now {
                self.inner.beats.lock().connected(Instant::now());
            }
            let due = self.inner.beats.lock().due();
            tokio::select! {
                _ = health.changed() => {}
                () = self.inner.wake.notified() => {}
                () = until(due) => {
                    let taken = self.inner.beats.lock().take(Instant::now());
                    if let Some((number, scope)) = taken {
                        self.send(&link, number, scope).await;
                    }
                }
            }
        }
    }

    async fn send(&self, link: &Link, number: u64, scope: Scope) {
        let Some(client) = link.client() else { return };
        for piece in self.pieces(number, scope, client.server_info().max_payload) {
            let sent = timeout(REQUEST, client.publish(self.inner.subject.clone(), piece.to_json().into())).await;
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return warn!(%error, "Failed to send a beat."),
                Err(_) => return warn!("Timed out sending a beat to NATS."),
            }
        }
    }

    fn pieces(&self, number: u64, scope: Scope, max_payload: usize) -> Vec<Beat> {
        let Inner { sender, routes, hub, .. } = &*self.inner;
        let (full, channels) = match scope {
            Scope::Full => (true, said(routes, hub, None)),
            Scope::Changed(keys) => (false, said(routes, hub, Some(&keys))),
        };
        sender.beat(number, full, channels, max_payload)
    }
}

/// What there is to say of these channels, or of all that have a Route.
fn said(routes: &Routes, hub: &Hub, keys: Option<&BTreeSet<String>>) -> Channels {
    let (routes, open) = (routes.now(), hub.subscribers_by_channel());
    let table = routes.all();
    let subscribers = |key: &str| open.get(key).copied().unwrap_or_default();
    let entry = |key: &str| {
        let digest = table.get(key).map(|served| served.digest().to_owned());
        // A Route's key is a channel's: nothing else is ever put into force.
        Some((key.parse().ok()?, ChannelBeat { digest, subscribers: subscribers(key) }))
    };
    match keys {
        None => table.keys().filter_map(|key| entry(key)).collect(),
        Some(keys) => keys.iter().filter_map(|key| entry(key)).collect(),
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}
