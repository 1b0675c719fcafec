//! How a connection to NATS begins: over which TLS, and as whom. Every file is read again for each connection, so that what
//! was replaced is used at the next reconnect.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use async_nats::{Auth, AuthError, ConnectOptions};
use clap::Args;
use nkeys::KeyPair;
use tidings_crds::login::{Login, LoginError, LoginFiles};
use tracing::warn;

/// The flags about NATS.
#[derive(Clone, Debug, Args)]
pub struct NatsArguments {
    /// NATS server URL; several servers of one cluster are separated by commas. May contain user:password@ or token@
    #[arg(long, env = "TIDINGS_NATS", value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    #[arg(hide_env_values = true)]
    nats: String,
    /// Certificate authorities (PEM) of the NATS servers, instead of the system's; makes TLS mandatory
    #[arg(long, env = "TIDINGS_NATS_CA", value_name = "FILE")]
    nats_ca: Option<PathBuf>,
    /// Client certificate (PEM) for NATS
    #[arg(long, env = "TIDINGS_NATS_CERT", value_name = "FILE", requires = "nats_key")]
    nats_cert: Option<PathBuf>,
    /// Private key (PEM) of --nats-cert
    #[arg(long, env = "TIDINGS_NATS_KEY", value_name = "FILE", requires = "nats_cert")]
    nats_key: Option<PathBuf>,
    /// Start with the TLS handshake, for servers with handshake_first
    #[arg(long, env = "TIDINGS_NATS_TLS_FIRST")]
    nats_tls_first: bool,
    /// NATS credentials file (JWT and nkey seed)
    #[arg(long, env = "TIDINGS_NATS_CREDENTIALS", value_name = "FILE", group = "login")]
    nats_credentials: Option<PathBuf>,
    /// File with an nkey seed
    #[arg(long, env = "TIDINGS_NATS_NKEY", value_name = "FILE", group = "login")]
    nats_nkey: Option<PathBuf>,
    /// File with the NATS user name
    #[arg(long, env = "TIDINGS_NATS_USER_FILE", value_name = "FILE", group = "login", requires = "nats_password_file")]
    nats_user_file: Option<PathBuf>,
    /// File with the password of --nats-user-file
    #[arg(long, env = "TIDINGS_NATS_PASSWORD_FILE", value_name = "FILE", requires = "nats_user_file")]
    nats_password_file: Option<PathBuf>,
    /// File with a NATS token
    #[arg(long, env = "TIDINGS_NATS_TOKEN_FILE", value_name = "FILE", group = "login")]
    nats_token_file: Option<PathBuf>,
}

/// How to reach NATS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsSettings {
    /// One address or several, separated by commas; without user, password and token.
    pub url: String,
    /// How a connection to it begins.
    pub handshake: NatsHandshake,
}

/// How a connection to NATS begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsHandshake {
    /// As whom, by files.
    pub login: LoginFiles,
    /// As whom, where there are no files.
    pub in_address: Option<AddressLogin>,
    /// Authorities of the servers' certificates; absent: the system's.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// TLS before the server's first word.
    pub tls_first: bool,
}

/// A user and password, or a token, that stood in an address. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct AddressLogin {
    user: String,
    /// Without one, the user is a token.
    password: Option<String>,
}

// === impl NatsSettings ===

impl From<NatsArguments> for NatsSettings {
    fn from(arguments: NatsArguments) -> Self {
        let user = arguments.nats_user_file.zip(arguments.nats_password_file);
        // The command line has at most one of them.
        let login = [
            arguments.nats_credentials.map(LoginFiles::Credentials),
            arguments.nats_nkey.map(LoginFiles::Nkey),
            user.map(|(user, password)| LoginFiles::User { user, password }),
            arguments.nats_token_file.map(LoginFiles::Token),
        ];
        // From here on no address holds a secret: whatever logs one, the client library included, tells none.
        let (url, in_address) = without_login(&arguments.nats);
        let handshake = NatsHandshake {
            login: login.into_iter().flatten().next().unwrap_or_default(),
            in_address,
            ca: arguments.nats_ca,
            identity: arguments.nats_cert.zip(arguments.nats_key),
            tls_first: arguments.nats_tls_first,
        };
        Self { url, handshake }
    }
}

