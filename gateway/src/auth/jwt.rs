//! Reading and checking a JSON Web Token (RFC 7519, with the advice of RFC 8725). Pure: keys and time are arguments.
//!
//! The order is fixed: what is looked at before the signature is verified only chooses the issuer, its algorithms and the
//! key. `jku`, `x5u` and `jwk` in a token are never looked at: a token does not choose where its key comes from.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::auth::claims::Claims;
use crate::auth::issuer::{Issuer, algorithm};
use crate::limits::quota::MAX_TOKEN_BYTES;
use crate::metrics::label::closed_set;

/// A token as it stands in a request. It is never shown. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

/// A token that was read and not verified: good for choosing a key, and for nothing else.
#[derive(Clone, Debug)]
pub struct Unverified<'t> {
    signed: &'t str,
    signature: &'t str,
    algorithm: String,
    key_id: Option<String>,
    claims: Map<String, Value>,
}

/// The claims of a token that its issuer has made and that counts now.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// What it says.
    pub claims: Claims,
    /// Until when it counts, by our clock: its `exp` and the leeway of the clocks.
    pub until: SystemTime,
}

closed_set! {
    /// Why a token is refused: the metric label; [`TokenFault::advice`] is for people.
    pub enum TokenFault {
        /// Larger than any token should be.
        TooLarge = "too-large",
        /// Not three parts of base64url with JSON objects in them, or with extensions that are not understood.
        Malformed = "malformed",
        /// Its issuer is not in the settings.
        Issuer = "issuer",
        /// Signed with something that its issuer does not use; `none` is never accepted.
        Algorithm = "algorithm",
        /// Signed with a key that its issuer does not have.
        Key = "key",
        /// Not signed by its issuer.
        Signature = "signature",
        /// A claim that is required is missing or is not what it should be.
        Claim = "claim",
        /// Its `sub` or `jti` is something else than a text.
        Subject = "subject",
        /// A claim that the settings require is missing, or has another value.
        Required = "required",
        /// Made for another audience.
        Audience = "audience",
        /// Too old.
        Expired = "expired",
        /// From the future.
        NotYet = "not-yet",
        /// Listed by the administrator, or refused by the cluster.
        Denied = "denied",
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    /// Extensions that must be understood (RFC 7515, section 4.1.11). We understand none.
    crit: Option<Value>,
    /// An encrypted token (RFC 7516).
    enc: Option<Value>,
}

/// Longer key ids are no key ids.
const MAX_KEY_ID_BYTES: usize = 256;

// === impl Secret ===

impl Secret {
    /// Hides this token.
    pub fn new(token: impl Into<Arc<str>>) -> Self {
        Self(token.into())
    }

    /// The token, to be checked.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

// === impl Unverified ===

impl<'t> Unverified<'t> {
    /// Reads the compact form. How large a token may be by the settings is for the caller to check. `sub` and `jti` are texts from here on, or absent.
    pub fn read(token: &'t str) -> Result<Self, TokenFault> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenFault::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenFault::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenFault::Malformed)?;
        let header: Header = part(header)?;
        let typ = header.typ.map(|typ| typ.to_ascii_lowercase());
        let is_jwt = matches!(typ.as_deref(), None | Some("jwt" | "at+jwt" | "application/jwt" | "application/at+jwt"));
        if header.crit.is_some() || header.enc.is_some() || !is_jwt {
            return Err(TokenFault::Malformed);
        }
        if header.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KEY_ID_BYTES) {
            return Err(TokenFault::Malformed);
        }
        let claims: Map<String, Value> = part(payload)?;
        // Grants, limits, the deny list and logs must not read them differently.
        if ["sub", "jti"].iter().any(|name| claims.get(*name).is_some_and(|value| !value.is_string())) {
            return Err(TokenFault::Subject);
        }
        Ok(Self { signed, signature, algorithm: header.alg, key_id: header.kid, claims })
    }

    /// Who claims to have made it.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// Which key it claims to be signed with.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Its algorithm, if the issuer uses it.
    pub fn algorithm(&self, issuer: &Issuer) -> Result<Algorithm, TokenFault> {
        let known = algorithm(&self.algorithm).filter(|algorithm| issuer.algorithms.contains(algorithm));
        known.ok_or(TokenFault::Algorithm)
    }

    /// Whether it claims to be made for one of these.
    pub fn is_for(&self, audiences: &[String]) -> bool {
        has_audience(self.claims.get("aud"), audiences)
    }

    /// Until when it claims to count.
    pub fn expires(&self) -> Option<SystemTime> {
        time(self.claims.get("exp")?)
    }

    /// The claims of a token that was verified elsewhere.
    pub fn into_claims(self) -> Claims {
        Claims::new(self.claims)
    }

    /// Verifies the signature with one of these keys of the issuer, and what it says about when and for whom it counts.
    pub fn verify<'k>(
        self,
        issuer: &Issuer,
        keys: impl IntoIterator<Item = &'k DecodingKey>,
        now: SystemTime,
    ) -> Result<Verified, TokenFault> {
        let algorithm = self.algorithm(issuer)?;
        let signed_with =
            |key| crypto::verify(self.signature, self.signed.as_bytes(), key, algorithm).is_ok_and(|valid| valid);
        if !keys.into_iter().any(signed_with) {
            return Err(TokenFault::Signature);
        }
        if self.issuer() != Some(issuer.issuer.as_str()) {
            return Err(TokenFault::Issuer);
        }
        let claims = Claims::new(self.claims);
        if !has_audience(claims.get(&issuer.audience_claim), &issuer.audiences) {
            return Err(TokenFault::Audience);
        }
        if !issuer.required.iter().all(|(claim, value)| claims.values(claim).contains(value)) {
            return Err(TokenFault::Required);
        }
        let moment = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(value) => time(value).map(Some).ok_or(TokenFault::Claim),
        };
        let until = moment("exp")?.ok_or(TokenFault::Claim)?.checked_add(issuer.leeway).ok_or(TokenFault::Claim)?;
        if until <= now {
            return Err(TokenFault::Expired);
        }
        if moment("nbf")?.is_some_and(|from| from > now + issuer.leeway) {
            return Err(TokenFault::NotYet);
        }
        Ok(Verified { claims, until })
    }
}

