//! Durable writes per second: an answer is sent when its row is on disk.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::specification;
use crate::database::Database;
use crate::load::{Load, Measured, side_by_side};
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
    let left = Backlog::of(&Database::open(&surroundings.database).await?).await?;
    let name = format!("durable POST of an execution, {database}, fake engine, /s");
    Ok(vec![row(&name, measured, least, &left.words())])
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
