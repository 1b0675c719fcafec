//! The headers in which proxies say where a request comes from: `X-Forwarded-For` and `Forwarded` (RFC 7239). Pure.
//!
//! Every proxy appends; what it was sent stands to the left of that, and may be anything. So a header is read from its end, and
//! whatever cannot be read ends the chain: nothing to the left of it is trusted. In `Forwarded` a comma may stand within a quoted string,
//! so a line is read from its beginning, and one with a fault in it says nothing at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::HeaderValue;

/// Reads the hops of one line, in order; `None` is what is no address.
pub type ReadLine = fn(&str) -> Vec<Option<IpAddr>>;

/// A chain of addresses, the nearest first. It ends with the first hop that is no address.
pub fn hops<'h>(
    lines: impl DoubleEndedIterator<Item = &'h HeaderValue>,
    read: ReadLine,
) -> impl Iterator<Item = IpAddr> {
    let of_line = move |line: &HeaderValue| line.to_str().map_or_else(|_| vec![None], read);
    lines.rev().flat_map(move |line| of_line(line).into_iter().rev()).map_while(|hop| hop)
}

/// The hops of one line of `X-Forwarded-For`, in order; `None` is what is no address.
pub fn x_forwarded_for(line: &str) -> Vec<Option<IpAddr>> {
    line.split(',').map(|hop| address(hop.trim_matches([' ', '\t']))).collect()
}

/// `192.0.2.7`, `192.0.2.7:1234`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:1234`: there is no standard, and proxies write all of
/// them.
fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| node(text))
}

/// The hops of one line of `Forwarded`, in order; `None` where a proxy names no address.
pub fn forwarded(line: &str) -> Vec<Option<IpAddr>> {
    elements(line).unwrap_or_else(|| vec![None])
}

/// `None` if there is a fault anywhere in the line.
fn elements(line: &str) -> Option<Vec<Option<IpAddr>>> {
    let (mut rest, mut hops) = (line, Vec::new());
    loop {
        let element;
        (element, rest) = one_element(rest)?;
        hops.push(element);
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None => return rest.is_empty().then_some(hops),
        }
    }
}

/// `forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] )`: the address in its `for`, and what is left of the line. An empty
/// element says nothing about a hop, so it is one without an address.
fn one_element(line: &str) -> Option<(Option<IpAddr>, &str)> {
    let (mut rest, mut named): (_, Option<String>) = (line, None);
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        if !rest.starts_with([';', ',']) && !rest.is_empty() {
            let (name, value);
            (name, value, rest) = pair(rest)?;
            // A parameter occurs once: of two, nobody knows which one counts.
            if name.eq_ignore_ascii_case("for") && named.replace(value).is_some() {
                return None;
            }
            rest = rest.trim_start_matches([' ', '\t']);
        }
        match rest.strip_prefix(';') {
            Some(next) => rest = next,
            None => return Some((named.as_deref().and_then(node), rest)),
        }
    }
}

/// `forwarded-pair = token "=" ( token / quoted-string )`
fn pair(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = token(text)?;
    let rest = rest.strip_prefix('=')?;
    match rest.strip_prefix('"') {
        Some(quoted) => unquoted(quoted).map(|(value, rest)| (name, value, rest)),
        None => token(rest).map(|(value, rest)| (name, value.to_owned(), rest)),
    }
}

/// RFC 9110, section 5.6.2.
fn token(text: &str) -> Option<(&str, &str)> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// RFC 9110, section 5.6.4, behind the opening quote: the text without its escapes, and what stands behind the closing quote.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => value.push(chars.next()?),
            c => value.push(c),
        }
    }
}

/// `node = nodename [ ":" node-port ]` (RFC 7239, section 6), as far as it is an address: names that proxies make up for themselves
/// (`_hidden`) and `unknown` are none.
fn node(text: &str) -> Option<IpAddr> {
    let (address, port) = match text.strip_prefix('[') {
        Some(six) => {
            let (six, rest) = six.split_once(']')?;
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
            (IpAddr::V6(six.parse::<Ipv6Addr>().ok()?), port)
        }
        None => {
            let (four, port) = text.split_once(':').map_or((text, None), |(four, port)| (four, Some(port)));
            (IpAddr::V4(four.parse::<Ipv4Addr>().ok()?), port)
        }
    };
    port.is_none_or(is_port).then_some(address)
}

