//! The keys of one issuer: which ones a token may be signed with, and when to ask for them again. Pure.
//!
//! Asking is what an attacker could make us do: with a token that names a key nobody has. So after every answer there is
//! a pause in which an unknown key is simply unknown. It grows as long as the answers bring nothing new.

use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Keys that were read together.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

#[derive(Clone, Debug)]
struct Key {
    id: Option<String>,
    /// What the key may verify.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
    /// To see whether anything has changed.
    written: Value,
}

/// Why a document is no set of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Not JSON, or without a list `keys`.
    #[error("this is no JSON Web Key Set")]
    Shape,
    /// Nothing in it verifies anything.
    #[error("no key in this set can verify signatures of the issuer's algorithms")]
    Empty,
    /// A secret that can be guessed.
    #[error("a secret has at least 32 bytes")]
    Short,
}

/// What is known of an issuer's keys, and since when.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    set: Option<KeySet>,
    asked: Option<Instant>,
    /// Whether the last answer was none.
    failing: bool,
    /// How many answers in a row brought nothing new.
    idle: u32,
}

/// What to do about a token's key.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// Try these.
    Found(Vec<DecodingKey>),
    /// Ask for the keys again first.
    Ask,
    /// The issuer has no such key.
    Unknown,
    /// The issuer cannot be asked now, and what is known does not say.
    Unavailable,
}

/// The pause after an answer, and how far it grows.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// How far it grows during an outage: an issuer that comes back should not be waited for much longer.
const FAILING_PAUSE: Duration = Duration::from_secs(10);

/// How old keys may become before they are asked for again although nobody misses one: so long is a key trusted that its
/// issuer has withdrawn.
pub const REFRESH: Duration = Duration::from_secs(300);

/// More keys than this are none of an issuer's.
const MAX_KEYS: usize = 100;

/// As long as the hash that uses it (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;

// === impl KeySet ===

impl KeySet {
    /// Reads a JSON Web Key Set (RFC 7517). Keys that cannot be used, for whatever reason, are left out: an issuer may have
    /// others for others. Secret keys are never used: whatever stands in such a document is public.
    pub fn from_jwks(document: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeySetError> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document = serde_json::from_slice(document).map_err(|_| KeySetError::Shape)?;
        let keys: Vec<Key> =
            document.keys.into_iter().take(MAX_KEYS).filter_map(|written| Key::read(written, algorithms)).collect();
        if keys.is_empty() { Err(KeySetError::Empty) } else { Ok(Self { keys }) }
    }

    /// Secrets as they stand in files; a line break at the end is the editor's.
    pub fn from_secrets<'s>(
        secrets: impl IntoIterator<Item = &'s Vec<u8>>,
        algorithms: &[Algorithm],
    ) -> Result<Self, KeySetError> {
        let keys = secrets.into_iter().map(|secret| {
            let secret = secret.strip_suffix(b"\n").unwrap_or(secret);
            let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
            if secret.len() < MIN_SECRET_BYTES {
                return Err(KeySetError::Short);
            }
            let key = DecodingKey::from_secret(secret);
            // A hash, to see whether it has changed.
            let written = Value::from(Sha256::digest(secret).to_vec());
            Ok(Key { id: None, algorithms: algorithms.to_vec(), key, written })
        });
        Ok(Self { keys: keys.collect::<Result<_, _>>()? })
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that a token with this key id may be signed with. One that names no key may be signed with the only one
    /// there is for its algorithm, and a key without an id verifies what names any.
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Vec<DecodingKey> {
        let fits = self.keys.iter().filter(|key| key.algorithms.contains(&algorithm));
        let named: Vec<&Key> = fits.filter(|key| id.is_none() || key.id.is_none() || key.id.as_deref() == id).collect();
        let nameless = named.iter().all(|key| key.id.is_none());
        if id.is_none() && named.len() > 1 && !nameless {
            return Vec::new();
        }
        named.into_iter().map(|key| key.key.clone()).collect()
    }

    fn is_same(&self, other: &Self) -> bool {
        self.keys.len() == other.keys.len() && self.keys.iter().zip(&other.keys).all(|(a, b)| a.written == b.written)
    }
}

// === impl Key ===

