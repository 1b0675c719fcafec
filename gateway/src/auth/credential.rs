//! The token of a request, and whether it may stand where it stands. Pure.
//!
//! Where it is looked for does not depend on the channel, so that nothing in the answer tells whether there is one: the
//! `Authorization` header wins, then the cookie, then the query. Whether the channel takes a token from there is asked
//! only once it was found to be good.

use http::header::{AUTHORIZATION, COOKIE, HOST, HeaderMap, ORIGIN};
use http::{HeaderName, Uri};
use tidings_crds::channel::TokenSource;
use tidings_crds::route::Route;

use crate::auth::jwt::Secret;

/// A token and where it stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The token.
    pub token: Secret,
    /// Where it stood.
    pub provenance: Provenance,
}

/// Where a token stood. Kept for as long as a stream is open, which the token is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The part of the request.
    pub source: TokenSource,
    /// Whose page sent it.
    pub sender: Sender,
}

/// Whose page sent a request, as far as a browser says so. It counts for cookies, which browsers add by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sender {
    /// One of the gateway's own origin, or no page.
    Own,
    /// One of this origin.
    Origin(String),
    /// One of another origin that the browser does not name.
    Foreign,
}

/// What stands in one place that a token may stand in.
enum Place {
    /// No token.
    Nothing,
    /// A token that is empty.
    Empty,
    /// Several, of which it is not known which one counts: none does.
    Ambiguous,
    /// A token.
    Token(String),
}

// === impl Place ===

impl Place {
    fn of(token: impl Into<String>) -> Self {
        let token = token.into();
        if token.is_empty() { Self::Empty } else { Self::Token(token) }
    }
}

/// Sent by browsers; pages cannot change it.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Written by proxies that end TLS.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

// === impl Credential ===

impl Credential {
    /// Finds the token of a request. One that was sent and is no text is an empty token, which is never good. An empty one hides no
    /// other: a variable was empty where it was written.
    pub fn of(uri: &Uri, headers: &HeaderMap, cookie: &str, tls: bool) -> Option<Self> {
        let places = [
            (bearer(headers), TokenSource::Header),
            (from_cookie(headers, cookie), TokenSource::Cookie),
            (from_query(uri), TokenSource::Query),
        ];
        let mut found: Option<(String, TokenSource)> = None;
        for (place, source) in places {
            match place {
                Place::Nothing => {}
                Place::Empty => found = found.or_else(|| Some((String::new(), source))),
                Place::Ambiguous => {
                    found = Some((String::new(), source));
                    break;
                }
                Place::Token(token) => {
                    found = Some((token, source));
                    break;
                }
            }
        }
        let (token, source) = found?;
        let provenance = Provenance { source, sender: Sender::of(uri, headers, tls) };
        Some(Self { token: Secret::new(token), provenance })
    }
}

// === impl Provenance ===

impl Provenance {
    /// Whether the channel takes tokens from there.
    pub fn suits(&self, route: &Route) -> bool {
        route.access.token_sources.contains(&self.source)
            && (self.source != TokenSource::Cookie || self.sender.may_send_cookies(route))
    }
}

// === impl Sender ===

impl Sender {
    fn of(uri: &Uri, headers: &HeaderMap, tls: bool) -> Self {
        let site = headers.get(FETCH_SITE).map(|site| site.as_bytes());
        let origin = headers.get(ORIGIN).map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned());
        match (site, origin) {
            (Some(b"same-origin"), _) => Self::Own,
            // A browser that does not say: the origin is ours if it has our scheme and authority.
            (None, Some(origin)) if is_ours(uri, headers, &origin, tls) => Self::Own,
            (_, Some(origin)) => Self::Origin(origin),
            // Typed into the address bar, or no browser.
            (None | Some(b"none"), None) => Self::Own,
            (Some(_), None) => Self::Foreign,
        }
    }

    fn may_send_cookies(&self, route: &Route) -> bool {
        match self {
            Self::Own => true,
            Self::Origin(origin) => {
                route.cors.allow_credentials && origin != "*" && route.cors.origins.contains(origin)
            }
            Self::Foreign => false,
        }
    }
}

