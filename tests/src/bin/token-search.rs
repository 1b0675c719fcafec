//! Searches what a run of the tests has left behind for the tokens that were made in it: `token-search DIRECTORY`.
//!
//! The last line is that of a test, so that `scripts/test.sh` counts it as one.

use std::path::PathBuf;
use std::process::ExitCode;

use tidings_tests::token_search::Search;

#[allow(clippy::print_stdout, reason = "this is what it is for")]
fn main() -> anyhow::Result<ExitCode> {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        anyhow::bail!("usage: token-search DIRECTORY");
    };
    let search = Search::of(&directory)?;
    let Search { tokens, logs, series, bytes, told } = &search;
    println!("looked for {tokens} tokens in {logs} logs and {series} series of metrics, {} KiB", bytes >> 10);
    told.iter().for_each(|line| println!("a token is told: {line}"));
    let passed = search.is_clean();
    let (word, code) = if passed { ("ok", ExitCode::SUCCESS) } else { ("FAILED", ExitCode::FAILURE) };
    println!("test no_token_is_in_any_log_or_metric_of_the_run ... {word}\n");
    println!("test result: {word}. {} passed; {} failed; 0 ignored", u8::from(passed), u8::from(!passed));
    Ok(code)
}
