//! Who a request comes from: its token is held against the keys of its issuer, or put to the cluster.
//!
//! Nothing here knows whether the channel that is asked for exists: whatever this takes, asks or answers is the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tracing::debug;

use crate::auth::claims::Claims;
use crate::auth::credential::Credential;
use crate::auth::current_settings::Rules;
use crate::auth::errand::Errand;
use crate::auth::issuer::Issuer;
use crate::auth::jwt::{Secret, TokenFault, Unverified};
use crate::auth::keyring::{Keyring, NoKeys};
use crate::auth::metrics::TokenMetrics;
use crate::auth::principal::{Caller, Principal};
use crate::auth::review_cache::Reviews;
use crate::auth::settings::{AuthSettings, Kubernetes};
use crate::auth::token_review;
use crate::metrics::registry::Metrics;

/// Checks tokens.
#[derive(Debug)]
pub struct Authority {
    rules: Arc<Rules>,
    metrics: Arc<TokenMetrics>,
    issuers: Mutex<Issuers>,
    reviews: Arc<Reviews>,
}

/// The issuers in force, by what they write as `iss`, each with the task that follows its keys.
#[derive(Debug, Default)]
struct Issuers {
    keyrings: HashMap<String, Followed>,
    /// Ends the tasks when it is dropped.
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Followed {
    keyring: Arc<Keyring>,
    task: tokio::task::AbortHandle,
}

/// Why the sender of the request is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// It has no token.
    NoToken,
    /// Its token is not good.
    Token(TokenFault),
    /// Its token cannot be checked now.
    Unavailable,
}

/// So much is told of what a token has as `iss`.
const MAX_TOLD: usize = 200;

// === impl Authority ===

impl Authority {
    /// Checks tokens by these rules. [`Authority::update`] has to follow every change of them.
    pub fn new(rules: Arc<Rules>, metrics: &Metrics) -> Arc<Self> {
        let metrics = TokenMetrics::registered(metrics);
        let reviews = Arc::new(Reviews::new(rules.clone(), metrics.clone()));
        let authority = Arc::new(Self { rules, metrics, issuers: Mutex::default(), reviews });
        authority.update();
        authority
    }

    /// The rules by which tokens are checked.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// What the cluster says about its identities; somebody has to [`Reviews::follow`] it.
    pub fn reviews(&self) -> &Arc<Reviews> {
        &self.reviews
    }

    /// Takes the issuers up that are set now. One that has not changed keeps its keys.
    pub fn update(&self) {
        let settings = self.rules.settings();
        let mut issuers = self.issuers.lock();
        issuers.keyrings.retain(|_, followed| {
            let stays = settings.issuers.iter().any(|issuer| issuer == followed.keyring.issuer());
            if !stays {
                followed.task.abort();
            }
            stays
        });
        for issuer in &settings.issuers {
            if !issuers.keyrings.contains_key(&issuer.issuer) {
                let followed = self.follow(issuer, &mut issuers.tasks);
                issuers.keyrings.insert(issuer.issuer.clone(), followed);
            }
        }
        // What was aborted is gone by now, or will be next time.
        while issuers.tasks.try_join_next().is_some() {}
    }

    /// Who sent this request, if a good token says so.
    pub async fn identify(&self, credential: Option<Credential>, errand: Errand<'_>) -> Result<Caller, Unknown> {
        let Some(credential) = credential else { return Err(Unknown::NoToken) };
        let token = credential.token.clone();
        let identified = self.check(credential, errand).await;
        if let Err(Unknown::Token(fault)) = &identified {
            self.explain(*fault, &token);
        }
        match &identified {
            Ok(_) => self.metrics.token_accepted(),
            Err(Unknown::Token(fault)) => self.metrics.token_refused(*fault),
            Err(Unknown::Unavailable) => self.metrics.token_unchecked(),
            Err(Unknown::NoToken) => {}
        }
        identified
    }