fn part<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, TokenFault> {
    let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenFault::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| TokenFault::Malformed)
}

/// `aud` is a text or a list of texts.
fn has_audience(claim: Option<&Value>, audiences: &[String]) -> bool {
    let ours = |value: &Value| value.as_str().is_some_and(|text| audiences.iter().any(|audience| audience == text));
    match claim {
        Some(Value::Array(values)) => values.iter().any(ours),
        Some(value) => ours(value),
        None => false,
    }
}

/// Seconds since 1970, fractions allowed (RFC 7519, "NumericDate"). Before 1970 is 1970, and no clock comes to the year
/// 10000.
fn time(value: &Value) -> Option<SystemTime> {
    const YEAR_10000: f64 = 253_402_300_800.0;
    let seconds = value.as_f64()?.clamp(0.0, YEAR_10000);
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds))
}

// === impl TokenFault ===

impl TokenFault {
    /// What to do about it. Nothing in it depends on the channel.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::TooLarge => "the token is larger than this gateway accepts",
            Self::Malformed => "the token is not a valid JSON Web Token",
            Self::Issuer => "the token's issuer is not trusted",
            Self::Algorithm => "the token's algorithm is not allowed for its issuer",
            Self::Key => "the token is signed with a key that its issuer does not publish",
            Self::Signature => "the token's signature is invalid",
            Self::Claim => "the token lacks exp, or a time in it is not a number",
            Self::Subject => "the token's sub or jti is not a string (RFC 7519, sections 4.1.2 and 4.1.7)",
            Self::Required => "the token lacks a required claim: send an access token",
            Self::Audience => "the token is for another audience",
            Self::Expired => "the token has expired: get a new one",
            Self::NotYet => "the token is not valid yet",
            Self::Denied => "the token is no longer accepted: get a new one",
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::auth::issuer::tests::issuer;
    use jsonwebtoken::{EncodingKey, Header as JwtHeader, encode};
    use proptest::prelude::*;
    use serde_json::json;

    const SECRET: &[u8] = b"a secret of thirty-two bytes, ok";

