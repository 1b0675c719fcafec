//! What the API server was asked, and by whom: its own audit log.
//!
//! The only exact answer to "how many writes does a Channel cost" and "was anything refused": it counts what arrived, not
//! what a client believes to have sent.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

/// Requests of service accounts, but not of Kubernetes' own controllers. One entry per request, when its answer is complete.
pub(crate) const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    userGroups: ['system:serviceaccounts:kube-system']
  - level: Metadata
    userGroups: ['system:serviceaccounts']
  - level: None
";

/// The audit log of a control plane.
#[derive(Clone, Debug)]
pub struct ApiAudit {
    path: PathBuf,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRequest {
    /// Who asked: `system:serviceaccount:<namespace>:<name>`.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// The resource in the plural, with its subresource: `channels/status`. Empty for a plain path.
    pub resource: String,
    /// Its namespace; empty for what has none.
    pub namespace: String,
    /// Its name; empty for lists and for what is named by the server.
    pub name: String,
    /// The HTTP status of the answer.
    pub code: u16,
}

impl ApiRequest {
    /// Whether the request could change anything.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

impl ApiAudit {
    pub(crate) fn new(path: PathBuf) -> ApiAudit {
        ApiAudit { path }
    }

    /// Where the log ends now, for [`since`](Self::since).
    pub fn mark(&self) -> Result<usize> {
        Ok(self.read()?.len())
    }

    /// The requests of one service account since a mark (0: since the start), in the order of their answers.
    pub fn since(&self, mark: usize, namespace: &str, account: &str) -> Result<Vec<ApiRequest>> {
        let user = format!("system:serviceaccount:{namespace}:{account}");
        let log = self.read()?;
        let mut requests = Vec::new();
        // A line that is still being written has no end yet.
        for line in log.get(mark..).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
            if !line.ends_with(b"\n") {
                break;
            }
            let entry: Entry = serde_json::from_slice(line).context("failed to read a line of the audit log")?;
            // A watch is logged when it starts and again when it ends.
            if entry.user.username == user && (entry.stage == "ResponseComplete") != (entry.verb == "watch") {
                requests.push(entry.into());
            }
        }
        Ok(requests)
    }

    fn read(&self) -> Result<Vec<u8>> {
        match std::fs::read(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read.context("failed to read the audit log"),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    stage: String,
    verb: String,
    user: User,
    object_ref: Option<ObjectReference>,
    response_status: Option<ResponseStatus>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ObjectReference {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResponseStatus {
    code: u16,
}

impl From<Entry> for ApiRequest {
    fn from(entry: Entry) -> ApiRequest {
        let object = entry.object_ref.unwrap_or_default();
        let resource = match object.subresource.as_str() {
            "" => object.resource,
            subresource => format!("{}/{subresource}", object.resource),
        };
        ApiRequest {
            user: entry.user.username,
            verb: entry.verb,
            resource,
            namespace: object.namespace,
            name: object.name,
            code: entry.response_status.unwrap_or_default().code,
        }
    }
}
