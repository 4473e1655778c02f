//! Follows an execution's logs to its end, across broken connections.

use std::time::Duration;

use anyhow::Result;
use reqwest::StatusCode;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::bodies::Execution;
use super::http::{Api, ApiError};
use super::names::Place;
use super::progress::Progress;
use crate::ended::output_error;

/// The maximum number of failures in a row, and the pause after each.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// The execution to follow.
pub(crate) struct Follow<'a> {
    pub(crate) api: &'a Api,
    pub(crate) place: &'a Place,
    /// Further query parameters of the logs.
    pub(crate) query: Vec<(&'a str, &'a str)>,
    pub(crate) progress: &'a Progress,
}

/// Why a copy ended early.
enum Broken {
    /// The service or the network failed; a retry may help.
    Service(ApiError),
    /// Standard output failed.
    Output(anyhow::Error),
}

impl Follow<'_> {
    /// Copies all logs to `out` until the execution has ended, and returns the execution.
    ///
    /// After a broken connection, it connects again and skips the bytes already written, because logs only grow. With
    /// `tail` that is not possible, because the last lines begin elsewhere each time: these are followed on one
    /// connection only.
    pub(crate) async fn to_end(&self, out: &mut (impl AsyncWrite + Unpin)) -> Result<Execution> {
        let resumable = self.query.iter().all(|(name, _)| *name != "tail");
        let mut written = 0;
        let mut broken = 0;
        loop {
            match self.copy(out, &mut written).await {
                Ok(()) => broken = 0,
                Err(Broken::Output(error)) => return Err(error),
                Err(Broken::Service(error)) => {
                    let refused = error.status().is_some_and(|status| status.is_client_error());
                    if refused && let Some(ended) = self.gone(&error).await {
                        return Ok(ended);
                    }
                    broken += 1;
                    if refused || broken > TRIES || (written > 0 && !resumable) {
                        return Err(error.into());
                    }
                    self.progress.show("the service does not answer; asking again");
                }
            }
            if broken == 0 {
                match self.api.get(&self.place.path(&[]), &[]).await {
                    Ok(execution) => {
                        let execution = Execution::read(&execution)?;
                        if execution.has_ended() || !resumable {
                            return Ok(execution);
                        }
                    }
                    Err(error) if error.status().is_some_and(|status| status.is_client_error()) => {
                        return Err(error.into());
                    }
                    Err(_) => broken += 1,
                }
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

    /// Copies one response, from the byte after the last one written.
    async fn copy(&self, out: &mut (impl AsyncWrite + Unpin), written: &mut usize) -> Result<(), Broken> {
        let query: Vec<_> = self.query.iter().copied().chain([("follow", "true")]).collect();
        let mut answer = self.api.open(&self.place.path(&["logs"]), &query).await.map_err(Broken::Service)?;
        let mut skip = *written;
        while let Some(chunk) = answer.chunk().await.map_err(|error| Broken::Service(self.api.interrupted(error)))? {
            let new = &chunk[skip.min(chunk.len())..];
            skip = skip.saturating_sub(chunk.len());
            if new.is_empty() {
                continue;
            }
            self.progress.clear();
            out.write_all(new).await.map_err(|error| Broken::Output(output_error(error)))?;
            out.flush().await.map_err(|error| Broken::Output(output_error(error)))?;
            *written += new.len();
        }
        Ok(())
    }
}
