//! Following an execution's logs to its end, whatever happens to the connection.

use std::time::Duration;

use anyhow::Result;
use reqwest::StatusCode;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::bodies::Execution;
use super::http::{Api, ApiError};
use super::names::Place;
use super::progress::Progress;
use crate::ended::output_error;

/// How often in a row the service may be away, and how long it is then left alone.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// What is followed.
pub(crate) struct Follow<'a> {
    pub(crate) api: &'a Api,
    pub(crate) place: &'a Place,
    /// Further parameters of the logs.
    pub(crate) query: Vec<(&'a str, &'a str)>,
    pub(crate) progress: &'a Progress,
}

/// Why a copy ended early.
enum Broken {
    /// The service or the way there; asking again may help.
    Service(ApiError),
    /// Our own output.
    Output(anyhow::Error),
}

impl Follow<'_> {
    /// Copies everything to `out` until the execution has ended, and answers what became of it.
    ///
    /// A connection that breaks is made again, and what was written already is skipped: logs only grow. Not so the last
    /// lines (`tail`), which begin elsewhere each time: these are followed on one connection only.
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

    /// The execution whose logs are not there because it was removed, or never had any.
    async fn gone(&self, error: &ApiError) -> Option<Execution> {
        if error.status() != Some(StatusCode::NOT_FOUND) {
            return None;
        }
        let execution = self.api.get(&self.place.path(&[]), &[]).await.ok()?;
        Execution::read(&execution).ok().filter(Execution::has_ended)
    }

    /// Copies one answer from where the last one broke off.
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
