//! Leadership: which of several operators of one installation writes.
//!
//! It saves work; what makes two at once harmless are server-side apply, the owner in a stream's metadata and preconditions.
//! It counts as held until two thirds of the Lease's duration after the *beginning* of the last successful renewal, on a
//! monotonic clock. A call has a third of it at most ([`Leadership::call_timeout`]), so the last write of a leader that
//! lost the API server has ended when another one may begin. Code that writes to NATS or to the API asks
//! [`Leadership::is_held`] right before.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use tidings_crds::release::Release;
use tidings_process::error_chain::chain;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::leader::lease::{Candidate, LeaseStep, SeenLease};
use crate::runtime::metrics::Metrics;

/// The longest time any call may take, however long the Lease.
const LONGEST_CALL: Duration = Duration::from_secs(5);

/// How soon a failed renewal is tried again, and how often a follower looks: a fifteenth of the usual Lease.
const LOOKS: u32 = 15;

/// Whether this process leads; cheap to clone.
#[derive(Clone)]
pub struct Leadership {
    until: Arc<Mutex<Until>>,
    changed: watch::Receiver<bool>,
    call_timeout: Duration,
}

#[derive(Clone, Copy)]
enum Until {
    Always,
    Never,
    At(Instant),
}

/// What keeps the Lease.
pub struct Elector {
    leases: Api<Lease>,
    name: String,
    duration: Duration,
    candidate: Candidate,
    until: Arc<Mutex<Until>>,
    told: watch::Sender<bool>,
    metrics: Arc<Metrics>,
    /// Why the last attempt failed: said once, not every time.
    trouble: Option<String>,
}

/// What went wrong with the Lease.
#[derive(Debug, thiserror::Error)]
enum ElectionError {
    #[error("failed to {verb} the Lease")]
    Api {
        verb: &'static str,
        #[source]
        source: kube::Error,
    },
    #[error("failed to reach the Lease: no answer in time")]
    Timeout,
}

// === impl Leadership ===

impl Leadership {
    /// Of an operator that has no rivals: on files.
    pub fn always() -> Self {
        let until = Arc::new(Mutex::new(Until::Always));
        Self { until, changed: watch::channel(true).1, call_timeout: LONGEST_CALL }
    }

    /// Whether this process may write now.
    pub fn is_held(&self) -> bool {
        match *self.until.lock().unwrap_or_else(PoisonError::into_inner) {
            Until::Always => true,
            Until::Never => false,
            Until::At(until) => Instant::now() < until,
        }
    }

    /// Changes when leadership is won, and when it is known to be lost.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.changed.clone()
    }

    /// How long one write may take.
    pub fn call_timeout(&self) -> Duration {
        self.call_timeout
    }
}

// === impl Elector ===

impl Elector {
    /// Of one installation; nothing is asked yet, and leadership is not held.
    pub fn new(
        client: &Client,
        release: &Release,
        identity: &str,
        duration: Duration,
        metrics: Arc<Metrics>,
    ) -> (Self, Leadership) {
        let until = Arc::new(Mutex::new(Until::Never));
        let (told, changed) = watch::channel(false);
        let call_timeout = LONGEST_CALL.min(duration / 3);
        let leadership = Leadership { until: Arc::clone(&until), changed, call_timeout };
        let elector = Self {
            leases: Api::namespaced(client.clone(), release.namespace()),
            name: lease_name(release),
            duration,
            candidate: Candidate::new(identity),
            until,
            told,
            metrics,
            trouble: None,
        };
        (elector, leadership)
    }

