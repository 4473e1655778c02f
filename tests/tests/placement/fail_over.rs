//! An engine that does not take what it was chosen for: nobody launches twice, and nothing waits for an engine that will not do.

use std::sync::Arc;

use anyhow::{Result, ensure};
use renga_reconciler::clock::SystemClock;
use renga_reconciler::engine::EngineError;
use renga_reconciler::engine::fake::{FakeWorld, Fault, Operation};
use renga_shared::domain::Why;
use renga_tests::client::{Client, Execution};
use renga_tests::deployment::{Deployment, until};
use serde_json::{Value, json};

use super::{both_are_up, reason_of};

/// Two engines; everything prefers `a`.
async fn two_engines() -> Result<(FakeWorld, FakeWorld, Deployment)> {
    let (a, b) = (FakeWorld::new(Arc::new(SystemClock)), FakeWorld::new(Arc::new(SystemClock)));
    let variables = [("DEPLOYER_ENGINE_A", "fake://?labels=first"), ("DEPLOYER_ENGINE_B", "fake://")];
    let mut deployment = Deployment::without_reconciler(&variables).await?;
    deployment.worlds = [("a".to_owned(), a.clone()), ("b".to_owned(), b.clone())].into();
    deployment.start_reconciler().await?;
    both_are_up(&deployment.client).await?;
    Ok((a, b, deployment))
}

async fn launch(client: &Client, image: &str) -> Result<Execution> {
    client
        .run(
            json!({ "image": image, "command": ["out:hello", "exit:3"], "labels": ["renga.placement.prefers.first="] }),
        )
        .await
}

async fn ended(client: &Client, execution: &Execution) -> Result<Value> {
    client.wait_for(execution, &["exited", "failed", "lost"]).await
}

fn starts(execution: &Execution, worlds: [&FakeWorld; 2]) -> Result<[u32; 2]> {
    let id = execution.id.parse()?;
    Ok(worlds.map(|world| world.starts_of(id)))
}

#[tokio::test]
async fn one_that_dies_between_decision_and_creation_hands_it_on() -> Result<()> {
    let (a, b, deployment) = two_engines().await?;
    let client = &deployment.client;
    a.fail_next(Operation::Create, Fault::Fails(EngineError::Unreached("connection refused".into())));
    let execution = launch(client, "fake/steps").await?;
    let seen = ended(client, &execution).await?;
    ensure!(seen["status"]["engine"] == "b" && seen["status"]["exit_code"] == 3, "{seen:#}");
    let placement = &seen["status"]["placement"];
    let tried = &placement["tried"];
    ensure!(tried[0]["engine"] == "a" && tried[0]["reason"] == "EngineUnavailable", "{seen:#}");
    ensure!(tried[0]["outcome"] == "unreached" && tried[0]["at"].is_string() && tried[1].is_null(), "{seen:#}");
    ensure!(placement["engine"] == "b" && reason_of(placement, "a")? == "EngineUnavailable", "{seen:#}");
    ensure!(starts(&execution, [&a, &b])? == [0, 1]);
    deployment.stop().await
}

#[tokio::test]
async fn one_that_created_and_never_answered_keeps_it_until_that_is_known() -> Result<()> {
    let (a, b, deployment) = two_engines().await?;
    let client = &deployment.client;
    a.fail_next(Operation::Create, Fault::AnswerLost);
    // It is away from then on: nobody can know what came of it.
    a.fail_next(Operation::Probe, Fault::Fails(EngineError::Down("it is silent".into())));
    a.fail_next(Operation::Probe, Fault::Fails(EngineError::Down("it is silent".into())));
    let execution = launch(client, "fake/steps").await?;
    let seen = until("it to say that its engine is away", async || {
        let seen = client.get(&execution.path).await?;
        Ok(if seen["status"]["reason"] == "EngineUnavailable" { Ok(seen) } else { Err(seen) })
    })
    .await?;
    ensure!(seen["status"]["phase"] == "scheduled" && seen["status"]["engine"] == "a", "{seen:#}");
    // What was made there already is not left behind because nothing more could be made.
    let full = Why::new("EngineDiskFull", "The engine's disk is full.");
    a.fail_next(Operation::Prepare, Fault::Fails(EngineError::Retry(full)));
    let seen = ended(client, &execution).await?;
    ensure!(seen["status"]["engine"] == "a" && seen["status"]["exit_code"] == 3, "{seen:#}");
    ensure!(seen["status"]["placement"].get("tried").is_none(), "{seen:#}");
    ensure!(starts(&execution, [&a, &b])? == [1, 0]);
    deployment.stop().await
}

#[tokio::test]
async fn one_that_refuses_hands_it_on_and_it_fails_when_all_have_refused() -> Result<()> {
    let (a, b, deployment) = two_engines().await?;
    let client = &deployment.client;
    let refuses = Fault::Fails(EngineError::Refused(Why::new("QuotaExceeded", "The engine a has no more to give.")));
    a.fail_next(Operation::Create, refuses);
    let execution = launch(client, "fake/steps").await?;
    let seen = ended(client, &execution).await?;
    ensure!(seen["status"]["engine"] == "b" && seen["status"]["exit_code"] == 3, "{seen:#}");
    let placement = &seen["status"]["placement"];
    ensure!(placement["tried"][0]["outcome"] == "refused" && reason_of(placement, "a")? == "QuotaExceeded", "{seen:#}");

    // What it made before it refused the rest does not stay there.
    a.fail_next(Operation::Create, Fault::Halfway(EngineError::Refused(Why::new("EngineRefused", "No ports here."))));
    let execution = launch(client, "fake/steps").await?;
    let seen = ended(client, &execution).await?;
    ensure!(seen["status"]["engine"] == "b" && starts(&execution, [&a, &b])? == [0, 1], "{seen:#}");
    ensure!(a.objects().is_empty(), "{:?}", a.objects());

    // Neither has the image: each is tried once, and the last one's words are the reason.
    let execution = launch(client, "fake/missing").await?;
    let seen = ended(client, &execution).await?;
    ensure!(seen["status"]["phase"] == "failed" && seen["status"]["reason"] == "ImageNotFound", "{seen:#}");
    ensure!(seen["status"]["placement"]["tried"][0]["engine"] == "a", "{seen:#}");
    ensure!(starts(&execution, [&a, &b])? == [0, 0]);
    deployment.stop().await
}

#[tokio::test]
async fn one_that_cannot_make_it_ready_now_hands_it_to_one_that_can() -> Result<()> {
    let (a, b, deployment) = two_engines().await?;
    let client = &deployment.client;
    let full = Why::new("EngineDiskFull", "The engine's disk is full.");
    a.fail_next(Operation::Prepare, Fault::Fails(EngineError::Retry(full)));
    let execution = launch(client, "fake/steps").await?;
    let seen = ended(client, &execution).await?;
    ensure!(seen["status"]["engine"] == "b" && starts(&execution, [&a, &b])? == [0, 1], "{seen:#}");
    // Where no other may take it, it is tried again there.
    let full = Why::new("EngineDiskFull", "The engine's disk is full.");
    a.fail_next(Operation::Prepare, Fault::Fails(EngineError::Retry(full)));
    let context = client.context(json!({ "image": "fake/steps", "command": ["exit:3"] })).await?;
    let execution = client.execute(&context, json!({ "engine": "a" })).await?;
    let seen = ended(client, &execution).await?;
    ensure!(seen["status"]["engine"] == "a" && starts(&execution, [&a, &b])? == [1, 0], "{seen:#}");
    deployment.stop().await
}
