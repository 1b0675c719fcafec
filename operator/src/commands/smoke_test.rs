//! `tidings-operator try`: uses an installation as its users do, once, and says what works. `helm test` runs it.
//!
//! It creates a Channel, subscribes and publishes through the gateway, comes back from a broken connection, tries what must
//! be refused, and removes the Channel with its stream. It needs to create, get and delete that one Channel, and no NATS.

use std::io::Write;
use std::time::Duration;

use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, ResourceExt};
use rand::Rng;
use serde_json::{Value, json};
use tidings_crds::channel::Channel;
use tokio::time::{Instant, sleep, timeout};

use crate::commands::smoke_test_http::{Gateway, Reply, Stream, WebError};

/// One answer of the API server or the gateway. Both are near, or nothing works.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two looks at the Channel: watching it would need a right more.
const PAUSE: Duration = Duration::from_millis(250);
/// A port that must be closed is given this long to answer.
const SILENCE: Duration = Duration::from_secs(2);

/// What is tried.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Where the gateway is.
    pub gateway: Gateway,
    /// The namespace of the Channel.
    pub namespace: String,
    /// Its name. One that exists is replaced.
    pub channel: String,
    /// Which installation serves it.
    pub class_name: String,
    /// Ports of the gateway's host that must not answer.
    pub closed_ports: Vec<u16>,
    /// How long everything may take.
    pub limit: Duration,
}

/// What did not work.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The API server said no.
    #[error("failed to {verb} the Channel {channel}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// `namespace/name`.
        channel: String,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer.
    #[error("failed to {verb}")]
    Web {
        /// What was tried.
        verb: &'static str,
        /// Why.
        #[source]
        source: WebError,
    },
    /// The wrong answer.
    #[error("{what}: expected {expected}, but the gateway answered {found}")]
    Answer {
        /// What was tried.
        what: &'static str,
        /// What should have come.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// What must be closed is open.
    #[error("port {0} of the gateway's host answers; it must not be reachable there")]
    Open(u16),
    /// It did not happen in time.
    #[error("{what}, for too long; last seen: {last}")]
    Late {
        /// What was awaited.
        what: &'static str,
        /// What was there instead.
        last: String,
    },
}

impl Trial {
    /// Tries everything, and removes the Channel whatever came of it. Each step that works is a line on `out`.
    ///
    /// # Errors
    /// The first thing that does not work.
    pub async fn run(&self, client: Client, out: &mut impl Write) -> Result<(), TrialError> {
        let channels: Api<Channel> = Api::namespaced(client, &self.namespace);
        let end = Instant::now() + self.limit;
        self.remove(&channels, end).await?;
        let tried = self.tried(&channels, out, end).await;
        // Its stream goes with it. What was found before is more telling than a failure to clean up.
        let removed = self.remove(&channels, Instant::now() + ANSWER * 3).await;
        tried?;
        removed?;
        say(out, "The Channel is removed.");
        Ok(())
    }

    async fn tried(&self, channels: &Api<Channel>, out: &mut impl Write, end: Instant) -> Result<(), TrialError> {
        self.create(channels).await?;
        self.ready(channels, end).await?;
        say(out, "The Channel is ready.");
        let id = self.receives(None, "first").await?;
        say(out, "An event that was published through the gateway arrived.");
        self.publishes("second").await?;
        self.receives(Some(&id), "second").await?;
        say(out, "An event that was published meanwhile arrived after a reconnection.");
        self.refuses().await?;
        say(out, "What is not allowed was refused.");
        Ok(())
    }

    async fn create(&self, channels: &Api<Channel>) -> Result<(), TrialError> {
        let wanted = json!({
            "apiVersion": "tidings.dev/v1alpha1",
            "kind": "Channel",
            "metadata": {"name": self.channel, "namespace": self.namespace},
            "spec": {
                "className": self.class_name,
                "history": {"maxAgeSeconds": 3600, "maxMessages": 100, "storage": "Memory", "reclaimPolicy": "Delete"},
                "access": {
                    "subscribe": {"mode": "Public", "topics": ["open"]},
                    "publish": {"mode": "Public", "topics": ["open"]},
                },
            },
        });
        let wanted: Channel = serde_json::from_value(wanted).expect("the document above is a Channel");
        self.asked("create", channels.create(&PostParams::default(), &wanted)).await?;
        Ok(())
    }

    async fn ready(&self, channels: &Api<Channel>, end: Instant) -> Result<(), TrialError> {
        loop {
            let channel = self.asked("get", channels.get(&self.channel)).await?;
            let status = serde_json::to_value(&channel.status).unwrap_or_default();
            let conditions = status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
            let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
            if ready.is_some_and(|ready| ready["status"] == "True") {
                return Ok(());
            }
            if Instant::now() > end {
                let last = ready.map_or("no condition Ready; is the operator running?".to_owned(), Value::to_string);
                return Err(TrialError::Late { what: "the Channel is not ready", last });
            }
            sleep(PAUSE).await;
        }
    }

