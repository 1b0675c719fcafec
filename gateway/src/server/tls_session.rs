//! A TLS session whose socket belongs to a shard: rustls driven by hand, over whatever reads and writes without waiting.
//!
//! It is handed over after the handshake, with whatever it has encrypted and not sent yet. A session speaks for itself:
//! the peer may renew keys, warn or take leave at any time, so what comes is read, within limits, and answered in order with
//! the events. Early data and renegotiation there are none: rustls takes part in neither.

use std::io::{self, BufRead, ErrorKind, Read, Write};

use rustls::ServerConnection;

use crate::server::socket_io::{Heard, Wrote};

/// The server's side of a session after its handshake.
#[derive(Debug)]
pub struct Session {
    tls: ServerConnection,
    /// Bytes that it still listens to.
    patience: u32,
}

/// What a client may send on an event stream: alerts and new keys, of some tens of bytes. Beyond it a session falls deaf,
/// and what is sent stays in the kernel, as on a connection without TLS.
const PATIENCE: u32 = 64 << 10;

/// Reads before others have a turn.
const READS: usize = 4;

// === impl Session ===

impl Session {
    /// Takes a session over, unless its peer has taken leave already. What has come for the request's server is dropped.
    pub fn new(mut tls: ServerConnection) -> Option<Self> {
        let state = tls.process_new_packets().ok()?;
        if state.peer_has_closed() {
            return None;
        }
        forget(&mut tls);
        Some(Self { tls, patience: PATIENCE })
    }

    /// Sends what is encrypted already, then encrypts and sends more, as long as the socket takes it. What it has encrypted
    /// it has taken; that is bounded by the session's buffer limit.
    pub fn write(&mut self, io: &mut impl Write, bytes: &[u8]) -> io::Result<Wrote> {
        let mut taken = 0;
        loop {
            while self.tls.wants_write() {
                match self.tls.write_tls(io) {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Wrote { taken, full: true }),
                    Err(error) => return Err(error),
                }
            }
            let rest = bytes.get(taken..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(Wrote { taken, full: false });
            }
            // It takes less where keys have to be renewed first, and nothing more where they cannot be (TLS 1.2).
            let more = self.tls.writer().write(rest)?;
            if more == 0 && !self.tls.wants_write() {
                return Err(ErrorKind::WriteZero.into());
            }
            taken += more;
        }
    }

    /// Reads what the peer has to say to the session.
    pub fn hear(&mut self, io: &mut (impl Read + Write)) -> Heard {
        if self.is_deaf() {
            return Heard::Nothing;
        }
        for _ in 0..READS {
            let read = match self.tls.read_tls(io) {
                Ok(0) => return Heard::Closed,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return if self.tls.wants_write() { Heard::Owes } else { Heard::Nothing };
                }
                Err(_) => return Heard::Closed,
            };
            self.patience = self.patience.saturating_sub(read as u32);
            match self.tls.process_new_packets() {
                Ok(state) if !state.peer_has_closed() => forget(&mut self.tls),
                other => {
                    // Courtesy: why the session ends, or that it ends here as well. Nobody waits for it.
                    if other.is_ok() {
                        self.tls.send_close_notify();
                    }
                    let _ = self.tls.write_tls(io);
                    return Heard::Closed;
                }
            }
            if self.is_deaf() {
                break;
            }
        }
        Heard::More
    }

    /// Whether it reads no more.
    pub fn is_deaf(&self) -> bool {
        self.patience == 0
    }

    /// Takes leave (RFC 8446, section 6.1): without it, a client would not know the end from a cut. False if the socket has
    /// no room for that yet.
    pub fn close(&mut self, io: &mut impl Write) -> io::Result<bool> {
        self.tls.send_close_notify();
        self.write(io, &[]).map(|wrote| !wrote.full)
    }
}

