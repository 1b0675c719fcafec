//! Addresses to listen on, as they are written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// An address to listen on: `:8080` is every address of the machine, over IPv6 and IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Absent means all.
    pub address: Option<IpAddr>,
    /// 0 lets the kernel choose.
    pub port: u16,
}

/// Why a text is not an address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a port or an address with a port, as in :8080, 127.0.0.1:8080 or [::1]:8080")]
pub struct ListenError;

// === impl Listen ===

impl Listen {
    /// The addresses to try, in this order: a machine without IPv6 still has IPv4.
    pub fn candidates(self) -> Vec<SocketAddr> {
        match self.address {
            Some(address) => vec![SocketAddr::new(address, self.port)],
            None => [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()]
                .map(|address: IpAddr| SocketAddr::new(address, self.port))
                .to_vec(),
        }
    }
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(port) = text.strip_prefix(':') {
            return Ok(Self { address: None, port: port.parse().map_err(|_| ListenError)? });
        }
        let address: SocketAddr = text.parse().map_err(|_| ListenError)?;
        Ok(Self { address: Some(address.ip()), port: address.port() })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => SocketAddr::new(address, self.port).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_every_address_of_both_families() {
        let all: Listen = ":8080".parse().unwrap();
        assert_eq!(all.candidates(), ["[::]:8080".parse().unwrap(), "0.0.0.0:8080".parse().unwrap()]);
        let one: Listen = "127.0.0.1:0".parse().unwrap();
        assert_eq!(one.candidates(), ["127.0.0.1:0".parse().unwrap()]);
        for text in ["", "8080", ":", ":x", ":65536", "localhost:80", "::1:8080"] {
            assert_eq!(text.parse::<Listen>(), Err(ListenError), "{text}");
        }
    }
}
