//! The keys of one issuer: which ones a token may be signed with, and when to ask for them again. Pure.
//!
//! Asking is what an attacker could make us do: with a token that names a key nobody has. So after every answer there is
//! a pause in which an unknown key is simply unknown. It grows as long as the answers bring nothing new.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Keys that were read together.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    left_out: Vec<LeftOut>,
}

/// A key of a set that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// How the set calls it, as far as it does.
    pub key_id: String,
    /// Why.
    pub reason: &'static str,
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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Not JSON, or without a list `keys`.
    #[error("this is no JSON Web Key Set")]
    Shape,
    /// Nothing in it verifies anything.
    #[error("no key in this set can verify signatures of the issuer's algorithms{0}")]
    Empty(String),
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

/// So many keys are tried for a token that names none of them: a signature takes some 50 µs to verify.
const MAX_TRIED: usize = 8;

/// How many keys that are left out an error names.
const TOLD: usize = 5;

/// RFC 7518, section 3.3.
const MIN_RSA_BITS: usize = 2048;

/// As long as the hash that uses it (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;

// === impl KeySet ===

impl KeySet {
    /// Reads a JSON Web Key Set (RFC 7517). Keys that cannot be used, for whatever reason, are left out one by one: an issuer may
    /// have others for others. Secret keys are never used: whatever stands in such a document is public.
    pub fn from_jwks(document: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeySetError> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document = serde_json::from_slice(document).map_err(|_| KeySetError::Shape)?;
        let mut set = Self::default();
        for written in document.keys {
            let key_id = named(&written);
            let read = match set.keys.len() < MAX_KEYS {
                true => Key::read(written, algorithms),
                false => Err("the set has more than 100 keys that can be used"),
            };
            match read {
                Ok(key) => set.keys.push(key),
                Err(reason) if set.left_out.len() < MAX_KEYS => set.left_out.push(LeftOut { key_id, reason }),
                Err(_) => {}
            }
        }
        if set.keys.is_empty() { Err(KeySetError::Empty(set.told_left_out())) } else { Ok(set) }
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
        Ok(Self { keys: keys.collect::<Result<_, _>>()?, left_out: Vec::new() })
    }

    /// The keys that are not used.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    fn told_left_out(&self) -> String {
        let told =
            self.left_out.iter().take(TOLD).map(|LeftOut { key_id, reason }| format!("; key {key_id:?}: {reason}"));
        told.collect()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that a token with this key id may be signed with. One that names no key may be signed with any for its algorithm,
    /// of which the first few are tried, and a key without an id verifies what names any.
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Vec<DecodingKey> {
        let fits = self.keys.iter().filter(|key| key.algorithms.contains(&algorithm));
        let named = fits.filter(|key| id.is_none() || key.id.is_none() || key.id.as_deref() == id);
        named.take(MAX_TRIED).map(|key| key.key.clone()).collect()
    }

    fn is_same(&self, other: &Self) -> bool {
        self.keys.len() == other.keys.len() && self.keys.iter().zip(&other.keys).all(|(a, b)| a.written == b.written)
    }
}

// === impl Key ===

impl Key {
    /// Reads one key; why it is not used, if it is not.
    fn read(mut written: Value, algorithms: &[Algorithm]) -> Result<Self, &'static str> {
        // RFC 9864 names the curve; it is the same algorithm.
        if let Some(named) = written.get_mut("alg").filter(|named| **named == "Ed25519") {
            *named = "EdDSA".into();
        }
        let operations = written.get("key_ops").and_then(Value::as_array);
        if operations.is_some_and(|operations| !operations.iter().any(|operation| operation == "verify")) {
            return Err("it is not for verifying signatures (key_ops)");
        }
        sound(&mut written)?;
        let jwk: Jwk = serde_json::from_value(written.clone()).map_err(|_| "it is no JSON Web Key that can be used")?;
        if jwk.common.public_key_use.as_ref().is_some_and(|meant| *meant != PublicKeyUse::Signature) {
            return Err("it is not for signatures (use)");
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
                _ => return Err("no algorithm uses its curve"),
            },
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
            AlgorithmParameters::OctetKey(_) => {
                return Err("it is a secret, and whatever stands in a key set is public");
            }
            _ => return Err("no algorithm uses it"),
        };
        let meant = |algorithm: &Algorithm| {
            jwk.common.key_algorithm.is_none_or(|only| only == KeyAlgorithm::from(*algorithm))
                && algorithms.contains(algorithm)
        };
        let algorithms: Vec<Algorithm> = can.iter().copied().filter(meant).collect();
        if algorithms.is_empty() {
            return Err("it is for an algorithm that the settings do not list");
        }
        let key = DecodingKey::from_jwk(&jwk).map_err(|_| "its numbers make no key")?;
        Ok(Self { id: jwk.common.key_id, algorithms, key, written })
    }
}

