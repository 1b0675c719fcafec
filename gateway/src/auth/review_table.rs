//! What the API server has said about tokens and rights, for how long that counts, and what is to be asked again. Pure.
//!
//! An answer counts for [`GOOD_FOR`] for newcomers. It is asked for again only as long as an open stream holds the verdict, and
//! never after the token has expired; a verdict that no stream holds is forgotten with its answer. Both caches have a bound in bytes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::auth::grant::Action;
use crate::auth::jwt::Secret;
use crate::auth::lru_cache::LruCache;
use crate::auth::principal::Verdict;
use crate::auth::token_review::Identity;

/// The answers that are known.
#[derive(Debug)]
pub struct ReviewTable {
    identities: LruCache<TokenHash, Arc<Asked<Known>>>,
    rights: LruCache<Question, Arc<Right>>,
}

/// Whose token it is, if anybody's.
pub type Known = Option<Arc<Identity>>;

/// Tokens are not kept where their hash will do.
pub type TokenHash = [u8; 32];

/// One right that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Of the bearer of this token,
    pub token: TokenHash,
    /// to do this
    pub action: Action,
    /// in this namespace
    pub namespace: Arc<str>,
    /// with the channel of this name.
    pub name: Arc<str>,
}

/// The answer to a [`Question`], and the token to ask again with.
#[derive(Debug)]
pub struct Right {
    /// The token.
    pub token: Secret,
    /// When the token expires: from then on nothing is asked.
    pub expires: Instant,
    /// What streams hold.
    pub verdict: Arc<Verdict>,
    /// When it was answered.
    pub asked: Asked<()>,
}

/// An answer and when it was given. One asks, the others wait for the same answer.
#[derive(Debug)]
pub struct Asked<T> {
    state: Mutex<State<T>>,
    /// Held by the one who asks.
    pub flight: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State<T> {
    answer: Option<(Instant, T)>,
    /// When it was last asked, in vain or not.
    tried: Instant,
}

/// How long an answer counts for newcomers. An API server itself remembers tokens of a deleted account for 10 s.
pub const GOOD_FOR: Duration = Duration::from_secs(30);

/// How old an answer becomes that a stream holds before it is asked for again.
pub const AGAIN_AFTER: Duration = Duration::from_secs(20);

/// How soon a question that had no answer is asked again.
pub const RETRY_AFTER: Duration = Duration::from_secs(5);

/// For each of the two caches: some 8,000 rights with tokens of 1.5 KiB, more than all identities can ask for within
/// [`GOOD_FOR`] by their budgets unless there are many.
const CACHE_BYTES: usize = 16 << 20;

// === impl ReviewTable ===

impl ReviewTable {
    /// What is known about a token, if it was asked about lately.
    pub fn known_identity(&mut self, token: &TokenHash) -> Option<Arc<Asked<Known>>> {
        self.identities.get(token).cloned()
    }

    /// The same; an empty entry if there is none.
    pub fn identity(&mut self, token: TokenHash, now: Instant) -> Arc<Asked<Known>> {
        if let Some(known) = self.identities.get(&token) {
            return known.clone();
        }
        let asked = Arc::new(Asked::new(now));
        self.identities.insert(token, asked.clone(), 0, |_| false);
        asked
    }

    /// Remembers whose token it is.
    pub fn identified(&mut self, token: TokenHash, asked: &Arc<Asked<Known>>, identity: Known, now: Instant) {
        let weight = identity.as_ref().map_or(0, |identity| identity.weight());
        asked.set(identity, now);
        self.identities.insert(token, asked.clone(), weight, |_| false);
    }

    /// The right that is asked for, of a token that expires at `expires`.
    pub fn right(&mut self, question: &Question, token: &Secret, expires: Instant, now: Instant) -> Arc<Right> {
        if let Some(right) = self.rights.get(question) {
            return right.clone();
        }
        let right = Arc::new(Right { token: token.clone(), expires, verdict: Arc::default(), asked: Asked::new(now) });
        let weight = token.reveal().len() + question.namespace.len() + question.name.len();
        self.rights
            .insert(question.clone(), right.clone(), weight, |right| right.is_held() || right.asked.is_in_flight());
        right
    }

    /// Forgets what is no longer needed, and says which rights are to be asked for again; those first that have waited longest.
    pub fn due(&mut self, now: Instant) -> Vec<(Question, Arc<Right>)> {
        self.identities.retain(|asked| asked.younger_than(GOOD_FOR, now).is_some() || asked.is_in_flight());
        self.rights.retain(|right| right.is_needed(now));
        let due = self.rights.iter().filter(|(_, right)| right.is_due(now));
        let mut due: Vec<_> = due.map(|(question, right)| (question.clone(), right.clone())).collect();
        due.sort_by_key(|(_, right)| right.asked.tried());
        due
    }

