//! What a program shows NATS of itself: which files hold it, and how each is read. The same for operator and gateway.
//!
//! Who calls brings the reading with it: the files are read again for every connection, so that what was replaced counts.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The files of one login.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LoginFiles {
    /// None: what the address says, if it says anything.
    #[default]
    None,
    /// A credentials file, as `nsc` writes it: a user's JWT and its nkey seed.
    Credentials(PathBuf),
    /// An nkey seed, alone or as `nsc` decorates it.
    Nkey(PathBuf),
    /// A user's name and its password.
    User {
        /// The name.
        user: PathBuf,
        /// The password.
        password: PathBuf,
    },
    /// A token.
    Token(PathBuf),
}

/// What stands in the files. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// Proven by a signature with the seed.
    Jwt {
        /// What the account says about the user.
        jwt: String,
        /// The user's secret.
        seed: String,
    },
    /// Proven by a signature with this seed.
    Nkey(String),
    /// A user's name and its password.
    User(String, String),
    /// A token.
    Token(String),
}

/// Why files hold no login. Says nothing of what they hold instead.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Not readable.
    #[error("failed to read the NATS login {}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not what it should be.
    #[error("the NATS login {} has no {what}", file.display())]
    Missing {
        /// Which.
        file: PathBuf,
        /// What is not in it.
        what: &'static str,
    },
}

// === impl LoginFiles ===

impl LoginFiles {
    /// Reads the login, by `read`; `None` if there are no files.
    ///
    /// # Errors
    /// When a file cannot be read, or holds something else. It may be in the middle of being replaced: try again.
    pub fn login(&self, read: impl Fn(&Path) -> io::Result<String>) -> Result<Option<Login>, LoginError> {
        let text = |file: &Path| read(file).map_err(|source| LoginError::Read { file: file.to_owned(), source });
        let missing = |file: &Path, what| LoginError::Missing { file: file.to_owned(), what };
        let line = |file: &Path, what| {
            let text = text(file)?;
            // A password may begin or end with a space; the line's end is the editor's.
            let line = text.trim_end_matches(['\n', '\r']).to_owned();
            if line.is_empty() { Err(missing(file, what)) } else { Ok(line) }
        };
        Ok(Some(match self {
            Self::None => return Ok(None),
            Self::Credentials(file) => {
                let text = text(file)?;
                let jwt = block(&text, "NATS USER JWT").ok_or_else(|| missing(file, "user JWT"))?;
                let seed = block(&text, "USER NKEY SEED").ok_or_else(|| missing(file, "nkey seed"))?;
                Login::Jwt { jwt, seed }
            }
            Self::Nkey(file) => {
                let text = text(file)?;
                let bare = || text.lines().map(str::trim).find(|line| line.starts_with("SU")).map(str::to_owned);
                let seed = block(&text, "USER NKEY SEED").or_else(bare);
                Login::Nkey(seed.ok_or_else(|| missing(file, "nkey seed"))?)
            }
            Self::User { user, password } => Login::User(line(user, "user name")?, line(password, "password")?),
            Self::Token(file) => Login::Token(line(file, "token")?),
        }))
    }
}

/// The line behind `-----BEGIN name-----`.
fn block(text: &str, name: &str) -> Option<String> {
    let mut lines = text.lines().map(str::trim).skip_while(|line| !is_begin(line, name)).skip(1);
    lines.find(|line| !line.is_empty()).filter(|line| !line.starts_with('-')).map(str::to_owned)
}

fn is_begin(line: &str, name: &str) -> bool {
    line.trim_matches('-').strip_prefix("BEGIN ").is_some_and(|begun| begun.trim() == name)
}

// === impl Login ===

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jwt { .. } => "Jwt { .. }",
            Self::Nkey(_) => "Nkey(..)",
            Self::User(..) => "User(..)",
            Self::Token(_) => "Token(..)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "-----BEGIN NATS USER JWT-----\neyJ0.eyJq.c2ln\n------END NATS USER JWT------\n\n\
        ************************* IMPORTANT *************************\nNKEY Seed printed below can be used.\n\n\
        -----BEGIN USER NKEY SEED-----\nSUASEED\n------END USER NKEY SEED------\n";

    fn read(files: LoginFiles, text: &str) -> Result<Option<Login>, String> {
        files.login(|_| Ok(text.to_owned())).map_err(|error| error.to_string())
    }

    fn file() -> PathBuf {
        PathBuf::from("f")
    }

    #[test]
    fn every_kind_of_file_is_read() {
        let (jwt, seed) = ("eyJ0.eyJq.c2ln".to_owned(), "SUASEED".to_owned());
        let credentials = Login::Jwt { jwt, seed: seed.clone() };
        assert_eq!(read(LoginFiles::Credentials(file()), CREDENTIALS), Ok(Some(credentials.clone())));
        assert_eq!(read(LoginFiles::Credentials(file()), &CREDENTIALS.replace('\n', "\r\n")), Ok(Some(credentials)));
        let nkey = Login::Nkey(seed);
        for text in [CREDENTIALS, "SUASEED", "SUASEED\nUAPUBLIC\n", "# mine\n  SUASEED  \n"] {
            assert_eq!(read(LoginFiles::Nkey(file()), text), Ok(Some(nkey.clone())));
        }
        assert_eq!(read(LoginFiles::Token(file()), "s3cret \r\n"), Ok(Some(Login::Token("s3cret ".to_owned()))));
        let user = LoginFiles::User { user: "u".into(), password: "p".into() };
        let two = user.login(|path| Ok(format!("{}-line\n", path.display()))).unwrap();
        assert_eq!(two, Some(Login::User("u-line".to_owned(), "p-line".to_owned())));
        assert_eq!(read(LoginFiles::None, ""), Ok(None));
    }

    #[test]
    fn what_is_missing_is_said_without_what_is_there() {
        let fault = |files, text: &str| read(files, text).unwrap_err();
        assert_eq!(fault(LoginFiles::Credentials(file()), "secret"), "the NATS login f has no user JWT");
        let half = &CREDENTIALS[..CREDENTIALS.len() / 2];
        assert_eq!(fault(LoginFiles::Credentials(file()), half), "the NATS login f has no nkey seed");
        let empty = CREDENTIALS.replace("SUASEED\n", "");
        assert_eq!(fault(LoginFiles::Credentials(file()), &empty), "the NATS login f has no nkey seed");
        assert_eq!(fault(LoginFiles::Nkey(file()), "secret"), "the NATS login f has no nkey seed");
        assert_eq!(fault(LoginFiles::Token(file()), "\n"), "the NATS login f has no token");
        let gone = LoginFiles::Token(file()).login(|_| Err(io::ErrorKind::NotFound.into())).unwrap_err();
        assert_eq!(gone.to_string(), "failed to read the NATS login f");
    }

    #[test]
    fn no_secret_is_printed() {
        let login = read(LoginFiles::Credentials(file()), CREDENTIALS).unwrap().unwrap();
        assert_eq!(format!("{login:?}"), "Jwt { .. }");
    }
}