/// Discards what was decrypted: a client has nothing to say on an event stream.
fn forget(tls: &mut ServerConnection) {
    let mut reader = tls.reader();
    while let Ok(came) = reader.fill_buf()
        && !came.is_empty()
    {
        let length = came.len();
        reader.consume(length);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Cursor;
    use std::sync::{Arc, LazyLock};

    use rcgen::{CertificateParams, KeyPair};
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion};

    use super::*;
    use crate::server::certificate::Pem;

    /// The gateway's configuration, and the certificate that clients trust.
    static SERVER: LazyLock<(Arc<ServerConfig>, CertificateDer<'static>)> = LazyLock::new(|| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let chain = certificate.pem().into_bytes();
        let root = CertificateDer::from_pem_slice(&chain).unwrap();
        let pem = Pem { chain, key: key.serialize_pem().into_bytes(), client_ca: None };
        (pem.certified().unwrap().config, root)
    });

    /// Both sides of a session after the handshake.
    pub(crate) fn pair(version: &'static SupportedProtocolVersion) -> (ServerConnection, ClientConnection) {
        let (config, root) = &*SERVER;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(config.clone()).unwrap();
        server.set_buffer_limit(Some(crate::server::tls::UNSENT_BYTES));
        client.set_buffer_limit(None);
        while client.wants_write() || server.wants_write() || client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            read(&wire, |from| {
                server.read_tls(from).unwrap();
                server.process_new_packets().unwrap();
            });
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            read(&wire, |from| {
                client.read_tls(from).unwrap();
                client.process_new_packets().unwrap();
            });
        }
        (server, client)
    }

    fn read(wire: &[u8], mut some: impl FnMut(&mut Cursor<&[u8]>)) {
        let mut from = Cursor::new(wire);
        while from.position() < wire.len() as u64 {
            some(&mut from);
        }
    }

    /// What a client reads of these bytes, and whether the server takes leave.
    pub(crate) fn plaintext(client: &mut ClientConnection, wire: &[u8]) -> (Vec<u8>, bool) {
        let (mut plain, mut ended) = (Vec::new(), false);
        read(wire, |from| {
            client.read_tls(from).unwrap();
            let state = client.process_new_packets().unwrap();
            ended |= state.peer_has_closed();
            let mut came = vec![0; state.plaintext_bytes_to_read()];
            client.reader().read_exact(&mut came).unwrap();
            plain.extend(came);
        });
        (plain, ended)
    }

    /// Takes this much at a time, then has no room for once.
    struct Narrow {
        wire: Vec<u8>,
        width: usize,
        open: bool,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.open = !self.open;
            if !self.open {
                return Err(ErrorKind::WouldBlock.into());
            }
            let taken = bytes.len().min(self.width);
            self.wire.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn however_little_a_socket_takes_the_client_reads_all_of_it() {
        for (version, width) in [(&TLS13, 1), (&TLS12, 100), (&TLS13, 5_000), (&TLS12, 100_000)] {
            let (server, mut client) = pair(version);
            let mut session = Session::new(server).unwrap();
            let bytes: Vec<u8> = (0..if width == 1 { 3_000 } else { 150_000 }).map(|n| (n % 251) as u8).collect();
            let mut io = Narrow { wire: Vec::new(), width, open: false };
            let (mut taken, mut most) = (0, 0);
            loop {
                let wrote = session.write(&mut io, &bytes[taken..]).unwrap();
                taken += wrote.taken;
                most = most.max(wrote.taken);
                if !wrote.full {
                    break;
                }
            }
            assert_eq!((taken, plaintext(&mut client, &io.wire)), (bytes.len(), (bytes, false)));
            assert!(most <= 2 * crate::server::tls::UNSENT_BYTES.max(width), "{most} were taken at once");
        }
    }

    #[test]
    fn what_was_encrypted_before_goes_out_first() {
        let (mut server, mut client) = pair(&TLS13);
        server.writer().write_all(b"from hyper, ").unwrap();
        let mut wire = Vec::new();
        Session::new(server).unwrap().write(&mut wire, b"from the shard").unwrap();
        assert_eq!(plaintext(&mut client, &wire), (b"from hyper, from the shard".to_vec(), false));
    }

    #[test]
    fn a_peer_that_has_taken_leave_before_is_not_taken_over() {
        let (mut server, mut client) = pair(&TLS13);
        client.writer().write_all(b"unread").unwrap();
        client.send_close_notify();
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        read(&wire, |from| assert!(server.read_tls(from).unwrap() > 0));
        assert!(Session::new(server).is_none());
    }
}
