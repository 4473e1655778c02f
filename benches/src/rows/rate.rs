//! The effect of a flood of invalid tokens on callers with valid ones.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use renga_tests::client::Client;
use renga_tests::issuer::Issuer;
use reqwest::Method;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use super::specification;
use crate::load::{Load, ROUNDS, SECONDS, median, middle};
use crate::process::{OWNER, Surroundings};
use crate::report::{Bar, Row, short};

/// Number of invalid tokens sent per second.
const RATE: u32 = 500;
/// Maximum number of them without a response, so that a slow server does not get ever more requests.
const WAITING: usize = 256;
/// Number of new valid tokens sent during the flood.
const NEWCOMERS: u32 = 60;
/// The time between two of these.
const PAUSE: Duration = Duration::from_millis(50);

/// Measures valid claims with a forged RSA signature.
pub(super) async fn forged_rsa() -> Result<Vec<Row>> {
    let issuer = Issuer::rsa();
    let token = issuer.token(OWNER);
    beside(&issuer, "forged RS256", &token).await
}

/// Measures valid claims with a forged signature on P-256.
pub(super) async fn forged_ec() -> Result<Vec<Row>> {
    let issuer = Issuer::new();
    let token = issuer.token(OWNER);
    beside(&issuer, "forged ES256", &token).await
}

/// Measures tokens of another issuer, as a misconfigured client sends them.
pub(super) async fn foreign() -> Result<Vec<Row>> {
    let issuer = Issuer::rsa();
    let claims = Issuer::claims(OWNER, json!({}), 3_600).with_issuer("http://other.test/realms/Other");
    let token = issuer.sign(claims);
    beside(&issuer, "foreign", &token).await
}

/// Measures the GETs of a known caller without and with a flood of tokens like `bad`, in turn, and then the requests of
/// new callers.
async fn beside(issuer: &Issuer, kind: &str, bad: &str) -> Result<Vec<Row>> {
    let surroundings = Surroundings::sqlite_of(issuer)?.with("DEPLOYER_ACCESS", "shared");
    let deployer = surroundings.deployer().await?;
    let client = deployer.ready().await?;
    let path = format!("/v1/contexts/{}", client.context(specification()).await?);
    let load = Load::get(deployer.url(&path)).token(&surroundings.token);
    let flood = |which| Flood::start(client.clone(), path.clone(), bad.to_owned(), which);
    load.run(1).await?;
    let (mut quiet, mut flooded, mut shown) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        quiet.push(load.run(SECONDS).await?);
        let flood = flood(round);
        let measured = load.run(SECONDS).await;
        shown.push(flood.stop().await?);
        flooded.push(measured?);
    }
    let alone = flood(ROUNDS);
    let used = deployer.percent_of_core(Duration::from_secs(SECONDS.into())).await;
    let cost_ms = used? * 10.0 / alone.stop().await?.per_second();
    let last = flood(ROUNDS + 1);
    let newcomers = newcomers(&client, &path, issuer).await;
    last.stop().await?;
    let (let_in, took_ms) = newcomers?;
    let (quiet, flooded) = (middle(&quiet), middle(&flooded));
    let each = |of: fn(&Shown) -> f64| short(median(shown.iter().map(of).collect()));
    let note = format!(
        "yardstick: the same without; {kind}, each another; of {RATE} a second {} were refused and {} told to come back",
        each(|shown| shown.refused),
        each(|shown| shown.put_off)
    );
    Ok(vec![
        Row::new(
            &format!("GET of a context beside {RATE} {kind} tokens a second, /s"),
            flooded.per_second,
            Some(quiet.per_second),
            Bar::AtLeastTimes(0.8),
            note,
        ),
        Row::new(
            &format!("the same beside {kind} tokens, p99 ms"),
            flooded.p99_ms,
            Some(quiet.p99_ms),
            Bar::None,
            "yardstick: the same without",
        ),
        Row::new(
            &format!("new good tokens let in beside {kind} tokens, %"),
            let_in,
            None,
            Bar::None,
            format!("{NEWCOMERS} of them, at the first attempt; median {} ms", short(took_ms)),
        ),
        Row::new(
            &format!("processor time of a {kind} token, ms"),
            cost_ms,
            None,
            Bar::None,
            "the whole request, with nothing beside it",
        ),
    ])
}

