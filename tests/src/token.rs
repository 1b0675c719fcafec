//! Tokens as their issuers make them, and as others would like to.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

/// A key pair that signs tokens.
#[derive(Debug)]
pub struct TokenKey {
    id: String,
    algorithm: Algorithm,
    private: Vec<u8>,
    jwk: Value,
}

/// The claims and the header of a token that is not made yet.
#[derive(Clone, Debug)]
pub struct Draft {
    claims: Value,
    header: Value,
}

// === impl TokenKey ===

impl TokenKey {
    /// A new pair for ES256.
    pub fn es256(id: &str) -> Self {
        let pair = KeyPair::generate().expect("a key");
        let point = pair.public_key_raw();
        // 4, then both coordinates of P-256 (SEC 1, section 2.3.3).
        let coordinate = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        let jwk = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": id,
                         "x": coordinate(1..33), "y": coordinate(33..65)});
        Self { id: id.to_owned(), algorithm: Algorithm::ES256, private: pair.serialize_der(), jwk }
    }

    /// A new pair for RS256, of 2048 bits.
    pub fn rs256(id: &str) -> Self {
        let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
        // RSAPublicKey (RFC 8017, A.1.1): with 2048 bits and the exponent 65537 every length is known.
        let modulus = URL_SAFE_NO_PAD.encode(&pair.public_key_raw()[9..265]);
        let jwk = json!({"kty": "RSA", "kid": id, "n": modulus, "e": "AQAB"});
        // Within PKCS #8 the private key of PKCS #1 begins behind 26 bytes.
        let private = pair.serialize_der()[26..].to_vec();
        Self { id: id.to_owned(), algorithm: Algorithm::RS256, private, jwk }
    }

    /// A secret that is shared.
    pub fn shared(secret: &[u8]) -> Self {
        Self { id: String::new(), algorithm: Algorithm::HS256, private: secret.to_vec(), jwk: Value::Null }
    }

    /// The public half, as a JSON Web Key.
    pub fn jwk(&self) -> &Value {
        &self.jwk
    }

    /// The public half as whoever has read the key set knows it: text that somebody may try as a secret.
    pub fn public_text(&self) -> Vec<u8> {
        self.jwk.to_string().into_bytes()
    }

    /// Makes a token.
    pub fn sign(&self, draft: &Draft) -> String {
        let key = match self.algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_der(&self.private),
            Algorithm::RS256 => EncodingKey::from_rsa_der(&self.private),
            _ => EncodingKey::from_secret(&self.private),
        };
        let mut header = json!({"typ": "JWT", "alg": serde_json::to_value(self.algorithm).expect("a name")});
        if !self.id.is_empty() {
            header["kid"] = json!(self.id);
        }
        merge(&mut header, &draft.header);
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&draft.claims));
        let signature =
            jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Header::new(self.algorithm).alg).expect("a signature");
        format!("{signed}.{signature}")
    }
}

// === impl Draft ===

impl Draft {
    /// A token of this issuer for the audience `tidings`, good for an hour.
    pub fn new(issuer: &str, subject: &str) -> Self {
        let claims = json!({"iss": issuer, "aud": "tidings", "sub": subject, "exp": now() + 3600});
        Self { claims, header: json!({}) }
    }

    /// With a claim; null takes it away.
    pub fn with(mut self, claim: &str, value: impl Into<Value>) -> Self {
        merge(&mut self.claims, &json!({claim: value.into()}));
        self
    }

    /// That expires so many seconds from now.
    pub fn expires_in(self, seconds: i64) -> Self {
        self.with("exp", now().saturating_add_signed(seconds))
    }

    /// With a field of the header; null takes it away.
    pub fn header(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.header[field] = value.into();
        self
    }

    /// The token that nobody has signed (RFC 7519, section 6).
    pub fn unsigned(&self) -> String {
        let header = json!({"alg": "none", "typ": "JWT"});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(&header), part(&self.claims))
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn merge(into: &mut Value, from: &Value) {
    for (name, value) in from.as_object().into_iter().flatten() {
        match (value, into.as_object_mut()) {
            (Value::Null, Some(object)) => drop(object.remove(name)),
            (value, _) => into[name] = value.clone(),
        }
    }
}
