//! Bounds the answers that may stay open for long: a log that is followed, a long list whose reader takes its time.
//!
//! Such an answer costs memory of its instance for as long as its client likes. One too many is refused at once, so
//! that there is always room for those that are answered and done with.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::problem::Problem;

/// Bytes of an answer that a socket takes at once, whether or not its client reads.
const AT_ONCE: u64 = 64 << 10;

/// The places of all answers that may stay open.
pub(crate) struct Streams(Arc<Semaphore>);

impl Streams {
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most)))
    }

    /// The answer, or a refusal in its place where too many are open. What is answered to anything but a read is never
    /// refused: it has been done.
    pub(crate) fn admit(&self, method: &Method, answer: Response<WasiBody>) -> Response<WasiBody> {
        let body = answer.body();
        if body.is_end_stream() || body.size_hint().exact().is_some_and(|length| length <= AT_ONCE) {
            return answer;
        }
        match self.0.clone().try_acquire_owned() {
            Ok(place) => answer.map(|body| holding(body, place)),
            Err(_) if method.is_safe() => Problem::TooManyStreams.response(),
            Err(_) => answer,
        }
    }
}

/// A body that keeps something until it is dropped.
pub(crate) fn holding(body: WasiBody, held: impl Send + Unpin + 'static) -> WasiBody {
    Holding { body, _held: held }.boxed_unsync()
}

struct Holding<T> {
    body: WasiBody,
    _held: T,
}

impl<T: Unpin> Body for Holding<T> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