impl Key {
    fn read(written: Value, algorithms: &[Algorithm]) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(written.clone()).ok()?;
        if jwk.common.public_key_use.as_ref().is_some_and(|meant| *meant != PublicKeyUse::Signature) {
            return None;
        }
        let can: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
            _ => return None,
        };
        let meant = |algorithm: &Algorithm| {
            jwk.common.key_algorithm.is_none_or(|only| only == KeyAlgorithm::from(*algorithm))
                && algorithms.contains(algorithm)
        };
        let algorithms: Vec<Algorithm> = can.iter().copied().filter(meant).collect();
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        (!algorithms.is_empty()).then_some(Self { id: jwk.common.key_id, algorithms, key, written })
    }
}

// === impl Ring ===

impl Ring {
    /// The keys for a token.
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm, now: Instant) -> Lookup {
        let found = self.set.as_ref().map(|set| set.find(id, algorithm)).unwrap_or_default();
        if !found.is_empty() {
            return Lookup::Found(found);
        }
        match (self.may_ask(now), self.failing) {
            (true, _) => Lookup::Ask,
            (false, true) => Lookup::Unavailable,
            (false, false) => Lookup::Unknown,
        }
    }

    /// What was answered: keys, or `None` if there was no answer. Keys stay in force until others come. Whether this
    /// brought anything new.
    pub fn answered(&mut self, set: Option<KeySet>, now: Instant) -> bool {
        self.asked = Some(now);
        self.failing = set.is_none();
        let news = set.as_ref().is_some_and(|new| self.set.as_ref().is_none_or(|old| !old.is_same(new)));
        self.idle = if news { 0 } else { self.idle.saturating_add(1) };
        if let Some(set) = set {
            self.set = Some(set);
        }
        news
    }

    /// What is known was looked at again and is still so.
    pub fn confirmed(&mut self, now: Instant) {
        self.asked = Some(now);
        self.failing = false;
    }

    /// Whether the pause after the last answer is over.
    pub fn may_ask(&self, now: Instant) -> bool {
        self.asked.is_none_or(|at| now.saturating_duration_since(at) >= self.pause())
    }

    /// Whether the last answer was none.
    pub fn is_failing(&self) -> bool {
        self.failing
    }

    /// How many keys are known; none before the first answer.
    pub fn known(&self) -> Option<usize> {
        self.set.as_ref().map(KeySet::len)
    }

    /// How long after an answer nobody asks again.
    pub fn pause(&self) -> Duration {
        let most = if self.failing { FAILING_PAUSE } else { PAUSE.1 };
        PAUSE.0.saturating_mul(1 << self.idle.min(8)).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const RS: [Algorithm; 1] = [Algorithm::RS256];

    fn rsa(id: &str) -> Value {
        json!({"kty": "RSA", "kid": id, "n": "AQAB", "e": "AQAB"})
    }

    fn set(keys: Value, algorithms: &[Algorithm]) -> Result<KeySet, KeySetError> {
        KeySet::from_jwks(json!({"keys": keys}).to_string().as_bytes(), algorithms)
    }

    fn ids(set: &KeySet) -> Vec<&str> {
        set.keys.iter().map(|key| key.id.as_deref().unwrap_or_default()).collect()
    }

    #[test]
    fn only_public_keys_for_the_issuers_algorithms_are_taken() {
        let keys = json!([
            rsa("good"),
            {"kty": "RSA", "kid": "for encryption", "use": "enc", "n": "AQAB", "e": "AQAB"},
            {"kty": "RSA", "kid": "of another algorithm", "alg": "PS256", "n": "AQAB", "e": "AQAB"},
            {"kty": "RSA", "kid": "of ours", "alg": "RS256", "use": "sig", "n": "AQAB", "e": "AQAB"},
            {"kty": "oct", "kid": "secret", "k": "AQAB"},
            {"kty": "EC", "kid": "of another kind", "crv": "P-256", "x": "AQAB", "y": "AQAB"},
            {"kty": "quantum", "kid": "from the future"},
            {"kid": "nothing"},
            7,
        ]);
        assert_eq!(ids(&set(keys.clone(), &RS).unwrap()), ["good", "of ours"]);
        assert_eq!(ids(&set(keys, &[Algorithm::ES256]).unwrap()), ["of another kind"]);
        assert_eq!(set(json!([{"kty": "oct", "k": "AQAB"}]), &[Algorithm::HS256]).err(), Some(KeySetError::Empty));
        for garbage in ["", "{}", "[]", "{\"keys\": 1}", "<html>"] {
            assert_eq!(KeySet::from_jwks(garbage.as_bytes(), &RS).err(), Some(KeySetError::Shape), "{garbage}");
        }
    }

    #[test]
    fn a_secret_that_can_be_guessed_is_refused() {
        let read = |secret: &str| KeySet::from_secrets(&[secret.as_bytes().to_vec()], &[Algorithm::HS256]).map(|_| ());
        assert_eq!(read(&"x".repeat(32)), Ok(()));
        assert_eq!(read(&format!("{}\r\n", "x".repeat(32))), Ok(()));
        assert_eq!(read(&format!("{}\n", "x".repeat(31))), Err(KeySetError::Short));
    }

    #[test]
    fn a_token_names_its_key_unless_there_is_only_one() {
        let (one, two) = (set(json!([rsa("a")]), &RS).unwrap(), set(json!([rsa("a"), rsa("b")]), &RS).unwrap());
        let found = |set: &KeySet, id| set.find(id, Algorithm::RS256).len();
        assert_eq!((found(&one, Some("a")), found(&one, None), found(&one, Some("c"))), (1, 1, 0));
        assert_eq!((found(&two, Some("b")), found(&two, None), found(&two, Some("c"))), (1, 0, 0));
        assert_eq!(one.find(Some("a"), Algorithm::RS512).len(), 0, "of another algorithm");
    }

    #[test]
    fn an_unknown_key_is_asked_for_once_and_then_unknown_for_a_while() {
        let (mut ring, start) = (Ring::default(), Instant::now());
        let find = |ring: &Ring, id, after| ring.find(Some(id), Algorithm::RS256, start + Duration::from_secs(after));
        assert!(matches!(find(&ring, "a", 0), Lookup::Ask));
        ring.answered(Some(set(json!([rsa("a")]), &RS).unwrap()), start);
        assert!(matches!(find(&ring, "a", 0), Lookup::Found(_)));
        assert!(matches!(find(&ring, "b", 4), Lookup::Unknown));
        assert!(matches!(find(&ring, "b", 5), Lookup::Ask));
        ring.answered(Some(set(json!([rsa("b")]), &RS).unwrap()), start + Duration::from_secs(5));
        assert!(matches!(find(&ring, "b", 5), Lookup::Found(_)));
        assert!(matches!(find(&ring, "a", 5), Lookup::Unknown), "a withdrawn key is gone");
    }

    #[test]
    fn a_flood_of_unknown_keys_asks_ever_more_rarely() {
        let (mut ring, mut now, mut asked) = (Ring::default(), Instant::now(), 0);
        for second in 0..600 {
            if matches!(ring.find(Some(&second.to_string()), Algorithm::RS256, now), Lookup::Ask) {
                asked += 1;
                ring.answered(Some(set(json!([rsa("a")]), &RS).unwrap()), now);
            }
            now += Duration::from_secs(1);
        }
        assert!((10..=14).contains(&asked), "{asked} times in ten minutes");
    }

    #[test]
    fn through_an_outage_the_last_good_keys_stay_and_others_are_unavailable() {
        let (mut ring, start) = (Ring::default(), Instant::now());
        ring.answered(None, start);
        assert!(matches!(ring.find(Some("a"), Algorithm::RS256, start), Lookup::Unavailable), "who knows");
        let start = start + Duration::from_secs(10);
        ring.answered(Some(set(json!([rsa("a")]), &RS).unwrap()), start);
        for n in 0..5 {
            ring.answered(None, start + Duration::from_secs(60 * n));
        }
        let now = start + Duration::from_secs(301);
        assert!(matches!(ring.find(Some("a"), Algorithm::RS256, now), Lookup::Found(_)));
        ring.answered(None, now);
        assert!(matches!(ring.find(Some("b"), Algorithm::RS256, now), Lookup::Unavailable));
    }
}
