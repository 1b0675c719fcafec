//! One call to the API server: who may make it, how long it may take, and what went wrong with it.

use std::future::Future;

use crate::leader::elector::Leadership;

/// What went wrong with a call.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Another operator does the writing.
    #[error("failed to {verb} {what}: this operator does not lead")]
    NotLeading {
        /// What was to be done.
        verb: &'static str,
        /// With what.
        what: String,
    },
    /// No answer.
    #[error("failed to {verb} {what}: the API server did not answer in time")]
    Timeout {
        /// What was tried.
        verb: &'static str,
        /// With what.
        what: String,
    },
    /// An answer that is none we want, or no connection.
    #[error("failed to {verb} {what}")]
    Call {
        /// What was tried.
        verb: &'static str,
        /// With what.
        what: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

// === impl ApiError ===

impl ApiError {
    /// The HTTP status, if the API server answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Call { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::NotLeading { .. } | Self::Timeout { .. } => None,
        }
    }

    /// The object is not there.
    pub fn is_gone(&self) -> bool {
        self.code() == Some(404)
    }

    /// The object changed meanwhile: what was decided was decided about something else.
    pub fn is_stale(&self) -> bool {
        self.code() == Some(409)
    }

    /// The same of a JSON patch: its `test` failed, or found nothing to test.
    pub fn is_mismatch(&self) -> bool {
        matches!(self.code(), Some(409 | 422))
    }

    /// The stable name of this kind of failure, for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::NotLeading { .. } => "not_leading",
            Self::Timeout { .. } => "api_unreachable",
            Self::Call { .. } if self.code().is_some() => "api_refused",
            Self::Call { .. } => "api_unreachable",
        }
    }
}

/// Makes a call that changes something, if this operator leads.
pub async fn write<T>(
    leadership: &Leadership,
    verb: &'static str,
    what: impl Into<String>,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApiError> {
    let what = what.into();
    if !leadership.is_held() {
        return Err(ApiError::NotLeading { verb, what });
    }
    bounded(leadership, verb, what, call).await
}

/// Makes a call that changes nothing.
pub async fn read<T>(
    leadership: &Leadership,
    verb: &'static str,
    what: impl Into<String>,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApiError> {
    bounded(leadership, verb, what.into(), call).await
}

async fn bounded<T>(
    leadership: &Leadership,
    verb: &'static str,
    what: String,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(leadership.call_timeout(), call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(ApiError::Call { verb, what, source: Box::new(source) }),
        Err(_) => Err(ApiError::Timeout { verb, what }),
    }
}
