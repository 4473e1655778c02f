//! An API server that is restarted, slow or cut off is unreachable. Running executions do not change.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::TryStreamExt as _;
use renga_reconciler::engine::{Engine, EngineError, EngineEvent, LogEntry, Object};
use renga_tests::deployment::until;
use renga_tests::require;
use renga_tests::scripts::Script;
use renga_tests::servers::Cluster;
use serde_json::json;

use crate::Ground;

/// Maximum time until an API server is known to be unreachable.
const KNOWN_WITHIN: Duration = Duration::from_secs(25);

/// Waits until the engine responds, and returns the object. Fails with errors other than an unreachable engine.
async fn once_it_answers(ground: &Ground, launch: &renga_reconciler::engine::Launch) -> Result<Object> {
    until("the engine to answer", async || {
        let probed = ground.engine.probe().await;
        Ok(match (probed, ground.engine.inspect(launch.id).await) {
            (Ok(_), Ok(object)) => Ok(object.context("the object is gone")?),
            (probed, seen) => {
                for error in [probed.err(), seen.err()].into_iter().flatten() {
                    ensure!(error.away().is_some(), "neither away nor there: {error:?}");
                }
                Err(json!("away"))
            }
        })
    })
    .await
}

async fn is_away(engine: &dyn Engine, launch: &renga_reconciler::engine::Launch) -> Result<()> {
    let begin = Instant::now();
    loop {
        // Probes first, as the reconciler does, because a probe makes the engine check its watches.
        let probed = engine.probe().await;
        match (probed, engine.inspect(launch.id).await) {
            (
                Err(EngineError::Down(_) | EngineError::Unreached(_)),
                Err(EngineError::Down(_) | EngineError::Unreached(_)),
            ) => {
                return Ok(());
            }
            (_, Ok(None)) => bail!("it said that there is no object"),
            (probed, seen) if begin.elapsed() > 2 * KNOWN_WITHIN => bail!("not away: {probed:?}, {seen:?}"),
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Runs one execution while the API server is unreachable for some time. Fails if its state or its logs change.
async fn goes_on_through(
    mut cluster: Cluster,
    leave: impl AsyncFnOnce(&mut Cluster) -> Result<()>,
    come_back: impl AsyncFnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    let ground = Ground::new(&cluster, "away").await?;
    let launch = ground.script(&Script::Count(2_000))?;
    let object = ground.run(&launch).await?;
    let mut logs = ground.engine.logs(&object, 0);
    let mut all: Vec<LogEntry> = vec![logs.try_next().await?.context("it wrote nothing")?];
    let before = ground.becomes_running(&launch).await?;
    let mut events = ground.engine.events();
    ensure!(events.try_next().await? == Some(EngineEvent::Resync));

    leave(&mut cluster).await?;
    is_away(&*ground.engine, &launch).await?;
    let ended = async {
        while events.try_next().await?.is_some() {}
        Ok::<_, EngineError>(())
    };
    ensure!(matches!(tokio::time::timeout(KNOWN_WITHIN, ended).await?, Err(error) if error.away().is_some()));
    let broken = async {
        while let Some(entry) = logs.try_next().await? {
            all.push(entry);
        }
        Ok::<_, EngineError>(())
    };
    ensure!(matches!(tokio::time::timeout(KNOWN_WITHIN, broken).await?, Err(error) if error.away().is_some()));

    come_back(&mut cluster).await?;
    ensure!(once_it_answers(&ground, &launch).await? == before, "it never knew");
    // Continues like the log collector, from the last entry that it has.
    let last = all.last().map_or(0, |entry| entry.nanos);
    all.retain(|entry| entry.nanos < last);
    let rest: Vec<LogEntry> = ground.engine.logs(&object, last).try_collect().await?;
    all.extend(rest);
    let told: String = all.iter().map(|entry| String::from_utf8_lossy(&entry.bytes).into_owned()).collect();
    let expected: String = (1..=2_000).map(|line| format!("line {line}\n")).collect();
    ensure!(told == expected, "{} bytes, not {}", told.len(), expected.len());
    Ok(())
}

impl Ground {
    async fn becomes_running(&self, launch: &renga_reconciler::engine::Launch) -> Result<Object> {
        self.becomes(launch, |state| matches!(state, renga_reconciler::engine::ObjectState::Running { .. })).await?;
        self.object(launch).await
    }
}

#[tokio::test]
async fn an_execution_survives_a_restart_of_the_api_server() -> Result<()> {
    let cluster = require!(dedicated_kubernetes);
    goes_on_through(
        cluster,
        async |cluster| cluster.kill_api_server().await,
        async |cluster| cluster.start_api_server().await,
    )
    .await
}

#[tokio::test]
async fn an_execution_survives_an_api_server_that_does_not_respond() -> Result<()> {
    let cluster = require!(dedicated_kubernetes);
    goes_on_through(
        cluster,
        async |cluster| cluster.pause_api_server().await,
        async |cluster| cluster.continue_api_server().await,
    )
    .await
}

#[tokio::test]
async fn an_execution_survives_an_api_server_that_is_cut_off() -> Result<()> {
    let cluster = require!(dedicated_kubernetes);
    goes_on_through(cluster, async |cluster| cluster.cut_off().await, async |cluster| cluster.reconnect().await).await
}
