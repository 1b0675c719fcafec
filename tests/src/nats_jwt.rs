//! A NATS operator with accounts and users whose rights stand in signed tokens, as `nsc` makes them
//! (<https://docs.nats.io/running-a-nats-service/configuration/securing_nats/jwt>).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::evidence;

/// An operator with one account for everybody.
#[derive(Debug)]
pub struct NatsAuthority {
    operator: KeyPair,
    system: KeyPair,
    account: KeyPair,
}

// === impl NatsAuthority ===

impl NatsAuthority {
    /// With new keys.
    pub fn new() -> Self {
        Self { operator: KeyPair::new_operator(), system: KeyPair::new_account(), account: KeyPair::new_account() }
    }

    /// What a server needs to know, as lines of its configuration.
    pub fn configuration(&self) -> String {
        let system = self.system.public_key();
        let operator = json!({ "type": "operator", "version": 2, "system_account": system });
        let operator = signed(&self.operator, &self.operator, "operator", None, operator);
        let accounts: String = [(&self.system, "system", 0), (&self.account, "tidings", -1)]
            .map(|(account, name, streams)| {
                let limits = json!({
                    "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
                    "leaf": -1, "mem_storage": streams, "disk_storage": streams, "streams": streams, "consumer": streams,
                });
                let nats = json!({
                    "type": "account", "version": 2, "limits": limits, "default_permissions": { "pub": {}, "sub": {} },
                });
                format!("  {}: {}\n", account.public_key(), signed(&self.operator, account, name, None, nats))
            })
            .concat();
        format!("operator: {operator}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload {{\n{accounts}}}\n")
    }

    /// A credentials file of a new user that may do everything, for this long or for ever.
    pub fn credentials(&self, name: &str, life: Option<Duration>) -> String {
        let user = KeyPair::new_user();
        let nats = json!({
            "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1,
        });
        let jwt = signed(&self.account, &user, name, life, nats);
        let seed = user.seed().expect("it was made with one");
        evidence::made(&jwt);
        evidence::made(&seed);
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }
}

impl Default for NatsAuthority {
    fn default() -> Self {
        Self::new()
    }
}

fn signed(by: &KeyPair, subject: &KeyPair, name: &str, life: Option<Duration>, nats: Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut claims = json!({
        "jti": subject.public_key(), "iat": now.as_secs(), "iss": by.public_key(), "sub": subject.public_key(),
        "name": name, "nats": nats,
    });
    if let Some(life) = life {
        claims["exp"] = json!((now + life).as_secs());
    }
    let encode = |document: Value| BASE64_URL_SAFE_NO_PAD.encode(document.to_string());
    let body = format!("{}.{}", encode(json!({ "typ": "JWT", "alg": "ed25519-nkey" })), encode(claims));
    let signature = by.sign(body.as_bytes()).expect("it has a seed");
    format!("{body}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}
