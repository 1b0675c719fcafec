//! HTTP as tests need it: one request on a connection of its own, the answer whole or as a stream of bytes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpSocket, TcpStream};

use crate::evidence;
use crate::tls::TlsClient;
use crate::wait::PATIENCE;

/// Which HTTP is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, by prior knowledge.
    H2c,
    /// HTTP/2 over TLS, agreed on in the handshake; where there is no TLS, by prior knowledge.
    H2,
}

/// A request that can be sent any number of times.
#[derive(Clone, Debug)]
pub struct Request {
    method: Method,
    url: String,
    headers: HeaderMap,
    body: Bytes,
    protocol: Protocol,
    tls: Option<TlsClient>,
    from: IpAddr,
}

/// An answer whose body has been read.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Why there was no answer.
#[derive(Debug)]
pub enum WebError {
    /// No connection.
    Connect(std::io::Error),
    /// The connection broke, or what came was not HTTP.
    Http(hyper::Error),
    /// Nothing within [`PATIENCE`].
    Timeout,
}

// === impl Request ===

impl Request {
    /// A request for `url`, which reads `http://host:port/path?query`, or `https` if it is [`Request::secured`] as well.
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        let from = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self { method, url: url.into(), headers, body, protocol: Protocol::default(), tls: None, from }
    }

    /// GET.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new(Method::GET, url)
    }

    /// POST with a body.
    pub fn post(url: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::new(Method::POST, url) }
    }

    /// With a header more.
    ///
    /// # Panics
    /// When HTTP does not allow it.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let name: HeaderName = name.parse().expect("a header name");
        self.headers.append(name, HeaderValue::from_bytes(value.as_ref()).expect("a header value"));
        self
    }

    /// Over this protocol.
    pub fn over(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// With this TLS, if there is any, where the URL says `https`.
    pub fn secured(mut self, tls: Option<&TlsClient>) -> Self {
        self.tls = tls.cloned();
        self
    }

    /// From this address of the machine, as in 127.0.0.2.
    pub fn from(mut self, address: IpAddr) -> Self {
        self.from = address;
        self
    }

    /// Sends it and returns the answer as soon as its head is there.
    pub async fn open(&self) -> Result<http::Response<Incoming>, WebError> {
        self.open_within(PATIENCE).await
    }

    /// [`Request::open`] with a deadline of one's own for connection and head.
    pub async fn open_within(&self, deadline: Duration) -> Result<http::Response<Incoming>, WebError> {
        tokio::time::timeout(deadline, self.exchange()).await.unwrap_or(Err(WebError::Timeout))
    }

    /// Sends it and reads the whole answer.
    pub async fn try_send(&self) -> Result<Reply, WebError> {
        let read = async {
            let (head, body) = self.exchange().await?.into_parts();
            let body = body.collect().await.map_err(WebError::Http)?.to_bytes();
            let reply = Reply { status: head.status, headers: head.headers, body };
            if self.url.ends_with("/metrics") {
                evidence::scraped(&reply.text());
            }
            Ok(reply)
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap_or(Err(WebError::Timeout))
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Panics
    /// When there is none.
    pub async fn send(&self) -> Reply {
        self.try_send().await.unwrap_or_else(|error| panic!("{} {} has an answer: {error:?}", self.method, self.url))
    }

    async fn exchange(&self) -> Result<http::Response<Incoming>, WebError> {
        let uri: Uri = self.url.parse().unwrap_or_else(|error| panic!("{} is a URL: {error}", self.url));
        let authority = uri.authority().expect("a URL names its host");
        let stream = self.connect(authority.as_str()).await.map_err(WebError::Connect)?;
        stream.set_nodelay(true).map_err(WebError::Connect)?;
        let tls = self.tls.as_ref().filter(|_| uri.scheme() == Some(&Scheme::HTTPS));
        let Some(tls) = tls else { return self.exchange_over(TokioIo::new(stream), &uri).await };
        let offered = if self.protocol == Protocol::Http1 { "http/1.1" } else { "h2" };
        let stream = tls.connect(stream, offered).await.map_err(WebError::Connect)?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(offered.as_bytes()), "the protocol is agreed on");
        self.exchange_over(TokioIo::new(stream), &uri).await
    }

    async fn connect(&self, authority: &str) -> std::io::Result<TcpStream> {
        if self.from.is_unspecified() {
            return TcpStream::connect(authority).await;
        }
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(self.from, 0))?;
        socket.connect(authority.parse().expect("an address of this machine")).await
    }

    async fn exchange_over<I>(&self, io: I, uri: &Uri) -> Result<http::Response<Incoming>, WebError>
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let authority = uri.authority().expect("a URL names its host");
        let body = Full::new(self.body.clone());
        let mut request = http::Request::builder().method(self.method.clone()).body(body).expect("a plain request");
        *request.headers_mut() = self.headers.clone();
        // Dropping the answer's body ends the connection, and with it the task that drives it.
        match self.protocol {
            Protocol::Http1 => {
                *request.uri_mut() =
                    uri.path_and_query().map_or("/", |path| path.as_str()).parse().expect("it was part of a URL");
                request.headers_mut().entry("host").or_insert(authority.as_str().parse().expect("a host"));
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(io).await.map_err(WebError::Http)?;
                tokio::spawn(connection);
                sender.send_request(request).await.map_err(WebError::Http)
            }
            Protocol::H2c | Protocol::H2 => {
                *request.uri_mut() = uri.clone();
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.map_err(WebError::Http)?;
                tokio::spawn(connection);
                sender.send_request(request).await.map_err(WebError::Http)
            }
        }
    }
}

// === impl Reply ===

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{:?} is JSON: {error}", self.text()))
    }

    /// A header as text; empty when absent.
    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
    }
}

/// `text` as a query value.
pub fn query(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