    /// Wins and keeps the Lease until the end is told; then lets it go, so that another one need not wait.
    pub async fn serve(mut self, end: CancellationToken) {
        loop {
            let pause = self.visit().await.mul_f64(rand::random_range(0.8..=1.0));
            tokio::select! {
                () = end.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.release().await;
    }

    /// Looks at the Lease once, and says when to look again.
    async fn visit(&mut self) -> Duration {
        let begun = Instant::now();
        // Within the two thirds, so that a slow answer never extends what it comes too late for.
        let limit = LONGEST_CALL.min(self.duration / 3);
        let tried = tokio::time::timeout(limit, self.attempt()).await.unwrap_or(Err(ElectionError::Timeout));
        match tried {
            Ok(held) => {
                self.trouble = None;
                self.set(if held { Until::At(begun + self.duration * 2 / 3) } else { Until::Never });
                if held { self.duration / 3 } else { self.duration / LOOKS }
            }
            Err(error) => {
                self.metrics.error("lease");
                let words = chain(&error);
                if self.trouble.as_ref() != Some(&words) {
                    warn!(lease = self.name, error = words, "Failed to renew the Lease; trying again.");
                    self.trouble = Some(words);
                }
                let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
                // What was held runs out by itself; that it has is told here.
                self.set(until);
                self.duration / LOOKS
            }
        }
    }

    async fn attempt(&mut self) -> Result<bool, ElectionError> {
        let failed = |verb| move |source| ElectionError::Api { verb, source };
        let found = self.leases.get_opt(&self.name).await.map_err(failed("read"))?;
        let step = self.candidate.step(found.as_ref().map(SeenLease::of).as_ref(), Instant::now());
        let now = MicroTime(Timestamp::now());
        let written = match (step, found) {
            (LeaseStep::Wait, _) => return Ok(false),
            (LeaseStep::Create, _) | (_, None) => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(self.held_since(&now, 0)) };
                self.leases.create(&PostParams::default(), &lease).await.map_err(failed("create"))
            }
            (LeaseStep::Renew, Some(mut lease)) => {
                let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
                spec.renew_time = Some(now);
                spec.lease_duration_seconds = Some(self.seconds());
                self.leases.replace(&self.name, &PostParams::default(), &lease).await.map_err(failed("renew"))
            }
            (LeaseStep::Take, Some(mut lease)) => {
                let before = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default();
                lease.spec = Some(self.held_since(&now, before.saturating_add(1)));
                self.leases.replace(&self.name, &PostParams::default(), &lease).await.map_err(failed("take"))
            }
        };
        match written {
            Ok(_) => Ok(true),
            // Another one was faster; the next look shows who.
            Err(ElectionError::Api { source: kube::Error::Api(status), .. }) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends leadership in order; if that fails, the Lease runs out.
    async fn release(&mut self) {
        let held = matches!(*self.until.lock().unwrap_or_else(PoisonError::into_inner), Until::At(_));
        self.set(Until::Never);
        if !held {
            return;
        }
        let released = tokio::time::timeout(Duration::from_secs(1), async {
            let Some(mut lease) = self.leases.get_opt(&self.name).await? else { return Ok(()) };
            let Some(spec) = &mut lease.spec else { return Ok(()) };
            if spec.holder_identity.as_deref() == Some(self.candidate.identity()) {
                spec.holder_identity = Some(String::new());
                self.leases.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        });
        if matches!(released.await, Ok(Ok(()))) {
            info!(lease = self.name, "Gave up leadership.");
        }
    }

    fn held_since(&self, now: &MicroTime, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.candidate.identity().to_owned()),
            lease_duration_seconds: Some(self.seconds()),
            acquire_time: Some(now.clone()),
            renew_time: Some(now.clone()),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    fn seconds(&self) -> i32 {
        i32::try_from(self.duration.as_secs()).unwrap_or(i32::MAX)
    }

    fn set(&mut self, until: Until) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
        let held = match until {
            Until::Always => true,
            Until::Never => false,
            Until::At(until) => Instant::now() < until,
        };
        let changed = self.told.send_if_modified(|before| std::mem::replace(before, held) != held);
        if changed {
            self.metrics.leading(held);
            match held {
                true => info!(lease = self.name, identity = self.candidate.identity(), "Became the leader."),
                false => warn!(lease = self.name, "Lost leadership; making no changes."),
            }
        }
    }
}

// === impl SeenLease ===

impl SeenLease {
    fn of(lease: &Lease) -> Self {
        let spec = lease.spec.as_ref();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
        Self {
            version: lease.metadata.resource_version.clone().unwrap_or_default(),
            holder: spec.and_then(|spec| spec.holder_identity.clone()),
            duration: Duration::from_secs(seconds.unwrap_or_default()),
        }
    }
}

/// The name of an installation's Lease; the rights that it is given name it too.
pub fn lease_name(release: &Release) -> String {
    format!("{}-operator", release.name())
}