    /// Deletes the Channel, if it is there, and waits until it is gone.
    async fn remove(&self, channels: &Api<Channel>, end: Instant) -> Result<(), TrialError> {
        loop {
            match self.asked("delete", channels.delete(&self.channel, &DeleteParams::default())).await {
                Err(TrialError::Api { source, .. }) if matches!(&*source, kube::Error::Api(told) if told.code == 404) =>
                {
                    return Ok(());
                }
                Err(other) => return Err(other),
                Ok(left) => {
                    let last = left.left().map_or_else(String::new, |channel| format!("{:?}", channel.finalizers()));
                    if Instant::now() > end {
                        return Err(TrialError::Late { what: "the Channel is not deleted", last });
                    }
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Subscribes, from a position or from now; from now it publishes once the stream is open. Returns the event's id.
    async fn receives(&self, after: Option<&str>, text: &str) -> Result<String, TrialError> {
        let path = format!("{}?topic=open", self.path());
        let verb = "subscribe";
        let mut stream = web(verb, Stream::open(&self.gateway, &path, after)).await?;
        if after.is_none() {
            // The position where the stream begins: from here on nothing is missed.
            web(verb, stream.until(|block| block.id.is_some())).await?;
            self.publishes(text).await?;
        }
        let mark = self.mark(text);
        let found = web("receive the event", stream.until(|block| block.data.as_deref() == Some(&mark))).await?;
        Ok(found.id.unwrap_or_default())
    }

    async fn publishes(&self, text: &str) -> Result<(), TrialError> {
        let path = format!("{}?topic=open", self.path());
        let reply = web("publish", Reply::to_post(&self.gateway, &path, &self.mark(text))).await?;
        expect("publishing", "201", reply.status == 201, reply)
    }

    /// The gateway answers what it documents to those who ask for too much.
    async fn refuses(&self) -> Result<(), TrialError> {
        let closed = format!("{}?topic=closed", self.path());
        let reply = web("subscribe to a closed topic", Reply::to_get(&self.gateway, &closed)).await?;
        expect("subscribing to a topic that is not granted", "a refusal", is_refusal(&reply), reply)?;
        let reply = web("publish to a closed topic", Reply::to_post(&self.gateway, &closed, "x")).await?;
        expect("publishing to a topic that is not granted", "a refusal", is_refusal(&reply), reply)?;
        let missing = format!("/channels/{}/no-{:x}/events", self.namespace, rand::rng().random::<u64>());
        let reply = web("subscribe to a channel that does not exist", Reply::to_get(&self.gateway, &missing)).await?;
        expect("subscribing to a channel that does not exist", "401", reply.status == 401, reply)?;
        let reply = web("ask for metrics", Reply::to_get(&self.gateway, "/metrics")).await?;
        expect("asking for metrics on the public port", "404", reply.status == 404, reply)?;
        for port in &self.closed_ports {
            if timeout(SILENCE, self.gateway.connect_to(*port)).await.is_ok_and(|connected| connected.is_ok()) {
                return Err(TrialError::Open(*port));
            }
        }
        Ok(())
    }

    fn path(&self) -> String {
        format!("/channels/{}/{}/events", self.namespace, self.channel)
    }

    fn mark(&self, text: &str) -> String {
        format!("{text} event of a trial")
    }

    async fn asked<T>(
        &self,
        verb: &'static str,
        question: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, TrialError> {
        match timeout(ANSWER, question).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => {
                let channel = format!("{}/{}", self.namespace, self.channel);
                Err(TrialError::Api { verb, channel, source: Box::new(source) })
            }
            Err(_) => Err(TrialError::Late { what: "the API server does not answer", last: verb.to_owned() }),
        }
    }
}

async fn web<T>(verb: &'static str, question: impl Future<Output = Result<T, WebError>>) -> Result<T, TrialError> {
    let answer = timeout(ANSWER, question).await.unwrap_or(Err(WebError::Late));
    answer.map_err(|source| TrialError::Web { verb, source })
}

fn expect(what: &'static str, expected: &'static str, holds: bool, reply: Reply) -> Result<(), TrialError> {
    if holds {
        return Ok(());
    }
    Err(TrialError::Answer { what, expected, found: format!("{} {}", reply.status, reply.text) })
}

fn is_refusal(reply: &Reply) -> bool {
    [401, 403, 404].contains(&reply.status)
}

fn say(out: &mut impl Write, text: &str) {
    // Nobody who reads this is no reason to stop.
    let _ = writeln!(out, "{text}");
}