    fn shared() -> Issuer {
        issuer("{name: t, issuer: iss, audience: [a, b], algorithms: [HS256], leewaySeconds: 10, secret: {file: /s}}")
            .unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    pub(crate) fn signed(header: &JwtHeader, claims: &Value) -> String {
        encode(header, claims, &EncodingKey::from_secret(SECRET)).unwrap()
    }

    fn checked(claims: &Value, now: u64) -> Result<Verified, TokenFault> {
        let token = signed(&JwtHeader::default(), claims);
        Unverified::read(&token).unwrap().verify(&shared(), [&DecodingKey::from_secret(SECRET)], at(now))
    }

    #[test]
    fn a_token_counts_for_its_audience_and_its_time() {
        let good = json!({"iss": "iss", "aud": "a", "exp": 1000, "sub": "ann"});
        let verified = checked(&good, 900).unwrap();
        assert_eq!((verified.claims.text("sub"), verified.until), (Some("ann"), at(1010)));
        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            claims
        };
        for (claims, now, expected) in [
            (good.clone(), 1009, None),
            (good.clone(), 1010, Some(TokenFault::Expired)),
            (with("aud", json!(["x", "b"])), 900, None),
            (with("aud", json!(["x"])), 900, Some(TokenFault::Audience)),
            (with("aud", json!("A")), 900, Some(TokenFault::Audience)),
            (with("aud", Value::Null), 900, Some(TokenFault::Audience)),
            (with("iss", json!("iss2")), 900, Some(TokenFault::Issuer)),
            (with("exp", Value::Null), 900, Some(TokenFault::Claim)),
            (with("exp", json!("1000")), 900, Some(TokenFault::Claim)),
            (with("exp", json!(1000.5)), 900, None),
            (with("exp", json!(1e300)), 900, None),
            (with("exp", json!(-5)), 900, Some(TokenFault::Expired)),
            (with("nbf", json!(910)), 900, None),
            (with("nbf", json!(911)), 900, Some(TokenFault::NotYet)),
            (with("nbf", json!("soon")), 900, Some(TokenFault::Claim)),
        ] {
            assert_eq!(checked(&claims, now).err(), expected, "{claims} at {now}");
        }
        let without = json!({"iss": "iss", "exp": 1000});
        assert_eq!(checked(&without, 900).err(), Some(TokenFault::Audience));
    }

    #[test]
    fn the_audience_may_be_in_another_claim_and_others_may_be_required() {
        let cognito = issuer(
            "{name: c, issuer: iss, audience: app, audienceClaim: client_id, require: {token_use: access, roles: reader}, \
             algorithms: [HS256], secret: {file: /s}}",
        )
        .unwrap();
        let checked = |claims: Value| {
            let token = signed(&JwtHeader::default(), &claims);
            let key = DecodingKey::from_secret(SECRET);
            Unverified::read(&token).unwrap().verify(&cognito, [&key], at(900)).err()
        };
        let good =
            json!({"iss": "iss", "exp": 1000, "client_id": "app", "token_use": "access", "roles": ["x", "reader"]});
        assert_eq!(checked(good.clone()), None);
        for (claim, value, fault) in [
            ("client_id", json!("other"), TokenFault::Audience),
            ("client_id", Value::Null, TokenFault::Audience),
            ("token_use", json!("id"), TokenFault::Required),
            ("token_use", Value::Null, TokenFault::Required),
            ("roles", json!(["readers"]), TokenFault::Required),
        ] {
            let mut claims = good.clone();
            claims[claim] = value;
            assert_eq!(checked(claims.clone()), Some(fault), "{claims}");
        }
        let aud = json!({"iss": "iss", "exp": 1000, "aud": "app", "token_use": "access", "roles": "reader"});
        assert_eq!(checked(aud), Some(TokenFault::Audience), "aud is not the claim");
    }

