//! `logs`: what an execution wrote.

use std::time::Duration;

use anyhow::{Result, bail};
use renga_shared::api::{parse_rfc3339, rfc3339};
use renga_shared::domain::Timestamp;
use tokio::io::AsyncWriteExt as _;

use super::follow::Follow;
use super::http::Api;
use super::names::find;
use super::progress::Progress;
use crate::args::Logs;
use crate::ended::output_error;

/// Prints them.
pub(crate) async fn logs(api: &Api, logs: &Logs, now: Timestamp) -> Result<()> {
    let since = logs.since.as_deref().map(|text| since(text, now)).transpose()?;
    let tail = logs.tail.map(|lines| lines.to_string());
    let place = find(api, &logs.id).await?;
    let query: Vec<(&str, &str)> = [
        tail.as_deref().map(|tail| ("tail", tail)),
        since.as_deref().map(|since| ("since", since)),
        logs.timestamps.then_some(("timestamps", "true")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut out = tokio::io::stdout();
    if logs.follow {
        Follow { api, place: &place, query, progress: &Progress::new() }.to_end(&mut out).await?;
        return Ok(());
    }
    let mut answer = api.open(&place.path(&["logs"]), &query).await?;
    while let Some(chunk) = answer.chunk().await.map_err(|error| api.interrupted(error))? {
        out.write_all(&chunk).await.map_err(output_error)?;
    }
    out.flush().await.map_err(output_error)
}

/// An instant: itself, or how long ago it was.
fn since(text: &str, now: Timestamp) -> Result<String> {
    if let Some(instant) = parse_rfc3339(text) {
        return Ok(rfc3339(instant));
    }
    match humantime::parse_duration(text) {
        Ok(ago) if ago <= Duration::from_secs(100 * 366 * 86_400) => Ok(rfc3339(now.minus(ago))),
        _ => bail!("--since {text:?} is no time; write 10m, 2h, 1day, or 2026-01-31T12:00:00Z"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_an_instant_or_how_long_ago() {
        let now = parse_rfc3339("2026-01-31T12:00:00Z").unwrap();
        assert_eq!(since("10m", now).unwrap(), "2026-01-31T11:50:00.000000+00:00");
        assert_eq!(since("2026-01-31T13:00:00+02:00", now).unwrap(), "2026-01-31T11:00:00.000000+00:00");
        assert!(since("yesterday", now).unwrap_err().to_string().contains("10m"));
    }
}
