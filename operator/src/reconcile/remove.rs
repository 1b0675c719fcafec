//! What happens when a Channel is gone: its Route is marked, and its stream goes if it may. Every step can be repeated.

use tidings_crds::channel::ReclaimPolicy;
use tidings_crds::key::ChannelKey;
use tidings_crds::stream::StreamSpec;
use tidings_process::error_chain::chain;
use tracing::info;

use crate::reconcile::apply::read_stream;
use crate::reconcile::context::Context;
use crate::reconcile::outcome::Failure;
use crate::reconcile::plan::{RECLAIM_METADATA, policy_text};
use crate::reconcile::store::RouteStore;
use crate::reconcile::stream_config::ObservedStream;
use crate::runtime::failpoint;
use crate::runtime::metrics::Outcome;
use tidings_crds::condition::ProgrammedReason;

/// Ends a Channel's streams at the gateways and, where both the stream and the last manifest known say Delete, deletes
/// its stream. `last` is the policy of that manifest, where one was seen: a change from Delete to Retain may not have
/// reached the stream.
///
/// # Errors
/// When a step failed; what is left is done by the next call.
pub async fn remove<R: RouteStore>(
    ctx: &Context<R>,
    key: &ChannelKey,
    last: Option<ReclaimPolicy>,
) -> Result<(), Failure> {
    let begun = std::time::Instant::now();
    if ctx.routes.mark_removed(key).await.map_err(|error| route_failure::<R>(&error))? {
        info!(channel = %key, "Channel is gone: its route is marked as removed.");
    }
    failpoint::reached("route-removed");
    let name = StreamSpec::name_of(key);
    let stream = read_stream(&ctx.streams, &name).await?;
    if stream.is_some_and(|stream| may_delete(&stream, &ctx.installation.cluster, key, last)) {
        ctx.streams.delete(&name).await?;
        info!(channel = %key, stream = name, "Channel is gone: its stream is deleted, as its reclaim policy says.");
        failpoint::reached("stream-deleted");
    }
    ctx.metrics.reconciled(Outcome::Removed, begun.elapsed());
    Ok(())
}

/// Deletes the Route of a Channel that was marked long enough ago.
///
/// # Errors
/// When the place for Routes says no.
pub async fn forget<R: RouteStore>(ctx: &Context<R>, key: &ChannelKey) -> Result<(), Failure> {
    ctx.routes.delete(key).await.map_err(|error| route_failure::<R>(&error))
}

/// Whether a stream is this Channel's, and to be deleted with it.
pub fn may_delete(stream: &ObservedStream, cluster: &str, key: &ChannelKey, last: Option<ReclaimPolicy>) -> bool {
    let ours = stream.spec.foreign_to(cluster, key).is_none();
    ours && says_delete(&stream.spec) && last != Some(ReclaimPolicy::Retain)
}

/// Whether the stream itself says that it goes with its Channel.
pub fn says_delete(stream: &StreamSpec) -> bool {
    stream.metadata.get(RECLAIM_METADATA).is_some_and(|policy| policy == policy_text(ReclaimPolicy::Delete))
}

fn route_failure<R: RouteStore>(error: &R::Error) -> Failure {
    let category = R::category(error);
    Failure { reason: ProgrammedReason::RouteFailed, category, message: chain(error), passing: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_ours_and_says_so_is_deleted() {
        let stream = |cluster: &str, name: &str, policy: &str| {
            let metadata = json!({
                "tidings.dev/cluster": cluster, "tidings.dev/namespace": "shop", "tidings.dev/name": name,
                "tidings.dev/reclaim-policy": policy,
            });
            let config = json!({
                "name": "TIDINGS_shop_orders", "storage": "file", "retention": "limits", "discard": "old",
                "metadata": metadata,
            });
            ObservedStream::from_info(json!({ "config": config, "created": "2026-11-01T00:00:00Z" })).unwrap()
        };
        let key = ChannelKey::new("shop", "orders");
        let may = |stream, last| may_delete(&stream, "c", &key, last);
        assert!(may(stream("c", "orders", "Delete"), None));
        assert!(may(stream("c", "orders", "Delete"), Some(ReclaimPolicy::Delete)));
        assert!(!may(stream("c", "orders", "Delete"), Some(ReclaimPolicy::Retain)));
        assert!(!may(stream("c", "orders", "Retain"), Some(ReclaimPolicy::Delete)));
        assert!(!may(stream("c", "orders", ""), None));
        assert!(!may(stream("other", "orders", "Delete"), None));
        assert!(!may(stream("c", "others", "Delete"), None));
    }
}
