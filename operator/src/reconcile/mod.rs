//! One Channel, from what is there to what should be: the same steps for every front end.
//!
//! observe (io) → validate (pure, `tidings_crds::desired`) → [`mod@plan`] (pure) → [`mod@apply`] (io) → [`report`] (pure).
//! Publishing the report is the front end's: a table for files, a status for Kubernetes. A process killed between any two
//! steps leaves nothing that the next reconcile does not finish.

pub mod apply;
pub mod context;
pub mod outcome;
pub mod plan;
pub mod remove;
pub mod report;
pub mod rollout;
pub mod routes;
pub mod settings;
pub mod store;
pub mod stream_config;

use std::time::Instant;

use tidings_crds::channel::Channel;
use tidings_crds::desired::{Rejection, desired};

use crate::reconcile::apply::{apply, observe};
use crate::reconcile::context::Context;
use crate::reconcile::plan::plan;
use crate::reconcile::report::Report;
use crate::reconcile::rollout::Rollout;
use crate::reconcile::store::RouteStore;
use crate::runtime::metrics::Outcome;

/// Brings one Channel to where its manifest wants it, as far as it may go now. `objection` is what the quotas
/// and the claims of all Channels say against it, and `rollout` how far its Route has come.
pub async fn reconcile<R: RouteStore>(
    ctx: &Context<R>,
    channel: &Channel,
    objection: Option<&Rejection>,
    rollout: &Rollout,
) -> Report {
    let begun = Instant::now();
    let observed = observe(ctx, &channel.key()).await; // io
    let verdict = desired(channel, &ctx.installation, objection); // pure
    let plan = plan(channel, &verdict, &observed, &ctx.installation.grants, rollout); // pure
    let applied = apply(ctx, plan).await; // io: the stream before its Route
    let report = Report::of(channel, &verdict, &applied); // pure
    if let Some(failure) = &applied.failure {
        ctx.metrics.error(failure.category);
    }
    ctx.metrics.reconciled(outcome(&report), begun.elapsed());
    report
}

fn outcome(report: &Report) -> Outcome {
    match (report.is_accepted(), report.is_programmed()) {
        (false, _) => Outcome::Rejected,
        (true, true) => Outcome::Programmed,
        (true, false) => Outcome::Failed,
    }
}
