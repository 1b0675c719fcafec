//! Asks a Kubernetes API server about identities, remembers its answers for a short while, and asks again for as long as
//! a stream stands on one.
//!
//! What is asked and what an answer means is in [`super::token_review`]. With the API server away nobody new is let in; streams that are
//! open stay, until their tokens expire.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, OnceCell, Semaphore};
use tracing::warn;

use crate::auth::authenticator::Errand;
use crate::auth::current_settings::Rules;
use crate::auth::grant::Action;
use crate::auth::jwt::Secret;
use crate::auth::principal::Verdict;
use crate::auth::token_review::{self, Identity};
use crate::auth::unknown_token_limit::Strangers;
use crate::channel::hub::Hub;
use crate::limits::client::Client;
use crate::metrics::registry::{Metrics, Review};

/// What the API server has said.
pub struct Reviews {
    rules: Arc<Rules>,
    metrics: Arc<Metrics>,
    /// Made with the first question: most installations never ask one.
    client: OnceCell<kube::Client>,
    identities: Mutex<HashMap<TokenHash, Arc<Asked<Known>>>>,
    verdicts: Mutex<HashMap<Question, Arc<Right>>>,
    permits: Semaphore,
    /// Who has brought tokens of nobody.
    strangers: Mutex<Strangers>,
    /// Whether the last question had no answer.
    failing: AtomicBool,
    /// Channels on which somebody's right has changed.
    changed: Mutex<HashSet<String>>,
    news: Notify,
}

/// The API server cannot be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away;

/// Whose token it is, if anybody's.
type Known = Option<Arc<Identity>>;

/// Tokens are not kept where their hash will do.
type TokenHash = [u8; 32];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    token: TokenHash,
    action: Action,
    namespace: String,
    name: String,
}

/// One right, and the token that it is asked for with.
#[derive(Debug)]
struct Right {
    token: Secret,
    verdict: Arc<Verdict>,
    asked: Asked<()>,
}

/// An answer and when it was given. One asks, the others wait for the same answer.
#[derive(Debug, Default)]
struct Asked<T> {
    answer: Mutex<Option<(Instant, T)>>,
    flight: tokio::sync::Mutex<()>,
}

/// How long an answer counts for newcomers. An API server itself remembers tokens of a deleted account for 10 s.
const GOOD_FOR: Duration = Duration::from_secs(30);

/// How old an answer becomes that a stream stands on, before it is asked for again.
const AGAIN_AFTER: Duration = Duration::from_secs(20);

/// How often to look for those.
const TICK: Duration = Duration::from_secs(5);

/// For one answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Questions at the same time: an answer takes about 3 ms.
const AT_ONCE: usize = 16;

/// Answers remembered at most; in half a minute nobody asks as much in good faith.
const REMEMBERED: usize = 20_000;

// === impl Asked ===

impl<T: Clone> Asked<T> {
    fn younger_than(&self, age: Duration) -> Option<T> {
        let answer = self.answer.lock();
        answer.as_ref().filter(|(at, _)| at.elapsed() < age).map(|(_, answer)| answer.clone())
    }

    fn set(&self, answer: T) {
        *self.answer.lock() = Some((Instant::now(), answer));
    }
}

// === impl Reviews ===

impl Reviews {
    /// Asks nothing yet.
    pub fn new(rules: Arc<Rules>, metrics: Arc<Metrics>) -> Self {
        Self {
            rules,
            metrics,
            client: OnceCell::new(),
            identities: Mutex::default(),
            verdicts: Mutex::default(),
            permits: Semaphore::new(AT_ONCE),
            strangers: Mutex::default(),
            failing: AtomicBool::new(false),
            changed: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// Whose token it is, that this client has brought; `None` if it is nobody's. A client that has brought too many of those gets no
    /// answer about another one.
    pub async fn identity(&self, token: &Secret, audiences: &[String], client: Client) -> Result<Known, Away> {
        self.identity_within(token, audiences, GOOD_FOR, Some(client)).await
    }

    /// Whether the bearer of a token may do that. The verdict is kept up to date for as long as somebody holds it.
    pub async fn verdict(&self, token: &Secret, identity: &Identity, errand: Errand<'_>) -> Result<Arc<Verdict>, Away> {
        let Errand { action, namespace, name, client: _ } = errand;
        let question = Question { token: hash(token), action, namespace: namespace.to_owned(), name: name.to_owned() };
        let right = {
            let mut verdicts = self.verdicts.lock();
            if verdicts.len() >= REMEMBERED {
                verdicts.retain(|_, right| right.is_needed());
            }
            if verdicts.len() >= REMEMBERED && !verdicts.contains_key(&question) {
                return Err(Away);
            }
            let new = || Arc::new(Right { token: token.clone(), verdict: Arc::default(), asked: Asked::default() });
            verdicts.entry(question.clone()).or_insert_with(new).clone()
        };
        let _flight = right.asked.flight.lock().await;
        if right.asked.younger_than(GOOD_FOR).is_none() {
            let allowed = self.is_allowed(identity, action, namespace, name).await?;
            self.decide(&right, &question, allowed);
        }
        Ok(right.verdict.clone())
    }

    /// Asks again for what streams stand on, for ever, and has them look when an answer is another one.
    pub async fn follow(&self, hub: Hub) {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.again().await,
                () = self.news.notified() => {}
            }
            let changed = std::mem::take(&mut *self.changed.lock());
            if !changed.is_empty() {
                self.rules.changed();
                changed.iter().for_each(|key| hub.recheck(Some(key)));
            }
        }
    }

