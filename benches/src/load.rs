//! Load on a server by `wrk`: sixteen connections by default, each of which sends its next request when it has a
//! response.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use tokio::process::Command;

/// A request that is sent repeatedly.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// The URL.
    pub(crate) url: String,
    /// `GET` or `POST`.
    pub(crate) method: &'static str,
    /// The bearer token, if one is needed.
    pub(crate) token: Option<String>,
    /// The body, as JSON.
    pub(crate) body: Option<String>,
    /// The number of parallel connections.
    pub(crate) connections: u32,
}

/// The result of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Responses per second.
    pub(crate) per_second: f64,
    /// The median latency, in milliseconds.
    pub p50_ms: f64,
    /// The 99th percentile of the latency, in milliseconds.
    pub p99_ms: f64,
}

#[derive(Deserialize)]
struct Summary {
    requests: f64,
    micros: f64,
    p50_micros: f64,
    p99_micros: f64,
    refused: u64,
    broken: u64,
}

impl Load {
    /// Returns a load of `GET`s without a token.
    pub(crate) fn get(url: String) -> Self {
        Self { url, method: "GET", token: None, body: None, connections: 16 }
    }

    /// Returns a load of `POST`s of `body`.
    pub(crate) fn post(url: String, body: impl Into<String>) -> Self {
        Self { method: "POST", body: Some(body.into()), ..Self::get(url) }
    }

    /// Sets the bearer token.
    pub(crate) fn token(self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self }
    }

    /// Sets the number of connections.
    pub(crate) fn connections(self, connections: u32) -> Self {
        Self { connections, ..self }
    }

    /// Sends the request for this many seconds. Fails if a response is not 2xx, because a fast error is no valid
    /// figure.
    pub(crate) async fn run(&self, seconds: u32) -> Result<Measured> {
        let mut command = Command::new("wrk");
        command
            .args(["-t1", &format!("-c{}", self.connections), &format!("-d{seconds}s"), "--timeout", "10s", "-s"])
            .arg(script())
            .arg(&self.url)
            .env("LOAD_METHOD", self.method)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        for (name, value) in [("LOAD_TOKEN", &self.token), ("LOAD_BODY", &self.body)] {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let ran = command.output().await.context(MISSING)?;
        let (said, complained) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        let Some(line) = said.lines().rfind(|line| line.starts_with('{')) else {
            bail!("wrk on {} gave no figures: {said}{complained}", self.url);
        };
        let summary: Summary = serde_json::from_str(line).with_context(|| format!("wrk said {line}"))?;
        ensure!(
            summary.refused == 0 && summary.broken == 0,
            "{} {}: of {} requests {} were not answered with 2xx and {} connections broke or timed out",
            self.method,
            self.url,
            summary.requests,
            summary.refused,
            summary.broken,
        );
        ensure!(summary.requests > 0.0, "{} {} was not answered once in {seconds} s", self.method, self.url);
        Ok(Measured {
            per_second: summary.requests * 1e6 / summary.micros,
            p50_ms: summary.p50_micros / 1e3,
            p99_ms: summary.p99_micros / 1e3,
        })
    }
}

const MISSING: &str = "wrk, the load generator, does not run: install it (Debian: apt-get install wrk)";

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("load/request.lua")
}

/// Fails if the load generator is not installed, so that the error comes once and not in every row.
pub(crate) async fn check() -> Result<()> {
    // `wrk --version` exits with 1, because it prints the usage.
    Command::new("wrk").arg("--version").output().await.context(MISSING)?;
    Ok(())
}

/// How often each of two loads is measured, in turn: the machine's good and bad moments then affect both.
pub(crate) const ROUNDS: u32 = 3;
/// The duration of one measurement, in seconds.
pub(crate) const SECONDS: u32 = 3;

/// Returns the medians of `figure` and `yardstick`, measured in turn.
pub(crate) async fn side_by_side(figure: &Load, yardstick: &Load) -> Result<(Measured, Measured)> {
    let (mut figures, mut yardsticks) = (Vec::new(), Vec::new());
    for load in [figure, yardstick] {
        load.run(1).await?;
    }
    for _ in 0..ROUNDS {
        figures.push(figure.run(SECONDS).await?);
        yardsticks.push(yardstick.run(SECONDS).await?);
    }
    Ok((middle(&figures), middle(&yardsticks)))
}

/// Returns the medians of several rounds.
pub(crate) fn middle(rounds: &[Measured]) -> Measured {
    let of = |field: fn(&Measured) -> f64| median(rounds.iter().map(field).collect());
    Measured { per_second: of(|m| m.per_second), p50_ms: of(|m| m.p50_ms), p99_ms: of(|m| m.p99_ms) }
}

/// Returns the median; NaN if there is no value.
pub(crate) fn median(values: Vec<f64>) -> f64 {
    percentile(values, 50.0)
}

/// Returns the smallest value that `percent` of the values do not exceed; NaN if there is no value.
pub(crate) fn percentile(mut values: Vec<f64>, percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * percent / 100.0).ceil().max(1.0) as usize;
    values.get(rank - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(hundred.clone(), 99.0), 99.0);
        assert_eq!(median(hundred), 50.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(percentile(vec![7.0], 99.0), 7.0);
        assert!(median(Vec::new()).is_nan());
    }
}
