//! The ways from a client to a gateway. Each is a path of its own through the gateway, and what is promised holds on all.
//!
//! A story is an `async fn(Side)`; [`on_every_side!`](crate::on_every_side) makes three tests of it.

use crate::web::Protocol;

/// A way from a client to a gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// HTTP/1.1 without TLS: the socket belongs to a shard.
    #[default]
    Http1,
    /// HTTP/1.1 over TLS: the socket and its session belong to a shard.
    Tls,
    /// HTTP/2 over TLS: a streaming body, on a connection that stays with hyper.
    H2,
}

// === impl Side ===

impl Side {
    /// What is spoken.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Http1 | Self::Tls => Protocol::Http1,
            Self::H2 => Protocol::H2,
        }
    }

    /// Whether it is spoken over TLS.
    pub fn is_secured(self) -> bool {
        self != Self::Http1
    }
}

/// Makes tests of stories: in the modules `http1`, `tls` and `h2`, each with every story named here.
#[macro_export]
macro_rules! on_every_side {
    (@ $module:ident, $side:ident, $($story:ident)+) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $story() {
                    super::$story($crate::side::Side::$side).await;
                }
            )+
        }
    };
    ($($story:ident,)+) => {
        $crate::on_every_side!(@ http1, Http1, $($story)+);
        $crate::on_every_side!(@ tls, Tls, $($story)+);
        $crate::on_every_side!(@ h2, H2, $($story)+);
    };
}