/// Whether the numbers of a public key can be what they claim. Leading zeros of a modulus, which RFC 7518 forbids and some servers send,
/// are taken away.
fn sound(written: &mut Value) -> Result<(), &'static str> {
    let number = |name: &str| {
        let text = written.get(name)?.as_str()?;
        URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
    };
    let is_long = |name: &str, bytes: usize| number(name).is_some_and(|number| number.len() == bytes);
    match (written.get("kty").and_then(Value::as_str), written.get("crv").and_then(Value::as_str)) {
        (Some("RSA"), _) => {
            let modulus = number("n").ok_or("it has no modulus (n)")?;
            let digits: Vec<u8> = modulus.into_iter().skip_while(|byte| *byte == 0).collect();
            if digits.len() * 8 < MIN_RSA_BITS {
                return Err("an RSA key has at least 2048 bits");
            }
            if number("e").is_none_or(|exponent| exponent.iter().all(|byte| *byte == 0)) {
                return Err("it has no exponent (e)");
            }
            if let Some(modulus) = written.get_mut("n") {
                *modulus = URL_SAFE_NO_PAD.encode(digits).into();
            }
            Ok(())
        }
        (Some("EC"), Some("P-256")) if !(is_long("x", 32) && is_long("y", 32)) => {
            Err("a point on P-256 has 32 bytes each")
        }
        (Some("EC"), Some("P-384")) if !(is_long("x", 48) && is_long("y", 48)) => {
            Err("a point on P-384 has 48 bytes each")
        }
        (Some("OKP"), Some("Ed25519")) if !is_long("x", 32) => Err("a key for Ed25519 has 32 bytes"),
        _ => Ok(()),
    }
}

/// How a set calls a key, for people.
fn named(written: &Value) -> String {
    let id = written.get("kid").and_then(Value::as_str).unwrap_or_default();
    id.chars().filter(|c| !c.is_control()).take(64).collect()
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

    /// `n` of so many bytes.
    fn modulus(bytes: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0xc5; bytes])
    }

    fn rsa(id: &str) -> Value {
        json!({"kty": "RSA", "kid": id, "n": modulus(256), "e": "AQAB"})
    }

    fn point(bytes: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![7; bytes])
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
            {"kty": "RSA", "kid": "for encryption", "use": "enc", "n": modulus(256), "e": "AQAB"},
            {"kty": "RSA", "kid": "of another algorithm", "alg": "PS256", "n": modulus(256), "e": "AQAB"},
            {"kty": "RSA", "kid": "of ours", "alg": "RS256", "use": "sig", "n": modulus(256), "e": "AQAB"},
            {"kty": "oct", "kid": "secret", "k": "AQAB"},
            {"kty": "EC", "kid": "of another kind", "crv": "P-256", "x": point(32), "y": point(32)},
            {"kty": "quantum", "kid": "from the future"},
            {"kid": "nothing"},
            7,
        ]);
        assert_eq!(ids(&set(keys.clone(), &RS).unwrap()), ["good", "of ours"]);
        assert_eq!(ids(&set(keys, &[Algorithm::ES256]).unwrap()), ["of another kind"]);
        let empty = set(json!([{"kty": "oct", "kid": "x", "k": "AQAB"}]), &[Algorithm::HS256]).err().unwrap();
        assert!(
            empty.to_string().ends_with("; key \"x\": it is a secret, and whatever stands in a key set is public"),
            "{empty}"
        );
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
    fn odd_keys_are_left_out_one_by_one_each_with_its_reason() {
        let mut many: Vec<Value> = vec![
            json!({"kty": "RSA", "kid": "weak", "n": modulus(128), "e": "AQAB"}),
            json!({"kty": "RSA", "kid": "zeros", "n": URL_SAFE_NO_PAD.encode([vec![0; 9], vec![0xc5; 247]].concat()), "e": "AQAB"}),
            json!({"kty": "RSA", "kid": "certificate alone", "x5c": ["MII"]}),
            json!({"kty": "RSA", "kid": "no exponent", "n": modulus(256), "e": ""}),
            json!({"kty": "RSA", "kid": "signs", "key_ops": ["sign"], "n": modulus(256), "e": "AQAB"}),
            json!({"kty": "RSA", "kid": "encrypts\n", "use": "enc", "n": modulus(256), "e": "AQAB"}),
            json!({"kty": "EC", "kid": "short", "crv": "P-256", "x": point(31), "y": point(32)}),
            json!({"kty": "RSA", "kid": "padded", "n": URL_SAFE_NO_PAD.encode([vec![0], vec![0xc5; 256]].concat()), "e": "AQAB"}),
            json!({"kty": "RSA", "kid": "verifies", "key_ops": ["verify"], "n": modulus(256), "e": "AQAB"}),
            json!({"kty": "OKP", "kid": "named by curve", "alg": "Ed25519", "crv": "Ed25519", "x": point(32)}),
        ];
        let algorithms = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
        let read = set(json!(many), &algorithms).unwrap();
        assert_eq!(ids(&read), ["padded", "verifies", "named by curve"]);
        let left: Vec<_> = read.left_out().iter().map(|left| left.key_id.as_str()).collect();
        assert_eq!(left, ["weak", "zeros", "certificate alone", "no exponent", "signs", "encrypts", "short"]);
        many.extend((0..150).map(|n| rsa(&n.to_string())));
        let read = set(json!(many), &algorithms).unwrap();
        assert_eq!((read.len(), read.left_out().len()), (MAX_KEYS, 7 + 53));
        assert!(read.left_out().last().unwrap().reason.contains("more than 100"));
    }

    #[test]
    fn a_token_names_its_key_or_the_first_few_for_its_algorithm_are_tried() {
        let (one, two) = (set(json!([rsa("a")]), &RS).unwrap(), set(json!([rsa("a"), rsa("b")]), &RS).unwrap());
        let found = |set: &KeySet, id| set.find(id, Algorithm::RS256).len();
        assert_eq!((found(&one, Some("a")), found(&one, None), found(&one, Some("c"))), (1, 1, 0));
        assert_eq!((found(&two, Some("b")), found(&two, None), found(&two, Some("c"))), (1, 2, 0));
        assert_eq!(one.find(Some("a"), Algorithm::RS512).len(), 0, "of another algorithm");
        let many: Vec<Value> = (0..50).map(|n| rsa(&n.to_string())).collect();
        assert_eq!(found(&set(json!(many), &RS).unwrap(), None), MAX_TRIED);
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
