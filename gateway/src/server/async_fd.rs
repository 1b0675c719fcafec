//! Descriptors that the runtime knows nothing of but that something can be read from them.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the runtime tell when there is something to read.
#[expect(unsafe_code, reason = "tokio has no safe way to register a descriptor of no type of its own")]
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and the same descriptor for as long as it exists. The AsyncFd owns it, and whoever has the
    // AsyncFd only borrows it, by `get_ref`: there is no way to put another one in without `unsafe`.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