/// Returns the percentage of new valid tokens that are accepted at the first attempt, and the median time of that, in
/// milliseconds.
async fn newcomers(client: &Client, path: &str, issuer: &Issuer) -> Result<(f64, f64)> {
    let mut took = Vec::new();
    for number in 0..NEWCOMERS {
        tokio::time::sleep(PAUSE).await;
        let newcomer = client.with_token(&issuer.token(&format!("newcomer-{number}")));
        let begin = Instant::now();
        match newcomer.ask(Method::GET, path).await?.status.as_u16() {
            200 => took.push(begin.elapsed().as_secs_f64() * 1e3),
            503 => {}
            other => bail!("a good token was answered {other}"),
        }
    }
    Ok((100.0 * took.len() as f64 / f64::from(NEWCOMERS), median(took)))
}

/// Numbers of invalid tokens per second, by the response.
#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    refused: f64,
    put_off: f64,
}

impl Shown {
    fn per_second(&self) -> f64 {
        self.refused + self.put_off
    }
}

/// A task that sends invalid tokens until it is stopped.
struct Flood {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<Shown>>,
}

impl Flood {
    /// Starts a flood of tokens like `bad`. Their signatures differ from those of every other flood.
    fn start(client: Client, path: String, bad: String, which: u32) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, task: tokio::spawn(flood(client, path, bad, which, stopped)) }
    }

    /// Stops the flood and returns the responses.
    async fn stop(self) -> Result<Shown> {
        // The task may have ended by itself; then its own error is returned.
        let _ = self.stop.send(());
        self.task.await?
    }
}

async fn flood(
    client: Client,
    path: String,
    bad: String,
    which: u32,
    mut stopped: oneshot::Receiver<()>,
) -> Result<Shown> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    let (begin, mut waiting, mut shown) = (Instant::now(), JoinSet::new(), Shown::default());
    let mut count = |refused: bool| if refused { shown.refused += 1.0 } else { shown.put_off += 1.0 };
    for number in 0_u32.. {
        tokio::select! {
            _ = &mut stopped => break,
            _ = ticks.tick() => {}
        }
        while let Some(answered) = waiting.try_join_next() {
            count(answered??);
        }
        if waiting.len() == WAITING
            && let Some(answered) = waiting.join_next().await
        {
            count(answered??);
        }
        waiting.spawn(show(client.with_token(&forged(&bad, which, number)?), path.clone()));
    }
    let span = begin.elapsed().as_secs_f64();
    while let Some(answered) = waiting.join_next().await {
        answered??;
    }
    Ok(Shown { refused: shown.refused / span, put_off: shown.put_off / span })
}

/// Returns the token with a forged signature. The verifier checks it completely if the token was valid.
pub(super) fn forged(token: &str, which: u32, number: u32) -> Result<String> {
    let (message, signature) = token.rsplit_once('.').context("a token has a signature")?;
    let mut signature = vec![0x5a; BASE64_URL_SAFE_NO_PAD.decode(signature)?.len()];
    // The values are below any modulus of that size and any group order: the most significant byte is the first (RSA,
    // ECDSA) or the last (EdDSA).
    signature[0] = 0;
    signature[63] = 0;
    signature[8..12].copy_from_slice(&which.to_be_bytes());
    signature[12..16].copy_from_slice(&number.to_be_bytes());
    Ok(format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
}

/// Returns `true` if the token was rejected, `false` if it was rate-limited and may be sent again.
async fn show(client: Client, path: String) -> Result<bool> {
    let answer = client.ask(Method::GET, &path).await?;
    if answer.status == 503 {
        ensure!(!answer.header("retry-after").is_empty(), "no Retry-After");
        return Ok(false);
    }
    answer.problem(401)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forged_tokens_differ() {
        for issuer in [Issuer::new(), Issuer::ed25519()] {
            let token = issuer.token(OWNER);
            let tokens = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(which, number)| forged(&token, which, number).unwrap());
            for (index, bad) in tokens.iter().enumerate() {
                assert_eq!(bad.len(), token.len());
                assert!(*bad != token && !tokens[..index].contains(bad));
            }
        }
    }
}