    /// Logs why a token is refused, for the administrator. Of the token itself only the issuer is logged, which is not verified.
    fn explain(&self, fault: TokenFault, token: &Secret) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let settings = self.rules.settings();
        let unverified = Unverified::read(token.reveal()).ok();
        let written = unverified.as_ref().and_then(Unverified::issuer).unwrap_or_default();
        let known = settings.issuer(written).map(|issuer| &*issuer.name);
        let hint = settings.nearly(written).map(|issuer| {
            format!("the settings have {:?}, with another end: write it there as the tokens do", issuer.issuer)
        });
        let written: String = written.chars().take(MAX_TOLD).collect();
        debug!(fault = fault.as_str(), issuer = known, iss = ?written, hint, "Refused a token.");
    }

    async fn check(&self, credential: Credential, errand: Errand<'_>) -> Result<Caller, Unknown> {
        let settings = self.rules.settings();
        if credential.token.reveal().len() > self.rules.limits().token_bytes() {
            return Err(Unknown::Token(TokenFault::TooLarge));
        }
        let unverified = Unverified::read(credential.token.reveal()).map_err(Unknown::Token)?;
        match (unverified.issuer().and_then(|iss| settings.issuer(iss)), &settings.kubernetes) {
            (Some(issuer), _) => {
                let principal = self.verify(unverified, issuer).await?;
                let principal = Arc::new(not_denied(principal, &settings)?);
                Ok(Caller { principal, provenance: credential.provenance, verdict: None })
            }
            (None, Some(kubernetes)) => {
                let until = token_review::plausible(&unverified, &kubernetes.audiences, SystemTime::now());
                let until = until.map_err(Unknown::Token)?;
                let claims = unverified.into_claims();
                self.review(&credential, kubernetes, errand, &settings, (&claims, until)).await
            }
            (None, None) => Err(Unknown::Token(TokenFault::Issuer)),
        }
    }

    async fn verify(&self, unverified: Unverified<'_>, issuer: &Arc<Issuer>) -> Result<Principal, Unknown> {
        let algorithm = unverified.algorithm(issuer).map_err(Unknown::Token)?;
        let keyring = self.issuers.lock().keyrings.get(&issuer.issuer).map(|followed| followed.keyring.clone());
        // Just set, and not taken up yet.
        let keyring = keyring.ok_or(Unknown::Unavailable)?;
        let keys = keyring.find(unverified.key_id(), algorithm).await.map_err(|error| match error {
            NoKeys::Unknown => Unknown::Token(TokenFault::Key),
            NoKeys::Unavailable => Unknown::Unavailable,
        })?;
        let verified = unverified.verify(issuer, &keys, SystemTime::now()).map_err(|fault| match fault {
            TokenFault::Signature if keyring.misses_a_secret() => Unknown::Unavailable,
            fault => Unknown::Token(fault),
        })?;
        Ok(Principal::new(issuer.name.clone(), verified))
    }

    async fn review(
        &self,
        credential: &Credential,
        kubernetes: &Kubernetes,
        errand: Errand<'_>,
        settings: &AuthSettings,
        (claims, until): (&Claims, SystemTime),
    ) -> Result<Caller, Unknown> {
        let token = &credential.token;
        let identity = self
            .reviews
            .identity(token, &kubernetes.audiences, errand.client)
            .await
            .map_err(|_| Unknown::Unavailable)?;
        let identity = identity.ok_or(Unknown::Token(TokenFault::Denied))?;
        let principal = Arc::new(not_denied(identity.principal(claims, until), settings)?);
        let verdict = self.reviews.verdict(token, until, &identity, errand).await.map_err(|_| Unknown::Unavailable)?;
        Ok(Caller { principal, provenance: credential.provenance.clone(), verdict: Some(verdict) })
    }

    fn follow(&self, issuer: &Arc<Issuer>, tasks: &mut JoinSet<()>) -> Followed {
        let keyring = Arc::new(Keyring::new(issuer.clone()));
        let (follower, metrics) = (keyring.clone(), self.metrics.clone());
        let task = tasks.spawn(async move { follower.follow(&metrics).await });
        Followed { keyring, task }
    }
}

fn not_denied(principal: Principal, settings: &AuthSettings) -> Result<Principal, Unknown> {
    if settings.denied.contains(&principal.issuer, principal.subject(), principal.token_id()) {
        return Err(Unknown::Token(TokenFault::Denied));
    }
    Ok(principal)
}
