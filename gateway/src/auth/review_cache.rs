//! Asks a Kubernetes API server about identities, remembers its answers for a short while, and asks again for as long as
//! an open stream holds one.
//!
//! What is asked and what an answer means is in [`super::token_review`]; what is remembered, and until when, in
//! [`super::review_table`]; how much one client may cause in [`super::review_budget`]. With the API server away nobody new is let
//! in; streams that are open stay, until their tokens expire.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, OnceCell, Semaphore};
use tracing::warn;

use crate::auth::current_settings::Rules;
use crate::auth::errand::Errand;
use crate::auth::issuer::is_name;
use crate::auth::jwt::Secret;
use crate::auth::metrics::{Review, TokenMetrics};
use crate::auth::principal::Verdict;
use crate::auth::review_budget::ReviewBudget;
use crate::auth::review_table::{AGAIN_AFTER, GOOD_FOR, Known, Question, ReviewTable, Right, hash};
use crate::auth::token_review::{self, Identity};
use crate::limits::client::Client;

/// What the API server has said.
pub struct Reviews {
    rules: Arc<Rules>,
    metrics: Arc<TokenMetrics>,
    /// Made with the first question: most installations never ask one.
    client: OnceCell<kube::Client>,
    table: Mutex<ReviewTable>,
    budget: Mutex<ReviewBudget>,
    permits: Semaphore,
    /// Whether the last question had no answer.
    failing: AtomicBool,
    /// Channels on which a right has changed.
    changed: Mutex<HashSet<String>>,
    news: Notify,
}

/// The API server cannot be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away;

/// Who causes a question.
#[derive(Clone, Copy, Debug)]
enum Cause {
    /// A request with a token that is not known yet.
    Token(Client),
    /// A request of this identity.
    Access(Client, u128),
    /// An open stream.
    Stream,
}

/// How often to look for answers that are to be asked for again.
const TICK: Duration = Duration::from_secs(5);

/// For one answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Questions of newcomers at the same time: an answer takes about 3 ms.
const AT_ONCE: usize = 12;

/// Questions of open streams at the same time, on top of that: newcomers never wait for them.
const AGAIN_AT_ONCE: usize = 4;

// === impl Reviews ===

