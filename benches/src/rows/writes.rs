//! Durable writes per second: an answer is sent when its row is on disk.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::specification;
use crate::database::Database;
use crate::load::{Load, Measured, ROUNDS, SECONDS, median, middle, side_by_side};
use crate::process::Surroundings;
use crate::report::{Bar, Row, short};

/// Contexts into SQLite.
pub(super) async fn create_on_sqlite() -> Result<Vec<Row>> {
    // Ten times the 2018 service.
    create(Surroundings::sqlite()?, "SQLite", 3_800.0).await
}

/// Contexts into PostgreSQL.
pub(super) async fn create_on_postgres() -> Result<Vec<Row>> {
    create(Surroundings::postgres().await?, "PostgreSQL", 7_000.0).await
}

/// Executions into SQLite, while the reconciler gives them to the fake engine.
pub(super) async fn execute_on_sqlite() -> Result<Vec<Row>> {
    execute(Surroundings::sqlite()?, "SQLite", 2_500.0).await
}

/// Executions into PostgreSQL, while the reconciler gives them to the fake engine.
pub(super) async fn execute_on_postgres() -> Result<Vec<Row>> {
    execute(Surroundings::postgres().await?, "PostgreSQL", 1_500.0).await
}

async fn create(surroundings: Surroundings, database: &str, least: f64) -> Result<Vec<Row>> {
    let deployer = surroundings.deployer().await?;
    deployer.ready().await?;
    let rows = surroundings.yardstick("rows").await?;
    let post = |url| Load::post(url, specification().to_string()).token(&surroundings.token);
    let measured = side_by_side(&post(deployer.url("/v1/contexts")), &post(rows.url("/v1/contexts"))).await?;
    Ok(vec![row(&format!("durable POST of a context, {database}, /s"), measured, least, "")])
}

async fn execute(surroundings: Surroundings, database: &str, least: f64) -> Result<Vec<Row>> {
    let deployer = surroundings.deployer().await?;
    let path = format!("/v1/contexts/{}/executions", deployer.ready().await?.context(specification()).await?);
    let rows = surroundings.yardstick("rows").await?;
    let post = |url| Load::post(url, "{}").token(&surroundings.token);
    let measured = side_by_side(&post(deployer.url(&path)), &post(rows.url(&path))).await?;
    let rows_of = Database::open(&surroundings.database).await?;
    let left = Backlog::of(&rows_of).await?;
    let name = format!("durable POST of an execution, {database}, fake engine, /s");
    let mut all = vec![row(&name, measured, least, &left.words())];
    all.extend(beside_dispatch(&post(deployer.url(&path)), &rows_of, database).await?);
    Ok(all)
}

/// How long those wait who post while the reconciler writes as well, and how much it gets done meanwhile.
async fn beside_dispatch(load: &Load, rows: &Database, database: &str) -> Result<Vec<Row>> {
    let (mut posted, mut dispatched) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (before, begin) = (rows.in_phase("running").await?, Instant::now());
        posted.push(load.run(SECONDS).await?);
        let started = rows.in_phase("running").await? - before;
        dispatched.push(started as f64 / begin.elapsed().as_secs_f64());
        // Each round begins with nothing left to do.
        Backlog::of(rows).await?;
    }
    let (posted, dispatched) = (middle(&posted), median(dispatched));
    let note = format!("{} posted a second, p50 {} ms", short(posted.per_second), short(posted.p50_ms));
    Ok(vec![
        Row::new(
            &format!("POST of an execution beside dispatch, {database}, p99 ms"),
            posted.p99_ms,
            None,
            Bar::Below(15.0),
            note,
        ),
        Row::new(
            &format!("executions dispatched beside it, {database}, /s"),
            dispatched,
            None,
            Bar::None,
            "until they run on the fake engine",
        ),
    ])
}

/// What the reconciler had still to do when the load ended.
struct Backlog {
    waiting: i64,
    running: i64,
    took: Duration,
}

impl Backlog {
    /// Waits until all of it is done, so that a figure is not bought with work that is left lying.
    async fn of(database: &Database) -> Result<Self> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let begin = Instant::now();
        let at_first = database.waiting().await?;
        loop {
            let left = database.waiting().await?;
            if left == 0 {
                break;
            }
            ensure!(
                begin.elapsed() < PATIENCE,
                "{left} of {at_first} executions still wait {PATIENCE:?} after the load"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(Self { waiting: at_first, running: database.in_phase("running").await?, took: begin.elapsed() })
    }

    fn words(&self) -> String {
        let took = short(self.took.as_secs_f64());
        format!("; {} waited when the load ended, {took} s later all {} ran", self.waiting, self.running)
    }
}

fn row(name: &str, (ours, native): (Measured, Measured), least: f64, more: &str) -> Row {
    let note = format!(
        "native axum and sqlx, a commit for each row; p99 {} ms and {} ms{more}",
        short(ours.p99_ms),
        short(native.p99_ms)
    );
    Row::new(name, ours.per_second, Some(native.per_second), Bar::AtLeast(least), note)
}