/// Compared whole (RFC 6454, section 5): a page of `http://` is not one of an `https://` gateway. Where something in front of us ends
/// TLS, it says so in `X-Forwarded-Proto`; where it does not, both may be ours.
fn is_ours(uri: &Uri, headers: &HeaderMap, origin: &str, tls: bool) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let ours = uri.authority().map(|authority| authority.as_str()).or(host);
    let Some((scheme, theirs)) = origin.split_once("://") else { return false };
    let secure =
        tls || headers.get(FORWARDED_PROTO).is_some_and(|scheme| scheme.as_bytes().eq_ignore_ascii_case(b"https"));
    let is_scheme = scheme == "https" || (scheme == "http" && !secure);
    is_scheme && ours.is_some_and(|ours| ours.eq_ignore_ascii_case(theirs))
}

/// RFC 6750, section 2.1. Another scheme is no token of ours, and leaves the other places open.
fn bearer(headers: &HeaderMap) -> Place {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Place::Nothing };
    let text = String::from_utf8_lossy(value.as_bytes());
    let (scheme, token) = text.split_once(' ').unwrap_or((&text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Place::Nothing;
    }
    if values.next().is_some() { Place::Ambiguous } else { Place::of(token.trim()) }
}

/// Of several cookies with this name the first counts that is not empty; browsers send the one with the longest path first. Cookies
/// are bytes (RFC 6265, section 5.4): what others write into theirs is nothing to ours.
fn from_cookie(headers: &HeaderMap, cookie: &str) -> Place {
    let lines = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let pairs = lines.filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = pair.split_at(at);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        (name.trim_ascii() == cookie.as_bytes()).then(|| String::from_utf8_lossy(bare).into_owned())
    });
    pairs
        .map(Place::of)
        .reduce(|first, next| if matches!(first, Place::Empty) { next } else { first })
        .unwrap_or(Place::Nothing)
}

