//! The end of an execution stays as it was recorded, however its engine answers when the object is to be removed, and also when
//! its user deletes it.

use std::sync::Arc;

use anyhow::{Result, ensure};
use renga_reconciler::clock::SystemClock;
use renga_reconciler::engine::EngineError;
use renga_reconciler::engine::fake::{FakeWorld, Fault, Operation};
use renga_shared::domain::Why;
use renga_tests::client::{Client, Execution};
use renga_tests::deployment::{Deployment, until};
use renga_tests::require;
use renga_tests::scripts::{Script, TestEngine};
use serde_json::{Value, json};

/// What is true of an end for ever.
const FACTS: [&str; 7] = ["reason", "message", "exit_code", "started", "finished", "engine", "engine_id"];

async fn with_fake(database: Option<&str>) -> Result<(FakeWorld, Deployment)> {
    let world = FakeWorld::new(Arc::new(SystemClock));
    let mut variables = vec![TestEngine::Fake.variable()];
    variables.extend(database.map(|database| ("SQLALCHEMY_DATABASE_URI", database)));
    let mut deployment = Deployment::without_reconciler(&variables).await?;
    deployment.worlds = [(TestEngine::Fake.name().to_owned(), world.clone())].into();
    deployment.start_reconciler().await?;
    Ok((world, deployment))
}

/// Docker while it still removes the container, a cluster while a finalizer holds the Job.
fn be_busy(world: &FakeWorld, times: usize) {
    for _ in 0..times {
        let why = Why::new("EngineBusy", "The engine is still removing its container.");
        world.fail_next(Operation::Remove, Fault::Fails(EngineError::Retry(why)));
    }
}

/// The execution once the engine has removed its object, which takes as many tries as it was busy.
async fn object_is_gone(world: &FakeWorld, client: &Client, execution: &Execution) -> Result<Value> {
    let id = execution.id.parse()?;
    until("the object to be removed", async || {
        Ok(if world.object(id).is_none() { Ok(()) } else { Err(client.get(&execution.path).await?) })
    })
    .await?;
    client.get(&execution.path).await
}

fn same_end(before: &Value, after: &Value) -> Result<()> {
    for fact in FACTS {
        ensure!(before["status"][fact] == after["status"][fact], "{fact}: {before:#} became {after:#}");
    }
    Ok(())
}

/// Ends while the engine is busy, then is deleted.
async fn keeps_its_end(
    world: &FakeWorld,
    client: &Client,
    execution: &Execution,
    phase: &str,
    reason: &str,
) -> Result<()> {
    client.wait_for(execution, &[phase]).await?;
    let ended = object_is_gone(world, client, execution).await?;
    ensure!(ended["status"]["phase"] == phase && ended["status"]["reason"] == reason, "{ended:#}");
    ensure!(ended["status"]["message"].is_string() && ended["status"]["finished"].is_string(), "{ended:#}");
    client.delete(execution).await?;
    let removed = client.wait_for(execution, &["removed"]).await?;
    same_end(&ended, &removed)
}

async fn ends_stay(database: Option<&str>) -> Result<()> {
    let (world, deployment) = with_fake(database).await?;
    let client = &deployment.client;

    be_busy(&world, 2);
    let exited = client.run(TestEngine::Fake.specification(&Script::PrintAndExit3)).await?;
    keeps_its_end(&world, client, &exited, "exited", "ExitedWithError").await?;
    let removed = client.get(&exited.path).await?;
    ensure!(removed["status"]["exit_code"] == 3 && removed["state"] == "unavailable", "{removed:#}");

    be_busy(&world, 1);
    let failed = client.run(TestEngine::Fake.specification(&Script::MissingCommand)).await?;
    keeps_its_end(&world, client, &failed, "failed", "CommandNotFound").await?;

    let lost = client.run(TestEngine::Fake.specification(&Script::Sleep)).await?;
    client.wait_for(&lost, &["running"]).await?;
    ensure!(world.lose(lost.id.parse()?));
    client.wait_for(&lost, &["lost"]).await?;
    keeps_its_end(&world, client, &lost, "lost", "ObjectGone").await?;

    // One that ends for no other reason than that it is deleted.
    be_busy(&world, 1);
    let running = client.run(TestEngine::Fake.specification(&Script::Sleep)).await?;
    client.wait_for(&running, &["running"]).await?;
    client.delete(&running).await?;
    let removed = client.wait_for(&running, &["removed"]).await?;
    ensure!(removed["status"]["reason"] == "Deleted" && removed["status"]["exit_code"] == json!(null), "{removed:#}");
    ensure!(removed["status"]["started"].is_string() && removed["status"]["finished"].is_string(), "{removed:#}");
    deployment.stop().await
}

#[tokio::test]
async fn an_engine_that_is_busy_with_the_removal_changes_no_end_on_sqlite() -> Result<()> {
    ends_stay(None).await
}

#[tokio::test]
async fn an_engine_that_is_busy_with_the_removal_changes_no_end_on_postgres() -> Result<()> {
    let database = require!(postgres).create_database().await?;
    ends_stay(Some(&database)).await
}
