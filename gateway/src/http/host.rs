//! Whom a request is addressed to: exactly one host, written as RFC 3986 has it. Pure.
//!
//! RFC 9112 (section 3.2) and RFC 9113 (section 8.3.1) demand 400 for anything else: where two readers of a request disagree
//! about its host, one of them is fooled.

use http::header::{HOST, HeaderMap};
use http::{Uri, Version};

use crate::http::problem::Problem;

/// Refuses a request whose host is missing, given twice, or not one.
pub fn check(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Problem::invalid("the header Host is given more than once"));
    }
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    if host.is_none() && authority.is_none() {
        // HTTP/1.0 knows no Host.
        let old = version < Version::HTTP_11;
        return if old { Ok(()) } else { Err(Problem::invalid("the header Host is missing")) };
    }
    if host.is_none() && version == Version::HTTP_11 {
        return Err(Problem::invalid("the header Host is missing: HTTP/1.1 requires it with an absolute URI too"));
    }
    let host = host.map(|host| host.as_bytes());
    for given in [authority, host].into_iter().flatten() {
        if !is_host(given) {
            return Err(Problem::invalid("Host is not host or host:port"));
        }
    }
    let differ = authority.zip(host).is_some_and(|(authority, host)| !authority.eq_ignore_ascii_case(host));
    if differ && version >= Version::HTTP_2 {
        return Err(Problem::invalid("Host and :authority differ"));
    }
    Ok(())
}

/// `uri-host [ ":" port ]` without user information (RFC 9110, sections 4.2.1, 4.2.4 and 7.2).
fn is_host(text: &[u8]) -> bool {
    // A colon within the brackets of an IPv6 address begins no port.
    let colon = text.iter().rposition(|byte| *byte == b':').filter(|_| !text.ends_with(b"]"));
    let (host, rest) = text.split_at(colon.unwrap_or(text.len()));
    let port = rest.strip_prefix(b":").unwrap_or_default();
    let is_port = port.len() <= 5 && port.iter().all(u8::is_ascii_digit);
    is_port && if host.starts_with(b"[") { is_literal(host) } else { is_name(host) }
}

fn is_literal(host: &[u8]) -> bool {
    let inner = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]"));
    inner
        .and_then(|inner| std::str::from_utf8(inner).ok())
        .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
}

/// `reg-name` of RFC 3986, section 3.2.2, which includes IPv4 addresses.
fn is_name(host: &[u8]) -> bool {
    let mut rest = host;
    while let Some((first, after)) = rest.split_first() {
        rest = match first {
            b'%' => match after.split_first_chunk::<2>() {
                Some((digits, after)) if digits.iter().all(u8::is_ascii_hexdigit) => after,
                _ => return false,
            },
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => {
                after
            }
            byte if byte.is_ascii_alphanumeric() => after,
            _ => return false,
        };
    }
    !host.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn checked(version: Version, uri: &str, hosts: &[&str]) -> bool {
        let headers = hosts.iter().map(|host| (HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap())).collect();
        check(version, &uri.parse().unwrap(), &headers).is_ok()
    }

    #[test]
    fn there_is_exactly_one_host() {
        use Version as V;
        for (version, uri, hosts, good) in [
            (V::HTTP_11, "/", &["x"][..], true),
            (V::HTTP_11, "/", &[], false),
            (V::HTTP_11, "/", &["x", "x"], false),
            (V::HTTP_11, "http://x/", &["x"], true),
            (V::HTTP_11, "http://x/", &["y"], true), // the address wins (RFC 9112, section 3.2.2)
            (V::HTTP_11, "http://x/", &[], false),
            (V::HTTP_11, "http://u:p@x/", &["x"], false),
            (V::HTTP_10, "/", &[], true),
            (V::HTTP_10, "/", &["a b"], false),
            (V::HTTP_2, "https://x/", &[], true),
            (V::HTTP_2, "https://x/", &["x"], true),
            (V::HTTP_2, "https://x/", &["X"], true),
            (V::HTTP_2, "https://x/", &["y"], false),
            (V::HTTP_2, "https://u@x/", &[], false),
            (V::HTTP_2, "/", &[], false),
            (V::HTTP_2, "/", &["x"], true),
        ] {
            assert_eq!(checked(version, uri, hosts), good, "{version:?} {uri} {hosts:?}");
        }
    }

    #[test]
    fn a_host_is_written_as_in_rfc_3986() {
        for host in [
            "x",
            "push.example",
            "push.example:8443",
            "x:",
            "127.0.0.1:80",
            "[::1]",
            "[2001:db8::1]:443",
            "a_b",
            "x%2d",
            "PUSH",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            ":80",
            "a b",
            "a/b",
            "user@x",
            "x:port",
            "x:123456",
            "[::1",
            "::1",
            "[x]",
            "[::1]x",
            "x%2",
            "x#y",
            "x?y",
            "x\\y",
            "\u{e9}",
            "x, y ",
            "x:80:81",
            "[::1]:80:",
            "http://x",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }
}
