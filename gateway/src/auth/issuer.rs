//! One issuer of tokens, as the administrator has configured it. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde::Deserialize;
use tidings_crds::fault::Fault;

use crate::auth::jwks_client::is_private;

/// An issuer whose tokens are accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Issuer {
    /// What Channels call it.
    pub name: Arc<str>,
    /// What its tokens have as `iss`.
    pub issuer: String,
    /// The claim that says whom a token is made for: `aud`, if nothing else is set.
    pub audience_claim: String,
    /// One of these has to be in it.
    pub audiences: Vec<String>,
    /// Claims that have to be there with this value, or with a list that holds it.
    pub required: BTreeMap<String, String>,
    /// What its tokens may be signed with, and nothing else.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys are.
    pub keys: KeySource,
    /// How far our clock may be ahead of, or behind, the issuer's.
    pub leeway: Duration,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq)]
pub enum KeySource {
    /// A JSON Web Key Set behind an address.
    Url {
        /// The address.
        url: Uri,
        /// The certificate authorities to trust instead of the system's.
        ca: Option<PathBuf>,
    },
    /// A JSON Web Key Set whose address the issuer's discovery document tells.
    Discovered {
        /// The address of that document.
        at: Uri,
        /// The certificate authorities to trust instead of the system's.
        ca: Option<PathBuf>,
    },
    /// A JSON Web Key Set in a file.
    File(PathBuf),
    /// A secret that the issuer shares with us, in a file.
    Secret {
        /// The secret in use.
        file: PathBuf,
        /// The one before it, for as long as tokens made with it are about.
        previous: Option<PathBuf>,
    },
}

/// An issuer as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IssuerDocument {
    name: String,
    issuer: String,
    audience: OneOrMany,
    audience_claim: Option<String>,
    #[serde(default)]
    require: BTreeMap<String, String>,
    algorithms: Option<Vec<String>>,
    jwks: Option<JwksDocument>,
    secret: Option<SecretDocument>,
    leeway_seconds: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JwksDocument {
    url: Option<String>,
    ca_file: Option<PathBuf>,
    file: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SecretDocument {
    file: PathBuf,
    previous_file: Option<PathBuf>,
}

/// What Channels call the identities of the cluster; no configured issuer may be called so.
pub const KUBERNETES: &str = "kubernetes";

/// More than this would accept tokens long after they have expired.
const MAX_LEEWAY_SECONDS: u64 = 30;

const DEFAULT_LEEWAY_SECONDS: u64 = 10;

/// What public keys verify.
const ASYMMETRIC: [Algorithm; 9] = [
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

// === impl Issuer ===

impl Issuer {
    /// Reads one issuer; every fault with its path below `at`.
    pub fn read(document: IssuerDocument, at: &str) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |field: &str, message: &str| faults.push(Fault::new(format!("{at}.{field}"), message));
        let IssuerDocument { name, issuer, audience, algorithms, jwks, secret, leeway_seconds, .. } = &document;
        let leeway_seconds = *leeway_seconds;
        if !is_name(name) {
            fault("name", "a name is 1 to 63 lower case letters, digits and dashes, as in main");
        }
        if name == KUBERNETES {
            fault("name", "the name kubernetes is reserved for the identities of the cluster: choose another name");
        }
        if issuer.is_empty() {
            fault("issuer", "write what the tokens have as iss");
        }
        let audiences = match audience {
            OneOrMany::One(audience) => std::slice::from_ref(audience),
            OneOrMany::Many(audiences) => audiences,
        };
        if document.audience_claim.as_ref().is_some_and(String::is_empty) {
            fault("audienceClaim", "write the claim that says whom a token is made for, as in azp");
        }
        if document.require.iter().any(|(claim, value)| claim.is_empty() || value.is_empty()) {
            fault("require", "write claims and their values, as in { token_use: access }");
        }
        if audiences.is_empty() || audiences.iter().any(String::is_empty) {
            fault("audience", "write what the tokens have as aud, as in tidings");
        }
        let leeway = leeway_seconds.unwrap_or(DEFAULT_LEEWAY_SECONDS);
        if leeway > MAX_LEEWAY_SECONDS {
            fault("leewaySeconds", "at most 30 seconds: set the clocks instead");
        }
        let shared = |algorithm: &Algorithm| AlgorithmFamily::Hmac.algorithms().contains(algorithm);
        let known = read_algorithms(algorithms.as_deref(), secret.is_some());
        let known = known.map_err(|message| fault("algorithms", message)).unwrap_or_default();
        let keys = match (jwks, secret) {
            (jwks, None) => {
                if known.iter().any(shared) {
                    let message = "HS256, HS384 and HS512 need a secret: with public keys anyone could sign";
                    fault("algorithms", message);
                }
                let jwks = jwks.clone().unwrap_or_default();
                jwks.read(issuer).map_err(|message| fault("jwks", message)).ok()
            }
            (None, Some(secret)) => {
                if !known.iter().all(shared) {
                    fault("algorithms", "a secret signs with HS256, HS384 or HS512 and nothing else");
                }
                Some(KeySource::Secret { file: secret.file.clone(), previous: secret.previous_file.clone() })
            }
            (Some(_), Some(_)) => {
                fault("jwks", "write either jwks, or secret with a file");
                None
            }
        };
        match keys.filter(|_| faults.is_empty()) {
            Some(keys) => Ok(Self {
                name: name.as_str().into(),
                issuer: issuer.clone(),
                audience_claim: document.audience_claim.clone().unwrap_or_else(|| "aud".to_owned()),
                audiences: audiences.to_vec(),
                required: document.require.clone(),
                algorithms: known,
                keys,
                leeway: Duration::from_secs(leeway),
            }),
            None => Err(faults),
        }
    }
}

// === impl JwksDocument ===

impl JwksDocument {
    fn read(self, issuer: &str) -> Result<KeySource, &'static str> {
        match self {
            Self { url: Some(url), ca_file, file: None } => {
                let url: Uri = url.parse().map_err(|_| "url: write an address, as in https://id.example/keys")?;
                if !is_private(&url) {
                    return Err("url: keys must come over https, so that they cannot be replaced on the way");
                }
                Ok(KeySource::Url { url, ca: ca_file })
            }
            Self { url: None, ca_file: None, file: Some(file) } => Ok(KeySource::File(file)),
            Self { url: None, ca_file, file: None } => {
                let at = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')).parse().ok();
                let at = at.filter(is_private).ok_or(
                    "the issuer is no https address at which its keys could be discovered: write jwks with a url or a file, \
                     or secret with a file",
                )?;
                Ok(KeySource::Discovered { at, ca: ca_file })
            }
            _ => Err("write either url, with a caFile if you like, or file"),
        }
    }
}

