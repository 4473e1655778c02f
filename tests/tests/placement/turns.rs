//! A full engine: its limit, and the order of its queue.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use renga_reconciler::clock::SystemClock;
use renga_reconciler::engine::fake::FakeWorld;
use renga_tests::client::{Client, Execution};
use renga_tests::deployment::{Deployment, until};
use renga_tests::require;
use serde_json::{Value, json};

/// Maximum number of executions that run at once.
const MAX: usize = 3;
const ONE_AT_A_TIME: [(&str, &str); 1] = [("DEPLOYER_ENGINE_ONE", "fake://?max=1")];

fn lasts(seconds: &str) -> Value {
    json!({ "image": "fake/steps", "command": [format!("sleep:{seconds}")] })
}

async fn has_reason(client: &Client, execution: &Execution, reasons: &[&str]) -> Result<Value> {
    until(&format!("{} to have the reason {reasons:?}", execution.path), async || {
        let seen = client.get(&execution.path).await?;
        let told = seen["status"]["reason"].as_str().is_some_and(|reason| reasons.contains(&reason));
        Ok(if told { Ok(seen) } else { Err(seen) })
    })
    .await
}

#[tokio::test]
async fn another_users_single_execution_starts_next_and_not_last() -> Result<()> {
    let mut deployment = Deployment::without_reconciler(&ONE_AT_A_TIME).await?;
    let world = FakeWorld::new(Arc::new(SystemClock));
    deployment.worlds.insert("one".to_owned(), world.clone());
    deployment.start_reconciler().await?;
    let (greedy, modest) = (&deployment.client, deployment.client_of("bob"));
    // Each execution runs until the test ends it, so that nothing depends on timing.
    let spec = json!({ "image": "fake/steps", "command": ["wait"] });
    let context = greedy.context(spec.clone()).await?;
    let first = greedy.execute(&context, json!({})).await?;
    greedy.wait_for(&first, &["running"]).await?;
    let mut many = Vec::new();
    for _ in 0..30 {
        many.push(greedy.execute(&context, json!({})).await?);
    }
    for execution in &many {
        has_reason(greedy, execution, &["EngineFull", "Queued"]).await?;
    }
    let single = modest.run(spec).await?;
    has_reason(&modest, &single, &["EngineFull", "Queued"]).await?;

    // The other user's execution is first, then the first user's executions in the order of their requests.
    let mut before = &first;
    for (client, next) in [(&modest, &single), (greedy, &many[0]), (greedy, &many[1])] {
        ensure!(world.end(before.id.parse()?, 0), "{} does not run", before.path);
        client.wait_for(next, &["running"]).await?;
        before = next;
    }
    let started = world.starts().len();
    ensure!(started == 4, "{started} have started");
    deployment.stop().await
}

#[tokio::test]
async fn a_waiting_execution_shows_the_reason_and_starts_when_capacity_is_free() -> Result<()> {
    let deployment = Deployment::start(&ONE_AT_A_TIME).await?;
    let client = &deployment.client;
    let forever = client.run(json!({ "image": "fake/steps", "command": ["wait"] })).await?;
    client.wait_for(&forever, &["running"]).await?;
    let waiting = client.run(lasts("0")).await?;
    let seen = has_reason(client, &waiting, &["EngineFull"]).await?;
    ensure!(seen["state"] == "pending" && seen["status"]["placement"]["engine"].is_null(), "{seen:#}");
    let message = seen["status"]["message"].as_str().unwrap_or_default();
    ensure!(message == "The engine one runs 1 executions; it may run 1.", "{message}");
    // An execution that is stopped while it waits never starts, and delays no other.
    let given_up = client.run(lasts("0")).await?;
    has_reason(client, &given_up, &["EngineFull", "Queued"]).await?;
    client.stop(&given_up).await?;
    client.wait_for(&given_up, &["failed"]).await?;
    client.stop(&forever).await?;
    client.wait_for(&waiting, &["exited"]).await?;
    deployment.stop().await
}

/// Two reconcilers on PostgreSQL, because there two statements really run at the same time.
#[tokio::test]
async fn the_limit_holds_with_two_reconcilers() -> Result<()> {
    let database = require!(postgres).create_database().await?;
    let url = format!("fake://?max={MAX}");
    let variables = [("SQLALCHEMY_DATABASE_URI", database.as_str()), ("DEPLOYER_ENGINE_FEW", &url)];
    let mut deployment = Deployment::without_reconciler(&variables).await?;
    deployment.worlds.insert("few".to_owned(), FakeWorld::new(Arc::new(SystemClock)));
    deployment.start_reconciler().await?;
    deployment.start_another_reconciler()?;
    let client = deployment.client.clone();
    let context = client.context(lasts("0.3")).await?;
    let mut asked = Vec::new();
    for _ in 0..60 {
        asked.push(client.execute(&context, json!({})).await?);
    }
    let mut most = 0;
    let mut seen_running = BTreeSet::new();
    loop {
        let seen = client.get("/v1/engines").await?;
        let placed = seen["engines"][0]["placed"].as_u64().context("no count")?;
        ensure!(placed <= MAX as u64, "{placed} are placed");
        most = most.max(placed);
        let all = client.get("/v1/executions").await?;
        let all = all["executions"].as_array().context("no list")?;
        for execution in all.iter().filter(|execution| execution["status"]["phase"] != "pending") {
            seen_running.insert(execution["identifier"].as_str().unwrap_or_default().to_owned());
        }
        if all.iter().all(|execution| execution["state"] == "exited") {
            break;
        }
    }
    ensure!(most == MAX as u64 && seen_running.len() == asked.len(), "{most} at once, {} in all", seen_running.len());
    deployment.stop().await
}
