//! What the kernel knows of a TCP connection: how many segments have come, and what was in them.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// What has come so far. On loopback, where nothing is held back and nothing put together, each write of the peer's that
/// finds room is one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Segments with data in them.
    pub segments: u64,
    /// The data.
    pub bytes: u64,
}

// === impl Received ===

impl Received {
    /// What has come on a connection (`TCP_INFO`, tcp(7)).
    #[allow(unsafe_code, reason = "no crate reads TCP_INFO in a safe way")]
    pub fn on(socket: impl AsFd) -> io::Result<Received> {
        let fd = socket.as_fd().as_raw_fd();
        let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: the descriptor is borrowed, so it is open. The kernel writes at most `length` bytes, the size of what the
        // pointer points to.
        let failed =
            unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut length) };
        if failed != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: all fields are integers, for which zeros are as good as anything, and they were zeros at first.
        let info = unsafe { info.assume_init() };
        Ok(Received { segments: info.tcpi_data_segs_in.into(), bytes: info.tcpi_bytes_received })
    }

    /// What has come since then.
    pub fn since(self, before: Received) -> Received {
        Received { segments: self.segments - before.segments, bytes: self.bytes - before.bytes }
    }
}

impl std::iter::Sum for Received {
    fn sum<I: Iterator<Item = Received>>(all: I) -> Received {
        all.fold(Received::default(), |sum, one| Received {
            segments: sum.segments + one.segments,
            bytes: sum.bytes + one.bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn each_write_is_counted_with_its_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.set_nodelay(true).unwrap();
        for text in ["one", "three", "seven"] {
            server.write_all(text.as_bytes()).unwrap();
            client.read_exact(&mut vec![0; text.len()]).unwrap();
        }
        assert_eq!(Received::on(&client).unwrap(), Received { segments: 3, bytes: 13 });
        assert_eq!(Received::on(&server).unwrap(), Received::default());
    }
}
