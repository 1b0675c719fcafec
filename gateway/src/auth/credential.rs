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

/// Sent by browsers; pages cannot change it.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

// === impl Credential ===

impl Credential {
    /// Finds the token of a request. One that was sent and is no text is an empty token, which is never good.
    pub fn of(uri: &Uri, headers: &HeaderMap, cookie: &str) -> Option<Self> {
        let found = bearer(headers)
            .map(|token| (token, TokenSource::Header))
            .or_else(|| from_cookie(headers, cookie).map(|token| (token, TokenSource::Cookie)))
            .or_else(|| from_query(uri).map(|token| (token, TokenSource::Query)));
        let (token, source) = found?;
        let provenance = Provenance { source, sender: Sender::of(uri, headers) };
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
    fn of(uri: &Uri, headers: &HeaderMap) -> Self {
        let site = headers.get(FETCH_SITE).map(|site| site.as_bytes());
        let origin = headers.get(ORIGIN).map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned());
        match (site, origin) {
            (Some(b"same-origin"), _) => Self::Own,
            // A browser that does not say: the origin is ours if it has our authority.
            (None, Some(origin)) if is_authority(uri, headers, &origin) => Self::Own,
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

fn is_authority(uri: &Uri, headers: &HeaderMap, origin: &str) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let ours = uri.authority().map(|authority| authority.as_str()).or(host);
    let theirs = origin.split_once("://").map(|(_, authority)| authority);
    ours.zip(theirs).is_some_and(|(ours, theirs)| ours.eq_ignore_ascii_case(theirs))
}

/// RFC 6750, section 2.1. Another scheme is no token of ours, and leaves the other places open.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?;
    let text = String::from_utf8_lossy(value.as_bytes());
    let (scheme, token) = text.split_once(' ').unwrap_or((&text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    // Of two, nobody knows which one counts: neither does.
    Some(if values.next().is_some() { String::new() } else { token.trim().to_owned() })
}

/// Of several cookies with this name the first counts; browsers send the one with the longest path first.
fn from_cookie(headers: &HeaderMap, cookie: &str) -> Option<String> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == cookie)?;
    Some(value.trim_matches('"').to_owned())
}

/// RFC 6750, section 2.3.
fn from_query(uri: &Uri) -> Option<String> {
    let query = uri.query().filter(|query| query.contains("access_token"))?;
    let mut pairs = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "access_token");
    let (_, token) = pairs.next()?;
    Some(if pairs.next().is_some() { String::new() } else { token.into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::table::tests::document;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_str(v).unwrap())).collect()
    }

    fn found(path: &str, pairs: &[(&'static str, &str)]) -> Option<(String, TokenSource)> {
        let credential = Credential::of(&path.parse().unwrap(), &headers(pairs), "t")?;
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
            ("/?access_token=q", &[("authorization", "bearer")], some("", TokenSource::Header)),
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
            let mut all = vec![("cookie", "t=c"), ("host", "push.example")];
            all.extend_from_slice(pairs);
            let mut route = route();
            route.cors.origins = origins.split(' ').map(str::to_owned).collect();
            route.cors.allow_credentials = credentials;
            route.access.token_sources = vec![TokenSource::Header, TokenSource::Cookie];
            Credential::of(&Uri::from_static("/"), &headers(&all), "t").unwrap().provenance.suits(&route)
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
        let of = |path: &'static str, pairs| Credential::of(&Uri::from_static(path), &headers(pairs), "t").unwrap();
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
                let _ = Credential::of(&uri, &headers, "t");
            }
        }
    }
}
