//! Tokens as their issuers make them, and as others would like to.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
    SignatureAlgorithm,
};
use serde_json::{Value, json};

use crate::evidence;

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
        Self::new(Algorithm::ES256, id)
    }

    /// A new pair for RS256, of 2048 bits.
    pub fn rs256(id: &str) -> Self {
        Self::new(Algorithm::RS256, id)
    }

    /// A new pair for an algorithm with public keys.
    ///
    /// # Panics
    /// When the algorithm has none.
    pub fn new(algorithm: Algorithm, id: &str) -> Self {
        match algorithm {
            Algorithm::ES256 => Self::elliptic(algorithm, &PKCS_ECDSA_P256_SHA256, "P-256", id),
            Algorithm::ES384 => Self::elliptic(algorithm, &PKCS_ECDSA_P384_SHA384, "P-384", id),
            Algorithm::EdDSA => {
                let pair = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
                let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
                let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": x});
                Self { id: id.to_owned(), algorithm, private: pair.serialize_der(), jwk }
            }
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => panic!("{algorithm:?} has no public keys"),
            _ => Self::rsa(algorithm, id),
        }
    }

    fn elliptic(algorithm: Algorithm, curve: &'static SignatureAlgorithm, name: &str, id: &str) -> Self {
        let pair = KeyPair::generate_for(curve).expect("a key");
        // 4, then both coordinates (SEC 1, section 2.3.3).
        let (x, y) = pair.public_key_raw()[1..].split_at(pair.public_key_raw().len() / 2);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let alg = serde_json::to_value(algorithm).expect("a name");
        let jwk = json!({"kty": "EC", "crv": name, "alg": alg, "use": "sig", "kid": id, "x": x, "y": y});
        Self { id: id.to_owned(), algorithm, private: pair.serialize_der(), jwk }
    }

    fn rsa(algorithm: Algorithm, id: &str) -> Self {
        let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
        // RSAPublicKey (RFC 8017, A.1.1): with 2048 bits and the exponent 65537 every length is known.
        let modulus = URL_SAFE_NO_PAD.encode(&pair.public_key_raw()[9..265]);
        let jwk = json!({"kty": "RSA", "kid": id, "n": modulus, "e": "AQAB"});
        // Within PKCS #8 the private key of PKCS #1 begins behind 26 bytes.
        let private = pair.serialize_der()[26..].to_vec();
        Self { id: id.to_owned(), algorithm, private, jwk }
    }

    /// A secret that is shared.
    pub fn shared(secret: &[u8]) -> Self {
        Self::shared_for(Algorithm::HS256, secret)
    }

    /// A secret that is shared, for one of the algorithms with secrets.
    pub fn shared_for(algorithm: Algorithm, secret: &[u8]) -> Self {
        Self { id: String::new(), algorithm, private: secret.to_vec(), jwk: Value::Null }
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
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_der(&self.private),
            Algorithm::EdDSA => EncodingKey::from_ed_der(&self.private),
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => EncodingKey::from_secret(&self.private),
            _ => EncodingKey::from_rsa_der(&self.private),
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
        let token = format!("{signed}.{signature}");
        evidence::made(&token);
        token
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
        let token = format!("{}.{}.", part(&header), part(&self.claims));
        evidence::made(&token);
        token
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
