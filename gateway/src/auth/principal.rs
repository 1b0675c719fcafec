//! Who a request comes from, once its token was found to be good. Pure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::auth::claims::Claims;
use crate::auth::credential::Provenance;
use crate::auth::grant::OwnGrants;
use crate::auth::issuer::KUBERNETES;
use crate::auth::jwt::Verified;

/// The bearer of a good token.
#[derive(Debug)]
pub struct Principal {
    /// The name of the issuer, as Channels write it; `kubernetes` for identities of the cluster.
    pub issuer: Arc<str>,
    /// Until when the token counts.
    pub until: SystemTime,
    /// What the token says.
    pub claims: Claims,
    /// What the token grants by itself.
    pub own: OwnGrants,
}

/// A request whose token was found to be good.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whose token it is.
    pub principal: Arc<Principal>,
    /// Where it stood.
    pub provenance: Provenance,
    /// What the cluster says about it and this channel; for identities of the cluster only.
    pub verdict: Option<Arc<Verdict>>,
}

/// Whether the cluster allows one identity one thing, as far as was last heard.
#[derive(Debug, Default)]
pub struct Verdict(AtomicBool);

// === impl Principal ===

impl Principal {
    /// The bearer of a token that an issuer of this name has made.
    pub fn new(issuer: Arc<str>, verified: Verified) -> Self {
        let Verified { claims, until } = verified;
        // What an identity of the cluster may do is told by the cluster alone.
        let own = if &*issuer == KUBERNETES { OwnGrants::default() } else { OwnGrants::of(&claims) };
        Self { issuer, until, claims, own }
    }

    /// `sub` of the token.
    pub fn subject(&self) -> Option<&str> {
        self.claims.text("sub")
    }

    /// `jti` of the token.
    pub fn token_id(&self) -> Option<&str> {
        self.claims.text("jti")
    }

    /// What limits count this principal by: as good as unique, whatever the subject looks like. A token without a subject
    /// may be anybody's.
    pub fn fingerprint(&self) -> Option<u128> {
        let subject = self.subject()?;
        let hash =
            Sha256::new().chain_update(self.issuer.as_bytes()).chain_update([0]).chain_update(subject).finalize();
        let (first, _) = hash.split_first_chunk::<16>()?;
        Some(u128::from_be_bytes(*first))
    }
}

// === impl Verdict ===

impl Verdict {
    /// A verdict.
    pub fn new(allowed: bool) -> Self {
        Self(AtomicBool::new(allowed))
    }

    /// Whether it is allowed.
    pub fn is_allowed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// What was heard now; whether that is another answer than before.
    pub fn set(&self, allowed: bool) -> bool {
        self.0.swap(allowed, Ordering::AcqRel) != allowed
    }
}
