//! HTTP as `tidings-operator try` speaks it: HTTP/1.1, with or without TLS, a connection for each request.

use std::str::FromStr;

use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::commands::smoke_test_tls::Pin;

/// No answer that is read here is longer.
const MAX_BYTES: usize = 64 << 10;

/// Where a gateway is: `http://host`, `https://host`, each with or without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
    tls: bool,
}

/// A gateway, and how to speak to it.
#[derive(Clone, Debug)]
pub struct Gateway {
    address: Address,
    pin: Option<Pin>,
}

/// Why there was no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// No connection.
    #[error("failed to connect to {address}")]
    Connect {
        /// Where to.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No TLS, or another certificate than the one expected.
    #[error("the TLS handshake failed")]
    Handshake(#[source] std::io::Error),
    /// The connection broke, or what came was not HTTP.
    #[error("the connection failed")]
    Connection(#[from] hyper::Error),
    /// Another answer than an event stream.
    #[error("the gateway answered {0}")]
    Refused(u16),
    /// The stream ended, or never came to the point.
    #[error("the stream ended before the event came; before that: {0}")]
    Ended(String),
    /// Nothing in time.
    #[error("no answer within ten seconds")]
    Late,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The body, if it ended.
    pub text: String,
}

/// An open event stream.
#[derive(Debug)]
pub struct Stream {
    body: Incoming,
    unread: String,
}

/// What stands between two empty lines of an event stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Its id.
    pub id: Option<String>,
    /// Its data; absent if it has none.
    pub data: Option<String>,
}

// === impl Address ===

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault =
            || format!("{text:?} is not a gateway's address: write http://HOST, https://HOST, or either with :PORT");
        let uri: Uri = text.parse().map_err(|_| fault())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(fault()),
        };
        let bare = ["", "/"].contains(&uri.path()) && uri.query().is_none();
        let host = uri.host().filter(|_| bare).ok_or_else(fault)?;
        Ok(Self { host: host.to_owned(), port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }), tls })
    }
}

// === impl Gateway ===

impl Gateway {
    /// The gateway at an address, with the certificate that it has to show.
    ///
    /// # Errors
    /// When one is there without the other; the text says what to write.
    pub fn new(address: Address, pin: Option<Pin>) -> Result<Self, String> {
        match (address.tls, &pin) {
            (true, None) => {
                Err("--certificate: write the file of the certificate that an https gateway shows".to_owned())
            }
            (false, Some(_)) => {
                Err("--certificate: an http gateway shows none; write https:// or leave it out".to_owned())
            }
            _ => Ok(Self { address, pin }),
        }
    }

    /// Connects to a port of its host.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn connect_to(&self, port: u16) -> Result<TcpStream, WebError> {
        let host = self.address.host.as_str();
        let connected = TcpStream::connect((host, port)).await;
        connected.map_err(|source| WebError::Connect { address: format!("{host}:{port}"), source })
    }

    async fn ask(&self, request: http::request::Builder, body: &str) -> Result<Response<Incoming>, WebError> {
        let Address { host, port, .. } = &self.address;
        let request = request.header("host", format!("{host}:{port}"));
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes())));
        let request = request.expect("paths and positions are plain");
        let stream = self.connect_to(*port).await?;
        match &self.pin {
            None => exchange(stream, request).await,
            Some(pin) => exchange(pin.connect(host, stream).await.map_err(WebError::Handshake)?, request).await,
        }
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, WebError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer's body, or when that is dropped.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

// === impl Reply ===

impl Reply {
    /// To a GET.
    ///
    /// # Errors
    /// When there is none.
    pub async fn to_get(gateway: &Gateway, path: &str) -> Result<Self, WebError> {
        Self::read(gateway.ask(Request::builder().method(Method::GET).uri(path), "").await?).await
    }

    /// To a POST.
    ///
    /// # Errors
    /// When there is none.
    pub async fn to_post(gateway: &Gateway, path: &str, body: &str) -> Result<Self, WebError> {
        Self::read(gateway.ask(Request::builder().method(Method::POST).uri(path), body).await?).await
    }

