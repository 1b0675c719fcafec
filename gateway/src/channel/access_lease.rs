//! How long an open stream may go on: until its token expires, and as long as what let it in still holds. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tidings_crds::route::Route;
use tidings_crds::topic::TopicSet;

use crate::auth::current_settings::Rules;
use crate::auth::grant::Action;
use crate::auth::policy;
use crate::auth::principal::Caller;
use crate::log::end_reason::EndReason;

/// What one open stream stands on.
#[derive(Debug)]
pub struct Lease {
    asked: TopicSet,
    rules: Arc<Rules>,
    /// Of everybody's stream there is nothing more to know.
    held: Option<Box<Held>>,
    /// Whether there are topics of the channel that it may not see.
    restricted: bool,
    /// The revision of the Route and the rules that was looked at last.
    seen: u64,
    /// The version of the Route and the verdict that its topics were found for last.
    decided: Option<(u64, bool)>,
}

#[derive(Debug)]
struct Held {
    caller: Caller,
    ends_at: Instant,
}

/// A stream ends this much of its time after its token has expired, at most: many that began together do not all come
/// back at once.
const SPREAD: f64 = 0.1;

/// And never later than this after it.
const MAX_SPREAD: Duration = Duration::from_secs(30);

// === impl Lease ===

impl Lease {
    /// A stream that begins now, of a caller who asked for some topics and is granted others. `seen` is [`Rules::revision`] from before
    /// its access was decided, and `lot` is drawn between 0 and 1.
    ///
    /// It ends a little *after* its token has expired and never before. So the client that comes back with the same token
    /// is refused, once, and does not go round in circles with one that is about to expire.
    pub fn new(
        (asked, granted): (TopicSet, &TopicSet),
        caller: Option<Caller>,
        rules: Arc<Rules>,
        seen: u64,
        (now, clock): (Instant, SystemTime),
        lot: f64,
    ) -> Self {
        let held = caller.map(|caller| {
            let left = caller.principal.until.duration_since(clock).unwrap_or_default();
            let spread = left.mul_f64(SPREAD).min(MAX_SPREAD).mul_f64(lot.clamp(0.0, 1.0));
            let ends_at = now.checked_add(left + spread).unwrap_or(now + FAR);
            Box::new(Held { caller, ends_at })
        });
        Self { asked, rules, held, restricted: !granted.is_all(), seen, decided: None }
    }

    /// When the stream ends at the latest, if its token expires.
    pub fn ends_at(&self) -> Option<Instant> {
        self.held.as_ref().map(|held| held.ends_at)
    }

    /// Why the stream ends now, if it does. `topics` is what it shows; `version` and `route` are its channel's. As long as
    /// nothing has changed this costs two comparisons. Topics are compared only if the Route or the verdict of the cluster has changed:
    /// other settings say whether a token counts, and nothing about topics.
    pub fn check(
        &mut self,
        topics: &TopicSet,
        now: Instant,
        version: u64,
        route: impl FnOnce() -> Arc<Route>,
    ) -> Option<EndReason> {
        if self.ends_at().is_some_and(|at| at <= now) {
            return Some(EndReason::TokenExpired);
        }
        // Both only grow, so their sum tells whether one of them has.
        let revision = version + self.rules.revision();
        if revision == self.seen {
            return None;
        }
        self.seen = revision;
        let caller = self.held.as_ref().map(|held| &held.caller);
        if caller.is_some_and(|caller| !self.rules.accept(&caller.principal)) {
            return Some(EndReason::AccessRevoked);
        }
        let verdict = caller.and_then(|caller| caller.verdict.as_ref()).is_some_and(|verdict| verdict.is_allowed());
        if self.decided.replace((version, verdict)) == Some((version, verdict)) {
            return None;
        }
        let Some(granted) = policy::granted(&route(), Action::Subscribe, caller) else {
            return Some(EndReason::AccessRevoked);
        };
        self.restricted = !granted.is_all();
        match granted.intersect(&self.asked) {
            Ok(None) => Some(EndReason::AccessRevoked),
            Ok(Some(now)) if now == *topics => None,
            // Too many to be found: the client is told so when it comes back.
            Ok(Some(_)) | Err(_) => Some(EndReason::AccessChanged),
        }
    }

