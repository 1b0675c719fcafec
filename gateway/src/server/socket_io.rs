//! What becomes of writing to a connection, and of reading from it.

/// What became of bytes to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrote {
    /// So many are the socket's business now.
    pub taken: usize,
    /// Whether it is to be written to again only when it tells of room. Those taken may then be on their way still.
    pub full: bool,
}

/// What came of reading a socket that speaks for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing to be done.
    Nothing,
    /// There is more, and nobody else is to wait for it: it is to be watched again, which tells of it.
    More,
    /// It has something to say itself: it is to be written to, be it nothing.
    Owes,
    /// The peer has closed, or has broken the connection.
    Closed,
}
