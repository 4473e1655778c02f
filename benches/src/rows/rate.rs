//! What a flood of bad tokens costs those who have good ones.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use renga_tests::client::Client;
use renga_tests::issuer::Issuer;
use reqwest::Method;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use super::specification;
use crate::load::{Load, ROUNDS, SECONDS, middle};
use crate::process::Surroundings;
use crate::report::{Bar, Row, short};

/// How many bad tokens are shown in a second.
const RATE: u32 = 500;
/// How many of them may wait for their answers: a server that falls behind is not asked ever more.
const WAITING: usize = 256;

/// A good caller's GETs without and with the flood, in turn.
pub(super) async fn bad_tokens() -> Result<Vec<Row>> {
    let surroundings = Surroundings::sqlite_of(&Issuer::rsa())?;
    let deployer = surroundings.deployer().await?;
    let client = deployer.ready().await?;
    let path = format!("/v1/contexts/{}", client.context(specification()).await?);
    let load = Load::get(deployer.url(&path)).token(&surroundings.token);
    let (message, _) = surroundings.token.rsplit_once('.').context("a token has a signature")?;
    load.run(1).await?;
    let (mut quiet, mut flooded, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        quiet.push(load.run(SECONDS).await?);
        let flood = Flood::start(client.clone(), path.clone(), message.to_owned(), round);
        let measured = load.run(SECONDS).await;
        refused.push(flood.stop().await?);
        flooded.push(measured?);
    }
    let flood = Flood::start(client, path, message.to_owned(), ROUNDS);
    let used = deployer.percent_of_core(Duration::from_secs(SECONDS.into())).await;
    let cost_ms = used? * 10.0 / flood.stop().await?;
    let (quiet, flooded) = (middle(&quiet), middle(&flooded));
    let reached = refused.iter().sum::<f64>() / f64::from(ROUNDS);
    let note = format!(
        "yardstick: the same without; {} of {RATE} a second were refused, each RS256, each another",
        short(reached)
    );
    Ok(vec![
        Row::new(
            "authenticated GET beside 500 bad tokens a second, /s",
            flooded.per_second,
            Some(quiet.per_second),
            Bar::None,
            note,
        ),
        Row::new(
            "authenticated GET beside 500 bad tokens a second, p99 ms",
            flooded.p99_ms,
            Some(quiet.p99_ms),
            Bar::None,
            "yardstick: the same without",
        ),
        Row::new("processor time of a bad RS256 token, ms", cost_ms, None, Bar::None, "with nothing beside it"),
    ])
}

/// Shows bad tokens until it is stopped.
struct Flood {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<f64>>,
}

impl Flood {
    /// Tokens whose claims are those of `message`, and whose signatures are of no other flood's.
    fn start(client: Client, path: String, message: String, which: u32) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, task: tokio::spawn(flood(client, path, message, which, stopped)) }
    }

    /// Stops it. How many tokens were refused in a second.
    async fn stop(self) -> Result<f64> {
        // It may have ended by itself; then its own error is what counts.
        let _ = self.stop.send(());
        self.task.await?
    }
}

async fn flood(
    client: Client,
    path: String,
    message: String,
    which: u32,
    mut stopped: oneshot::Receiver<()>,
) -> Result<f64> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    let (begin, mut waiting, mut refused) = (Instant::now(), JoinSet::new(), 0);
    for number in 0_u32.. {
        tokio::select! {
            _ = &mut stopped => break,
            _ = ticks.tick() => {}
        }
        while let Some(answered) = waiting.try_join_next() {
            answered??;
            refused += 1;
        }
        if waiting.len() == WAITING
            && let Some(answered) = waiting.join_next().await
        {
            answered??;
            refused += 1;
        }
        waiting.spawn(show(client.with_token(&forged(&message, which, number)), path.clone()));
    }
    let span = begin.elapsed();
    while let Some(answered) = waiting.join_next().await {
        answered??;
    }
    Ok(f64::from(refused) / span.as_secs_f64())
}

/// A token with a signature of the right size that nobody made. It is looked at to its end, as any other is.
fn forged(message: &str, which: u32, number: u32) -> String {
    let mut signature = [0x5a; 256];
    // A number below any modulus of 2048 bits.
    signature[0] = 0;
    signature[8..12].copy_from_slice(&which.to_be_bytes());
    signature[12..16].copy_from_slice(&number.to_be_bytes());
    format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

async fn show(client: Client, path: String) -> Result<()> {
    let answer = client.ask(Method::GET, &path).await?;
    let because = &answer.problem(401)?["detail"];
    ensure!(because == "the token's signature is not valid", "refused before the signature was looked at: {because}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_bad_tokens_are_alike() {
        let tokens = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(which, number)| forged("a.b", which, number));
        for (index, token) in tokens.iter().enumerate() {
            assert_eq!(token.len(), "a.b.".len() + 342);
            assert!(!tokens[..index].contains(token));
        }
    }
}
