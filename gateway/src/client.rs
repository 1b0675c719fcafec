//! Who a request comes from: an address that limits per client are counted by.
//!
//! Behind proxies the TCP peer is the proxy. `--trusted-proxies` says whose `X-Forwarded-For` to believe; the client is
//! the last address in it that is not such a proxy. Anybody can write anything before that.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use http::{HeaderMap, HeaderName};

/// A client, as limits count it: an IPv4 address, or the /64 that an IPv6 host can choose its addresses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client(IpAddr);

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
    pub fn of(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> Self {
        let is_proxy = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
        if !is_proxy(peer) {
            return Self::from(peer);
        }
        let lines = headers.get_all(FORWARDED_FOR).iter().rev();
        let hops = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
        let mut client = peer;
        for hop in hops {
            // What cannot be read ends the chain: before it, nothing can be believed.
            let Some(address) = address(hop.trim()) else { break };
            client = address;
            if !is_proxy(address) {
                break;
            }
        }
        Self::from(client)
    }
}

/// `192.0.2.7`, `192.0.2.7:1234`, `2001:db8::1`, `[2001:db8::1]:1234`: proxies write all of them.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.split(']').next());
    bare.unwrap_or(text).parse().ok().or_else(|| text.rsplit_once(':')?.0.parse::<Ipv4Addr>().ok().map(IpAddr::V4))
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() & (u128::MAX << 64))),
            four => four,
        })
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(network) => write!(f, "{network}/64"),
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
            assert_eq!(Client::of(ip(peer), &headers, &trusted).to_string(), client, "{peer} {forwarded:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics_and_without_trust_none_counts(header in proptest::collection::vec(any::<u8>(), 0..80)) {
            let headers: HeaderMap = HeaderValue::from_bytes(&header).map(|v| (FORWARDED_FOR, v)).into_iter().collect();
            let _ = Client::of(ip("10.0.0.1"), &headers, &["0.0.0.0/0".parse().unwrap()]);
            prop_assert_eq!(Client::of(ip("10.0.0.1"), &headers, &[]), Client::from(ip("10.0.0.1")));
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
