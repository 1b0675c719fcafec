//! A connection as bytes, whatever is on it.

use tokio::io::{AsyncRead, AsyncWrite};

/// What connections can do.
pub trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// A connection, with TLS or without.
pub type Line = Box<dyn Bytes>;
