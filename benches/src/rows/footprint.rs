//! What it costs to be there: starts, memory, and the processor's time when nothing happens.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use renga_host::{Host, Limits, Manifest, RuntimeConfig, Settings};
use renga_shared::sql::uri::DatabaseUri;
use tokio::net::TcpListener;

use super::specification;
use crate::database::Database;
use crate::load::{Load, median, side_by_side};
use crate::process::{Surroundings, workspace};
use crate::report::{Bar, Row, short};

const STARTS: usize = 7;
const REST: Duration = Duration::from_secs(5);
const LIVE: i64 = 10_000;
const WATCHED: Duration = Duration::from_secs(20);

/// From the start of `renga-deployer up` to its first answer, on a database that is there.
pub(super) async fn start() -> Result<Vec<Row>> {
    let surroundings = Surroundings::sqlite()?;
    // Migrates, and compiles the components unless they are in the cache.
    let first = surroundings.deployer().await?;
    first.ready().await?;
    first.stop().await?;
    let (mut ours, mut native) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let deployer = surroundings.deployer().await?;
        ours.push(deployer.first_answer.as_secs_f64() * 1e3);
        deployer.stop().await?;
        native.push(surroundings.yardstick("rows").await?.first_answer.as_secs_f64() * 1e3);
    }
    let note = format!("median of {STARTS}, compiled components cached; yardstick: native axum and sqlx, the same way");
    Ok(vec![Row::new("process start to first answer, ms", median(ours), Some(median(native)), Bar::Below(500.0), note)])
}

/// Resident memory when nothing is asked, soon after the start and after load.
pub(super) async fn memory() -> Result<Vec<Row>> {
    let surroundings = Surroundings::sqlite()?;
    let deployer = surroundings.deployer().await?;
    let path = format!("/v1/contexts/{}", deployer.ready().await?.context(specification()).await?);
    tokio::time::sleep(REST).await;
    let fresh = deployer.resident_mib()?;
    Load::get(deployer.url(&path)).token(&surroundings.token).run(5).await?;
    tokio::time::sleep(REST).await;
    let note = "resident set of `renga-deployer up`: host and reconciler";
    Ok(vec![
        Row::new("idle memory after the start, MiB", fresh, None, Bar::Below(150.0), note),
        Row::new("idle memory after load, MiB", deployer.resident_mib()?, None, Bar::Below(150.0), note),
    ])
}

/// A request that is answered by a new instance, beside one that is answered by one that was used before.
pub(super) async fn instance() -> Result<Vec<Row>> {
    let surroundings = Surroundings::sqlite()?;
    // Migrates.
    let deployer = surroundings.deployer().await?;
    let path = format!("/v1/contexts/{}", deployer.ready().await?.context(specification()).await?);
    deployer.stop().await?;
    let once = Limits {
        requests_before_retirement: 1,
        requests_per_instance: 1,
        idle_instance: Duration::ZERO,
        ..Limits::default()
    };
    let (new, used) = (serve(&surroundings, once).await?, serve(&surroundings, Limits::default()).await?);
    // One after the other: instances that are made at the same time would wait for each other's processor.
    let hello = |base: &str| Load::get(format!("{base}/version")).connections(1);
    let (cold, warm) = side_by_side(&hello(&new), &hello(&used)).await?;
    let read = |base: &str| Load::get(format!("{base}{path}")).token(&surroundings.token).connections(1);
    let (cold_read, warm_read) = side_by_side(&read(&new), &read(&used)).await?;
    Ok(vec![
        Row::new(
            "cold start of an instance, whole request, p50 ms",
            cold.p50_ms,
            Some(warm.p50_ms),
            Bar::Below(1.0),
            format!("GET of a constant; yardstick: by an instance in use; p99 {} ms", short(cold.p99_ms)),
        ),
        Row::new(
            "first authenticated GET of an instance, p50 ms",
            cold_read.p50_ms,
            Some(warm_read.p50_ms),
            Bar::None,
            "opens the database and verifies the token (ES256) anew; yardstick: by an instance in use",
        ),
    ])
}

/// Serves the components in this process, with these limits, until it ends; returns where.
async fn serve(surroundings: &Surroundings, limits: Limits) -> Result<String> {
    let manifest = Manifest::load(&workspace().join("spin.toml"))?;
    let runtime = RuntimeConfig::load(&workspace().join("runtime-config.toml"))?;
    let DatabaseUri::Sqlite(file) = DatabaseUri::parse(&surroundings.database)? else {
        anyhow::bail!("instances are measured on SQLite only");
    };
    let get = |name: &str| surroundings.variables().get(name).cloned();
    let settings = Settings {
        variables: renga_host::variables_from_env(&manifest, &runtime, &get),
        sqlite: BTreeMap::from([("default".to_owned(), PathBuf::from(file))]),
        cache_dir: workspace().join("target/compiled"),
        limits,
        ..Settings::default()
    };
    let host = Arc::new(Host::load(&manifest, settings).await.context("load the components into this process")?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    tokio::spawn(host.serve(listener, std::future::pending()));
    Ok(base)
}

/// The processor's time that ten thousand live executions take when nothing about them changes.
pub(super) async fn idle() -> Result<Vec<Row>> {
    let surroundings = Surroundings::sqlite()?;
    let deployer = surroundings.deployer().await?;
    let client = deployer.ready().await?;
    let path = format!("/v1/contexts/{}/executions", client.context(specification()).await?);
    let database = Database::open(&surroundings.database).await?;
    let post = Load::post(deployer.url(&path), "{}").token(&surroundings.token);
    let begin = Instant::now();
    let mut asked = 0;
    while asked < LIVE {
        post.run(1).await?;
        asked = database.in_phase("running").await? + database.waiting().await?;
    }
    while database.waiting().await? > 0 {
        ensure!(begin.elapsed() < Duration::from_secs(120), "{} executions still wait", database.waiting().await?);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let live = database.in_phase("running").await?;
    ensure!(live >= LIVE, "only {live} executions run");
    tokio::time::sleep(REST).await;
    let (percent, memory) = (deployer.percent_of_core(WATCHED).await?, deployer.resident_mib()?);
    let note = format!("{live} running over {} s; {} MiB resident", WATCHED.as_secs(), short(memory));
    Ok(vec![Row::new("idle processor time, 10,000 live executions, % of a core", percent, None, Bar::Below(1.0), note)])
}
