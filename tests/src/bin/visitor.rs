//! What visits a gateway from a pod of the end-to-end tests.
//!
//! ```text
//! visitor crowd URL COUNT [OPTION…]   COUNT clients; prints their tally, a JSON line whenever it changes
//! visitor post URL DATA [OPTION…]     publishes DATA; prints the status and the answer
//! visitor token FILE                  prints a token, for the search for tokens; only to whoever runs it in the pod
//! ```
//!
//! Options: `--token FILE`, `--ca FILE` (for `https`), `--server NAME` (what the certificate is for, if not the URL's host).

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tidings_tests::crowd::Crowd;
use tidings_tests::tls::TlsClient;
use tidings_tests::web::Request;

/// How often the tally is looked at.
const PAUSE: Duration = Duration::from_millis(500);

const USAGE: &str =
    "usage: visitor token FILE | crowd URL COUNT | post URL DATA  [--token FILE] [--ca FILE] [--server NAME]";

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut out = std::io::stdout();
    if let [verb, file] = words.as_slice()
        && verb == "token"
    {
        return Ok(out.write_all(&std::fs::read(file).with_context(|| format!("failed to read {file}"))?)?);
    }
    let [verb, url, last, options @ ..] = words.as_slice() else { bail!(USAGE) };
    let option = |name: &str| -> Result<Option<&String>> {
        let Some(at) = options.iter().position(|word| word == name) else { return Ok(None) };
        Ok(Some(options.get(at + 1).context(USAGE)?))
    };
    let read = |name: &str| -> Result<Option<String>> {
        let Some(file) = option(name)? else { return Ok(None) };
        Ok(Some(std::fs::read_to_string(file).with_context(|| format!("failed to read {file}"))?))
    };
    let host = url.parse::<http::Uri>()?.host().context("the URL has no host")?.to_owned();
    let server = option("--server")?.cloned().unwrap_or(host);
    let tls = read("--ca")?.map(|roots| TlsClient::of_roots(&roots, &server));
    let token = read("--token")?;
    let prepared = |request: Request| match &token {
        Some(token) => request.secured(tls.as_ref()).header("authorization", format!("Bearer {}", token.trim())),
        None => request.secured(tls.as_ref()),
    };
    match verb.as_str() {
        "post" => {
            let answer = prepared(Request::post(url, last.clone())).send().await;
            writeln!(out, "{} {}", answer.status.as_u16(), answer.text())?;
        }
        "crowd" => {
            let crowd = Crowd::start(&prepared(Request::get(url)), last.parse().context(USAGE)?);
            let mut told = None;
            loop {
                let tally = crowd.tally();
                if told.as_ref() != Some(&tally) {
                    writeln!(out, "{}", serde_json::to_string(&tally)?)?;
                    told = Some(tally);
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        _ => bail!(USAGE),
    }
    Ok(())
}