impl Reviews {
    /// Asks nothing yet.
    pub fn new(rules: Arc<Rules>, metrics: Arc<TokenMetrics>) -> Self {
        Self {
            rules,
            metrics,
            client: OnceCell::new(),
            table: Mutex::default(),
            budget: Mutex::default(),
            permits: Semaphore::new(AT_ONCE),
            failing: AtomicBool::new(false),
            changed: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// Whose token it is, that this client has brought; `None` if it belongs to no identity. A client that has spent its budget gets no answer
    /// about a token that is not known.
    pub async fn identity(&self, token: &Secret, audiences: &[String], client: Client) -> Result<Known, Away> {
        if self.table.lock().known_identity(&hash(token)).is_none()
            && self.budget.lock().is_spent(client, Instant::now())
        {
            self.metrics.review_limited(Review::Token);
            return Err(Away);
        }
        self.identity_within(token, audiences, GOOD_FOR, Cause::Token(client)).await
    }

    /// Whether the bearer of a token, which expires at `until`, may do that. The verdict is kept up to date for as long as a stream
    /// holds it.
    pub async fn verdict(
        &self,
        token: &Secret,
        until: SystemTime,
        identity: &Identity,
        errand: Errand<'_>,
    ) -> Result<Arc<Verdict>, Away> {
        let Errand { action, namespace, name, client } = errand;
        // No Channel can have another name, so the cluster is not asked about one.
        if !is_name(namespace) || !is_name(name) {
            return Ok(Arc::new(Verdict::new(false)));
        }
        let question = Question { token: hash(token), action, namespace: namespace.into(), name: name.into() };
        let now = Instant::now();
        let left = until.duration_since(SystemTime::now()).unwrap_or_default().min(FAR);
        let right = self.table.lock().right(&question, token, now + left, now);
        let _flight = right.asked.flight.lock().await;
        if right.asked.younger_than(GOOD_FOR, Instant::now()).is_none() {
            let cause = Cause::Access(client, identity.fingerprint());
            let allowed = self.is_allowed(identity, &question, cause).await?;
            self.decide(&right, &question, allowed);
        }
        Ok(right.verdict.clone())
    }

    /// Keeps the answers up to date that open streams hold, for ever, and calls `recheck` with the channel whose
    /// streams are to be checked again when an answer is another one.
    pub async fn follow(&self, recheck: impl Fn(&str)) {
        let again = async {
            let mut ticks = tokio::time::interval(TICK);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                self.again().await;
            }
        };
        let tell = async {
            loop {
                self.news.notified().await;
                let changed = std::mem::take(&mut *self.changed.lock());
                if !changed.is_empty() {
                    self.rules.changed();
                    changed.iter().for_each(|key| recheck(key));
                }
            }
        };
        tokio::join!(again, tell);
    }

    /// One pass over what is due. Without an answer the rest waits for the next pass: nothing is asked in a row in vain.
    async fn again(&self) {
        let due = self.table.lock().due(Instant::now());
        let asked = due.into_iter().map(|(question, right)| async move { self.ask_again(&question, &right).await });
        let mut answers = stream::iter(asked).buffer_unordered(AGAIN_AT_ONCE);
        while let Some(answer) = answers.next().await {
            if answer.is_err() {
                return;
            }
        }
    }

    async fn ask_again(&self, question: &Question, right: &Right) -> Result<(), Away> {
        let settings = self.rules.settings();
        let Some(kubernetes) = &settings.kubernetes else { return Ok(()) };
        let answer = async {
            match self.identity_within(&right.token, &kubernetes.audiences, AGAIN_AFTER / 2, Cause::Stream).await? {
                None => Ok(false),
                Some(identity) => self.is_allowed(&identity, question, Cause::Stream).await,
            }
        };
        // Without an answer the last one stays, for those who are here.
        match answer.await {
            Ok(allowed) => {
                self.decide(right, question, allowed);
                Ok(())
            }
            Err(away) => {
                right.asked.failed(Instant::now());
                Err(away)
            }
        }
    }

    fn decide(&self, right: &Right, question: &Question, allowed: bool) {
        right.asked.set((), Instant::now());
        if right.verdict.set(allowed) && right.is_held() {
            self.changed.lock().insert(question.channel());
            self.news.notify_one();
        }
    }

    async fn identity_within(
        &self,
        token: &Secret,
        audiences: &[String],
        age: Duration,
        cause: Cause,
    ) -> Result<Known, Away> {
        let token_hash = hash(token);
        let asked = self.table.lock().identity(token_hash, Instant::now());
        let _flight = match asked.younger_than(age, Instant::now()) {
            Some(answer) => return Ok(answer),
            None => asked.flight.lock().await,
        };
        if let Some(answer) = asked.younger_than(age, Instant::now()) {
            return Ok(answer);
        }
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let question = token_review::token_review(token, audiences);
        let answer = self.ask(Review::Token, path, &question, cause).await?;
        let identity = token_review::confirmed(answer, audiences).map(Arc::new);
        if let (None, Cause::Token(client)) = (&identity, cause) {
            self.budget.lock().stranger(client, Instant::now());
        }
        self.table.lock().identified(token_hash, &asked, identity.clone(), Instant::now());
        Ok(identity)
    }

    async fn is_allowed(&self, identity: &Identity, question: &Question, cause: Cause) -> Result<bool, Away> {
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let Question { action, namespace, name, .. } = question;
        let question = token_review::access_review(identity, *action, namespace, name);
        let answer = self.ask(Review::Access, path, &question, cause).await?;
        Ok(token_review::allows(&answer))
    }

    async fn ask<Q: Serialize + DeserializeOwned>(
        &self,
        what: Review,
        path: &str,
        question: &Q,
        cause: Cause,
    ) -> Result<Q, Away> {
        let waiting_and_asking = async {
            let _permit = match cause {
                Cause::Stream => None,
                Cause::Token(_) | Cause::Access(..) => self.permits.acquire().await.ok(),
            };
            // Right before it is asked: of a thousand that wait, those behind the first hundred cost the others nothing.
            if !self.may_ask(cause) {
                return None;
            }
            Some(self.post(path, question).await)
        };
        let asked = tokio::time::timeout(DEADLINE, waiting_and_asking).await;
        let Some(asked) = asked.transpose() else {
            self.metrics.review_limited(what);
            return Err(Away);
        };
        let outcome = asked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        self.metrics.reviewed(what, outcome.is_ok());
        let failed = outcome.is_err();
        let news = self.failing.swap(failed, Ordering::AcqRel) != failed;
        outcome.map_err(|error| {
            if news {
                warn!(
                    error,
                    review = what.as_str(),
                    "The API server does not answer reviews; no new streams are admitted with Kubernetes tokens."
                );
            }
            Away
        })
    }

    fn may_ask(&self, cause: Cause) -> bool {
        match cause {
            Cause::Token(client) => self.budget.lock().token_question(client, Instant::now()),
            Cause::Access(client, identity) => self.budget.lock().access_question(client, identity, Instant::now()),
            Cause::Stream => true,
        }
    }

    /// The answer repeats the question, token and all: of it nothing but its kind of fault may be told.
    async fn post<Q: Serialize + DeserializeOwned>(&self, path: &str, question: &Q) -> Result<Q, String> {
        let client = self.client.get_or_try_init(kube::Client::try_default).await.map_err(|error| {
            warn!(%error, "Failed to find the Kubernetes API server for token reviews.");
            "no cluster".to_owned()
        })?;
        let body = serde_json::to_vec(question).map_err(|_| "no question".to_owned())?;
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|_| "no request".to_owned())?;
        let answer = client.request_text(request).await.map_err(|error| match error {
            kube::Error::Api(status) => format!("refused: {} {}", status.code, status.reason),
            _ => "unreachable".to_owned(),
        })?;
        serde_json::from_str(&answer).map_err(|_| "not understood".to_owned())
    }
}

impl std::fmt::Debug for Reviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviews").finish_non_exhaustive()
    }
}

/// Further than any token counts.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
