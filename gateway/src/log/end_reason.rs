//! Why a stream ends.

use crate::metrics::label::closed_set;

closed_set! {
    /// Why a stream ends: the log field, the metric label and the reason in `tidings.end` at once.
    pub enum EndReason {
        /// The gateway shuts down; the client finds another one.
        Shutdown = "shutdown",
        /// The gateway gives streams away so that others get their share.
        Rebalanced = "rebalanced",
        /// The reader took nothing for too long.
        Slow = "slow",
        /// The token that opened the stream has expired.
        TokenExpired = "token-expired",
        /// The Channel was deleted.
        ChannelDeleted = "channel-deleted",
        /// The Channel changed in a way that concerns this stream: its access, its source or its topics.
        ChannelChanged = "channel-changed",
        /// What the Channel grants to the bearer of the token is no longer what the stream shows; the client comes back for it.
        AccessChanged = "access-changed",
        /// What let the stream in no longer holds: the Channel grants nothing, the token is denied, the right was withdrawn.
        AccessRevoked = "access-revoked",
        /// NATS could not be asked for what the stream needs next; the client comes back with its position.
        BrokerUnavailable = "broker-unavailable",
        /// The client closed the connection.
        ClientGone = "client-gone",
    }
}

impl EndReason {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::label::ClosedSet;

    #[test]
    fn every_reason_is_a_word_of_its_own_at_its_own_place() {
        for (place, reason) in EndReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), place);
            assert!(reason.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{reason}");
            assert_eq!(EndReason::ALL.iter().filter(|other| other.as_str() == reason.as_str()).count(), 1);
        }
    }
}