    async fn again(&self) {
        let old: Vec<(Question, Arc<Right>)> = {
            self.identities.lock().retain(|_, asked| asked.younger_than(GOOD_FOR).is_some());
            let mut verdicts = self.verdicts.lock();
            verdicts.retain(|_, right| right.is_needed());
            let due = verdicts.iter().filter(|(_, right)| right.asked.younger_than(AGAIN_AFTER).is_none());
            due.map(|(question, right)| (question.clone(), right.clone())).collect()
        };
        let asked = old.iter().map(|(question, right)| self.ask_again(question, right));
        futures_util::future::join_all(asked).await;
    }

    async fn ask_again(&self, question: &Question, right: &Right) {
        let settings = self.rules.settings();
        let Some(kubernetes) = &settings.kubernetes else { return };
        let allowed = match self.identity_within(&right.token, &kubernetes.audiences, AGAIN_AFTER / 2, None).await {
            Ok(None) => Ok(false),
            Ok(Some(identity)) => {
                let Question { action, namespace, name, .. } = question;
                self.is_allowed(&identity, *action, namespace, name).await
            }
            Err(away) => Err(away),
        };
        // Without an answer the last one stays, for those who are here.
        if let Ok(allowed) = allowed {
            self.decide(right, question, allowed);
        }
    }

    fn decide(&self, right: &Right, question: &Question, allowed: bool) {
        right.asked.set(());
        let is_held = Arc::strong_count(&right.verdict) > 1;
        if right.verdict.set(allowed) && is_held {
            self.changed.lock().insert(format!("{}/{}", question.namespace, question.name));
            self.news.notify_one();
        }
    }

    /// Without a client: for streams that stand on an earlier answer.
    async fn identity_within(
        &self,
        token: &Secret,
        audiences: &[String],
        age: Duration,
        client: Option<Client>,
    ) -> Result<Known, Away> {
        let shut_out = client.is_some_and(|client| self.strangers.lock().is_shut_out(client, Instant::now()));
        let asked = {
            let (mut identities, token) = (self.identities.lock(), hash(token));
            if identities.len() >= REMEMBERED {
                identities.retain(|_, asked| asked.younger_than(GOOD_FOR).is_some());
            }
            match identities.get(&token) {
                Some(asked) => asked.clone(),
                None if shut_out || identities.len() >= REMEMBERED => return Err(Away),
                None => identities.entry(token).or_default().clone(),
            }
        };
        if let Some(answer) = asked.younger_than(age) {
            return Ok(answer);
        }
        let _flight = asked.flight.lock().await;
        if let Some(answer) = asked.younger_than(age) {
            return Ok(answer);
        }
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let answer = self.ask(Review::Token, path, &token_review::token_review(token, audiences), client).await?;
        let identity = token_review::confirmed(answer, audiences).map(Arc::new);
        if let (None, Some(client)) = (&identity, client) {
            self.strangers.lock().brought(client, Instant::now());
        }
        asked.set(identity.clone());
        Ok(identity)
    }

    async fn is_allowed(&self, identity: &Identity, action: Action, namespace: &str, name: &str) -> Result<bool, Away> {
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let question = token_review::access_review(identity, action, namespace, name);
        let answer = self.ask(Review::Access, path, &question, None).await?;
        Ok(token_review::allows(&answer))
    }

    async fn ask<Q: Serialize + DeserializeOwned>(
        &self,
        what: Review,
        path: &str,
        question: &Q,
        client: Option<Client>,
    ) -> Result<Q, Away> {
        let waiting_and_asking = async {
            let permit = self.permits.acquire().await.ok();
            // Right before it is asked: of a thousand that wait, those behind the first hundred cost the others nothing.
            if client.is_some_and(|client| self.strangers.lock().is_shut_out(client, Instant::now())) {
                return None;
            }
            let answer = self.post(path, question).await;
            drop(permit);
            Some(answer)
        };
        let asked = tokio::time::timeout(DEADLINE, waiting_and_asking).await;
        let Some(asked) = asked.transpose() else { return Err(Away) };
        let outcome = asked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        self.metrics.reviewed(what, outcome.is_ok());
        let failed = outcome.is_err();
        let news = self.failing.swap(failed, Ordering::AcqRel) != failed;
        outcome.map_err(|error| {
            if news {
                warn!(
                    error,
                    review = what.as_str(),
                    "The API server does not say who may do what; nobody new is let in."
                );
            }
            Away
        })
    }

    /// The answer repeats the question, token and all: of it nothing but its kind of fault may be told.
    async fn post<Q: Serialize + DeserializeOwned>(&self, path: &str, question: &Q) -> Result<Q, String> {
        let client = self.client.get_or_try_init(kube::Client::try_default).await.map_err(|error| {
            warn!(%error, "Failed to find the cluster whose identities are to be accepted.");
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

// === impl Right ===

impl Right {
    /// Whether somebody stands on it, or may come within the time that it counts.
    fn is_needed(&self) -> bool {
        Arc::strong_count(&self.verdict) > 1
            || self.asked.younger_than(GOOD_FOR).is_some()
            || self.asked.flight.try_lock().is_err()
    }
}

fn hash(token: &Secret) -> TokenHash {
    Sha256::digest(token.reveal()).into()
}