// === impl NatsHandshake ===

impl NatsHandshake {
    /// Whether the login can be read now.
    ///
    /// # Errors
    /// When a file cannot be read, or holds something else.
    pub fn check(&self) -> Result<(), LoginError> {
        self.login.login(|file| std::fs::read_to_string(file)).map(drop)
    }

    /// The options for connections.
    pub fn options(&self) -> ConnectOptions {
        let mut options = match self.login.clone() {
            LoginFiles::None => self.in_address.as_ref().map_or_else(ConnectOptions::new, AddressLogin::options),
            files => ConnectOptions::with_auth_callback(move |nonce| {
                let files = files.clone();
                async move { authenticated(files, &nonce).await }
            }),
        };
        if let Some(ca) = &self.ca {
            options = options.add_root_certificates(ca.clone());
        }
        if let Some((cert, key)) = &self.identity {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        if self.tls_first {
            options = options.tls_first();
        }
        // With files for TLS, an impostor at the address must not be able to downgrade the connection.
        if self.ca.is_some() || self.identity.is_some() { options.require_tls(true) } else { options }
    }
}

// === impl AddressLogin ===

impl AddressLogin {
    fn options(&self) -> ConnectOptions {
        match &self.password {
            Some(password) => ConnectOptions::with_user_and_password(self.user.clone(), password.clone()),
            None => ConnectOptions::with_token(self.user.clone()),
        }
    }
}

impl fmt::Debug for AddressLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AddressLogin(…)")
    }
}

/// The same addresses without what stands before `@`, and the first of that.
fn without_login(addresses: &str) -> (String, Option<AddressLogin>) {
    let mut first = None;
    let bare = addresses.split(',').map(|address| {
        let (scheme, rest) = address.split_once("://").map_or(("", address), |(scheme, rest)| (scheme, rest));
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        // The last one: a password may have an @ that nobody encoded.
        let Some((login, host)) = authority.rsplit_once('@') else { return address.to_owned() };
        let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
        first.get_or_insert_with(|| AddressLogin { user: decoded(user), password: password.map(decoded) });
        let separator = if scheme.is_empty() { "" } else { "://" };
        format!("{scheme}{separator}{host}{path}")
    });
    let bare = bare.collect::<Vec<_>>().join(",");
    (bare, first)
}

/// Without the percent signs that an address needs.
fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// What is shown to a server that asks with this nonce.
async fn authenticated(files: LoginFiles, nonce: &[u8]) -> Result<Auth, AuthError> {
    let read = tokio::task::spawn_blocking(move || files.login(|file| std::fs::read_to_string(file))).await;
    let shown = match read.map_err(io::Error::other) {
        Ok(Ok(login)) => shown(login, nonce).map_err(|error| Box::new(error) as Box<dyn Error + Send + Sync>),
        Ok(Err(error)) => Err(error.into()),
        Err(error) => Err(error.into()),
    };
    shown.map_err(|error| {
        let cause: &dyn Error = &*error;
        warn!(error = cause, "Failed to log in to NATS; trying again.");
        AuthError::new(error)
    })
}

