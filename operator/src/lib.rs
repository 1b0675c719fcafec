//! Reconciles Channels into NATS streams and gateway Routes.
//!
//! # Layout
//! - [`config`] (command line), [`settings`] (the file behind `--config`), [`telemetry`], [`operator`] (puts the parts
//!   together), [`check`] (validates manifests offline).
//! - One Channel: [`reconcile`] is the table of contents of [`apply`] (io: observes and does), [`plan`] (pure: decides)
//!   and [`report`] (pure: says); [`rollout`] (pure) says which gateways have a new Route; [`remove`] is for a Channel that is gone. What a Channel means stands in `tidings_crds`.
//! - Io: [`streams`] (NATS; its documents in [`document`], its pages in [`listing`], how it is reached in [`login`], what
//!   it refuses in [`refusals`]), [`store`] (a place for Routes),
//!   [`routes`] (that place as files).
//! - The file front end: [`files`] drives [`directory`] (io) → [`inventory`] (pure) → reconcile → [`table`] (pure), and
//!   [`absence`] (pure) tells which Channels are gone.
//! - The Kubernetes front end: [`kubernetes`] brings news to the [`agenda`] (pure) and carries out what that decides. The
//!   agenda stands on [`catalogue`] (the Channels, each [`observed`]), [`queue`], [`survey`], [`gateways`], [`status`] with
//!   [`ready_rule`], [`budget`] and [`notice`]: all pure. Io: [`watch`] at the pace of [`watch_pace`], [`beats`], [`visit`], [`route_maps`], [`finalizer`],
//!   [`events`], [`definition`], each call through [`api`]; [`crd_apply`] is a command of its own.
//! - [`trial`] (over [`trial_http`]) is the command `try`: an installation is used once.
//! - [`leadership`] (io) and [`lease`] (pure) say which of several operators writes.
//! - [`admin`] answers probes and scrapers from [`ready`] and [`metrics`]. [`failpoint`] lets tests end the process.

pub mod absence;
pub mod admin;
pub mod agenda;
pub mod api;
pub mod apply;
pub mod beats;
pub mod budget;
pub mod catalogue;
pub mod check;
pub mod config;
pub mod crd_apply;
pub mod definition;
pub mod directory;
pub mod document;
pub mod events;
pub mod failpoint;
pub mod files;
pub mod finalizer;
pub mod gateways;
pub mod inventory;
pub mod kubernetes;
pub mod leadership;
pub mod lease;
pub mod listing;
pub mod log_writer;
pub mod login;
pub mod metrics;
pub mod notice;
pub mod observed;
pub mod operator;
pub mod plan;
pub mod queue;
pub mod ready;
pub mod ready_rule;
pub mod reconcile;
pub mod refusals;
pub mod remove;
pub mod report;
pub mod rollout;
pub mod route_maps;
pub mod routes;
pub mod settings;
pub mod status;
pub mod store;
pub mod streams;
pub mod survey;
pub mod table;
pub mod telemetry;
pub mod trial;
pub mod trial_http;
pub mod trial_tls;
pub mod visit;
pub mod watch;
pub mod watch_pace;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use tidings_crds::definition::crd_yaml;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{Args, CommandArgs, Config, CrdArgs};
use crate::settings::Settings;
use crate::trial::Trial;
use crate::trial_http::Gateway;
use crate::trial_tls::Pin;

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
            let _flush = telemetry::start(&args.run.logs);
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
