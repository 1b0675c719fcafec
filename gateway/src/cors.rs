//! Which web origins may read what the gateway answers (the Fetch standard's CORS protocol).
//!
//! Origins are compared byte by byte, as browsers serialise them. Credentials are allowed only to an origin that the
//! channel names, never to `*`.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    ALLOW, CACHE_CONTROL, HeaderMap, ORIGIN, VARY,
};
use http::{HeaderValue, Response, StatusCode};
use tidings_crds::route::RouteCors;

use crate::reply::{self, Reply};

/// The methods of a channel's address.
pub const METHODS: &str = "GET, HEAD, POST, OPTIONS";

const ALLOWED_HEADERS: &str = "Last-Event-ID, Authorization, Cache-Control, Content-Type, Idempotency-Key";
const EXPOSED_HEADERS: &str = "Retry-After, WWW-Authenticate";
/// Ten minutes: a changed channel is noticed soon, and a reconnect rarely needs a preflight.
const MAX_AGE_SECONDS: &str = "600";

/// The answer to `OPTIONS`: a preflight, or the question for the methods. `cors` is absent for an unknown channel.
pub fn options(cors: Option<&RouteCors>, request: &HeaderMap) -> Reply {
    let mut response = Response::new(reply::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(METHODS));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let allowed = cors.is_some_and(|cors| allowed_origin(cors, request).is_some());
    if allowed && request.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE_SECONDS));
    }
    response
}

/// Adds to any answer what lets the asking origin read it.
///
/// `Vary: Origin` stands on every answer, the ones without an origin and of unknown channels too: a shared cache must
/// not hand one origin's answer to another.
pub fn allow(cors: Option<&RouteCors>, request: &HeaderMap, response: &mut HeaderMap) {
    response.append(VARY, HeaderValue::from_static("Origin"));
    let Some(cors) = cors else { return };
    let Some(origin) = allowed_origin(cors, request) else { return };
    if cors.allow_credentials && origin != "*" {
        response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
}

/// What to write into `Access-Control-Allow-Origin`, if the origin is allowed.
fn allowed_origin(cors: &RouteCors, request: &HeaderMap) -> Option<HeaderValue> {
    let origin = request.get(ORIGIN)?;
    if cors.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes() && allowed != "*") {
        return Some(origin.clone());
    }
    cors.origins.iter().any(|allowed| allowed == "*").then(|| HeaderValue::from_static("*"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str], allow_credentials: bool) -> RouteCors {
        RouteCors { origins: origins.iter().map(ToString::to_string).collect(), allow_credentials }
    }

    fn from(origin: &'static str) -> HeaderMap {
        [(ORIGIN, HeaderValue::from_static(origin))].into_iter().collect()
    }

    fn answer(cors: &RouteCors, origin: &'static str) -> (Option<String>, Option<String>) {
        let mut headers = HeaderMap::new();
        allow(Some(cors), &from(origin), &mut headers);
        assert_eq!(headers[VARY], "Origin");
        let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap().to_owned());
        (text(ACCESS_CONTROL_ALLOW_ORIGIN), text(ACCESS_CONTROL_ALLOW_CREDENTIALS))
    }

    #[test]
    fn only_exact_origins_are_allowed_and_only_they_with_credentials() {
        let shop = "https://shop.example";
        let yes = |origin: &str, credentials: bool| (Some(origin.to_owned()), credentials.then(|| "true".to_owned()));
        for (origins, credentials, origin, expected) in [
            (&[][..], false, shop, (None, None)),
            (&[shop], false, shop, yes(shop, false)),
            (&[shop], true, shop, yes(shop, true)),
            (&[shop], true, "https://shop.example.evil", (None, None)),
            (&[shop], true, "http://shop.example", (None, None)),
            (&[shop], true, "https://shop.example:443", (None, None)),
            (&[shop], true, "https://SHOP.example", (None, None)),
            (&[shop], true, "null", (None, None)),
            (&["*"], false, shop, yes("*", false)),
            (&["*"], true, shop, yes("*", false)),
            (&["*", shop], true, shop, yes(shop, true)),
            (&["*"], true, "*", yes("*", false)),
        ] {
            assert_eq!(answer(&cors(origins, credentials), origin), expected, "{origins:?} {credentials} {origin}");
        }
    }

    #[test]
    fn a_preflight_names_methods_and_headers_to_allowed_origins_alone() {
        let mut request = from("https://shop.example");
        request.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST"));
        let allowed = options(Some(&cors(&["https://shop.example"], false)), &request);
        assert_eq!(allowed.status(), StatusCode::NO_CONTENT);
        assert_eq!(allowed.headers()[ACCESS_CONTROL_ALLOW_METHODS], "GET, POST");
        assert_eq!(allowed.headers()[ACCESS_CONTROL_ALLOW_HEADERS], ALLOWED_HEADERS);
        assert_eq!(allowed.headers()[ACCESS_CONTROL_MAX_AGE], "600");
        for cors in [Some(&cors(&["https://other.example"], false)), None] {
            let refused = options(cors, &request);
            assert_eq!(refused.status(), StatusCode::NO_CONTENT);
            assert!(!refused.headers().contains_key(ACCESS_CONTROL_ALLOW_METHODS));
        }
    }

    #[test]
    fn options_without_a_preflight_names_the_methods() {
        let response = options(Some(&cors(&["*"], false)), &HeaderMap::new());
        assert_eq!(response.headers()[ALLOW], METHODS);
        assert!(!response.headers().contains_key(ACCESS_CONTROL_ALLOW_METHODS));
    }
}
