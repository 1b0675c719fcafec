//! The io of one reconcile: looks at what is there, and does what the plan says. It decides nothing.

use tidings_crds::condition::ProgrammedReason;
use tidings_crds::key::ChannelKey;
use tidings_crds::position::Epoch;
use tidings_crds::stream::StreamSpec;
use tidings_process::error_chain::chain;
use tracing::{info, warn};

use crate::nats::streams::{StreamError, Streams};
use crate::reconcile::context::Context;
use crate::reconcile::outcome::{Applied, Deed, Failure, Observed, kept};
use crate::reconcile::plan::{Later, Plan, RouteStep, StreamStep};
use crate::reconcile::routes::Found;
use crate::reconcile::store::RouteStore;
use crate::reconcile::stream_config::ObservedStream;
use crate::runtime::failpoint;

/// Looks at the stream and the Route of one Channel.
pub async fn observe<R: RouteStore>(ctx: &Context<R>, key: &ChannelKey) -> Observed {
    let name = StreamSpec::name_of(key);
    let (stream, route) = tokio::join!(read_stream(&ctx.streams, &name), ctx.routes.read(key));
    let route = match route {
        Ok(Found::Route(route)) => Some(*route),
        Ok(Found::Nothing | Found::Garbage) => None,
        // Not being able to read it is no reason not to write it; that will fail with the better message.
        Err(error) => {
            warn!(channel = %key, error = %chain(&error), "Failed to read a Route.");
            None
        }
    };
    Observed { stream, route }
}

/// Looks at one stream.
pub async fn read_stream(streams: &Streams, name: &str) -> Result<Option<ObservedStream>, Failure> {
    match streams.read(name).await? {
        Some(info) => Ok(Some(ObservedStream::from_info(info)?)),
        None => Ok(None),
    }
}

/// Does what the plan says: the stream before its Route, and what the stream gets later in another reconcile.
pub async fn apply<R: RouteStore>(ctx: &Context<R>, plan: Plan) -> Applied {
    let Plan { key, stream, route, served, later } = plan;
    if let Some(later) = &later
        && let Err(failure) = vacant(&ctx.streams, &StreamSpec::name_of(&key), &later.subjects).await
    {
        return Applied::failed(failure, None, served);
    }
    let (epoch, took_over, deed) = match apply_stream(&ctx.streams, &key, stream).await {
        Ok(Done::InPlace { epoch, took_over, deed }) => (epoch, took_over, deed),
        Ok(Done::Blocked { reason, message }) => {
            return Applied {
                programmed: reason,
                message,
                epoch: None,
                served,
                awaits: None,
                deed: Deed::None,
                failure: None,
            };
        }
        Err(failure) => return Applied::failed(failure, None, served),
    };
    failpoint::reached("stream-applied");
    let written = match &route {
        RouteStep::Keep => Ok(false),
        RouteStep::Write(route) => ctx.routes.write(route).await,
        RouteStep::Withdraw => ctx.routes.mark_removed(&key).await,
    };
    let written = match written {
        Ok(written) => written,
        Err(error) => {
            let category = R::category(&error);
            let failure =
                Failure { reason: ProgrammedReason::RouteFailed, category, message: chain(&error), passing: true };
            return Applied::failed(failure, epoch, served);
        }
    };
    failpoint::reached("route-applied");
    let (programmed, message, served) = match route {
        RouteStep::Keep => (ProgrammedReason::NotAccepted, kept(served.as_ref()), served),
        RouteStep::Withdraw => {
            info!(channel = %key, "Withdrew a Route: its subjects are no longer granted.");
            (ProgrammedReason::NotAccepted, "The Route was withdrawn: its subjects are no longer granted.", None)
        }
        RouteStep::Write(route) => {
            if written {
                info!(channel = %key, digest = route.digest(), "Route written.");
            }
            let served = Some(*route);
            if let Some(Later { digest, message, .. }) = later {
                let (programmed, awaits) = (ProgrammedReason::Pending, Some(digest));
                return Applied { programmed, message, epoch, served, awaits, deed, failure: None };
            }
            if took_over {
                (ProgrammedReason::TookOver, "The stream existed before; it was taken over with its events.", served)
            } else {
                (ProgrammedReason::Programmed, "The stream and the Route are in place.", served)
            }
        }
    };
    Applied { programmed, message: message.to_owned(), epoch, served, awaits: None, deed, failure: None }
}

enum Done {
    InPlace { epoch: Option<Epoch>, took_over: bool, deed: Deed },
    Blocked { reason: ProgrammedReason, message: String },
}

async fn apply_stream(streams: &Streams, key: &ChannelKey, step: StreamStep) -> Result<Done, Failure> {
    let (info, took_over, deed) = match step {
        StreamStep::None => return Ok(Done::InPlace { epoch: None, took_over: false, deed: Deed::None }),
        StreamStep::Keep { epoch, took_over } => {
            return Ok(Done::InPlace { epoch: Some(epoch), took_over, deed: Deed::None });
        }
        StreamStep::Blocked { reason, message } => return Ok(Done::Blocked { reason, message }),
        StreamStep::Unknown(failure) => return Err(failure),
        StreamStep::Create { name, config } => {
            let info = match streams.create(&name, &config).await {
                Err(error) if error.is_overlap() => return Err(overlap(streams, &name, &config, error).await),
                answer => answer?,
            };
            info!(channel = %key, stream = name, "Stream created.");
            (info, false, Deed::Created)
        }
        StreamStep::Update { name, config, fields, took_over } => {
            let info = match streams.update(&name, &config).await {
                Err(error) if error.is_overlap() => return Err(overlap(streams, &name, &config, error).await),
                answer => answer?,
            };
            info!(channel = %key, stream = name, fields = fields.join(","), took_over, "Stream updated.");
            (info, took_over, Deed::Updated(fields))
        }
    };
    Ok(Done::InPlace { epoch: Some(ObservedStream::from_info(info)?.epoch), took_over, deed })
}

/// Says which stream has the subjects already, as far as that can be found out.
async fn overlap(streams: &Streams, name: &str, config: &serde_json::Value, error: StreamError) -> Failure {
    let subjects = config.get("subjects").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
    let subjects: Vec<String> = subjects.iter().filter_map(|subject| subject.as_str().map(str::to_owned)).collect();
    let others = holders(streams, name, &subjects).await.unwrap_or_default();
    let mut failure = Failure::from(error);
    if !others.is_empty() {
        failure.message = format!("{}; the subjects belong to the stream {}", failure.message, others.join(", "));
    }
    failure
}

/// Whether no other stream has one of these subjects: otherwise gateways would wait for what NATS will refuse.
async fn vacant(streams: &Streams, name: &str, subjects: &[String]) -> Result<(), Failure> {
    let others = holders(streams, name, subjects).await?;
    if others.is_empty() {
        return Ok(());
    }
    let (listed, others) = (subjects.join(", "), others.join(", "));
    Err(Failure {
        reason: ProgrammedReason::StreamRefused,
        category: "stream_refused",
        message: format!("failed to add {listed} to stream {name}: the subjects belong to the stream {others}"),
        passing: false,
    })
}

/// The other streams that have one of these subjects.
async fn holders(streams: &Streams, name: &str, subjects: &[String]) -> Result<Vec<String>, StreamError> {
    let mut others = Vec::new();
    for subject in subjects {
        for other in streams.names_on(subject).await? {
            if other != name && !others.contains(&other) {
                others.push(other);
            }
        }
    }
    Ok(others)
}