/// `node-port = 1*5DIGIT / "_" 1*( ALPHA / DIGIT / "." / "_" / "-" )`
fn is_port(text: &str) -> bool {
    let obfuscated = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match text.strip_prefix('_') {
        Some(name) => !name.is_empty() && name.chars().all(obfuscated),
        None => (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chain(read: fn(&str) -> Vec<Option<IpAddr>>, lines: &[&str]) -> Vec<String> {
        let lines: Vec<HeaderValue> = lines.iter().map(|line| HeaderValue::from_str(line).unwrap()).collect();
        hops(lines.iter(), read).map(|address| address.to_string()).collect()
    }

    #[test]
    fn elements_are_read_as_rfc_7239_writes_them() {
        for (line, expected) in [
            ("for=192.0.2.43", &["192.0.2.43"][..]),
            ("For=\"[2001:db8:cafe::17]:4711\"", &["2001:db8:cafe::17"]),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", &["192.0.2.60"]),
            ("for=192.0.2.43, for=198.51.100.17", &["198.51.100.17", "192.0.2.43"]),
            (
                "for=192.0.2.43,FOR=\"198.51.100.17\"\t,for=\"198.51.100.18:80\"",
                &["198.51.100.18", "198.51.100.17", "192.0.2.43"],
            ),
            ("for=\"192.0.2.43:_gazonk\"", &["192.0.2.43"]),
            ("host=\"a,for=6.6.6.6\";for=192.0.2.43", &["192.0.2.43"]),
            ("for=192.0.2.43;host=\"x;for=6.6.6.6, for=7.7.7.7\"", &["192.0.2.43"]),
            ("for=192.0.2.43;host=\"x\\\",for=6.6.6.6\"", &["192.0.2.43"]),
            ("for=\"192.0.2\\.43\"", &["192.0.2.43"]),
            (";;for=192.0.2.43;;", &["192.0.2.43"]),
            ("proto=https; for=192.0.2.43 ; by=\"\"", &["192.0.2.43"]),
            ("for=6.6.6.6, for=unknown, for=192.0.2.43", &["192.0.2.43"]),
            ("for=6.6.6.6, for=_SEVKISEK, for=192.0.2.43", &["192.0.2.43"]),
            ("for=6.6.6.6, proto=https, for=192.0.2.43", &["192.0.2.43"]),
            ("for=6.6.6.6, , for=192.0.2.43", &["192.0.2.43"]),
        ] {
            assert_eq!(chain(forwarded, &[line]), expected, "{line}");
        }
    }

    #[test]
    fn a_line_with_a_fault_says_nothing_and_what_stands_before_it_is_not_trusted() {
        for fault in [
            "for=192.0.2.43;host=\"x",
            "for=192.0.2.43;host=\"x\\",
            "for=192.0.2.43 for=6.6.6.6",
            "for=192.0.2.43;for=6.6.6.6",
            "for=\"192.0.2.43\"x",
            "for=192.0.2.43:4711",
            "for=[2001:db8::1]",
            "for = 192.0.2.43",
            "for",
            "for=",
            "=192.0.2.43",
            "192.0.2.43",
            "for=192.0.2.43;host=é",
        ] {
            let Ok(line) = HeaderValue::from_bytes(fault.as_bytes()) else { panic!("{fault}") };
            let lines = [HeaderValue::from_static("for=6.6.6.6"), line, HeaderValue::from_static("for=192.0.2.9")];
            let found: Vec<_> = hops(lines.iter(), forwarded).map(|address| address.to_string()).collect();
            assert_eq!(found, ["192.0.2.9"], "{fault}");
        }
        for no_address in [
            "192.0.2.43:",
            "192.0.2.43:123456",
            "192.0.2.43:x",
            "2001:db8::1",
            "[2001:db8::1",
            "[2001:db8::1]x",
            "[192.0.2.43]",
            "[2001:db8::1%eth0]",
            "192.0.2.043",
            "_",
            "",
        ] {
            assert_eq!(chain(forwarded, &[&format!("for=\"{no_address}\"")]), [""; 0], "{no_address}");
        }
    }

    #[test]
    fn several_lines_are_one_chain() {
        assert_eq!(
            chain(forwarded, &["for=192.0.2.1, for=192.0.2.2", "for=192.0.2.3"]),
            ["192.0.2.3", "192.0.2.2", "192.0.2.1"]
        );
        assert_eq!(
            chain(x_forwarded_for, &["192.0.2.1,192.0.2.2", "192.0.2.3"]),
            ["192.0.2.3", "192.0.2.2", "192.0.2.1"]
        );
    }

    #[test]
    fn what_is_no_address_ends_the_chain_of_x_forwarded_for() {
        for (line, expected) in [
            ("192.0.2.1, 192.0.2.2:80 ,[2001:db8::1]:80,[2001:db8::2]\t,2001:db8::3", 5),
            ("192.0.2.1, [2001:db8::1]garbage, 192.0.2.2", 1),
            ("192.0.2.1, 192.0.2.3:evil, 192.0.2.2", 1),
            ("192.0.2.1, \"192.0.2.3\", 192.0.2.2", 1),
            ("192.0.2.1, , 192.0.2.2", 1),
            ("192.0.2.1, unknown, 192.0.2.2", 1),
            ("192.0.2.1, 192.0.2.2,", 0),
            ("", 0),
        ] {
            assert_eq!(chain(x_forwarded_for, &[line]).len(), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn whatever_stands_in_a_quoted_string_changes_no_address(text in "[ -~]{0,40}", before in "[ -~]{0,40}") {
            let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
            let line = format!("for=192.0.2.43;host=\"{quoted}\";proto=https");
            prop_assert_eq!(chain(forwarded, &[&line]), ["192.0.2.43"]);
            let found = chain(forwarded, &[&before, &line]);
            prop_assert_eq!(found.first().map(String::as_str), Some("192.0.2.43"));
        }
    }
}
