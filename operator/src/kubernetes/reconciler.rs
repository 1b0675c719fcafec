//! The io of one visit to one Channel in Kubernetes: reconciles it, lets it go, or clears away what it left.
//!
//! What to do follows from the Channel alone; when, and what is written about it, is decided by [`crate::schedule::scheduler`]. Every
//! visit may end between any two steps, as after a kill: the next one finishes.

use std::time::Duration;

use kube::api::DynamicObject;
use tidings_crds::channel::{Channel, ReclaimPolicy};
use tidings_crds::condition::{AcceptedReason, ProgrammedReason, Reason};
use tidings_crds::desired::Rejection;
use tidings_crds::key::ChannelKey;
use tidings_crds::route::RouteState;
use tidings_crds::stream::StreamSpec;
use tidings_process::error_chain::chain;
use tracing::{info, warn};

use crate::kubernetes::config_maps::RouteMaps;
use crate::kubernetes::crd::{Definition, Installed};
use crate::kubernetes::finalizer::Finalizers;
use crate::leader::fenced_api::ApiError;
use crate::reconcile::apply::read_stream;
use crate::reconcile::context::Context;
use crate::reconcile::outcome::Failure;
use crate::reconcile::reconcile;
use crate::reconcile::remove::may_delete;
use crate::reconcile::report::{Before, Report};
use crate::reconcile::rollout::Rollout;
use crate::reconcile::store::RouteStore;
use crate::reconcile::stream_config::{ObservedStream, is_empty};
use crate::runtime::failpoint;
use crate::schedule::observed::{ABANDON_ANNOTATION, ObservedChannel};
use crate::schedule::status::Account;
use crate::schedule::visited::Visited;

/// How long a Route stays marked `Removed` before it is deleted: gateways watch, and one whose watch is half open notices
/// a deletion a minute later, but serves a Route that merely disappeared for as long again.
pub const MARKED: Duration = Duration::from_secs(15);

/// What visits work with.
#[derive(Clone)]
pub struct Visits {
    /// NATS and Routes.
    pub ctx: Context<RouteMaps>,
    /// Finalizers.
    pub finalizers: Finalizers,
    /// The definition of Channels.
    pub definition: Definition,
}

// === impl Visits ===

impl Visits {
    /// Visits a Channel. `objection` is what quotas and other Channels say against it, `rollout` how far its Route has come.
    pub async fn visit(&self, channel: &ObservedChannel, objection: Option<&Rejection>, rollout: &Rollout) -> Visited {
        if channel.deleting {
            return self.depart(channel).await;
        }
        let spec = match &channel.channel {
            Ok(spec) => spec,
            Err(fault) => return undecodable(channel, fault, &self.ctx.routes),
        };
        let report = reconcile(&self.ctx, spec, objection, rollout).await.compared_with(before(channel));
        if let Some(kind) = report.correction() {
            self.ctx.metrics.stream_corrected(kind);
            warn!(channel = %channel.key, kind, "A stream was deleted or modified externally.");
        }
        let mut visited = Visited { again: report.again, account: Account::Reconciled(Box::new(report)), object: None };
        if let Err(error) = self.hold(channel, spec, &mut visited).await {
            self.ctx.metrics.error(error.category());
            // The Channel was changed or deleted meanwhile; the next visit sees how.
            if !error.is_mismatch() && !error.is_gone() {
                warn!(channel = %channel.key, error = %chain(&error), "Failed to change a finalizer; trying again.");
            }
            visited.again = !error.is_gone();
        }
        visited
    }

    /// Sets the finalizer once there is a stream to be deleted, and removes it when that is no longer wanted.
    async fn hold(&self, channel: &ObservedChannel, spec: &Channel, visited: &mut Visited) -> Result<(), ApiError> {
        let Account::Reconciled(report) = &visited.account else { return Ok(()) };
        if !report.is_accepted() || !report.is_programmed() {
            return Ok(());
        }
        let wanted = report.epoch.is_some() && policy(spec) == ReclaimPolicy::Delete;
        if wanted && !channel.is_held() {
            visited.object = Some(self.finalizers.set(channel).await?);
            failpoint::reached("finalizer-set");
        } else if !wanted && channel.is_held() {
            visited.object = Some(self.finalizers.remove(channel).await?);
        }
        Ok(())
    }

    /// Lets a Channel go that is being deleted: its Route at once, its stream if it says so, then the finalizer.
    async fn depart(&self, channel: &ObservedChannel) -> Visited {
        match self.try_depart(channel).await {
            Ok((waiting, object)) => Visited { account: Account::Leaving(waiting), object, again: false },
            Err(failure) => {
                self.ctx.metrics.error(failure.category);
                let what = match failure.reason {
                    ProgrammedReason::BrokerUnreachable => "NATS cannot be reached",
                    _ => failure.message.as_str(),
                };
                let waiting = format!(
                    "The stream {} is to be deleted with the Channel: {what}. To let the Channel go and keep the stream, \
                     annotate it with {ABANDON_ANNOTATION}: \"true\".",
                    StreamSpec::name_of(&channel.key),
                );
                Visited { account: Account::Leaving(waiting), object: None, again: true }
            }
        }
    }

