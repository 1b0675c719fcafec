//! Reads on for a while after a POST was refused before its body was read.
//!
//! A client that writes its whole body before it reads anything (most blocking ones do) would get a reset in the middle of it, and
//! never see why. So what it still sends is read and dropped, within bounds.

use std::time::Duration;

use axum::body::Body;
use http::header::EXPECT;
use http::{HeaderMap, Version};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio_util::task::TaskTracker;

/// What is read and dropped of one request at most.
const MOST_BYTES: usize = 64 << 20;

/// Drops what is left of refused bodies. The tasks end with their connections, or at their bounds.
#[derive(Clone, Debug, Default)]
pub struct Lingering(TaskTracker);

// === impl Lingering ===

impl Lingering {
    /// Reads the rest of a body that nothing wants any more, for no longer than `within`.
    pub fn drop_rest(&self, version: Version, headers: &HeaderMap, body: Body, within: Duration) {
        // Over HTTP/2 a stream is reset by itself. And who waits for `100 Continue` has sent nothing yet.
        if version >= Version::HTTP_2 || headers.contains_key(EXPECT) || body.is_end_stream() {
            return;
        }
        self.0.spawn(async move {
            let _ = tokio::time::timeout(within, drained(body)).await;
        });
    }
}

async fn drained(mut body: Body) {
    let mut left = MOST_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, bytes::Bytes::len);
        match left.checked_sub(bytes) {
            Some(less) => left = less,
            None => return,
        }
    }
}
