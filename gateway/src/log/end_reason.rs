//! Why a stream ends.

use std::fmt;

/// Why a stream ends: the log field, the metric label and the reason in `tidings.end` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The gateway shuts down; the client finds another one.
    Shutdown,
    /// The gateway gives streams away so that others get their share.
    Rebalanced,
    /// The reader took nothing for too long.
    Slow,
    /// The token that opened the stream has expired.
    TokenExpired,
    /// The Channel was deleted.
    ChannelDeleted,
    /// The Channel changed in a way that concerns this stream: its access, its source or its topics.
    ChannelChanged,
    /// What the Channel grants to the bearer of the token is no longer what the stream shows; the client comes back for it.
    AccessChanged,
    /// What let the stream in no longer holds: the Channel grants nothing, the token is denied, the right was withdrawn.
    AccessRevoked,
    /// NATS could not be asked for what the stream needs next; the client comes back with its position.
    BrokerUnavailable,
    /// The client closed the connection.
    ClientGone,
}

impl EndReason {
    /// All reasons, in the order in which they are declared.
    pub const ALL: &'static [Self] = &[
        Self::Shutdown,
        Self::Rebalanced,
        Self::Slow,
        Self::TokenExpired,
        Self::ChannelDeleted,
        Self::ChannelChanged,
        Self::AccessChanged,
        Self::AccessRevoked,
        Self::BrokerUnavailable,
        Self::ClientGone,
    ];

    /// The word: a log field, a metric label and the reason in `tidings.end`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Rebalanced => "rebalanced",
            Self::Slow => "slow",
            Self::TokenExpired => "token-expired",
            Self::ChannelDeleted => "channel-deleted",
            Self::ChannelChanged => "channel-changed",
            Self::AccessChanged => "access-changed",
            Self::AccessRevoked => "access-revoked",
            Self::BrokerUnavailable => "broker-unavailable",
            Self::ClientGone => "client-gone",
        }
    }

    /// Whether a client that comes back as it is can be served: by another gateway, or from where it was.
    pub fn invites_back(self) -> bool {
        match self {
            Self::Shutdown
            | Self::Rebalanced
            | Self::Slow
            | Self::ChannelChanged
            | Self::AccessChanged
            | Self::BrokerUnavailable
            | Self::ClientGone => true,
            // It needs another token first, or is refused.
            Self::TokenExpired | Self::ChannelDeleted | Self::AccessRevoked => false,
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_a_word_of_its_own_at_its_own_place() {
        for (place, reason) in EndReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
            assert!(reason.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{reason}");
            assert_eq!(EndReason::ALL.iter().filter(|other| other.as_str() == reason.as_str()).count(), 1);
        }
    }
}
