//! What a place for Routes can do: files today, ConfigMaps in a cluster.

use std::error::Error;
use std::future::Future;

use tidings_crds::key::ChannelKey;
use tidings_crds::route::Route;

use crate::reconcile::routes::{Found, RouteFileError, RouteFiles};

/// A place for the Routes of one installation. Every operation can be repeated, also by two processes at once.
pub trait RouteStore: Clone + Send + Sync + 'static {
    /// What went wrong.
    type Error: Error + Send + Sync + 'static;

    /// What stands in the place of a Channel's Route.
    fn read(&self, key: &ChannelKey) -> impl Future<Output = Result<Found, Self::Error>> + Send;

    /// Writes a Route whole, unless the same stands there. Whether it wrote.
    fn write(&self, route: &Route) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Marks a Route `state: Removed`, so that gateways end its streams now. Whether anything changed.
    fn mark_removed(&self, key: &ChannelKey) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Deletes a Route; it may be gone already.
    fn delete(&self, key: &ChannelKey) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// The stable name of a failure, for metrics.
    fn category(error: &Self::Error) -> &'static str;
}

impl RouteStore for RouteFiles {
    type Error = RouteFileError;

    async fn read(&self, key: &ChannelKey) -> Result<Found, Self::Error> {
        Self::read(self, key).await
    }

    async fn write(&self, route: &Route) -> Result<bool, Self::Error> {
        Self::write(self, route).await
    }

    async fn mark_removed(&self, key: &ChannelKey) -> Result<bool, Self::Error> {
        Self::mark_removed(self, key).await
    }

    async fn delete(&self, key: &ChannelKey) -> Result<(), Self::Error> {
        Self::delete(self, key).await
    }

    fn category(error: &Self::Error) -> &'static str {
        error.category()
    }
}
