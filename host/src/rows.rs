//! Passes the rows of a query to a component as a component-model stream, and the outcome as a future.
//!
//! Rows that are complete are passed at once. Others are passed in chunks as they are read, so a component that reads
//! slowly delays the query instead of filling memory.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot};
use wasmtime::StoreContextMut;
use wasmtime::component::{Destination, StreamProducer, StreamResult, VecBuffer};

/// The maximum size in bytes of a result that the host collects before passing it on, as in Spin.
pub(crate) const MAX_RESULT_BYTES: usize = 128 << 20;
/// The size of one chunk of a long result.
pub(crate) const CHUNK_ROWS: usize = 256;
pub(crate) const CHUNK_BYTES: usize = 64 << 10;
/// The maximum number of chunks that are queued for a component.
pub(crate) const CHUNKS: usize = 4;

/// The outcome of a query: known now, or after its last row is read.
pub(crate) enum End<E> {
    Known(Result<(), E>),
    Later(oneshot::Receiver<Result<(), E>>),
}

impl<E> End<E> {
    /// Returns the outcome, or `interrupted()` if the task that reads the rows is gone.
    pub(crate) async fn wait(self, interrupted: impl FnOnce() -> E) -> wasmtime::Result<Result<(), E>> {
        Ok(match self {
            Self::Known(end) => end,
            Self::Later(end) => end.await.unwrap_or_else(|_| Err(interrupted())),
        })
    }
}

/// Rows on their way to a component.
pub(crate) struct Rows<T> {
    ready: VecDeque<Vec<T>>,
    more: Option<mpsc::Receiver<Vec<T>>>,
}

impl<T> Rows<T> {
    /// All rows at once.
    pub(crate) fn all(rows: Vec<T>) -> Self {
        Self { ready: VecDeque::from([rows]), more: None }
    }

    /// Rows that arrive in chunks.
    pub(crate) fn chunks(more: mpsc::Receiver<Vec<T>>) -> Self {
        Self { ready: VecDeque::new(), more: Some(more) }
    }
}

impl<D, T: Send + Sync + Unpin + 'static> StreamProducer<D> for Rows<T> {
    type Item = T;
    type Buffer = VecBuffer<T>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, T, VecBuffer<T>>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        if destination.remaining(store) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let this = &mut *self;
        let chunk = match (this.ready.pop_front(), &mut this.more) {
            (Some(rows), _) => Some(rows),
            (None, None) => None,
            (None, Some(more)) => match more.poll_recv(cx) {
                Poll::Ready(chunk) => chunk,
                Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
                Poll::Pending => return Poll::Pending,
            },
        };
        let last = this.more.is_none() && this.ready.is_empty();
        match chunk {
            Some(rows) if !rows.is_empty() => {
                destination.set_buffer(rows.into());
                Poll::Ready(Ok(if last { StreamResult::Dropped } else { StreamResult::Completed }))
            }
            _ => Poll::Ready(Ok(StreamResult::Dropped)),
        }
    }
}
