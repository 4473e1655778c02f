//! Follows an execution's logs to its end, across broken connections.

use std::time::Duration;

use anyhow::Result;
use renga_shared::api::LogRecord;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Response, StatusCode};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::bodies::Execution;
use super::http::{Api, ApiError};
use super::names::Place;
use super::progress::Progress;
use crate::ended::output_error;

/// The maximum number of failures in a row, and the pause after each.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// The longest line of a record, in bytes: a chunk of a log, with a time before each of its lines, as base64.
const LONGEST_RECORD: usize = 16 << 20;

/// What is followed.
pub(crate) struct Follow<'a> {
    pub(crate) api: &'a Api,
    pub(crate) place: &'a Place,
    /// Further query parameters of the logs.
    pub(crate) query: Vec<(&'a str, &'a str)>,
    pub(crate) progress: &'a Progress,
}

/// How much of the logs has been copied.
#[derive(Default)]
struct Copied {
    /// The position to go on at, where the service tells positions.
    next: Option<i64>,
    /// Bytes that were written, where it does not.
    written: usize,
}

/// Why a copy ended early.
enum Broken {
    /// The service or the network failed; a retry may help.
    Service(ApiError),
    /// Our own output, or an answer that makes no sense: asking again is of no use.
    Output(anyhow::Error),
}

impl Follow<'_> {
    /// Copies all logs to `out` until the execution has ended, and returns the execution.
    ///
    /// A connection that breaks is made again, and goes on at the position in the log that the service told last: it
    /// stays true when the log's middle is cut meanwhile, and whatever the query. A service that tells no positions is
    /// asked for everything again, and what was written already is skipped. Not so the last lines (`tail`), which
    /// begin elsewhere each time: these are then followed on one connection only.
    pub(crate) async fn to_end(&self, out: &mut (impl AsyncWrite + Unpin)) -> Result<Execution> {
        let repeatable = self.query.iter().all(|(name, _)| *name != "tail");
        let mut copied = Copied::default();
        let mut broken = 0;
        loop {
            let failure = match self.copy(out, &mut copied).await {
                Ok(()) => match self.api.get(&self.place.path(&[]), &[]).await {
                    Ok(execution) => {
                        let execution = Execution::read(&execution)?;
                        if execution.has_ended() || !(repeatable || copied.next.is_some()) {
                            return Ok(execution);
                        }
                        broken = 0;
                        None
                    }
                    Err(error) => Some(error),
                },
                Err(Broken::Output(error)) => return Err(error),
                Err(Broken::Service(error)) => Some(error),
            };
            if let Some(error) = failure {
                let refused = error.status().is_some_and(|status| status.is_client_error());
                if refused && let Some(ended) = self.gone(&error).await {
                    return Ok(ended);
                }
                broken += 1;
                let resumable = repeatable || copied.next.is_some() || copied.written == 0;
                if refused || broken > TRIES || !resumable {
                    return Err(error.into());
                }
                self.progress.show("the service does not answer; asking again");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Returns the execution if it has ended, for a 404 of its logs: they were removed, or never existed.
    async fn gone(&self, error: &ApiError) -> Option<Execution> {
        if error.status() != Some(StatusCode::NOT_FOUND) {
            return None;
        }
        let execution = self.api.get(&self.place.path(&[]), &[]).await.ok()?;
        Execution::read(&execution).ok().filter(Execution::has_ended)
    }

    /// Copies one answer from where the last one broke off.
    async fn copy(&self, out: &mut (impl AsyncWrite + Unpin), copied: &mut Copied) -> Result<(), Broken> {
        let offset = copied.next.map(|next| next.to_string());
        // The position says where to begin, in place of a number of lines.
        let query = self.query.iter().copied().filter(|(name, _)| offset.is_none() || *name != "tail");
        let query: Vec<_> =
            query.chain([("follow", "true")]).chain(offset.as_deref().map(|offset| ("offset", offset))).collect();
        let answer = self.api.open_logs(&self.place.path(&["logs"]), &query).await.map_err(Broken::Service)?;
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if kind.is_some_and(|kind| kind.starts_with(LogRecord::MEDIA_TYPE)) {
            self.copy_records(answer, out, copied).await
        } else {
            self.copy_text(answer, out, copied).await
        }
    }

    /// Copies whole records. Half a one is dropped with its connection, and asked for again.
    async fn copy_records(
        &self,
        mut answer: Response,
        out: &mut (impl AsyncWrite + Unpin),
        copied: &mut Copied,
    ) -> Result<(), Broken> {
        let mut unread = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| Broken::Service(self.api.interrupted(error)))? {
            let searched = unread.len();
            unread.extend_from_slice(&chunk);
            let mut begin = 0;
            while let Some(at) = unread[begin.max(searched)..].iter().position(|byte| *byte == b'\n') {
                let end = begin.max(searched) + at;
                let record: LogRecord = serde_json::from_slice(&unread[begin..end]).map_err(garbled)?;
                let text = record.text().ok_or_else(|| garbled("it is not base64"))?;
                self.write(out, &text).await?;
                copied.next = Some(record.next);
                begin = end + 1;
            }
            unread.drain(..begin);
            if unread.len() > LONGEST_RECORD {
                return Err(garbled("it is too long"));
            }
        }
        Ok(())
    }

    /// Copies a text, less what was copied before.
    async fn copy_text(
        &self,
        mut answer: Response,
        out: &mut (impl AsyncWrite + Unpin),
        copied: &mut Copied,
    ) -> Result<(), Broken> {
        let mut skip = copied.written;
        while let Some(chunk) = answer.chunk().await.map_err(|error| Broken::Service(self.api.interrupted(error)))? {
            let new = &chunk[skip.min(chunk.len())..];
            skip = skip.saturating_sub(chunk.len());
            if new.is_empty() {
                continue;
            }
            self.write(out, new).await?;
            copied.written += new.len();
        }
        Ok(())
    }

    async fn write(&self, out: &mut (impl AsyncWrite + Unpin), text: &[u8]) -> Result<(), Broken> {
        self.progress.clear();
        let written = async {
            out.write_all(text).await?;
            out.flush().await
        };
        written.await.map_err(|error| Broken::Output(output_error(error)))
    }
}

/// A record that cannot be read: asking again would give the same.
fn garbled(why: impl std::fmt::Display) -> Broken {
    Broken::Output(anyhow::anyhow!("the service sent a record of the logs that cannot be read: {why}"))
}
