//! The cost of authentication: for a new token, and for a cached one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use renga_reconciler::clock::{Clock as _, SystemClock};
use renga_reconciler::random::Random;
use renga_shared::auth::{Expected, VerificationKey, Verifier};
use renga_tests::client::{Answer, Client};
use renga_tests::issuer::Issuer;
use renga_tests::issuer_double::IssuerDouble;
use renga_tests::resource_manager_double::ResourceManager;
use reqwest::Method;

use super::rate::forged;
use super::specification;
use crate::load::{Load, median, side_by_side};
use crate::process::{Process, Surroundings, workspace};
use crate::report::{Bar, Row, short};

/// Number of samples.
const TIMES: usize = 9;
/// Number of verifications per sample.
const ROUNDS: u32 = 100;
/// Number of users, each with a token of its own.
const USERS: usize = 1_000;
/// Number of parallel requests.
const AT_ONCE: usize = 64;
/// Number of requests in total.
const REQUESTS: usize = 40_000;

/// Measures GETs with a cached token, beside the same GETs of the same component without verification.
pub(super) async fn remembered() -> Result<Vec<Row>> {
    let surroundings = Surroundings::sqlite()?;
    let path = context(&surroundings).await?;
    let guest = guest(&surroundings).await?;
    let token = &surroundings.token;
    // It has the same length as the other, because both are read from the request.
    let unverified = format!("unverified.{}", "x".repeat(token.len().saturating_sub(11)));
    let get = |token: &str| Load::get(guest.url(&path)).token(token);
    let (with, without) = side_by_side(&get(token), &get(&unverified)).await?;
    let note = format!(
        "ES256; yardstick: the same handler, taking a token of the same length at its word; p99 {} ms and {} ms",
        short(with.p99_ms),
        short(without.p99_ms)
    );
    Ok(vec![Row::new(
        "GET of a context with a remembered token, /s",
        with.per_second,
        Some(without.per_second),
        Bar::AtLeastTimes(0.9),
        note,
    )])
}

/// Measures the time in which a component verifies a token or rejects a forged one, beside the same code run natively.
pub(super) async fn first_sight() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (algorithm, issuer) in [("RS256", Issuer::rsa()), ("ES256", Issuer::new()), ("EdDSA", Issuer::ed25519())] {
        let surroundings = Surroundings::sqlite_of(&issuer)?;
        context(&surroundings).await?;
        let guest = guest(&surroundings).await?;
        let expected = Expected::of(Issuer::NAME, Some("scope".to_owned()));
        let verifier = Verifier::new(VerificationKey::parse(&issuer.public_key_pem())?, expected);
        let bad = forged(&surroundings.token, 0, 0)?;
        for (what, token, is_good) in [("first sight of a", &surroundings.token, true), ("a forged", &bad, false)] {
            let client = guest.client().with_token(token);
            let (mut component, mut native) = (Vec::new(), Vec::new());
            for _ in 0..TIMES {
                let told = client.get("/healthz").await?;
                ensure!(told["good"] == is_good, "{algorithm}: {told}");
                component.push(told["micros"].as_f64().context("no time")? / 1e3);
                native.push(verifying(&verifier, token));
            }
            rows.push(Row::new(
                &format!("{what} token in a component, {algorithm}, ms"),
                median(component),
                Some(median(native)),
                Bar::None,
                format!("yardstick: the same code, native; {TIMES} times {ROUNDS} rounds"),
            ));
        }
    }
    Ok(rows)
}

/// Verifies as the component does. Returns the time of one verification, in milliseconds.
fn verifying(verifier: &Verifier, token: &str) -> f64 {
    let (now, begin) = (SystemClock.now(), Instant::now());
    for _ in 0..ROUNDS {
        // The result is not checked here, because the component's response is.
        let _ = std::hint::black_box(verifier.glance(token, now).and_then(|()| verifier.verify(token, now)));
    }
    begin.elapsed().as_secs_f64() * 1e3 / f64::from(ROUNDS)
}

