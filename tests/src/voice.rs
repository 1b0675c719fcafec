//! What a gateway would say to the operator, without a gateway: its beats, as a test wants them.
//!
//! For what a real gateway cannot be made to do at will: falling silent while it is ready, staying behind with one Route,
//! having thousands of subscribers.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Client;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams};
use tidings_crds::beat::{ChannelBeat, Channels, INTERVAL, Sender};
use tidings_crds::key::ChannelKey;
use tidings_crds::release::{RELEASE_LABEL, ROUTE_KEY, Release};
use tidings_crds::route::{Route, RouteState};
use tokio::time::Instant;

use crate::kube_pod::KubePod;

/// One gateway's voice.
#[derive(Clone)]
pub struct Voice {
    nats: Client,
    maps: Api<ConfigMap>,
    release: Release,
    sender: Sender,
    number: u64,
    /// What it says of subscribers; absent means none.
    pub subscribers: BTreeMap<ChannelKey, u64>,
}

impl std::fmt::Debug for Voice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Voice").field("sender", &self.sender).finish_non_exhaustive()
    }
}

impl Voice {
    /// Speaks for a pod. `maps` is where the release's Routes are.
    ///
    /// # Panics
    /// When the pod's names are none.
    pub fn of(pod: &KubePod, release: &Release, nats: Client, maps: Api<ConfigMap>) -> Voice {
        let sender = Sender::new(release.clone(), pod.uid(), pod.name(), "voice").expect("names of a pod");
        Voice { nats, maps, release: release.clone(), sender, number: 0, subscribers: BTreeMap::new() }
    }

    /// Says that it serves every Route that there is, in full.
    pub async fn follows(&mut self) -> anyhow::Result<()> {
        let said = self.routes().await?;
        self.says(true, said).await
    }

    /// Says this of some channels, and nothing of others.
    pub async fn says(&mut self, full: bool, channels: Channels) -> anyhow::Result<()> {
        self.number += 1;
        for beat in self.sender.beat(self.number, full, channels, usize::MAX) {
            self.nats.publish(self.release.beat_subject(), beat.to_json().into()).await?;
        }
        self.nats.flush().await?;
        Ok(())
    }

    /// Follows the Routes: says every change within a second or so, and everything as often as a gateway does, until it is
    /// dropped.
    pub fn keep_following(mut self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            let mut said: Option<(Channels, Instant)> = None;
            loop {
                // Looking at thousands of Routes may take longer than a beat may.
                if let Some((routes, at)) = &mut said
                    && at.elapsed() >= INTERVAL / 2
                {
                    let _ = self.says(true, routes.clone()).await;
                    *at = Instant::now();
                }
                if let Ok(routes) = self.routes().await
                    && said.as_ref().is_none_or(|(before, _)| *before != routes)
                {
                    let _ = self.says(true, routes.clone()).await;
                    said = Some((routes, Instant::now()));
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        })
    }

    /// Every Route in force, as a gateway would report it.
    pub async fn routes(&self) -> anyhow::Result<Channels> {
        let ours = ListParams::default().labels(&format!("{RELEASE_LABEL}={}", self.release.name()));
        let maps = self.maps.list(&ours).await?;
        let routes = maps.iter().filter_map(|map| Route::from_yaml(map.data.as_ref()?.get(ROUTE_KEY)?).ok());
        let active = routes.filter(|route| route.state == RouteState::Active).map(|route| {
            let key = ChannelKey::new(&route.namespace, &route.name);
            let subscribers = self.subscribers.get(&key).copied().unwrap_or_default();
            (key, ChannelBeat { digest: Some(route.digest()), subscribers })
        });
        Ok(active.collect())
    }
}
