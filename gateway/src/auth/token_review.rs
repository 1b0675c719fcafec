//! The questions to a Kubernetes API server about identities, and what its answers mean. Pure.
//!
//! A `TokenReview` says whose token it is; a `SubjectAccessReview` whether its owner may `create` `channels/subscribe` or
//! `channels/publish`. Not `get`: a role that may read everything may get subresources too.

use std::collections::BTreeMap;
use std::time::SystemTime;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::auth::claims::Claims;
use crate::auth::grant::Action;
use crate::auth::issuer::KUBERNETES;
use crate::auth::jwt::{Secret, TokenFault, Unverified, Verified};
use crate::auth::principal::Principal;

/// An identity as the API server knows it: all of it is needed, or rights that are bound to groups are missed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Identity {
    user: String,
    uid: Option<String>,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// Refuses without asking what cannot be good: the API server is not to be asked about every text that a client sends.
pub fn plausible(unverified: &Unverified<'_>, audiences: &[String], now: SystemTime) -> Result<SystemTime, TokenFault> {
    let until = unverified.expires().ok_or(TokenFault::Claim)?;
    if !unverified.is_for(audiences) {
        return Err(TokenFault::Audience);
    }
    if until <= now { Err(TokenFault::Expired) } else { Ok(until) }
}

/// Whose token is this?
pub fn token_review(token: &Secret, audiences: &[String]) -> TokenReview {
    let spec = TokenReviewSpec { token: Some(token.reveal().to_owned()), audiences: Some(audiences.to_vec()) };
    TokenReview { spec, ..TokenReview::default() }
}

/// The identity that an answer confirms. A server that knows nothing of audiences confirms none, and any pod's default
/// token would do: then nobody is confirmed.
pub fn confirmed(answer: TokenReview, audiences: &[String]) -> Option<Identity> {
    let status = answer.status?;
    let ours = status.audiences.unwrap_or_default().iter().any(|audience| audiences.contains(audience));
    if status.authenticated != Some(true) || !ours {
        return None;
    }
    let UserInfo { username, uid, groups, extra } = status.user?;
    let user = username.filter(|user| !user.is_empty())?;
    Some(Identity { user, uid, groups: groups.unwrap_or_default(), extra: extra.unwrap_or_default() })
}

