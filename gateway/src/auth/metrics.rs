//! What is counted of tokens, of the keys of issuers, and of questions to the cluster.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::auth::jwt::TokenFault;
use crate::metrics::instrument::{Counter, Counters, write};
use crate::metrics::label::closed_set;
use crate::metrics::registry::Metrics;

/// What is counted of tokens.
#[derive(Debug, Default)]
pub struct TokenMetrics {
    tokens_accepted: Counter,
    tokens_refused: Counters<TokenFault>,
    tokens_unchecked: Counter,
    key_reads: Counters<KeyRead>,
    reviews: Counters<Review>,
    reviews_failed: Counters<Review>,
    reviews_limited: Counters<Review>,
}

closed_set! {
    /// What the Kubernetes API server was asked.
    pub enum Review {
        /// Whose token it is.
        Token = "token",
        /// What its bearer may do.
        Access = "access",
    }
}

closed_set! {
    /// How a look at an issuer's keys ended.
    pub enum KeyRead {
        /// Keys were there.
        Taken = "taken",
        /// No answer, or none that holds keys; the last ones stay.
        Failed = "failed",
    }
}

// === impl TokenMetrics ===

impl TokenMetrics {
    /// Exposed with the others.
    pub fn registered(metrics: &Metrics) -> Arc<Self> {
        let tokens = Arc::<Self>::default();
        metrics.register(tokens.clone());
        tokens
    }

    /// A request came with a good token.
    pub fn token_accepted(&self) {
        self.tokens_accepted.one();
    }

    /// A request came with a token that is not good.
    pub fn token_refused(&self, fault: TokenFault) {
        self.tokens_refused.one(fault);
    }

    /// A request came with a token that could not be checked.
    pub fn token_unchecked(&self) {
        self.tokens_unchecked.one();
    }

    /// The keys of an issuer were looked at.
    pub fn keys_read(&self, read: KeyRead) {
        self.key_reads.one(read);
    }

    /// The Kubernetes API server was asked, and answered or not.
    pub fn reviewed(&self, what: Review, answered: bool) {
        self.reviews.one(what);
        if !answered {
            self.reviews_failed.one(what);
        }
    }

    /// A review was not requested: the client or the identity exceeded its budget.
    pub fn review_limited(&self, what: Review) {
        self.reviews_limited.one(what);
    }
}

impl Collector for TokenMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let all = || [(&[][..], self)];
        let e = &mut encoder;
        write(e, ("tokens_accepted", "", "Requests with a valid token"), all(), |t| &t.tokens_accepted)?;
        let help = "Requests with an invalid token";
        write(e, ("tokens_refused", "reason", help), all(), |t| &t.tokens_refused)?;
        let help = "Requests whose token could not be verified because its issuer's keys or the Kubernetes API server are unavailable";
        write(e, ("tokens_unchecked", "", help), all(), |t| &t.tokens_unchecked)?;
        let help = "JWKS refreshes by outcome; a failed refresh keeps the last good keys";
        write(e, ("issuer_key_reads", "outcome", help), all(), |t| &t.key_reads)?;
        let help = "Reviews requested from the Kubernetes API server";
        write(e, ("reviews", "kind", help), all(), |t| &t.reviews)?;
        let help = "Reviews that the Kubernetes API server did not answer";
        write(e, ("reviews_failed", "kind", help), all(), |t| &t.reviews_failed)?;
        let help = "Reviews that were not requested because a client or an identity exceeded its budget";
        write(e, ("reviews_limited", "kind", help), all(), |t| &t.reviews_limited)
    }
}
