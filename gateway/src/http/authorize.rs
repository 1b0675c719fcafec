//! What a request is entitled to: who sent it, and what the channel grants them of what they ask for.
//!
//! Whatever is refused here is refused in the same words for every channel, whether it exists or not. What happens to a
//! request that passes is the channel's own matter, and [`crate::http::router`]'s.

use std::sync::Arc;

use tidings_crds::topic::TopicSet;

use crate::auth::authenticator::Unknown;
use crate::auth::credential::Credential;
use crate::auth::errand::Errand;
use crate::auth::grant::Action;
use crate::auth::policy;
use crate::auth::principal::Caller;
use crate::http::app::{App, Call};
use crate::http::problem::{Problem, ProblemKind};
use crate::http::publish::Posted;
use crate::http::response::Reply;
use crate::http::retry;
use crate::http::subscribe::Asked;
use crate::routes::Served;

/// A subscription that the channel grants.
pub struct Subscription {
    /// What was asked for.
    pub asked: Asked,
    /// All that the caller may have.
    pub granted: TopicSet,
    /// What it gets: both.
    pub topics: TopicSet,
    /// Who asks; `None` where the channel is public.
    pub caller: Option<Caller>,
    /// The rules by which all this was decided.
    pub revision: u64,
    /// The channel.
    pub served: Arc<Served>,
    /// Whether it was removed a moment ago: then this is what it granted until then.
    pub removed: bool,
}

/// A publication that the channel grants.
pub struct Publishing {
    /// Everything but the data.
    pub posted: Posted,
    /// Who publishes; `None` where the channel is public.
    pub caller: Option<Caller>,
    /// The channel.
    pub served: Arc<Served>,
}

/// What is said while tokens cannot be checked.
const UNCHECKED: &str = "tokens cannot be verified at the moment: retry later";

/// What is said before the Routes were read.
const STARTED: &str = "this gateway is starting: retry later";

impl App {
    /// The subscription that a request is entitled to, or the answer to it.
    pub(crate) async fn entitled_to_subscribe(&self, call: &Call<'_>) -> Result<Subscription, Reply> {
        let rules = self.authority.rules();
        let most = rules.limits().topics_per_request;
        let asked = Asked::parse(call.uri.query(), call.headers, most)?;
        let later = |why, close| {
            let delay = retry::jittered(retry::DEFAULT, &mut rand::rng());
            retry::later(call.headers, delay, why, close)
        };
        if self.is_early(call) {
            return Err(later(STARTED, true));
        }
        let revision = rules.revision();
        let known = call.served.clone().or_else(|| call.routes.removed_lately(call.key));
        let caller = match self.caller(call, known.as_deref(), Action::Subscribe).await {
            Ok(caller) => caller,
            Err(Unknown::Unavailable) => return Err(later(UNCHECKED, false)),
            Err(unknown) => return Err(refusal(unknown).into()),
        };
        // What was decided before the token was checked may have changed meanwhile.
        let (served, removed) = self.served_lately(call.key).ok_or_else(Problem::not_granted)?;
        let nothing = || not_granted(caller.as_ref(), Action::Subscribe);
        let granted = served.granted_to_subscribe(caller.as_ref()).ok_or_else(nothing)?;
        let both = granted.intersect(&asked.topics);
        let topics = both.map_err(|many| Problem::invalid(many.to_string()))?.ok_or_else(nothing)?;
        Ok(Subscription { asked, granted, topics, caller, revision, served, removed })
    }

    /// The publication that a request is entitled to, or why it is to none.
    pub(crate) async fn entitled_to_publish(&self, call: &Call<'_>) -> Result<Publishing, Problem> {
        let posted = Posted::parse(call.uri.query(), call.headers)?;
        if self.is_early(call) {
            return Err(Problem::new(ProblemKind::Unavailable, STARTED).retry_after(1));
        }
        let caller = self.caller(call, call.served.as_deref(), Action::Publish).await.map_err(refusal)?;
        let served = self.routes.get(call.key).ok_or_else(Problem::not_granted)?;
        if !policy::permits(&served.route, Action::Publish, caller.as_ref(), &posted.topic) {
            return Err(not_granted(caller.as_ref(), Action::Publish));
        }
        Ok(Publishing { posted, caller, served })
    }

    /// Who sent the request; `None` where the channel is public. Until here nothing has depended on whether the
    /// channel exists, and nothing in here does but that a public one asks for nothing.
    async fn caller(&self, call: &Call<'_>, known: Option<&Served>, action: Action) -> Result<Option<Caller>, Unknown> {
        if known.is_some_and(|served| policy::is_public(&served.route, action)) {
            return Ok(None);
        }
        let (namespace, name) = call.key.split_once('/').unwrap_or_default();
        let settings = self.authority.rules().settings();
        let credential = Credential::of(call.uri, call.headers, &settings.cookie, self.tls);
        self.authority.identify(credential, Errand { action, namespace, name, client: call.client }).await.map(Some)
    }

    /// The channel, or what it was until a moment ago, and whether it is gone. A removed one lets the same callers in as before, so
    /// that all others learn as little about it as about one that never existed.
    fn served_lately(&self, key: &str) -> Option<(Arc<Served>, bool)> {
        let routes = self.routes.now();
        let served = routes.get(key).map(|served| (served, false));
        served.or_else(|| routes.removed_lately(key).map(|served| (served, true)))
    }

    /// Before the Routes were read, an unknown channel may only not be known yet: no reason to refuse it for good.
    fn is_early(&self, call: &Call<'_>) -> bool {
        let early = call.served.is_none() && !call.routes.is_loaded();
        if early {
            self.metrics.early_request();
        }
        early
    }
}

/// The answer to a request whose sender is not known.
fn refusal(unknown: Unknown) -> Problem {
    match unknown {
        Unknown::NoToken => Problem::unauthorized(),
        Unknown::Token(fault) => Problem::bad_token(fault),
        Unknown::Unavailable => Problem::new(ProblemKind::Unavailable, UNCHECKED).retry_after(3),
    }
}

/// The answer to a request that is not granted. Without a caller, the channel is public or was a moment ago, but
/// the topics are not.
fn not_granted(caller: Option<&Caller>, action: Action) -> Problem {
    match (caller, action) {
        (Some(_), _) => Problem::not_granted(),
        (None, Action::Subscribe) => Problem::not_found("these topics of the channel are not public"),
        (None, Action::Publish) => Problem::not_found("publishing to this topic of the channel is not public"),
    }
}
