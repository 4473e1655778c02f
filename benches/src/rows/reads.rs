//! Responses per second: a constant, a row, a list.

use anyhow::Result;
use renga_reconciler::clock::{Clock as _, SystemClock};
use renga_reconciler::random::Random;
use renga_shared::domain::{ContextId, Timestamp};

use super::specification;
use crate::database::Database;
use crate::load::{Load, side_by_side};
use crate::process::{OWNER, Surroundings};
use crate::report::{Bar, Row, short};

/// Measures a constant from the component, through the host.
pub(super) async fn constant() -> Result<Vec<Row>> {
    let surroundings = Surroundings::sqlite()?;
    let (deployer, hello) = (surroundings.deployer().await?, surroundings.yardstick("hello").await?);
    deployer.ready().await?;
    let (ours, native) = side_by_side(&Load::get(deployer.url("/version")), &Load::get(hello.url("/version"))).await?;
    let note = format!("native axum; p99 {} ms and {} ms", short(ours.p99_ms), short(native.p99_ms));
    let bar = Bar::AtLeastTimes(0.35);
    Ok(vec![Row::new("GET of a constant, /s", ours.per_second, Some(native.per_second), bar, note)])
}

/// Measures a context, with a token.
pub(super) async fn read() -> Result<Vec<Row>> {
    let surroundings = Surroundings::sqlite()?;
    let (deployer, rows) = (surroundings.deployer().await?, surroundings.yardstick("rows"));
    let path = format!("/v1/contexts/{}", deployer.ready().await?.context(specification()).await?);
    let rows = rows.await?;
    let get = |url| Load::get(url).token(&surroundings.token);
    let (ours, native) = side_by_side(&get(deployer.url(&path)), &get(rows.url(&path))).await?;
    let note = format!("native axum and sqlx; p99 {} ms and {} ms", short(ours.p99_ms), short(native.p99_ms));
    Ok(vec![
        Row::new(
            "authenticated GET of a context, SQLite, /s",
            ours.per_second,
            Some(native.per_second),
            Bar::AtLeastTimes(0.5),
            note,
        ),
        Row::new(
            "the same against ten times the 2018 service, /s",
            ours.per_second,
            None,
            Bar::AtLeast(12_000.0),
            "the next goal is 22,000",
        ),
    ])
}

/// Measures lists of 100 contexts, with few and with many rows.
pub(super) async fn list() -> Result<Vec<Row>> {
    const PATH: &str = "/v1/contexts?limit=100";
    let mut measured = Vec::new();
    for count in [1_000, 1_000_000] {
        let surroundings = Surroundings::sqlite()?;
        let deployer = surroundings.deployer().await?;
        deployer.ready().await?;
        let seeded = seed(&Database::open(&surroundings.database).await?, count).await;
        seeded?;
        let rows = surroundings.yardstick("rows").await?;
        let get = |url| Load::get(url).token(&surroundings.token);
        measured.push(side_by_side(&get(deployer.url(PATH)), &get(rows.url(PATH))).await?);
        deployer.stop().await?;
    }
    let [(few, few_native), (many, many_native)] = measured[..] else { unreachable!("two were measured") };
    let native = "native axum and sqlx";
    let flat = format!(
        "yardstick: the same at 1,000 rows; {native}: {} and {}",
        short(many_native.p99_ms),
        short(few_native.p99_ms)
    );
    Ok(vec![
        Row::new(
            "list of 100 contexts at 1,000 rows, SQLite, /s",
            few.per_second,
            Some(few_native.per_second),
            Bar::AtLeast(6_200.0),
            format!("{native}; the bar is 20 times the 2018 service"),
        ),
        Row::new(
            "list of 100 contexts at 1,000,000 rows, SQLite, /s",
            many.per_second,
            Some(few.per_second),
            Bar::AtLeastTimes(0.8),
            format!("flat: yardstick is the same at 1,000 rows; {native}: {}", short(many_native.per_second)),
        ),
        Row::new("list of 100 at 1,000,000 rows, p99 ms", many.p99_ms, Some(few.p99_ms), Bar::Below(50.0), flat),
    ])
}

/// Inserts `count` contexts, created a millisecond apart, the newest now. One transaction, because the inserts are not
/// measured.
async fn seed(database: &Database, count: i64) -> Result<()> {
    let Database::Sqlite { write, .. } = database else { anyhow::bail!("contexts are made in SQLite only") };
    let (random, now) = (Random::from_seed(1), SystemClock.now());
    let spec = serde_json::json!({"image": "renga-test/busybox:1", "command": "sleep 3600"}).to_string();
    let mut transaction = write.begin().await?;
    for age in (0..count).rev() {
        let created = Timestamp(now.0 - age * 1_000);
        sqlx::query("INSERT INTO contexts (id, owner, created_at, spec) VALUES (?, ?, ?, ?)")
            .bind(ContextId::new(created, random.number().to_be_bytes()).to_string())
            .bind(OWNER)
            .bind(created.0)
            .bind(&spec)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(())
}