    /// How many answers are remembered: about tokens, and about rights.
    pub fn len(&self) -> (usize, usize) {
        (self.identities.len(), self.rights.len())
    }
}

impl Default for ReviewTable {
    fn default() -> Self {
        Self { identities: LruCache::new(CACHE_BYTES), rights: LruCache::new(CACHE_BYTES) }
    }
}

// === impl Question ===

impl Question {
    /// The key of the channel that it is about.
    pub fn channel(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

// === impl Right ===

impl Right {
    /// Whether the verdict is held, as by an open stream.
    pub fn is_held(&self) -> bool {
        Arc::strong_count(&self.verdict) > 1
    }

    fn is_needed(&self, now: Instant) -> bool {
        let counts = self.is_held() || self.asked.younger_than(GOOD_FOR, now).is_some();
        now < self.expires && (counts || self.asked.is_in_flight())
    }

    fn is_due(&self, now: Instant) -> bool {
        let rested = now.saturating_duration_since(self.asked.tried()) >= RETRY_AFTER;
        let old = rested && self.asked.younger_than(AGAIN_AFTER, now).is_none();
        old && self.is_held() && !self.asked.is_in_flight()
    }
}

// === impl Asked ===

impl<T: Clone> Asked<T> {
    fn new(now: Instant) -> Self {
        Self { state: Mutex::new(State { answer: None, tried: now }), flight: tokio::sync::Mutex::default() }
    }

    /// The answer, if it is younger than that.
    pub fn younger_than(&self, age: Duration, now: Instant) -> Option<T> {
        let state = self.state.lock();
        let young = state.answer.as_ref().filter(|(at, _)| now.saturating_duration_since(*at) < age);
        young.map(|(_, answer)| answer.clone())
    }

    /// Takes an answer.
    pub fn set(&self, answer: T, now: Instant) {
        *self.state.lock() = State { answer: Some((now, answer)), tried: now };
    }

    /// It was asked in vain.
    pub fn failed(&self, now: Instant) {
        self.state.lock().tried = now;
    }

    fn tried(&self) -> Instant {
        self.state.lock().tried
    }

    fn is_in_flight(&self) -> bool {
        self.flight.try_lock().is_err()
    }
}

/// What a token is remembered by.
pub fn hash(token: &Secret) -> TokenHash {
    Sha256::digest(token.reveal()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn question(token: u32, name: &str) -> Question {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&token.to_be_bytes());
        Question { token: hash, action: Action::Subscribe, namespace: "shop".into(), name: name.into() }
    }

    /// Asks for a right and gets the answer; what a stream would hold.
    fn answered(table: &mut ReviewTable, question: &Question, expires: Instant, now: Instant) -> Arc<Verdict> {
        let right = table.right(question, &Secret::new("token"), expires, now);
        right.asked.set((), now);
        right.verdict.clone()
    }

    fn asked_again(table: &mut ReviewTable, now: Instant) -> usize {
        let due = table.due(now);
        due.iter().for_each(|(_, right)| right.asked.set((), now));
        due.len()
    }

    #[test]
    fn only_what_a_stream_holds_is_asked_again_and_only_until_the_token_expires() {
        let (mut table, start) = (ReviewTable::default(), Instant::now());
        let held = answered(&mut table, &question(1, "held"), start + HOUR, start);
        (0..10).for_each(|n| drop(answered(&mut table, &question(1, &format!("other{n}")), start + HOUR, start)));
        let mut asked = 0;
        for second in (5..7_200).step_by(5) {
            asked += asked_again(&mut table, start + Duration::from_secs(second));
            if second == 30 {
                assert_eq!(table.len().1, 1, "what nobody holds is forgotten with its answer");
            }
        }
        assert!((170..=180).contains(&asked), "{asked} in the hour that the token counts");
        assert_eq!(table.len(), (0, 0), "nothing is left of an expired token, though a stream still ends");
        drop(held);
    }

    #[test]
    fn tokens_that_are_replaced_every_hour_do_not_add_up() {
        let (mut table, start) = (ReviewTable::default(), Instant::now());
        let mut most = 0;
        for hour in 0..100 {
            let now = start + HOUR * hour;
            let stream = answered(&mut table, &question(hour, "orders"), now + HOUR, now);
            table.due(now + Duration::from_secs(20));
            drop(stream);
            most = most.max(table.len().1);
        }
        assert!(most <= 2, "{most}");
    }

    #[test]
    fn a_full_cache_lets_newcomers_in_and_keeps_what_streams_hold() {
        let (mut table, start) = (ReviewTable::default(), Instant::now());
        let held = answered(&mut table, &question(0, "held"), start + HOUR, start);
        for n in 1..100_000 {
            drop(answered(&mut table, &question(n, "any"), start + HOUR, start));
        }
        assert!(table.len().1 < 70_000, "{:?}", table.len());
        let newcomer = answered(&mut table, &question(u32::MAX, "pods"), start + HOUR, start);
        assert!(Arc::ptr_eq(&newcomer, &answered(&mut table, &question(u32::MAX, "pods"), start + HOUR, start)));
        assert_eq!(asked_again(&mut table, start + Duration::from_secs(60)), 2);
        drop((held, newcomer));
        assert_eq!(asked_again(&mut table, start + Duration::from_secs(120)), 0);
    }

    #[test]
    fn a_question_without_an_answer_lets_the_others_go_first() {
        let (mut table, start) = (ReviewTable::default(), Instant::now());
        let _streams: Vec<_> =
            ["a", "b"].map(|name| answered(&mut table, &question(1, name), start + HOUR, start)).into();
        let at = |seconds| start + Duration::from_secs(seconds);
        let due = table.due(at(20));
        assert_eq!(due.len(), 2);
        let failed = due[0].0.clone();
        due[0].1.asked.failed(at(20));
        assert_eq!(table.due(at(21)).len(), 1, "it waits for a while");
        let due = table.due(at(26));
        assert_eq!((due.len(), &due[1].0), (2, &failed));
    }

    #[test]
    fn answers_about_tokens_are_forgotten_after_a_while() {
        let (mut table, start) = (ReviewTable::default(), Instant::now());
        let asked = table.identity([1; 32], start);
        table.identified([1; 32], &asked, None, start);
        assert!(table.known_identity(&[1; 32]).is_some_and(|asked| asked.younger_than(GOOD_FOR, start).is_some()));
        table.due(start + GOOD_FOR);
        assert!(table.known_identity(&[1; 32]).is_none());
    }
}
