//! Who a request comes from, as limits per client count it: the subject of its token, or else an address.
//!
//! Behind proxies the TCP peer is the proxy. `--trusted-proxies` says whose word to believe, and `--forwarded-header` which
//! header they write; the client is the last address in it that is not such a proxy. Anybody can write anything before that, and
//! into the other header.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use clap::ValueEnum;
use http::header::FORWARDED;
use http::{HeaderMap, HeaderName};

use crate::limits::forwarded;

/// A client, as limits count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Client {
    /// An IPv4 address, or the /64 that an IPv6 host can choose its addresses from.
    Address(IpAddr),
    /// The subject of a token, by its fingerprint.
    Subject(u128),
}

/// Which header trusted proxies write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: client, proxy`.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client, for=proxy` (RFC 7239).
    Forwarded,
}

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    bits: u128,
    prefix: u8,
}

/// Why a text is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write an address or a network, as in 10.0.0.0/8, 192.0.2.7 or fd00::/8")]
pub struct NetworkError;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

// === impl Client ===

impl Client {
    /// The client behind a TCP peer and the headers of its request.
    pub fn of(peer: IpAddr, headers: &HeaderMap, trusted: &[Network], header: ForwardedHeader) -> Self {
        let is_proxy = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
        if !is_proxy(peer) {
            return Self::from(peer);
        }
        let (name, read): (_, forwarded::ReadLine) = match header {
            ForwardedHeader::XForwardedFor => (FORWARDED_FOR, forwarded::x_forwarded_for),
            ForwardedHeader::Forwarded => (FORWARDED, forwarded::forwarded),
        };
        let mut client = peer;
        for address in forwarded::hops(headers.get_all(name).iter(), read) {
            client = address;
            if !is_proxy(address) {
                break;
            }
        }
        Self::from(client)
    }
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() & (u128::MAX << 64))),
            four => four,
        })
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(network)) => write!(f, "{network}/64"),
            Self::Subject(fingerprint) => write!(f, "subject {fingerprint:032x}"),
        }
    }
}

// === impl Network ===

impl Network {
    /// Whether the address is in the network; an IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
        (bits(address) ^ self.bits) & mask == 0
    }
}

/// IPv4 lies in `::ffff:0:0/96`.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => four.to_ipv6_mapped().to_bits(),
        IpAddr::V6(six) => six.to_bits(),
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| NetworkError)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let (width, offset) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let prefix = prefix.unwrap_or(width);
        if prefix > width { Err(NetworkError) } else { Ok(Self { bits: bits(address), prefix: prefix + offset }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_client_is_the_last_hop_that_is_no_trusted_proxy() {
        let trusted: Vec<Network> = ["10.0.0.0/8", "fd00::/8"].iter().map(|text| text.parse().unwrap()).collect();
        for (peer, forwarded, client) in [
            ("192.0.2.1", &["203.0.113.9"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["6.6.6.6, 203.0.113.9, 10.1.1.1"], "203.0.113.9"),
            ("10.0.0.1", &["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("10.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::/64"),
            ("10.0.0.1", &["2001:db8::1"], "2001:db8::/64"),
            ("10.0.0.1", &["6.6.6.6, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, garbage, 10.1.1.1"], "10.1.1.1"),
            ("10.0.0.1", &["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
            ("fd00::1", &["203.0.113.9"], "203.0.113.9"),
        ] {
            let headers: HeaderMap =
                forwarded.iter().map(|value| (FORWARDED_FOR, HeaderValue::from_static(value))).collect();
            let found = Client::of(ip(peer), &headers, &trusted, ForwardedHeader::XForwardedFor).to_string();
            assert_eq!(found, client, "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn the_standard_header_is_read_where_it_is_the_one_that_proxies_write() {
        let trusted: Vec<Network> = vec!["10.0.0.0/8".parse().unwrap()];
        for (forwarded, client) in [
            (&["for=203.0.113.9"][..], "203.0.113.9"),
            (&["for=6.6.6.6, For=\"203.0.113.9:4711\";proto=https;by=10.0.0.1, for=10.1.1.1"], "203.0.113.9"),
            (&["for=203.0.113.9;host=\"x,for=6.6.6.6\";proto=https"], "203.0.113.9"),
            (&["for=6.6.6.6;host=\"x", "for=10.1.1.1"], "10.1.1.1"),
            (&["for=6.6.6.6", "by=x; for=\"[2001:db8::1]:4711\""], "2001:db8::/64"),
            (&["for=6.6.6.6, for=_hidden"], "10.0.0.1"),
            (&["for=6.6.6.6, for=unknown, for=10.1.1.1"], "10.1.1.1"),
            (&["203.0.113.9"], "10.0.0.1"),
            (&["proto=https"], "10.0.0.1"),
        ] {
            let mut headers: HeaderMap =
                forwarded.iter().map(|value| (FORWARDED, HeaderValue::from_static(value))).collect();
            headers.insert(FORWARDED_FOR, HeaderValue::from_static("198.51.100.7"));
            let found = |header| Client::of(ip("10.0.0.1"), &headers, &trusted, header).to_string();
            assert_eq!(found(ForwardedHeader::Forwarded), client, "{forwarded:?}");
            assert_eq!(found(ForwardedHeader::XForwardedFor), "198.51.100.7", "the other one is anybody's");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics_and_without_trust_none_counts(header in proptest::collection::vec(any::<u8>(), 0..80)) {
            for (name, read) in [(FORWARDED_FOR, ForwardedHeader::XForwardedFor), (FORWARDED, ForwardedHeader::Forwarded)] {
                let headers: HeaderMap = HeaderValue::from_bytes(&header).map(|v| (name, v)).into_iter().collect();
                let _ = Client::of(ip("10.0.0.1"), &headers, &["0.0.0.0/0".parse().unwrap()], read);
                prop_assert_eq!(Client::of(ip("10.0.0.1"), &headers, &[], read), Client::from(ip("10.0.0.1")));
            }
        }
    }

    #[test]
    fn the_addresses_of_one_ipv6_host_are_one_client() {
        assert_eq!(Client::from(ip("2001:db8::1")), Client::from(ip("2001:db8::ffff:2")));
        assert_ne!(Client::from(ip("2001:db8::1")), Client::from(ip("2001:db8:0:1::1")));
        assert_eq!(Client::from(ip("::ffff:192.0.2.1")), Client::from(ip("192.0.2.1")));
    }

    #[test]
    fn networks_are_read_whole_or_refused() {
        for text in ["", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/8/8", "example.com"] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError), "{text}");
        }
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains(ip("203.0.113.9")));
        assert!(!"0.0.0.0/0".parse::<Network>().unwrap().contains(ip("2001:db8::1")));
        assert!("::/0".parse::<Network>().unwrap().contains(ip("203.0.113.9")));
        assert!("192.0.2.7".parse::<Network>().unwrap().contains(ip("192.0.2.7")));
        assert!(!"192.0.2.7".parse::<Network>().unwrap().contains(ip("192.0.2.8")));
    }
}