    #[test]
    fn a_signature_counts_with_the_issuers_key_and_algorithm_alone() {
        let claims = json!({"iss": "iss", "aud": "a", "exp": 1000});
        let (issuer, key) = (shared(), DecodingKey::from_secret(SECRET));
        let token = signed(&JwtHeader::default(), &claims);
        let verify = |token: &str, key: &DecodingKey| Unverified::read(token)?.verify(&issuer, [key], at(900));
        assert!(verify(&token, &key).is_ok());
        assert_eq!(verify(&token, &DecodingKey::from_secret(b"another")), Err(TokenFault::Signature));
        let stronger = signed(&JwtHeader::new(Algorithm::HS512), &claims);
        assert_eq!(verify(&stronger, &key), Err(TokenFault::Algorithm), "what is not pinned is not used");
        let (_, payload) = token.split_once('.').unwrap();
        let forged = |header: Value| {
            let header = URL_SAFE_NO_PAD.encode(header.to_string());
            format!("{header}.{payload}")
        };
        for (header, fault) in [
            (json!({"alg": "none"}), TokenFault::Algorithm),
            (json!({"alg": "None"}), TokenFault::Algorithm),
            (json!({"alg": "hs256"}), TokenFault::Algorithm),
            (json!({"alg": "RS256"}), TokenFault::Algorithm),
            (json!({"alg": "HS256", "crit": ["b64"], "b64": false}), TokenFault::Malformed),
            (json!({"alg": "dir", "enc": "A128GCM"}), TokenFault::Malformed),
            (json!({"alg": "HS256", "typ": "logout+jwt"}), TokenFault::Malformed),
            (json!({"alg": "HS256", "kid": "x".repeat(257)}), TokenFault::Malformed),
            (json!({"typ": "JWT"}), TokenFault::Malformed),
        ] {
            assert_eq!(verify(&forged(header.clone()), &key), Err(fault), "{header}");
        }
        let unsigned = format!("{}.", forged(json!({"alg": "HS256"})).rsplit_once('.').unwrap().0);
        assert_eq!(verify(&unsigned, &key), Err(TokenFault::Signature));
    }

    #[test]
    fn a_public_key_signs_nothing() {
        let rsa = issuer("{name: m, issuer: iss, audience: a, algorithms: [RS256], jwks: {file: /k}}").unwrap();
        let token = signed(&JwtHeader::default(), &json!({"iss": "iss", "aud": "a", "exp": 1000}));
        // Whatever the key is, the algorithm is the issuer's.
        let read = Unverified::read(&token).unwrap();
        assert_eq!(read.verify(&rsa, [&DecodingKey::from_secret(SECRET)], at(900)), Err(TokenFault::Algorithm));
    }

    #[test]
    fn garbage_is_malformed_and_a_huge_token_is_not_read() {
        for token in ["", ".", "..", "a.b.c", "e30.e30.", "e30.e30", "eyJhbGciOiJIUzI1NiJ9.W10.x", "a b.c.d", "é.é.é"]
        {
            assert_eq!(Unverified::read(token).err(), Some(TokenFault::Malformed), "{token}");
        }
        assert_eq!(Unverified::read(&"a".repeat(MAX_TOKEN_BYTES + 1)).err(), Some(TokenFault::TooLarge));
    }

    #[test]
    fn a_subject_and_a_token_id_are_texts_or_absent() {
        let read = |claims: Value| {
            let token = signed(&JwtHeader::default(), &claims);
            Unverified::read(&token).map(|read| read.into_claims().text("sub").map(str::to_owned))
        };
        for name in ["sub", "jti"] {
            for value in [json!(42), json!(4.2), json!(["42"]), json!({"id": "42"}), json!(true), Value::Null] {
                assert_eq!(read(json!({ name: value.clone() })), Err(TokenFault::Subject), "{name}: {value}");
            }
        }
        assert_eq!(read(json!({"sub": "42", "jti": "t1"})), Ok(Some("42".to_owned())));
        assert_eq!(read(json!({})), Ok(None));
    }

    #[test]
    fn a_token_is_never_shown() {
        assert_eq!(format!("{:?}", Secret::new("very.secret.token")), "(secret)");
    }

    proptest! {
        #[test]
        fn no_token_panics(token in "[ -~]{0,80}", header in "[ -~]{0,40}", payload in "[ -~]{0,40}") {
            let _ = Unverified::read(&token);
            let made = format!("{}.{}.x", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
            let _ = Unverified::read(&made);
        }
    }
}
