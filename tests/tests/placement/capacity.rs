//! Engines whose capacity is not known, and amounts that no sum can hold.

use std::sync::Arc;

use anyhow::{Result, ensure};
use renga_reconciler::clock::SystemClock;
use renga_reconciler::engine::fake::FakeWorld;
use renga_shared::placement::{Amount, Capacity, Room};
use renga_shared::sql::{Database as _, Dialect};
use renga_tests::deployment::{Deployment, until};
use renga_tests::require;
use serde_json::json;

use super::reason_of;

#[tokio::test]
async fn an_engine_that_has_not_told_its_capacity_is_waited_for() -> Result<()> {
    let world = FakeWorld::new(Arc::new(SystemClock));
    world.set_capacity(Capacity::Unknown);
    let mut deployment = Deployment::without_reconciler(&[("DEPLOYER_ENGINE_A", "fake://")]).await?;
    deployment.worlds = [("a".to_owned(), world.clone())].into();
    deployment.start_reconciler().await?;
    let client = &deployment.client;
    let spec = json!({
        "image": "fake/steps", "command": ["exit:0"], "resources": { "requests": { "memory": "1Gi" } },
    });
    let context = client.context(spec).await?;
    let execution = client.execute(&context, json!({})).await?;
    let seen = until("it to say what it waits for", async || {
        let seen = client.get(&execution.path).await?;
        Ok(if seen["status"]["reason"] == "EngineNotReady" { Ok(seen) } else { Err(seen) })
    })
    .await?;
    ensure!(seen["status"]["phase"] == "pending", "{seen:#}");
    let told = client.post(&format!("/v1/contexts/{context}/placement"), &json!({})).await?.json(200)?;
    ensure!(told["engine"].is_null() && reason_of(&told, "a")? == "EngineNotReady", "{told:#}");

    let total = [("cpu", 4_000), ("memory", 8 << 30)].map(|(name, amount)| (name.to_owned(), Amount(amount)));
    world.set_capacity(Capacity::Known(Room { total: total.into(), ..Room::default() }));
    client.wait_for(&execution, &["exited"]).await?;
    let engines = client.get("/v1/engines").await?;
    ensure!(engines["engines"][0]["offer"]["capacity"] == "known", "{engines:#}");
    deployment.stop().await
}

async fn amounts_of_an_older_version(database: Option<String>) -> Result<()> {
    let mut variables = vec![("DEPLOYER_ENGINE_A", "fake://")];
    variables.extend(database.as_deref().map(|database| ("SQLALCHEMY_DATABASE_URI", database)));
    let mut deployment = Deployment::without_reconciler(&variables).await?;
    let client = deployment.client.clone();
    let spec = json!({ "image": "fake/steps", "command": ["exit:3"] });
    let executions = [client.run(spec.clone()).await, client.run(spec.clone()).await];
    let db = deployment.database()?;
    let stored = "UPDATE executions SET phase = 'scheduled', engine = 'a', cpu_millis = 9223372036854775807, \
                  memory_bytes = 8070450532247928832, gpus = 9223372036854775807 RETURNING 1";
    ensure!(db.query(stored, Vec::new()).await?.len() == 2);
    let put = match db.dialect() {
        Dialect::Sqlite => {
            "INSERT INTO engines (name, kind, up, since, served_at) VALUES ('a', 'fake', 1, 1, 1) RETURNING 1"
        }
        Dialect::Postgres => {
            "INSERT INTO engines (name, kind, up, since, served_at) VALUES ('a', 'fake', 1, now(), now()) RETURNING 1"
        }
    };
    db.query(put, Vec::new()).await?;
    db.close().await;
    let seen = client.get("/v1/engines").await?;
    ensure!(seen["engines"][0]["placed"] == 2, "{seen:#}");
    let context = client.context(spec).await?;
    client.post(&format!("/v1/contexts/{context}/placement"), &json!({})).await?.json(200)?;

    deployment.start_reconciler().await?;
    for execution in executions {
        let ended = client.wait_for(&execution?, &["exited", "failed", "lost"]).await?;
        ensure!(ended["status"]["exit_code"] == 3, "{ended:#}");
    }
    deployment.stop().await
}

#[tokio::test]
async fn amounts_of_an_older_version_stop_nobody_on_sqlite() -> Result<()> {
    amounts_of_an_older_version(None).await
}

#[tokio::test]
async fn amounts_of_an_older_version_stop_nobody_on_postgres() -> Result<()> {
    amounts_of_an_older_version(Some(require!(postgres).create_database().await?)).await
}
