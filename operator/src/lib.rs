//! Reconciles Channels into NATS streams and gateway Routes.
//!
//! # Layout
//! One folder for each concern, from the outside to the inside; a folder uses only those below it. `docs/architecture.md`
//! follows a manifest through them.
//!
//! | folder | holds |
//! |---|---|
//! | [`config`], [`operator`], [`admin`] | the process: its command line, its log, what runs, its admin port |
//! | [`commands`] | commands that run once: `check`, `crd apply`, `try` |
//! | [`files`] | the front end without a cluster |
//! | [`kubernetes`] | the front end in a cluster: all that talks to the API server |
//! | [`schedule`] | what is next in a cluster, and what is said about it: pure |
//! | [`reconcile`] | one Channel, the same for both front ends |
//! | [`nats`] | streams at NATS |
//! | [`leader`] | which of several operators writes |
//! | [`runtime`] | what every folder may use |

pub mod admin;
pub mod commands;
pub mod config;
pub mod files;
pub mod kubernetes;
pub mod leader;
pub mod nats;
pub mod operator;
pub mod reconcile;
pub mod runtime;
pub mod schedule;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use tidings_crds::definition::crd_yaml;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::commands::check;
use crate::commands::crd_apply;
use crate::commands::smoke_test::Trial;
use crate::commands::smoke_test_http::Gateway;
use crate::commands::smoke_test_tls::Pin;
use crate::config::{Args, CommandArgs, Config, CrdArgs};
use crate::reconcile::settings::Settings;

/// Does what the command line asks for.
///
/// # Errors
/// When the settings cannot be used, or the operator does not start.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    match args.command {
        Some(CommandArgs::Check { files, config }) => {
            let settings = Settings::read(config.as_deref())?;
            let sound = check::check(&files, settings, &mut out)?;
            Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Some(CommandArgs::Crd { command: CrdArgs::Print }) => {
            out.write_all(crd_yaml().as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Some(CommandArgs::Crd { command: CrdArgs::Apply }) => {
            let outcome = crd_apply::apply(kube::Client::try_default().await?).await?;
            writeln!(out, "{outcome}")?;
            Ok(ExitCode::SUCCESS)
        }
        Some(CommandArgs::Try {
            gateway,
            certificate,
            namespace,
            channel,
            class_name,
            closed_ports,
            timeout_seconds,
        }) => {
            let limit = Duration::from_secs(timeout_seconds.into());
            let pin = certificate.as_deref().map(Pin::read).transpose()?;
            let gateway = Gateway::new(gateway, pin).map_err(anyhow::Error::msg)?;
            let trial = Trial { gateway, namespace, channel, class_name, closed_ports, limit };
            trial.run(kube::Client::try_default().await?, &mut out).await?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            // To the end of the run: dropped, it writes the last lines.
            let _flush = args.run.logs.start();
            operator::run(Config::try_from(args.run)?, ended()?).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Cancelled by SIGINT and SIGTERM.
fn ended() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let (mut signals, token) = (signal(kind)?, token.clone());
        tokio::spawn(async move {
            signals.recv().await;
            token.cancel();
        });
    }
    Ok(token)
}