/// May this identity do that?
pub fn access_review(identity: &Identity, action: Action, namespace: &str, name: &str) -> SubjectAccessReview {
    let subresource = match action {
        Action::Subscribe => "subscribe",
        Action::Publish => "publish",
    };
    let resource = ResourceAttributes {
        group: Some("tidings.dev".to_owned()),
        version: Some("*".to_owned()),
        resource: Some("channels".to_owned()),
        subresource: Some(subresource.to_owned()),
        verb: Some("create".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(identity.user.clone()),
        uid: identity.uid.clone(),
        groups: Some(identity.groups.clone()),
        extra: Some(identity.extra.clone()),
        resource_attributes: Some(resource),
        ..SubjectAccessReviewSpec::default()
    };
    SubjectAccessReview { spec, ..SubjectAccessReview::default() }
}

/// Whether an answer allows it. An authoriser that denies wins over one that allows.
pub fn allows(answer: &SubjectAccessReview) -> bool {
    answer.status.as_ref().is_some_and(|status| status.allowed && status.denied != Some(true))
}

// === impl Identity ===

impl Identity {
    /// What budgets count this identity by: the user alone, for groups and the rest differ from token to token.
    pub fn fingerprint(&self) -> u128 {
        let hash = Sha256::digest(&self.user);
        hash.split_first_chunk::<16>().map_or(0, |(first, _)| u128::from_be_bytes(*first))
    }

    /// How many bytes it takes.
    pub fn weight(&self) -> usize {
        let extra = self.extra.iter().flat_map(|(key, values)| std::iter::once(key).chain(values));
        let texts = [Some(&self.user), self.uid.as_ref()].into_iter().flatten().chain(&self.groups).chain(extra);
        texts.map(|text| text.len() + size_of::<String>()).sum()
    }

    /// The bearer of a token that was confirmed. Templates find `sub`, `groups`, `uid`, and of a service account its
    /// `namespace` and `name`.
    pub fn principal(&self, token: &Claims, until: SystemTime) -> Principal {
        let mut claims = json!({ "sub": self.user, "groups": self.groups });
        let mut add = |name: &str, value: Option<Value>| {
            if let (Some(claims), Some(value)) = (claims.as_object_mut(), value) {
                claims.insert(name.to_owned(), value);
            }
        };
        add("uid", self.uid.as_deref().map(Value::from));
        add("jti", token.text("jti").map(Value::from));
        let account = self.user.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
        add("namespace", account.map(|(namespace, _)| namespace.into()));
        add("name", account.map(|(_, name)| name.into()));
        let claims = claims.as_object().cloned().unwrap_or_default();
        Principal::new(KUBERNETES.into(), Verified { claims: Claims::new(claims), until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::jwt::tests::signed;
    use jsonwebtoken::Header;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn ours() -> Vec<String> {
        vec!["tidings".to_owned()]
    }

    fn answer(status: Value) -> TokenReview {
        serde_json::from_value(json!({ "metadata": {}, "spec": {}, "status": status })).unwrap()
    }

    fn robot() -> Value {
        json!({"username": "system:serviceaccount:shop:robot", "uid": "u1", "groups": ["g"], "extra": {"k": ["v"]}})
    }

    #[test]
    fn only_what_may_be_good_is_put_to_the_cluster() {
        for (claims, expected) in [
            (json!({"aud": ["tidings"], "exp": 1000}), Ok(at(1000))),
            (json!({"aud": ["https://kubernetes.default.svc"], "exp": 1000}), Err(TokenFault::Audience)),
            (json!({"exp": 1000}), Err(TokenFault::Audience)),
            (json!({"aud": "tidings"}), Err(TokenFault::Claim)),
            (json!({"aud": "tidings", "exp": 900}), Err(TokenFault::Expired)),
        ] {
            let token = signed(&Header::default(), &claims);
            assert_eq!(plausible(&Unverified::read(&token).unwrap(), &ours(), at(900)), expected, "{claims}");
        }
    }

    #[test]
    fn an_identity_is_confirmed_for_our_audience_alone() {
        let good = json!({"authenticated": true, "audiences": ["tidings"], "user": robot()});
        let identity = confirmed(answer(good.clone()), &ours()).unwrap();
        assert_eq!((identity.user.as_str(), identity.groups.len()), ("system:serviceaccount:shop:robot", 1));
        for (field, value) in [
            ("authenticated", json!(false)),
            ("audiences", json!(["other"])),
            ("audiences", json!([])),
            ("audiences", Value::Null),
            ("user", json!({"username": ""})),
            ("user", Value::Null),
        ] {
            let mut status = good.clone();
            status[field] = value;
            assert_eq!(confirmed(answer(status.clone()), &ours()), None, "{status}");
        }
    }

    #[test]
    fn rights_are_asked_for_with_everything_that_is_known_of_the_identity() {
        let status = json!({"authenticated": true, "audiences": ["tidings"], "user": robot()});
        let identity = confirmed(answer(status), &ours()).unwrap();
        let asked = serde_json::to_value(access_review(&identity, Action::Publish, "shop", "orders")).unwrap();
        let expected = json!({
            "user": "system:serviceaccount:shop:robot", "uid": "u1", "groups": ["g"], "extra": {"k": ["v"]},
            "resourceAttributes": {
                "group": "tidings.dev", "version": "*", "resource": "channels", "subresource": "publish",
                "verb": "create", "namespace": "shop", "name": "orders",
            },
        });
        assert_eq!(asked["spec"], expected);
        for (status, allowed) in [
            (json!({"allowed": true}), true),
            (json!({"allowed": false}), false),
            (json!({"allowed": true, "denied": true}), false),
            (Value::Null, false),
        ] {
            let answer = serde_json::from_value(json!({"metadata": {}, "spec": {}, "status": status})).unwrap();
            assert_eq!(allows(&answer), allowed, "{status}");
        }
    }

    #[test]
    fn templates_find_a_service_account_by_its_parts() {
        let status = json!({"authenticated": true, "audiences": ["tidings"], "user": robot()});
        let identity = confirmed(answer(status), &ours()).unwrap();
        let token = Claims::from_iter([("jti".to_owned(), json!("t1"))]);
        let principal = identity.principal(&token, at(5));
        assert_eq!(principal.claims.values("namespace"), ["shop"]);
        assert_eq!(principal.claims.values("name"), ["robot"]);
        assert_eq!((principal.token_id(), &*principal.issuer), (Some("t1"), "kubernetes"));
    }
}