/// What an issuer signs with: all that public keys verify if nothing is written, for each key says what it is for.
fn read_algorithms(texts: Option<&[String]>, shared: bool) -> Result<Vec<Algorithm>, &'static str> {
    let Some(texts) = texts else {
        let missing = "write what the tokens are signed with: some of HS256, HS384 and HS512";
        return if shared { Err(missing) } else { Ok(ASYMMETRIC.to_vec()) };
    };
    let known: Vec<Algorithm> = texts.iter().filter_map(|text| algorithm(text)).collect();
    if known.is_empty() || known.len() != texts.len() {
        return Err(
            "write what the tokens are signed with: some of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and \
                    EdDSA, or some of HS256, HS384 and HS512 with a secret",
        );
    }
    Ok(known)
}

/// An algorithm by its name; RFC 9864 calls EdDSA by its curve.
pub fn algorithm(name: &str) -> Option<Algorithm> {
    if name == "Ed25519" { Some(Algorithm::EdDSA) } else { name.parse().ok() }
}

/// Whether it is a DNS label, as the names of Channels, namespaces and issuers are.
pub fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn issuer(yaml: &str) -> Result<Issuer, Vec<Fault>> {
        Issuer::read(serde_yaml::from_str(yaml).unwrap(), "issuers[0]")
    }

    const MAIN: &str = "{name: main, issuer: https://id.example, audience: tidings, algorithms: [RS256, ES256], \
                        jwks: {url: https://id.example/keys}}";

    #[test]
    fn an_issuer_is_what_is_written() {
        let read = issuer(MAIN).unwrap();
        assert_eq!((&*read.name, read.issuer.as_str()), ("main", "https://id.example"));
        assert_eq!(read.audiences, ["tidings"]);
        assert_eq!(read.algorithms, [Algorithm::RS256, Algorithm::ES256]);
        assert_eq!(read.leeway, Duration::from_secs(10));
        assert_eq!(read.keys, KeySource::Url { url: "https://id.example/keys".parse().unwrap(), ca: None });
        let shared = "{name: t, issuer: t, audience: [a, b], algorithms: [HS256], leewaySeconds: 0, \
                      secret: {file: /s, previousFile: /p}}";
        let read = issuer(shared).unwrap();
        assert_eq!(read.keys, KeySource::Secret { file: "/s".into(), previous: Some("/p".into()) });
        assert_eq!((read.audiences.len(), read.leeway), (2, Duration::ZERO));
    }

    #[test]
    fn every_fault_says_what_to_write() {
        for (from, to, path, hint) in [
            ("name: main", "name: Main", "name", "lower case"),
            ("name: main", "name: kubernetes", "name", "choose another"),
            ("issuer: https://id.example", "issuer: ''", "issuer", "as iss"),
            ("audience: tidings", "audience: []", "audience", "as aud"),
            ("audience: tidings", "audience: ['']", "audience", "as aud"),
            ("[RS256, ES256]", "[]", "algorithms", "RS256"),
            ("[RS256, ES256]", "[none]", "algorithms", "RS256"),
            ("[RS256, ES256]", "[RS256, HS256]", "algorithms", "anyone could sign"),
            ("jwks: {url: https://id.example/keys}", "secret: {file: /s}", "algorithms", "HS256"),
            ("issuer: https://id.example", "issuer: id.example, secret: {file: /s}", "jwks", "either jwks"),
            ("jwks: {url: https://id.example/keys}", "audienceClaim: ''", "audienceClaim", "as in azp"),
            ("jwks: {url: https://id.example/keys}", "require: {token_use: ''}", "require", "token_use: access"),
            ("{url: https://id.example/keys}", "{url: http://id.example/keys}", "jwks", "https"),
            ("{url: https://id.example/keys}", "{url: 'ftp://127.0.0.1/'}", "jwks", "https"),
            ("{url: https://id.example/keys}", "{url: 'http://127.0.0.1.evil.example/'}", "jwks", "https"),
            ("{url: https://id.example/keys}", "{url: 'https://a/', file: /f}", "jwks", "either url"),
            ("name: main", "name: main, leewaySeconds: 31", "leewaySeconds", "at most 30"),
        ] {
            let faults = issuer(&MAIN.replace(from, to)).unwrap_err();
            let path = format!("issuers[0].{path}");
            assert!(faults.iter().any(|f| f.path == path && f.message.contains(hint)), "{to}: {faults:?}");
        }
    }

    #[test]
    fn an_issuer_that_is_an_address_needs_nothing_else() {
        let read = issuer("{name: main, issuer: https://id.example/realms/shop/, audience: tidings}").unwrap();
        let at = "https://id.example/realms/shop/.well-known/openid-configuration".parse().unwrap();
        assert_eq!(read.keys, KeySource::Discovered { at, ca: None });
        assert_eq!((read.algorithms.len(), read.audience_claim.as_str()), (9, "aud"));
        let read =
            issuer("{name: m, issuer: 'https://i', audience: a, audienceClaim: azp, jwks: {caFile: /c}}").unwrap();
        assert!(matches!(read.keys, KeySource::Discovered { ca: Some(_), .. }) && read.audience_claim == "azp");
        for no_address in ["id.example", "http://id.example", "shop"] {
            let faults = issuer(&format!("{{name: m, issuer: '{no_address}', audience: a}}")).unwrap_err();
            assert!(faults.iter().any(|fault| fault.message.contains("discovered")), "{no_address}: {faults:?}");
        }
        assert!(
            issuer("{name: m, issuer: i, audience: a, secret: {file: /s}}").is_err(),
            "a secret needs its algorithm"
        );
    }

    #[test]
    fn keys_may_come_in_the_clear_from_this_machine_alone() {
        for url in ["http://127.0.0.1:1/k", "http://localhost/k", "http://[::1]:1/k", "https://id.example/k"] {
            assert!(
                issuer(&MAIN.replace("https://id.example/keys", url).replace("url: ", "url: '").replace("k}", "k'}"))
                    .is_ok(),
                "{url}"
            );
        }
    }
}