fn shown(login: Option<Login>, nonce: &[u8]) -> Result<Auth, nkeys::error::Error> {
    let mut auth = Auth::new();
    match login {
        None => {}
        Some(Login::Jwt { jwt, seed }) => {
            auth.signature = Some(KeyPair::from_seed(&seed)?.sign(nonce)?);
            auth.jwt = Some(jwt);
        }
        Some(Login::Nkey(seed)) => {
            let pair = KeyPair::from_seed(&seed)?;
            auth.signature = Some(pair.sign(nonce)?);
            auth.nkey = Some(pair.public_key());
        }
        Some(Login::User(user, password)) => (auth.username, auth.password) = (Some(user), Some(password)),
        Some(Login::Token(token)) => auth.token = Some(token),
    }
    Ok(auth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        nats: NatsArguments,
    }

    fn parse(arguments: &[&str]) -> Result<NatsSettings, String> {
        let line = Line::try_parse_from([&["x"], arguments].concat());
        line.map(|line| line.nats.into()).map_err(|error| error.to_string())
    }

    #[test]
    fn each_kind_of_login_is_read_from_its_flags() {
        let login = |arguments: &[&str]| parse(arguments).unwrap().handshake.login;
        assert_eq!(login(&[]), LoginFiles::None);
        assert_eq!(login(&["--nats-credentials", "c"]), LoginFiles::Credentials("c".into()));
        assert_eq!(login(&["--nats-nkey", "n"]), LoginFiles::Nkey("n".into()));
        let user = LoginFiles::User { user: "u".into(), password: "p".into() };
        assert_eq!(login(&["--nats-user-file", "u", "--nats-password-file", "p"]), user);
        assert_eq!(login(&["--nats-token-file", "t"]), LoginFiles::Token("t".into()));
    }

    #[test]
    fn half_a_login_and_two_logins_are_refused() {
        for (arguments, named) in [
            (&["--nats-user-file", "u"][..], "--nats-password-file"),
            (&["--nats-password-file", "p"], "--nats-user-file"),
            (&["--nats-cert", "c"], "--nats-key"),
            (&["--nats-key", "k"], "--nats-cert"),
            (&["--nats-token-file", "t", "--nats-nkey", "n"], "cannot be used with"),
            (&["--nats-user-file", "u", "--nats-password-file", "p", "--nats-credentials", "c"], "cannot be used with"),
        ] {
            let fault = parse(arguments).unwrap_err();
            assert!(fault.contains(named), "{fault}");
        }
    }

    #[test]
    fn a_login_is_taken_out_of_the_address_and_never_shown() {
        let login = |user: &str, password: Option<&str>| {
            Some(AddressLogin { user: user.to_owned(), password: password.map(str::to_owned) })
        };
        for (given, bare, expected) in [
            ("nats://h:4222", "nats://h:4222", None),
            ("h", "h", None),
            ("nats://ann:s3cret@h:4222", "nats://h:4222", login("ann", Some("s3cret"))),
            ("tls://ann:p%40ss%2Fword%@h", "tls://h", login("ann", Some("p@ss/word%"))),
            ("nats://ann:s@cret@h", "nats://h", login("ann", Some("s@cret"))),
            ("ann:s3cret@h:4222", "h:4222", login("ann", Some("s3cret"))),
            ("nats://t0ken@h/", "nats://h/", login("t0ken", None)),
            ("nats://a:x@h1,nats://b:y@h2,nats://h3", "nats://h1,nats://h2,nats://h3", login("a", Some("x"))),
            ("nats://ann:s3cret@", "nats://", login("ann", Some("s3cret"))),
            ("ws://h/p@th", "ws://h/p@th", None),
        ] {
            let settings = parse(&["--nats", given]).unwrap();
            assert_eq!((settings.url.as_str(), &settings.handshake.in_address), (bare, &expected), "{given}");
            let shown = format!("{settings:?}");
            assert!(!shown.contains("s3cret") && !shown.contains("t0ken"), "{shown}");
        }
    }

    #[test]
    fn what_is_shown_is_signed_where_there_is_a_seed() {
        let pair = KeyPair::new_user();
        let seed = pair.seed().unwrap();
        let auth = shown(Some(Login::Nkey(seed.clone())), b"nonce").unwrap();
        assert_eq!(auth.nkey, Some(pair.public_key()));
        pair.verify(b"nonce", &auth.signature.unwrap()).unwrap();
        let auth = shown(Some(Login::Jwt { jwt: "j".into(), seed }), b"nonce").unwrap();
        assert_eq!((auth.jwt.as_deref(), auth.nkey), (Some("j"), None));
        pair.verify(b"nonce", &auth.signature.unwrap()).unwrap();
        assert!(shown(Some(Login::Nkey("SUnonsense".into())), b"").is_err());
    }

    #[tokio::test]
    async fn a_file_that_is_replaced_counts_at_the_next_connection() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let files = LoginFiles::Token(file.clone());
        for token in ["one", "two"] {
            std::fs::write(&file, token).unwrap();
            assert_eq!(authenticated(files.clone(), b"").await.unwrap().token.as_deref(), Some(token));
        }
        std::fs::remove_file(&file).unwrap();
        assert!(authenticated(files, b"").await.is_err());
    }
}