/// RFC 6750, section 2.3.
fn from_query(uri: &Uri) -> Place {
    let query = uri.query().filter(|query| query.contains("access_token")).unwrap_or_default();
    let mut tokens = form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| name == "access_token")
        .map(|(_, token)| token.into_owned())
        .peekable();
    if tokens.peek().is_none() {
        return Place::Nothing;
    }
    let mut tokens = tokens.filter(|token| !token.is_empty());
    match (tokens.next(), tokens.next()) {
        (None, _) => Place::Empty,
        (Some(token), None) => Place::Token(token),
        (Some(_), Some(_)) => Place::Ambiguous,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::route_fixture::document;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_str(v).unwrap())).collect()
    }

    fn found(path: &str, pairs: &[(&'static str, &str)]) -> Option<(String, TokenSource)> {
        let credential = Credential::of(&path.parse().unwrap(), &headers(pairs), "t", false)?;
        Some((credential.token.reveal().to_owned(), credential.provenance.source))
    }

    #[test]
    fn the_header_wins_then_the_cookie_then_the_query() {
        let some = |token: &str, source| Some((token.to_owned(), source));
        let (header, cookie) = (("authorization", "Bearer h"), ("cookie", "a=b; t=c; t=d"));
        for (path, pairs, expected) in [
            ("/?access_token=q", &[header, cookie][..], some("h", TokenSource::Header)),
            ("/?access_token=q", &[cookie], some("c", TokenSource::Cookie)),
            ("/?access_token=q", &[], some("q", TokenSource::Query)),
            ("/?topic=a", &[], None),
            ("/?access_token=q", &[("authorization", "Basic eA==")], some("q", TokenSource::Query)),
            ("/?access_token=q", &[("authorization", "bearer")], some("q", TokenSource::Query)),
            ("/", &[("authorization", "bearer")], some("", TokenSource::Header)),
            ("/", &[("authorization", "Bearer "), cookie], some("c", TokenSource::Cookie)),
            ("/", &[("cookie", "t=; t=d")], some("d", TokenSource::Cookie)),
            ("/", &[("cookie", "t=\"\"; t=d; t=e")], some("d", TokenSource::Cookie)),
            ("/?access_token=&access_token=r", &[], some("r", TokenSource::Query)),
            ("/", &[("cookie", "name=J\u{f6}rg; t=c")], some("c", TokenSource::Cookie)),
            ("/", &[("cookie", "novalue; t=a=b")], some("a=b", TokenSource::Cookie)),
            ("/", &[header, ("authorization", "Bearer other")], some("", TokenSource::Header)),
            ("/?access_token=q&access_token=r", &[], some("", TokenSource::Query)),
            ("/", &[("authorization", "BEARER  h ")], some("h", TokenSource::Header)),
            ("/", &[("cookie", "tt=x; T=y")], None),
            ("/", &[("cookie", "t=\"q\"")], some("q", TokenSource::Cookie)),
            ("/?access_token=a%2Bb", &[], some("a+b", TokenSource::Query)),
        ] {
            assert_eq!(found(path, pairs), expected, "{path} {pairs:?}");
        }
    }

    fn route() -> Route {
        Route::from_yaml(&document("hello", 1, "Active")).unwrap()
    }

    #[test]
    fn a_cookie_counts_from_our_own_pages_and_from_origins_that_the_channel_names_with_credentials() {
        let suits = |origins: &str, credentials, pairs: &[(&'static str, &str)]| {
            let tls = pairs.contains(&("x-tls", "on"));
            let mut all = vec![("cookie", "t=c"), ("host", "push.example")];
            all.extend_from_slice(pairs);
            let mut route = route();
            route.cors.origins = origins.split(' ').map(str::to_owned).collect();
            route.cors.allow_credentials = credentials;
            route.access.token_sources = vec![TokenSource::Header, TokenSource::Cookie];
            Credential::of(&Uri::from_static("/"), &headers(&all), "t", tls).unwrap().provenance.suits(&route)
        };
        let shop = ("origin", "https://shop.example");
        for (origins, credentials, pairs, expected) in [
            ("", false, &[][..], true),
            ("", false, &[shop], false),
            ("https://shop.example", false, &[shop], false),
            ("https://shop.example", true, &[shop], true),
            ("https://shop.example", true, &[("origin", "https://shop.example.evil")], false),
            ("*", true, &[shop], false),
            ("*", true, &[("origin", "*")], false),
            ("", false, &[("origin", "https://push.example")], true),
            ("", false, &[("origin", "https://PUSH.example")], true),
            ("", false, &[("origin", "http://push.example")], true),
            ("", false, &[("origin", "http://push.example"), ("x-forwarded-proto", "https")], false),
            ("", false, &[("origin", "http://push.example"), ("x-tls", "on")], false),
            ("", false, &[("origin", "https://push.example"), ("x-tls", "on")], true),
            ("", false, &[("origin", "ftp://push.example")], false),
            ("", false, &[("origin", "https://push.example:8443")], false),
            ("", false, &[("origin", "https://push.example.evil")], false),
            ("", false, &[("origin", "null")], false),
            ("", false, &[("origin", "https://push.example"), ("sec-fetch-site", "cross-site")], false),
            ("", false, &[("origin", "https://other.example"), ("sec-fetch-site", "same-origin")], true),
            ("", false, &[("sec-fetch-site", "same-origin")], true),
            ("", false, &[("sec-fetch-site", "none")], true),
            ("https://shop.example", true, &[("sec-fetch-site", "cross-site")], false),
            ("", false, &[("sec-fetch-site", "same-site")], false),
        ] {
            assert_eq!(suits(origins, credentials, pairs), expected, "{origins} {credentials} {pairs:?}");
        }
    }

    #[test]
    fn a_token_counts_where_the_channel_takes_it_from() {
        let mut route = route();
        route.access.token_sources = vec![TokenSource::Header];
        let of =
            |path: &'static str, pairs| Credential::of(&Uri::from_static(path), &headers(pairs), "t", false).unwrap();
        assert!(of("/", &[("authorization", "Bearer x")]).provenance.suits(&route));
        assert!(!of("/", &[("cookie", "t=x")]).provenance.suits(&route));
        assert!(!of("/?access_token=x", &[]).provenance.suits(&route));
        route.access.token_sources = vec![TokenSource::Query];
        assert!(of("/?access_token=x", &[]).provenance.suits(&route));
    }

    proptest! {
        #[test]
        fn no_request_panics(value in proptest::collection::vec(any::<u8>(), 0..60), query in "[!-~]{0,40}") {
            let uri: Uri = format!("/?{query}&access_token={query}").parse().unwrap_or_default();
            for name in [AUTHORIZATION, COOKIE, ORIGIN, FETCH_SITE, HOST] {
                let headers: HeaderMap = HeaderValue::from_bytes(&value).map(|v| (name, v)).into_iter().collect();
                let _ = Credential::of(&uri, &headers, "t", false);
            }
        }
    }
}
