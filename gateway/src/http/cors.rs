//! Which web origins may read what the gateway answers (the Fetch standard's CORS protocol).
//!
//! Origins are compared byte by byte, as browsers serialise them. Credentials are allowed only to an origin that a channel
//! names, never to `*`.
//!
//! A channel's own origins count for what it grants. Refusals and preflights follow the origins of all channels together:
//! pages can read why they are refused, and nobody can tell from it whether a channel exists.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ALLOW, CACHE_CONTROL, HeaderMap, ORIGIN, VARY,
};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use tidings_crds::route::RouteCors;

use crate::http::response::{self, Reply};
use crate::routes::origins::{Origins, credentials};

/// The methods of a channel's address.
pub const METHODS: &str = "GET, HEAD, POST, OPTIONS";

const ALLOWED_HEADERS: &str = "Last-Event-ID, Authorization, Cache-Control, Content-Type, Idempotency-Key, Tidings-Topic, \
                               Tidings-Event, Tidings-TTL";
/// Tracing SDKs and frameworks add headers of their own to every request, which mean nothing to us. No page asks for as many.
const MAX_ECHOED_BYTES: usize = 1 << 10;
const EXPOSED_HEADERS: &str = "Retry-After, WWW-Authenticate";
/// Ten minutes: a changed channel is noticed soon, and a reconnect rarely needs a preflight.
const MAX_AGE_SECONDS: &str = "600";

/// Whose pages may read an answer.
#[derive(Clone, Copy, Debug)]
pub enum Readers<'r> {
    /// Those that the channel names: it grants what was asked for.
    Channel(&'r RouteCors),
    /// Those that any channel names: the answer is the same for all channels.
    Installation(&'r Origins),
    /// All: nobody knows yet which channels there are, and what is said is only to come back later. An `EventSource` that
    /// may not read that would give up for good.
    Anybody,
}

/// What an answer allows.
#[derive(Debug, PartialEq, Eq)]
struct Allowed {
    origin: HeaderValue,
    credentials: bool,
}

// === impl Readers ===

impl Readers<'_> {
    /// What to allow to the page that asks.
    fn allowed(self, request: &HeaderMap) -> Option<Allowed> {
        let origin = request.get(ORIGIN)?;
        let named = origin.to_str().ok().filter(|origin| *origin != "*");
        let (credentials, any) = match self {
            Self::Channel(cors) => {
                let find = |wanted: &str| cors.origins.iter().any(|allowed| allowed == wanted);
                let named = named.and_then(|origin| credentials(origin, |o| find(o).then_some(cors.allow_credentials)));
                (named, find("*"))
            }
            Self::Installation(origins) => {
                (named.and_then(|origin| origins.credentials(origin)), origins.names_every_origin())
            }
            Self::Anybody => (named.map(|_| true), false),
        };
        match credentials {
            Some(credentials) => Some(Allowed { origin: origin.clone(), credentials }),
            None => any.then(|| Allowed { origin: HeaderValue::from_static("*"), credentials: false }),
        }
    }
}

/// The answer to `OPTIONS`: a preflight, or the question for the methods.
pub fn options(readers: Readers<'_>, request: &HeaderMap) -> Reply {
    let mut response = Response::new(response::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(METHODS));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if readers.allowed(request).is_some() && request.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed_headers(request));
        headers.append(VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE_SECONDS));
    }
    response
}

/// Our own, and those that the page asks for, as far as they are names of headers (RFC 9110, section 5.1).
fn allowed_headers(request: &HeaderMap) -> HeaderValue {
    let own: Vec<&str> = ALLOWED_HEADERS.split(", ").collect();
    let mut allowed = ALLOWED_HEADERS.to_owned();
    let asked = request.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let names = asked.flat_map(|list| list.as_bytes().split(|byte| *byte == b',')).map(|name| name.trim_ascii());
    let mut echoed = 0;
    for name in names.filter_map(|name| HeaderName::from_bytes(name).ok()).filter(|name| name != "*") {
        echoed += name.as_str().len() + 2;
        if echoed > MAX_ECHOED_BYTES {
            break;
        }
        if !own.iter().any(|own| own.eq_ignore_ascii_case(name.as_str())) {
            allowed.push_str(", ");
            allowed.push_str(name.as_str());
        }
    }
    HeaderValue::try_from(allowed).unwrap_or(HeaderValue::from_static(ALLOWED_HEADERS))
}