/// Measures the hit rates of the caches for a thousand users: of tokens, of the issuer's keys, and of grants.
pub(super) async fn users() -> Result<Vec<Row>> {
    let percent = |missed: usize| 100.0 - 100.0 * missed as f64 / REQUESTS as f64;
    let how = format!("{REQUESTS} requests of {USERS} users, {AT_ONCE} at a time");

    let issuer = Issuer::new();
    let surroundings = Surroundings::sqlite_of(&issuer)?.with("DEPLOYER_ACCESS", "shared");
    let path = format!("{}?told", context(&surroundings).await?);
    let guest = guest(&surroundings).await?;
    let client = guest.client();
    let (verified, late) = (AtomicUsize::new(0), AtomicUsize::new(0));
    crowd(
        &client,
        &path,
        |user| Ok(issuer.token(user)),
        |number, answer| {
            if answer.header("bench-token") == "verified" {
                verified.fetch_add(1, Ordering::Relaxed);
                late.fetch_add(usize::from(number >= REQUESTS / 2), Ordering::Relaxed);
            }
        },
    )
    .await?;
    guest.stop().await?;
    let (verified, late) = (verified.into_inner(), late.into_inner());
    let tokens = Row::new(
        "tokens that were remembered, of 1,000 users, %",
        percent(verified),
        None,
        Bar::None,
        format!("{how}; {verified} were verified, {late} of them in the second half"),
    );

    let issuer = IssuerDouble::start().await?;
    let key = issuer.add_key("ES256", "first")?;
    let mut surroundings = Surroundings::sqlite()?
        .with("DEPLOYER_ACCESS", "shared")
        .with("DEPLOYER_JWT_KEY", "")
        .with("DEPLOYER_JWT_ISSUER", issuer.issuer())
        .with("DEPLOYER_TOKEN_SCOPE_KEY", "");
    surroundings.token = issuer.token(&key, "bench")?;
    let deployer = surroundings.deployer().await?;
    let client = deployer.ready().await?;
    let path = format!("/v1/contexts/{}", client.context(specification()).await?);
    crowd(&client, &path, |user| issuer.token(&key, user), |_, _| {}).await?;
    let fetched = issuer.fetches().keys;
    let keys = Row::new(
        "requests that found the issuer's keys, of 1,000 users, %",
        percent(fetched),
        None,
        Bar::None,
        format!("{how}; the issuer was asked {fetched} times"),
    );
    deployer.stop().await?;

    let manager = ResourceManager::start().await?;
    let mut surroundings = Surroundings::sqlite()?
        .with("RESOURCE_MANAGER_URL", manager.url())
        .with("DEPLOYER_JWT_KEY", manager.public_key())
        .with("DEPLOYER_TOKEN_SCOPE_KEY", "https://rm.datascience.ch/scope");
    surroundings.token = ResourceManager::token("bench");
    let deployer = surroundings.deployer().await?;
    let client = deployer.ready().await?;
    let path = format!("/v1/contexts/{}", client.context(specification()).await?);
    manager.asked();
    let begin = Instant::now();
    crowd(&client, &path, |user| Ok(ResourceManager::token(user)), |_, _| {}).await?;
    let (asked, took) = (manager.asked().len(), begin.elapsed().as_secs_f64());
    let grants = Row::new(
        "requests that found their grant, of 1,000 users, %",
        percent(asked),
        None,
        Bar::None,
        format!("{how}, within {} s; the resource manager was asked {asked} times", short(took)),
    );
    Ok(vec![tokens, keys, grants])
}

/// Sends requests for `path` by users chosen at random, and passes each response with its number to `see`.
async fn crowd(
    client: &Client,
    path: &str,
    token: impl Fn(&str) -> Result<String>,
    see: impl Fn(usize, &Answer),
) -> Result<()> {
    let clients = (0..USERS).map(|user| Ok(client.with_token(&token(&format!("user-{user}"))?)));
    let clients: Vec<Client> = clients.collect::<Result<_>>()?;
    let next = AtomicUsize::new(0);
    let ask = async |lot: Random| {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= REQUESTS {
                return anyhow::Ok(());
            }
            let user = &clients[lot.number() as usize % USERS];
            let answer = user.ask(Method::GET, path).await?;
            answer.json(200)?;
            see(number, &answer);
        }
    };
    try_join_all((0..AT_ONCE).map(|seed| ask(Random::from_seed(seed as u64)))).await?;
    Ok(())
}

/// Creates the schema and a context. Returns the context's path.
async fn context(surroundings: &Surroundings) -> Result<String> {
    let deployer = surroundings.deployer().await?;
    let path = format!("/v1/contexts/{}", deployer.ready().await?.context(specification()).await?);
    deployer.stop().await?;
    Ok(path)
}

/// Starts `renga-deployer up` with the component of `benches/guest`.
async fn guest(surroundings: &Surroundings) -> Result<Process> {
    let component = workspace().join("target/wasm32-wasip2/release/renga_benches_guest.wasm");
    ensure!(component.exists(), "{} is not built: run `make bench`", component.display());
    let source = format!("\"{}\"", component.display());
    let manifest = std::fs::read_to_string(workspace().join("spin.toml"))?;
    let manifest = manifest.replace("\"target/wasm32-wasip2/release/renga_api.wasm\"", &source);
    ensure!(manifest.contains(&source), "spin.toml names another component than renga_api");
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("spin.toml");
    std::fs::write(&file, manifest)?;
    surroundings.deployer_of(&file).await
}