    /// Whether there are topics of the channel that the stream may not show. Then a position at what it does not show has
    /// no stamp: it would tell when that was stored.
    pub fn is_restricted(&self) -> bool {
        self.restricted
    }
}

/// Further than any process runs.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::jwt::Verified;
    use crate::auth::policy::tests::{caller, entitled, route};
    use crate::auth::principal::{Principal, Verdict};
    use crate::auth::settings::tests::settings;
    use crate::limits::quota::Quotas;
    use serde_json::json;
    use tidings_crds::channel::AccessMode;

    const SETTINGS: &str = "issuers: [{name: main, issuer: iss, audience: a, algorithms: [RS256], jwks: {file: /k}}]\n";

    fn rules() -> Arc<Rules> {
        Arc::new(Rules::new(settings(SETTINGS), Quotas::default()))
    }

    fn ann(until: SystemTime) -> Caller {
        let ann = caller("main", json!({"sub": "ann", "iss": "iss", "jti": "t1"}));
        let verified = Verified { claims: ann.principal.claims.clone(), until };
        Caller { principal: Arc::new(Principal::new("main".into(), verified)), ..ann }
    }

    struct Stream {
        lease: Lease,
        shows: TopicSet,
        now: Instant,
    }

    /// A stream of a caller on a channel, opened now with a token of an hour.
    fn stream(rules: &Arc<Rules>, route: &Route, caller: impl FnOnce(SystemTime) -> Caller) -> Stream {
        let (now, clock) = (Instant::now(), SystemTime::now());
        let caller = caller(clock + Duration::from_secs(3600));
        let shows = entitled(route, Some(&caller), &TopicSet::all()).unwrap();
        let asked = (TopicSet::all(), &shows);
        let lease = Lease::new(asked, Some(caller), rules.clone(), rules.revision(), (now, clock), 0.5);
        Stream { lease, shows, now }
    }

    impl Stream {
        fn check(&mut self, after: u64, version: u64, route: &Route) -> Option<EndReason> {
            let now = self.now + Duration::from_secs(after);
            self.lease.check(&self.shows, now, version, || Arc::new(route.clone()))
        }
    }

    #[test]
    fn a_stream_ends_a_little_after_its_token_and_never_before() {
        let (now, clock) = (Instant::now(), SystemTime::now());
        let ends = |seconds: u64, lot: f64| {
            let caller = ann(clock + Duration::from_secs(seconds));
            let asked = (TopicSet::all(), &TopicSet::all());
            let lease = Lease::new(asked, Some(caller), rules(), 0, (now, clock), lot);
            lease.ends_at().unwrap() - now
        };
        assert_eq!((ends(10, 0.0), ends(10, 1.0)), (Duration::from_secs(10), Duration::from_secs(11)));
        assert_eq!((ends(3600, 0.0), ends(3600, 0.5)), (Duration::from_secs(3600), Duration::from_secs(3615)));
        assert_eq!(ends(3600, 9.0), Duration::from_secs(3630));
        let asked = (TopicSet::all(), &TopicSet::all());
        let public = Lease::new(asked, None, rules(), 0, (now, clock), 0.5);
        assert_eq!(public.ends_at(), None);
        let (rules, orders) = (rules(), route(AccessMode::Token, &["all"]));
        let mut stream = stream(&rules, &orders, ann);
        assert_eq!(stream.check(3600, 0, &orders), None);
        assert_eq!(stream.check(3615, 0, &orders), Some(EndReason::TokenExpired));
    }

    #[test]
    fn a_changed_channel_ends_the_streams_that_it_concerns_and_no_others() {
        let (rules, orders) = (rules(), route(AccessMode::Token, &["all", "user.{sub}"]));
        for (mode, now, end) in [
            (AccessMode::Token, &["all", "user.{sub}", "team.{groups}"][..], None),
            (AccessMode::Token, &["all", "user.ann"], None),
            (AccessMode::Token, &["all"], Some(EndReason::AccessChanged)),
            (AccessMode::Token, &["all", "user.{sub}", "more"], Some(EndReason::AccessChanged)),
            (AccessMode::Token, &["team.{groups}"], Some(EndReason::AccessRevoked)),
            (AccessMode::Disabled, &["all", "user.{sub}"], Some(EndReason::AccessRevoked)),
            (AccessMode::Public, &["all", "user.ann"], None),
        ] {
            let mut stream = stream(&rules, &orders, ann);
            let changed = route(mode, now);
            assert_eq!(stream.check(1, 0, &changed), None, "nothing says that it changed");
            assert_eq!(stream.check(1, 1, &changed), end, "{mode:?} {now:?}");
        }
        let mut elsewhere = orders.clone();
        elsewhere.access.issuers = Some(vec!["other".into()]);
        assert_eq!(stream(&rules, &orders, ann).check(1, 1, &elsewhere), Some(EndReason::AccessRevoked));
    }

    #[test]
    fn topics_are_found_anew_only_if_the_channel_has_changed() {
        let (rules, orders) = (rules(), route(AccessMode::Token, &["all", "user.{sub}"]));
        let mut stream = stream(&rules, &orders, ann);
        let looks = std::cell::Cell::new(0);
        let mut check = |version| {
            let look = || {
                looks.set(looks.get() + 1);
                Arc::new(orders.clone())
            };
            let end = stream.lease.check(&stream.shows, stream.now, version, look);
            assert_eq!(end, None);
            looks.get()
        };
        assert_eq!(check(1), 1);
        for _ in 0..5 {
            rules.replace(settings(&format!("{SETTINGS}denied: [{{subject: bob}}]")), Quotas::default());
            assert_eq!(check(1), 1, "other settings");
        }
        assert_eq!(check(2), 2, "another Route");
    }

    #[test]
    fn whoever_is_denied_ends_and_so_does_everybody_of_an_issuer_that_is_gone() {
        let orders = route(AccessMode::Token, &["user.{sub}"]);
        for (denied, end) in [
            ("denied: [{subject: ann}]", Some(EndReason::AccessRevoked)),
            ("denied: [{token: t1, issuer: main}]", Some(EndReason::AccessRevoked)),
            ("denied: [{subject: ann, issuer: other}]", None),
            ("denied: [{subject: bob}]", None),
        ] {
            let rules = rules();
            let mut stream = stream(&rules, &orders, ann);
            rules.replace(settings(&format!("{SETTINGS}{denied}")), Quotas::default());
            assert_eq!(stream.check(1, 0, &orders), end, "{denied}");
            assert_eq!(stream.check(1, 0, &orders), None, "told once");
        }
        let rules = rules();
        let mut stream = stream(&rules, &orders, ann);
        rules.replace(settings(&SETTINGS.replace("issuer: iss", "issuer: another")), Quotas::default());
        assert_eq!(stream.check(1, 0, &orders), Some(EndReason::AccessRevoked));
    }

    #[test]
    fn a_right_that_the_cluster_withdraws_ends_the_stream() {
        let rules = Rules::new(settings("kubernetes: {enabled: true}"), Quotas::default());
        let (rules, orders) = (Arc::new(rules), route(AccessMode::Token, &[]));
        let verdict = Arc::new(Verdict::new(true));
        let mut stream = stream(&rules, &orders, |until| {
            let robot = caller("kubernetes", json!({"sub": "robot"}));
            let verified = Verified { claims: robot.principal.claims.clone(), until };
            let principal = Arc::new(Principal::new("kubernetes".into(), verified));
            Caller { principal, verdict: Some(verdict.clone()), ..robot }
        });
        rules.changed();
        assert_eq!(stream.check(1, 0, &orders), None);
        assert!(verdict.set(false) && !verdict.set(false));
        rules.changed();
        assert_eq!(stream.check(1, 0, &orders), Some(EndReason::AccessRevoked));
    }
}