/// Adds to any answer what lets the asking origin read it.
///
/// `Vary: Origin` stands on every answer, the ones without an origin too: a shared cache must not hand one origin's answer
/// to another.
pub fn allow(readers: Readers<'_>, request: &HeaderMap, response: &mut HeaderMap) {
    response.append(VARY, HeaderValue::from_static("Origin"));
    let Some(Allowed { origin, credentials }) = readers.allowed(request) else { return };
    if credentials {
        response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
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

    fn answer(readers: Readers<'_>, origin: &'static str) -> (Option<String>, Option<String>) {
        let mut headers = HeaderMap::new();
        allow(readers, &from(origin), &mut headers);
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
            (&["https://*.shop.example"], true, "https://a.shop.example", yes("https://a.shop.example", false)),
            (&["https://*.shop.example"], false, "https://a.b.shop.example", (None, None)),
            (&["https://*.shop.example"], false, shop, (None, None)),
            (&["https://*.shop.example", shop], true, shop, yes(shop, true)),
            (&["*"], false, shop, yes("*", false)),
            (&["*"], true, shop, yes("*", false)),
            (&["*", shop], true, shop, yes(shop, true)),
            (&["*"], true, "*", yes("*", false)),
        ] {
            let cors = cors(origins, credentials);
            let told = format!("{origins:?} {credentials} {origin}");
            assert_eq!(answer(Readers::Channel(&cors), origin), expected, "{told}");
            let alone = Origins::of([&cors]);
            assert_eq!(answer(Readers::Installation(&alone), origin), expected, "{told}, the only channel");
        }
    }

    #[test]
    fn refusals_are_read_by_pages_that_any_channel_names() {
        let (shop, news) = ("https://shop.example", "https://news.example");
        let channels = [cors(&[shop], false), cors(&[shop, news], true), cors(&[news], false), cors(&[], true)];
        let origins = Origins::of(&channels);
        let refused = |origin| answer(Readers::Installation(&origins), origin);
        let yes = |origin: &str| (Some(origin.to_owned()), Some("true".to_owned()));
        assert_eq!((refused(shop), refused(news)), (yes(shop), yes(news)));
        assert_eq!(refused("https://evil.example"), (None, None));
        let wild = Origins::of(&[cors(&["https://*.shop.example"], false)]);
        let label = "https://a.shop.example";
        assert_eq!(answer(Readers::Installation(&wild), label), (Some(label.to_owned()), None));
        assert_eq!(answer(Readers::Installation(&wild), shop), (None, None));
        let with_any = Origins::of(channels.iter().chain([&cors(&["*"], false)]));
        let (any, credentials) = answer(Readers::Installation(&with_any), "https://evil.example");
        assert_eq!((any.as_deref(), credentials), (Some("*"), None));
        assert_eq!(answer(Readers::Installation(&Origins::default()), shop), (None, None));
        assert_eq!(answer(Readers::Anybody, shop), yes(shop), "so that it comes back");
    }

    #[test]
    fn a_preflight_names_methods_and_headers_to_allowed_origins_alone() {
        let mut request = from("https://shop.example");
        request.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST"));
        let shop = cors(&["https://shop.example"], false);
        let allowed = options(Readers::Channel(&shop), &request);
        assert_eq!(allowed.status(), StatusCode::NO_CONTENT);
        assert_eq!(allowed.headers()[ACCESS_CONTROL_ALLOW_METHODS], "GET, POST");
        assert_eq!(allowed.headers()[ACCESS_CONTROL_ALLOW_HEADERS], ALLOWED_HEADERS);
        assert_eq!(allowed.headers()[ACCESS_CONTROL_MAX_AGE], "600");
        let (other, nobody) = (cors(&["https://other.example"], false), Origins::default());
        for readers in [Readers::Channel(&other), Readers::Installation(&nobody)] {
            let refused = options(readers, &request);
            assert_eq!(refused.status(), StatusCode::NO_CONTENT);
            assert!(!refused.headers().contains_key(ACCESS_CONTROL_ALLOW_METHODS));
        }
    }

    #[test]
    fn a_preflight_allows_the_headers_that_are_asked_for() {
        let shop = cors(&["https://shop.example"], false);
        let allowed = |asked: &str| {
            let mut request = from("https://shop.example");
            request.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("GET"));
            request.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_bytes(asked.as_bytes()).unwrap());
            let reply = options(Readers::Channel(&shop), &request);
            let allowed = reply.headers()[ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap();
            allowed.strip_prefix(ALLOWED_HEADERS).unwrap().to_owned()
        };
        assert_eq!(allowed("sentry-trace,baggage, traceparent"), ", sentry-trace, baggage, traceparent");
        assert_eq!(allowed("authorization, TIDINGS-TTL,last-event-id"), "", "ours already");
        assert_eq!(allowed("a b,x:y,(,\u{e9},,ok, *"), ", ok", "only names, and not all of them at once");
        let many: String = (0..1_000).map(|n| format!("x-{n},")).collect();
        assert!(allowed(&many).len() <= MAX_ECHOED_BYTES);
    }

    #[test]
    fn options_without_a_preflight_names_the_methods() {
        let response = options(Readers::Channel(&cors(&["*"], false)), &HeaderMap::new());
        assert_eq!(response.headers()[ALLOW], METHODS);
        assert!(!response.headers().contains_key(ACCESS_CONTROL_ALLOW_METHODS));
    }
}
