//! Tokens of an issuer of the benchmark's own, and what it costs to check the signature of one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, crypto, encode};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::json;

use crate::process::own_cpu;

/// An issuer's key.
#[derive(Debug)]
pub(crate) struct Issuer {
    pub(crate) algorithm: Algorithm,
    signs: EncodingKey,
    checks: DecodingKey,
    /// What a gateway checks with: a set of JSON Web Keys, or the secret.
    pub(crate) published: Vec<u8>,
}

/// What its tokens say.
pub(crate) const ISSUER: &str = "https://bench.example";
pub(crate) const AUDIENCE: &str = "tidings";

const SECRET: &[u8] = b"a secret of the benchmark, and as long as secrets have to be";
const KEY_ID: &str = "bench";

// === impl Issuer ===

impl Issuer {
    /// A new key: RS256 with 2048 bits, ES256, or HS256.
    pub(crate) fn new(algorithm: Algorithm) -> Result<Self> {
        let signs = match algorithm {
            Algorithm::RS256 => {
                let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?.serialize_der();
                // Within PKCS #8 the private key of PKCS #1 begins behind 26 bytes.
                EncodingKey::from_rsa_der(pair.get(26..).context("a key has more than its frame")?)
            }
            Algorithm::ES256 => EncodingKey::from_ec_der(&KeyPair::generate()?.serialize_der()),
            _ => EncodingKey::from_secret(SECRET),
        };
        if algorithm == Algorithm::HS256 {
            let (checks, published) = (DecodingKey::from_secret(SECRET), SECRET.to_vec());
            return Ok(Self { algorithm, signs, checks, published });
        }
        let mut key = Jwk::from_encoding_key(&signs, algorithm)?;
        key.common.key_id = Some(KEY_ID.to_owned());
        let checks = DecodingKey::from_jwk(&key)?;
        let published = serde_json::to_vec(&JwkSet { keys: vec![key] })?;
        Ok(Self { algorithm, signs, checks, published })
    }

    /// The entry in the gateway's settings, for a file with what is published.
    pub(crate) fn settings(&self, file: &str) -> String {
        let source = if self.algorithm == Algorithm::HS256 { "secret" } else { "jwks" };
        format!(
            "issuers:\n- {{ name: bench, issuer: {ISSUER}, audience: {AUDIENCE}, algorithms: [{:?}], {source}: {{ file: {file} }} }}\n",
            self.algorithm
        )
    }

    /// Tokens of as many users, good for an hour.
    pub(crate) fn tokens(&self, users: usize) -> Result<Vec<String>> {
        let expires = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3_600;
        let mut header = Header::new(self.algorithm);
        header.kid = (self.algorithm != Algorithm::HS256).then(|| KEY_ID.to_owned());
        let token = |user| {
            let claims = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": format!("user-{user}"), "exp": expires});
            Ok(encode(&header, &claims, &self.signs)?)
        };
        (0..users).map(token).collect()
    }

    /// What one check of a signature costs this machine in CPU, with the library that the gateway uses.
    pub(crate) fn check_takes(&self) -> Result<Duration> {
        // The kernel accounts for what runs once a tick.
        const ENOUGH: Duration = Duration::from_millis(100);
        let tokens = self.tokens(50)?;
        let (mut checks, before) = (0, own_cpu()?);
        loop {
            for token in &tokens {
                let (signed, signature) = token.rsplit_once('.').context("a token has three parts")?;
                ensure!(crypto::verify(signature, signed.as_bytes(), &self.checks, self.algorithm)?, "a bad signature");
            }
            checks += tokens.len() as u32;
            let took = own_cpu()?.saturating_sub(before);
            if took > ENOUGH {
                return Ok(took / checks);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_every_algorithm_can_be_checked() {
        for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::HS256] {
            let issuer = Issuer::new(algorithm).unwrap();
            assert!(issuer.check_takes().unwrap() > Duration::ZERO, "{algorithm:?}");
            assert!(issuer.settings("/k").contains(&format!("algorithms: [{algorithm:?}]")));
        }
    }
}
