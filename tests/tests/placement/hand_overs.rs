//! Executions that engines hand to and fro, and reconcilers to each other, by a clock that is moved by hand.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use renga_reconciler::clock::{Clock as _, ManualClock};
use renga_reconciler::engine::fake::{FakeWorld, Fault, Operation};
use renga_reconciler::engine::{EngineError, EngineSettings};
use renga_reconciler::engines::{Configured, Engines};
use renga_reconciler::metrics::Metrics;
use renga_reconciler::placement::{Placements, record_of};
use renga_reconciler::random::Random;
use renga_reconciler::tasks::collect_logs::Collectors;
use renga_reconciler::tasks::converge::converge;
use renga_reconciler::tasks::resync::{Orphans, resync};
use renga_reconciler::tasks::{Context, Settings, lease};
use renga_shared::domain::{EngineName, ExecutionId, Timestamp, Why};
use renga_shared::sql::{Database as _, observations};
use renga_tests::deployment::Deployment;
use renga_tests::hand::serve;
use serde_json::json;
use tokio::sync::{Notify, mpsc};

const HOUR: Duration = Duration::from_secs(3_600);

/// A reconciler on these worlds, whose engines answer.
async fn reconciler(deployment: &Deployment, clock: &ManualClock, worlds: [(&str, &FakeWorld); 2]) -> Result<Context> {
    let settings = EngineSettings {
        deployment: "by-hand".into(),
        host_paths: Vec::new(),
        container_ip: std::net::Ipv4Addr::LOCALHOST.into(),
        kubernetes: Default::default(),
    };
    let mut engines = Vec::new();
    for (name, world) in worlds {
        engines.push(Configured::plain(EngineName::parse(name)?, Arc::new(world.engine(&settings))));
    }
    let engines = Engines::new(engines);
    for served in engines.iter() {
        served.close_circuit();
        served.told(&served.engine.probe().await?);
    }
    let (nudges, _) = mpsc::unbounded_channel();
    Ok(Context {
        id: "by-hand".into(),
        db: deployment.database()?,
        engines,
        clock: Arc::new(clock.clone()),
        random: Random::from_seed(1),
        settings: Arc::new(Settings {
            stop_grace: Duration::from_secs(10),
            log_limit: 1 << 20,
            default_base_url: "/".into(),
            seal_keys: None,
            orphan_grace: Duration::from_secs(60),
            lease: Duration::from_secs(15),
        }),
        collectors: Collectors::default(),
        metrics: Metrics::default(),
        placements: Placements::default(),
        nudges,
        lease_until: Arc::new(AtomicI64::new(0)),
    })
}

/// Has the reconciler take an execution as far as it gets now.
async fn pass(context: &Context, id: ExecutionId) -> Result<()> {
    lease::renew(context).await?;
    let claimed = observations::claim(&context.db, &context.id, context.now(), &[id]).await?;
    ensure!(claimed == [id], "it is somebody else's");
    Ok(converge(context, id, Arc::new(Notify::new())).await?)
}

#[tokio::test]
async fn two_that_cannot_make_it_ready_for_an_hour_are_asked_ever_more_rarely() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let execution = deployment.client.run(json!({ "image": "fake/steps", "command": ["exit:0"] })).await?;
    let id: ExecutionId = execution.id.parse()?;
    let began = Timestamp(4_000_000_000_000_000);
    let clock = ManualClock::new(began);
    let (a, b) = (FakeWorld::new(Arc::new(clock.clone())), FakeWorld::new(Arc::new(clock.clone())));
    let unreachable = Why::new("RegistryUnreachable", "The registry does not answer.");
    for world in [&a, &b] {
        for _ in 0..10_000 {
            world.fail_next(Operation::Prepare, Fault::Fails(EngineError::Retry(unreachable.clone())));
        }
    }
    let context = reconciler(&deployment, &clock, [("a", &a), ("b", &b)]).await?;

    let (mut passes, mut pauses) = (0, Vec::new());
    let mut attempts = 0;
    while clock.now().since(began) < HOUR {
        pass(&context, id).await?;
        let work = observations::load(&context.db, &context.id, id).await?.context("it is no longer held")?;
        let tried = record_of(&work).tried;
        ensure!(tried.len() <= 2, "{} answers are kept: {tried:?}", tried.len());
        ensure!(work.attempts > attempts, "{} attempts after {attempts}", work.attempts);
        attempts = work.attempts;
        passes += 1;
        let due = work.due.context("it is never looked at again")?;
        pauses.push(due.since(clock.now()));
        clock.advance(due.since(clock.now()).max(Duration::from_millis(1)));
    }
    ensure!(passes < 150, "{passes} passes in an hour");
    let rare = |pause: &Duration| *pause >= Duration::from_secs(20);
    ensure!(pauses.iter().rev().take(passes / 2).all(rare), "{pauses:?}");

    // What it achieves begins to count anew.
    a.forget_faults();
    b.forget_faults();
    pass(&context, id).await?;
    let ended = deployment.client.get(&execution.path).await?;
    ensure!(ended["status"]["phase"] == "exited", "{ended:#}");
    deployment.leave().await
}

#[tokio::test]
async fn one_that_moved_to_another_reconciler_is_collected_there_alone() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let clock = ManualClock::new(Timestamp(4_000_000_000_000_000));
    let (a, b) = (FakeWorld::new(Arc::new(clock.clone())), FakeWorld::new(Arc::new(clock.clone())));
    let context = reconciler(&deployment, &clock, [("a", &a), ("b", &b)]).await?;
    let engine = EngineName::parse("a")?;
    serve(&context.db, "a", "fake", Ok("fake")).await?;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let context_id = deployment.client.context(json!({ "image": "fake/steps", "command": ["wait"] })).await?;
        let execution = deployment.client.execute(&context_id, json!({ "engine": "a" })).await?;
        ids.push(execution.id.parse::<ExecutionId>()?);
        pass(&context, ids[ids.len() - 1]).await?;
    }
    let collected = || {
        let mut collected = context.collectors.of(&engine);
        collected.sort();
        collected
    };
    ensure!(collected() == ids, "both run");

    // Another reconciler takes over one of them.
    let taken = "UPDATE executions SET holder = 'another' WHERE id = ?1 RETURNING 1";
    context.db.query(taken, vec![ids[0].to_string().into()]).await?;
    let served = context.engines.get(&engine).context("it is served")?;
    resync(&context, served, &mut Orphans::default()).await?;
    ensure!(collected() == [ids[1]], "{:?}", collected());
    deployment.leave().await
}
