//! What the condition `Ready` of a Channel said, one after the other, and when: watched, so that no state is too short to
//! be seen.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::{StreamExt, pin_mut};
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use tidings_crds::channel::Channel;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// One state of the condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// When it was seen.
    pub at: Instant,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

/// A running watch.
#[derive(Debug)]
pub struct ReadyHistory {
    said: watch::Receiver<Vec<Said>>,
    task: JoinHandle<()>,
}

// === impl ReadyHistory ===

impl ReadyHistory {
    /// Watches a Channel from now on.
    pub fn of(client: Client, namespace: &str, name: &str) -> Self {
        let (writer, said) = watch::channel(Vec::<Said>::new());
        let channels: Api<Channel> = Api::namespaced(client, namespace);
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let task = tokio::spawn(async move {
            let changes = watcher(channels, only).default_backoff().applied_objects();
            pin_mut!(changes);
            while let Some(change) = changes.next().await {
                let Some(said) = change.ok().as_ref().and_then(read) else { continue };
                writer.send_if_modified(|all| {
                    let new =
                        all.last().is_none_or(|last| (&last.status, &last.reason) != (&said.status, &said.reason));
                    if new {
                        all.push(said);
                    }
                    new
                });
            }
        });
        Self { said, task }
    }

    /// Everything so far.
    pub fn said(&self) -> Vec<Said> {
        self.said.borrow().clone()
    }

    /// How much there is so far: what comes now stands behind it.
    pub fn mark(&self) -> usize {
        self.said.borrow().len()
    }

    /// The reasons behind a mark, in their order.
    pub fn reasons(&self, mark: usize) -> Vec<String> {
        self.said().into_iter().skip(mark).map(|said| said.reason).collect()
    }

    /// The first state behind a mark that gives this reason.
    ///
    /// # Errors
    /// When there is none within the deadline, with what was said instead.
    pub async fn says(&self, reason: &str, mark: usize, deadline: Duration) -> Result<Said> {
        let mut said = self.said.clone();
        let found = said.wait_for(|all| all.iter().skip(mark).any(|said| said.reason == reason));
        if tokio::time::timeout(deadline, found).await.is_err() {
            anyhow::bail!("Ready does not say {reason} within {deadline:?}, but {:#?}", self.said());
        }
        let first = self.said().into_iter().skip(mark).find(|said| said.reason == reason);
        first.ok_or_else(|| anyhow::anyhow!("the watch has ended"))
    }
}

fn read(channel: &Channel) -> Option<Said> {
    let status = serde_json::to_value(channel.status.as_ref()?).ok()?;
    let ready = status["conditions"].as_array()?.iter().find(|condition| condition["type"] == "Ready")?;
    // What was said of an older generation says nothing of this one.
    if ready["observedGeneration"].as_i64() != channel.meta().generation {
        return None;
    }
    let word = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
    Some(Said { at: Instant::now(), status: word("status"), reason: word("reason"), message: word("message") })
}

impl Drop for ReadyHistory {
    fn drop(&mut self) {
        self.task.abort();
    }
}
