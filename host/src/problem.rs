//! Responses for requests that the component could not answer: `application/problem+json` (RFC 9457), nothing internal.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use wasmtime_wasi_http::WasiBody;

/// A problem response of the host itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The component ended before it answered.
    Failed,
    /// The component exceeded its time limit.
    TimedOut,
    /// No instance was free in time.
    Busy,
    /// As many answers are open as may be.
    TooManyStreams,
    /// No route matches.
    NotFound,
    /// The request's body is incomplete, or did not arrive in time.
    BodyEnded,
    /// The request's `Host` is missing or is not a valid host.
    BadHost,
}

impl Problem {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::Busy | Self::TooManyStreams => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::BadHost | Self::BodyEnded => StatusCode::BAD_REQUEST,
        }
    }

    fn detail(self) -> &'static str {
        match self {
            Self::Failed => "The service failed while it handled the request.",
            Self::TimedOut => "The service did not answer in time.",
            Self::Busy => "The service is busy; try again in a moment.",
            Self::TooManyStreams => "The service keeps as many answers open as it may; try again in a moment.",
            Self::NotFound => "There is nothing at this path.",
            Self::BodyEnded => "The body ended before its end, or took too long.",
            Self::BadHost => "The Host header is missing or not valid.",
        }
    }

    pub(crate) fn response(self) -> Response<WasiBody> {
        let status = self.status();
        let title = status.canonical_reason().unwrap_or_default();
        let text = format!(r#"{{"title":"{title}","status":{},"detail":"{}"}}"#, status.as_u16(), self.detail());
        let mut response = Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
