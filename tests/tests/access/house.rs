//! The installation that the other modules ask.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidings_tests::event_source::{EventSource, Settings as Client};
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::key_server::{Day, KeyServer};
use tidings_tests::manifest::Manifest;
use tidings_tests::token::{Draft, TokenKey};
use tidings_tests::web::Request;

pub(crate) const MAIN: &str = "https://id.example";
pub(crate) const OTHER: &str = "https://other.example";
pub(crate) const TICKETS: &str = "https://tickets.example";
pub(crate) const SECRET: &[u8] = b"thirty-two bytes that nobody can guess";

/// An installation whose gateway accepts tokens of three issuers: `main` with keys behind an address, `other` with keys
/// in a file, `tickets` with a secret.
pub(crate) struct House {
    pub(crate) site: Installation,
    pub(crate) keys: TokenKey,
    pub(crate) old_keys: TokenKey,
    pub(crate) other: TokenKey,
    pub(crate) tickets: TokenKey,
    server: KeyServer,
    directory: TempDir,
}

impl House {
    pub(crate) async fn open() -> Self {
        Self::open_with(Settings::default(), "").await
    }

    pub(crate) async fn open_with(settings: Settings, more: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("tidings-access-").tempdir().expect("a directory");
        let (keys, old_keys, other) = (TokenKey::rs256("a"), TokenKey::es256("b"), TokenKey::es256("o"));
        let server = KeyServer::start(Day::keys(&[&keys, &old_keys])).await;
        let write = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).expect("written");
        write("other.json", json!({"keys": [other.jwk()]}).to_string().as_bytes());
        write("tickets.key", SECRET);
        let text = settings_text(&server.url(), &directory, more);
        write("settings.yaml", text.as_bytes());
        let config = format!("--config={}", directory.path().join("settings.yaml").display());
        let site = settings.gateway_arg(&config).start().await;
        Self { site, keys, old_keys, other, tickets: TokenKey::shared(SECRET), server, directory }
    }

    /// Writes the settings anew, as an editor does.
    pub(crate) fn set(&self, more: &str) {
        self.set_text(&settings_text(&self.server.url(), &self.directory, more));
    }

    pub(crate) fn set_text(&self, text: &str) {
        let unfinished = self.file("settings.tmp");
        std::fs::write(&unfinished, text).expect("written");
        std::fs::rename(unfinished, self.file("settings.yaml")).expect("renamed");
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn url(&self, channel: &Manifest, parameters: &[(&str, &str)]) -> String {
        self.site.url(0, channel, parameters)
    }

    pub(crate) fn ann(&self) -> String {
        self.keys.sign(&Draft::new(MAIN, "ann"))
    }

    /// A client with a token in the header, not yet connected.
    pub(crate) fn client(&self, channel: &Manifest, parameters: &[(&str, &str)], token: &str) -> Client {
        self.site.client(0, channel, parameters).header("authorization", &format!("Bearer {token}"))
    }

    /// The same, connected and at the head.
    pub(crate) async fn subscribe(&self, channel: &Manifest, parameters: &[(&str, &str)], token: &str) -> EventSource {
        let mut source = self.client(channel, parameters, token).open();
        source.next_open().await;
        source.wait_for("the head of the stream", |record| (record.len() > 2).then_some(())).await;
        source
    }

    pub(crate) async fn get(&self, channel: &Manifest, token: &str) -> u16 {
        let request = get(self.url(channel, &[])).header("authorization", format!("Bearer {token}"));
        request.open().await.expect("an answer").status().as_u16()
    }
}

fn settings_text(url: &str, directory: &TempDir, more: &str) -> String {
    let at = directory.path().display();
    format!(
        "issuers:
  - {{ name: main, issuer: {MAIN}, audience: tidings, algorithms: [RS256, ES256], jwks: {{ url: '{url}' }}, leewaySeconds: 0 }}
  - {{ name: other, issuer: {OTHER}, audience: [x, tidings], algorithms: [ES256], jwks: {{ file: '{at}/other.json' }} }}
  - {{ name: tickets, issuer: {TICKETS}, audience: tidings, algorithms: [HS256], secret: {{ file: '{at}/tickets.key' }} }}
{more}"
    )
}

pub(crate) fn get(url: String) -> Request {
    Request::get(url).header("accept", "text/event-stream")
}

pub(crate) fn token_channel(name: &str, topics: Value) -> Manifest {
    let grant = json!({ "mode": "Token", "topics": topics });
    Manifest::new("test", name).with("access/subscribe", grant.clone()).with("access/publish", grant)
}
