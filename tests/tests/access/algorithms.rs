//! Every algorithm that the settings take, with a real key.

use jsonwebtoken::Algorithm;
use serde_json::json;
use tempfile::TempDir;
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::manifest::Manifest;
use tidings_tests::token::{Draft, TokenKey};
use tidings_tests::wait::{PATIENCE, eventually};

use crate::house::{SECRET, get, token_channel};

const WITH_KEYS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

const WITH_SECRETS: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];

/// One issuer for each algorithm.
async fn open(directory: &TempDir) -> (Installation, Manifest, Vec<(Algorithm, TokenKey)>) {
    let path = |name: String| directory.path().join(name);
    let mut settings = "issuers:\n".to_owned();
    let mut keys = Vec::new();
    for algorithm in WITH_KEYS {
        let (key, file) = (TokenKey::new(algorithm, "k"), path(format!("{algorithm:?}.json")));
        std::fs::write(&file, json!({ "keys": [key.jwk()] }).to_string()).expect("written");
        settings += &issuer(algorithm, &format!("jwks: {{ file: '{}' }}", file.display()));
        keys.push((algorithm, key));
    }
    for algorithm in WITH_SECRETS {
        let (secret, file) = ([SECRET, SECRET].concat(), path(format!("{algorithm:?}.key")));
        std::fs::write(&file, &secret).expect("written");
        settings += &issuer(algorithm, &format!("secret: {{ file: '{}' }}", file.display()));
        keys.push((algorithm, TokenKey::shared_for(algorithm, &secret)));
    }
    let file = path("settings.yaml".to_owned());
    std::fs::write(&file, settings).expect("written");
    let site = Settings::default().gateway_arg(&format!("--config={}", file.display())).start().await;
    let channel = site.channel(token_channel("orders", json!(["all"]))).await;
    (site, channel, keys)
}

fn issuer(algorithm: Algorithm, keys: &str) -> String {
    let name = format!("{algorithm:?}").to_lowercase();
    format!("  - {{ name: {name}, issuer: {name}, audience: tidings, algorithms: [{algorithm:?}], {keys} }}\n")
}

#[tokio::test]
async fn every_algorithm_verifies_what_its_key_has_signed_and_nothing_else() {
    let directory = tempfile::Builder::new().prefix("tidings-algorithms-").tempdir().expect("a directory");
    let (site, channel, keys) = open(&directory).await;
    let status = async |token: &str| {
        let request = get(site.url(0, &channel, &[])).header("authorization", format!("Bearer {token}"));
        request.open().await.expect("an answer").status().as_u16()
    };
    for (algorithm, key) in &keys {
        let name = format!("{algorithm:?}").to_lowercase();
        let good = key.sign(&Draft::new(&name, "ann"));
        // Its keys may not have been read yet: then it answers 200 as well, and sends away.
        let opened = async || {
            let request = get(site.url(0, &channel, &[])).header("authorization", format!("Bearer {good}"));
            let answer = request.open().await.expect("an answer");
            answer.status() == 200 && !answer.headers().contains_key("content-length")
        };
        eventually(PATIENCE, &format!("{algorithm:?} verifies"), opened).await;
        let (signed, signature) = good.rsplit_once('.').expect("a token has a signature");
        let altered = if signature.starts_with('A') { "B" } else { "A" };
        assert_eq!(status(&format!("{signed}.{altered}{}", &signature[1..])).await, 401, "{algorithm:?}, altered");
        assert_eq!(status(&format!("{signed}.")).await, 401, "{algorithm:?}, without a signature");
        for (other, stranger) in &keys {
            if other == algorithm {
                continue;
            }
            // Signed by another key with its own algorithm, and then as if it were with this one.
            let draft = Draft::new(&name, "ann");
            assert_eq!(status(&stranger.sign(&draft)).await, 401, "{algorithm:?} by {other:?}");
            let disguised = draft.header("alg", serde_json::to_value(algorithm).expect("a name"));
            assert_eq!(status(&stranger.sign(&disguised)).await, 401, "{algorithm:?} by {other:?} in disguise");
        }
    }
}
