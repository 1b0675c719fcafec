//! Refusals: `application/problem+json` (RFC 9457), with a `detail` that says what to do.

use std::borrow::Cow;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::auth::jwt::TokenFault;
use crate::http::response::{self, Reply};
use crate::metrics::label::closed_set;

closed_set! {
    /// The kinds of refusal; each has one status and one title.
    pub enum ProblemKind {
        /// A parameter or header is wrong.
        InvalidRequest = "invalid-request",
        /// Nothing that allows this was shown.
        Unauthorized = "unauthorized",
        /// There is no such thing, or not for this client.
        NotFound = "not-found",
        /// Another method is needed.
        MethodNotAllowed = "method-not-allowed",
        /// The body did not arrive in time.
        BodyTimeout = "body-timeout",
        /// The body is larger than the channel takes.
        TooLarge = "too-large",
        /// The body is encoded.
        UnsupportedEncoding = "unsupported-encoding",
        /// The address is too long.
        UriTooLong = "uri-too-long",
        /// A limit per second is reached.
        TooManyRequests = "too-many-requests",
        /// NATS refused the publication.
        Refused = "refused",
        /// Not now: come back later.
        Unavailable = "unavailable",
        /// NATS has no room for the publication.
        StorageFull = "storage-full",
        /// NATS did not acknowledge in time.
        NoAcknowledgement = "no-acknowledgement",
    }
}

/// One refusal.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    kind: ProblemKind,
    detail: Cow<'static, str>,
    header: Option<(HeaderName, HeaderValue)>,
}

/// The document, in the order of RFC 9457.
#[derive(Serialize)]
struct Document<'d> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'d str,
}

// === impl ProblemKind ===

impl ProblemKind {
    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Refused => StatusCode::BAD_GATEWAY,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            Self::NoAcknowledgement => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::InvalidRequest => "Invalid request",
            Self::Unauthorized => "Authentication required",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "Method not allowed",
            Self::BodyTimeout => "Request body timed out",
            Self::TooLarge => "Publication too large",
            Self::UnsupportedEncoding => "Content encoding not supported",
            Self::UriTooLong => "URI too long",
            Self::TooManyRequests => "Too many requests",
            Self::Refused => "NATS rejected the publication",
            Self::Unavailable => "Temporarily unavailable",
            Self::StorageFull => "NATS storage is full",
            Self::NoAcknowledgement => "NATS did not acknowledge in time",
        }
    }
}

// === impl Problem ===

impl Problem {
    /// A refusal of this kind; `detail` says what to do about it.
    pub fn new(kind: ProblemKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), header: None }
    }

    /// A parameter or header is wrong.
    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ProblemKind::InvalidRequest, detail)
    }

    /// The only answer to requests without a token, whether the channel exists or not.
    pub fn unauthorized() -> Self {
        let detail = "authentication required: check the URL or send a token";
        Self::new(ProblemKind::Unauthorized, detail)
            .with(WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer realm="tidings""#))
    }

    /// The answer to requests with an invalid token, whether the channel exists or not (RFC 6750, section 3).
    pub fn bad_token(fault: TokenFault) -> Self {
        let challenge = HeaderValue::from_static(r#"Bearer realm="tidings", error="invalid_token""#);
        Self::new(ProblemKind::Unauthorized, fault.advice()).with(WWW_AUTHENTICATE, challenge)
    }

    /// The only answer to requests whose valid token grants nothing here, whether the channel exists or not.
    pub fn not_granted() -> Self {
        Self::not_found("no such channel, or this token does not grant access to it")
    }

    /// The one answer to everything that is missing or not granted.
    pub fn not_found(detail: &'static str) -> Self {
        Self::new(ProblemKind::NotFound, detail)
    }

    /// Another method is needed.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self::new(ProblemKind::MethodNotAllowed, "GET subscribes to the channel, POST publishes to it")
            .with(ALLOW, HeaderValue::from_static(allow))
    }

    /// The same, with how long to wait.
    pub fn retry_after(self, seconds: u64) -> Self {
        self.with(RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }

    fn with(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { header: Some((name, value)), ..self }
    }
}

impl From<Problem> for Reply {
    fn from(problem: Problem) -> Self {
        let document = Document {
            r#type: format!("urn:tidings:problem:{}", problem.kind),
            title: problem.kind.title(),
            status: problem.status().as_u16(),
            detail: &problem.detail,
        };
        let mut response = Response::new(response::full(response::json(&document)));
        *response.status_mut() = problem.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(problem.header);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::label::ClosedSet;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_problem_is_a_document_of_rfc_9457() {
        let response: Reply = Problem::invalid("write from=new").into();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            std::str::from_utf8(&body).unwrap().trim_end(),
            r#"{"type":"urn:tidings:problem:invalid-request","title":"Invalid request","status":400,"detail":"write from=new"}"#
        );
    }

    #[test]
    fn a_problem_brings_the_header_that_its_status_demands() {
        let header = |problem: Problem, name| Reply::from(problem).headers()[name].clone();
        assert_eq!(header(Problem::unauthorized(), WWW_AUTHENTICATE), r#"Bearer realm="tidings""#);
        assert_eq!(header(Problem::method_not_allowed("GET"), ALLOW), "GET");
        assert_eq!(header(Problem::new(ProblemKind::Unavailable, "").retry_after(0), RETRY_AFTER), "1");
    }

    #[test]
    fn every_kind_is_a_refusal() {
        for kind in ProblemKind::ALL {
            assert!(kind.status().is_client_error() || kind.status().is_server_error(), "{kind}");
        }
    }
}
