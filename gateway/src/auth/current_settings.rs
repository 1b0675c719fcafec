//! The settings in force, and a number that grows whenever open streams have to be looked at again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::auth::issuer::KUBERNETES;
use crate::auth::principal::Principal;
use crate::auth::settings::AuthSettings;
use crate::limits::quota::Quotas;

/// What holds for everybody now.
#[derive(Debug)]
pub struct Rules {
    settings: ArcSwap<AuthSettings>,
    limits: ArcSwap<Quotas>,
    revision: AtomicU64,
}

// === impl Rules ===

impl Rules {
    /// These settings and limits.
    pub fn new(settings: AuthSettings, limits: Quotas) -> Self {
        Self {
            settings: ArcSwap::from_pointee(settings),
            limits: ArcSwap::from_pointee(limits),
            revision: AtomicU64::new(0),
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<AuthSettings> {
        self.settings.load_full()
    }

    /// The limits in force.
    pub fn limits(&self) -> Arc<Quotas> {
        self.limits.load_full()
    }

    /// Puts others in force. The caller wakes the open streams.
    pub fn replace(&self, settings: AuthSettings, limits: Quotas) {
        self.settings.store(Arc::new(settings));
        self.limits.store(Arc::new(limits));
        self.changed();
    }

    /// Something that open streams depend on is no longer what it was. The caller wakes the streams that it concerns.
    pub fn changed(&self) {
        self.revision.fetch_add(1, Ordering::AcqRel);
    }

    /// Grows with every change.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Whether this principal's token is still accepted: its issuer is one, and nobody has listed it.
    pub fn accept(&self, principal: &Principal) -> bool {
        let settings = self.settings.load();
        let known = match &*principal.issuer {
            KUBERNETES => settings.kubernetes.is_some(),
            name => settings
                .issuers
                .iter()
                .any(|issuer| &*issuer.name == name && principal.claims.text("iss") == Some(issuer.issuer.as_str())),
        };
        known && !settings.denied.contains(&principal.issuer, principal.subject(), principal.token_id())
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::new(AuthSettings::default(), Quotas::default())
    }
}
