//! A namespace that one test has for itself.

use std::fmt;

use crate::kubectl::Kubectl;

/// A namespace. In the user's cluster it is deleted when this is dropped; in a control plane of ours it goes with that.
#[derive(Debug)]
pub struct KubeNamespace {
    name: String,
    delete_with: Option<Kubectl>,
}

impl KubeNamespace {
    pub(crate) fn new(name: String, delete_with: Option<Kubectl>) -> KubeNamespace {
        KubeNamespace { name, delete_with }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for KubeNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Drop for KubeNamespace {
    fn drop(&mut self) {
        if let Some(kubectl) = &self.delete_with {
            kubectl.run_detached(&["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"]);
        }
    }
}