    async fn read(response: Response<Incoming>) -> Result<Self, WebError> {
        let status = response.status().as_u16();
        // An event stream has no end; that it came at all is the answer.
        if is_event_stream(&response) {
            return Ok(Self { status, text: "an event stream".to_owned() });
        }
        let mut body = http_body_util::Limited::new(response.into_body(), MAX_BYTES);
        let mut text = String::new();
        while let Some(Ok(frame)) = body.frame().await {
            text.push_str(&String::from_utf8_lossy(frame.data_ref().map(AsRef::as_ref).unwrap_or_default()));
        }
        Ok(Self { status, text })
    }
}

fn is_event_stream(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
}

// === impl Stream ===

impl Stream {
    /// Subscribes, after a position if there is one.
    ///
    /// # Errors
    /// When the answer is no event stream.
    pub async fn open(gateway: &Gateway, path: &str, after: Option<&str>) -> Result<Self, WebError> {
        let request = Request::builder().method(Method::GET).uri(path).header("accept", "text/event-stream");
        let request = match after {
            Some(id) => request.header("last-event-id", id),
            None => request,
        };
        let response = gateway.ask(request, "").await?;
        if response.status() != 200 || !is_event_stream(&response) {
            return Err(WebError::Refused(response.status().as_u16()));
        }
        Ok(Self { body: response.into_body(), unread: String::new() })
    }

    /// The first block from here on that is wanted.
    ///
    /// # Errors
    /// When the stream ends before.
    pub async fn until(&mut self, wanted: impl Fn(&Block) -> bool) -> Result<Block, WebError> {
        loop {
            while let Some((block, rest)) = self.unread.split_once("\n\n") {
                let block = Block::read(block);
                self.unread = rest.to_owned();
                if wanted(&block) {
                    return Ok(block);
                }
            }
            let Some(frame) = self.body.frame().await.filter(|_| self.unread.len() < MAX_BYTES) else {
                return Err(WebError::Ended(std::mem::take(&mut self.unread)));
            };
            let frame = frame?;
            self.unread.push_str(&String::from_utf8_lossy(frame.data_ref().map(AsRef::as_ref).unwrap_or_default()));
        }
    }
}

// === impl Block ===

impl Block {
    fn read(text: &str) -> Self {
        let mut block = Self::default();
        for line in text.lines() {
            match line.split_once(": ") {
                Some(("id", id)) => block.id = Some(id.to_owned()),
                Some(("data", data)) => match &mut block.data {
                    Some(before) => before.extend(["\n", data]),
                    None => block.data = Some(data.to_owned()),
                },
                _ => {}
            }
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_with_or_without_a_port() {
        let address = |text: &str| text.parse::<Address>();
        let is = |host: &str, port, tls| Ok(Address { host: host.into(), port, tls });
        assert_eq!(address("http://gateway.ns.svc"), is("gateway.ns.svc", 80, false));
        assert_eq!(address("https://gateway.ns.svc"), is("gateway.ns.svc", 443, true));
        assert_eq!(address("http://10.0.0.1:8080/"), is("10.0.0.1", 8080, false));
        for text in ["gateway", "ftp://gateway", "http://gateway/path", "http://gateway/?a", ""] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_certificate_is_for_https_and_https_needs_one() {
        let gateway = |text: &str, pin: Option<&Pin>| Gateway::new(text.parse().expect("an address"), pin.cloned());
        let pin = Pin::of(b"a certificate".to_vec().into());
        assert!(gateway("http://g", None).is_ok() && gateway("https://g", Some(&pin)).is_ok());
        assert!(gateway("https://g", None).is_err_and(|fault| fault.starts_with("--certificate")));
        assert!(gateway("http://g", Some(&pin)).is_err_and(|fault| fault.starts_with("--certificate")));
    }

    #[test]
    fn a_block_has_an_id_and_its_lines_of_data() {
        let block = Block::read("retry: 3000\nid: a-1-b\ndata: one\ndata: two");
        assert_eq!(block, Block { id: Some("a-1-b".into()), data: Some("one\ntwo".into()) });
        assert_eq!(Block::read(": heartbeat"), Block::default());
    }
}