    async fn try_depart(&self, channel: &ObservedChannel) -> Result<(String, Option<DynamicObject>), Failure> {
        let (key, name) = (&channel.key, StreamSpec::name_of(&channel.key));
        if self.ctx.routes.mark_removed(key).await.map_err(refused)? {
            info!(channel = %key, "Channel is being deleted: its route is marked as removed.");
        }
        failpoint::reached("route-removed");
        if !channel.is_held() {
            return Ok(("Waiting for finalizers of other controllers.".to_owned(), None));
        }
        if channel.abandoned {
            warn!(channel = %key, stream = name, "Released a Channel by its annotation; its stream is kept.");
        } else if self.definition.look().await.map_err(refused)? == Installed::Leaving {
            info!(channel = %key, stream = name, "The definition of Channels is being deleted: the stream is kept.");
        } else {
            let policy = channel.channel.as_ref().ok().map(|spec| policy(spec));
            let stream = read_stream(&self.ctx.streams, &name).await?;
            if stream.is_some_and(|stream| may_delete(&stream, &self.ctx.installation.cluster, key, policy)) {
                self.ctx.streams.delete(&name).await?;
                info!(channel = %key, stream = name, "Channel is being deleted: its stream is deleted.");
                failpoint::reached("stream-deleted");
            }
        }
        let object = match self.finalizers.remove(channel).await {
            Ok(object) => Some(object),
            Err(error) if error.is_gone() => None,
            Err(error) => return Err(refused(error)),
        };
        failpoint::reached("finalizer-removed");
        Ok(("Waiting for finalizers of other controllers.".to_owned(), object))
    }

    /// Clears away what a Channel left that is gone, and says when to come back. `marked` is how long its Route has been
    /// seen as removed. `sweep`: the Channel is known not to exist, so its stream goes too if that says so *and is empty*:
    /// its Channel was deleted before it could be held. A stream with events in it is deleted for a Channel that says so,
    /// never for the absence of one.
    pub async fn leave(
        &self,
        key: &ChannelKey,
        marked: Option<Duration>,
        sweep: bool,
    ) -> Result<Option<Duration>, ApiError> {
        let again = match self.ctx.routes.state(key) {
            Some(RouteState::Active) => {
                if self.ctx.routes.mark_removed(key).await? {
                    info!(channel = %key, "Channel is gone: its route is marked as removed.");
                }
                failpoint::reached("route-removed");
                Some(MARKED)
            }
            Some(RouteState::Removed) if marked.unwrap_or_default() < MARKED => {
                Some(MARKED.saturating_sub(marked.unwrap_or_default()))
            }
            Some(RouteState::Removed) | None => {
                self.ctx.routes.delete(key).await?;
                None
            }
        };
        if sweep && let Err(failure) = self.sweep(key).await {
            // Looked at again with the next survey of all streams.
            self.ctx.metrics.error(failure.category);
        }
        Ok(again)
    }

    async fn sweep(&self, key: &ChannelKey) -> Result<(), Failure> {
        let name = StreamSpec::name_of(key);
        let Some(info) = self.ctx.streams.read(&name).await? else { return Ok(()) };
        let empty = is_empty(&info);
        let stream = ObservedStream::from_info(info)?;
        if !may_delete(&stream, &self.ctx.installation.cluster, key, None) {
            return Ok(());
        }
        if !empty {
            warn!(channel = %key, stream = name, "A stream with reclaimPolicy Delete outlived its Channel and has events; it is kept.");
        } else if matches!(self.definition.look().await.map_err(refused)?, Installed::Revision(_)) {
            self.ctx.streams.delete(&name).await?;
            info!(channel = %key, stream = name, "Channel is gone: its empty stream is deleted.");
            failpoint::reached("stream-deleted");
        }
        Ok(())
    }
}

/// What the status says of the Channel.
fn before(channel: &ObservedChannel) -> Before {
    let programmed = channel.status.conditions.iter().find(|condition| condition.type_ == ProgrammedReason::TYPE);
    let in_place = programmed.is_some_and(|condition| {
        condition.status == "True" && condition.observed_generation == Some(channel.generation)
    });
    Before { had_stream: channel.status.epoch.is_some(), in_place }
}

fn policy(channel: &Channel) -> ReclaimPolicy {
    channel.spec.history.as_ref().map(|history| history.reclaim_policy).unwrap_or_default()
}

fn refused(error: ApiError) -> Failure {
    let (category, message) = (error.category(), chain(&error));
    Failure { reason: ProgrammedReason::RouteFailed, category, message, passing: true }
}

fn undecodable(channel: &ObservedChannel, fault: &str, routes: &RouteMaps) -> Visited {
    let (key, served) = (channel.key.clone(), routes.served(&channel.key));
    let report = Report::unusable(key, AcceptedReason::InvalidSpec, fault.to_owned(), served);
    Visited { account: Account::Reconciled(Box::new(report)), object: None, again: false }
}
