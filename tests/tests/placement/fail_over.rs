//! Failover from an engine that does not take an execution: no double launch, and no endless wait for that engine.

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

/// Starts a deployment with two engines. Every execution of these tests prefers `a`.
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
async fn an_execution_moves_on_if_its_engine_dies_before_the_creation() -> Result<()> {
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
async fn an_execution_stays_until_the_result_of_its_creation_is_known() -> Result<()> {
    let (a, b, deployment) = two_engines().await?;
    let client = &deployment.client;
    a.fail_next(Operation::Create, Fault::AnswerLost);
    // The engine is unreachable from then on, so the result of the create is unknown.
    a.fail_next(Operation::Probe, Fault::Fails(EngineError::Down("it is silent".into())));
    a.fail_next(Operation::Probe, Fault::Fails(EngineError::Down("it is silent".into())));
    let execution = launch(client, "fake/steps").await?;
    let seen = until("it to say that its engine is away", async || {
        let seen = client.get(&execution.path).await?;
        Ok(if seen["status"]["reason"] == "EngineUnavailable" { Ok(seen) } else { Err(seen) })
    })
    .await?;
    ensure!(seen["status"]["phase"] == "scheduled" && seen["status"]["engine"] == "a", "{seen:#}");
    // An object that exists there is not abandoned because the engine cannot prepare another one.
    let full = Why::new("EngineDiskFull", "The engine's disk is full.");
    a.fail_next(Operation::Prepare, Fault::Fails(EngineError::Retry(full)));
    let seen = ended(client, &execution).await?;
    ensure!(seen["status"]["engine"] == "a" && seen["status"]["exit_code"] == 3, "{seen:#}");
    ensure!(seen["status"]["placement"].get("tried").is_none(), "{seen:#}");
    ensure!(starts(&execution, [&a, &b])? == [1, 0]);
    deployment.stop().await
}

#[tokio::test]
async fn an_execution_moves_on_if_its_engine_refuses_and_fails_if_all_refuse() -> Result<()> {
    let (a, b, deployment) = two_engines().await?;
    let client = &deployment.client;
    let refuses = Fault::Fails(EngineError::Refused(Why::new("QuotaExceeded", "The engine a has no more to give.")));
    a.fail_next(Operation::Create, refuses);
    let execution = launch(client, "fake/steps").await?;
    let seen = ended(client, &execution).await?;
    ensure!(seen["status"]["engine"] == "b" && seen["status"]["exit_code"] == 3, "{seen:#}");
    let placement = &seen["status"]["placement"];
    ensure!(placement["tried"][0]["outcome"] == "refused" && reason_of(placement, "a")? == "QuotaExceeded", "{seen:#}");

    // The engine keeps nothing that it created before it refused the rest.
    a.fail_next(Operation::Create, Fault::Halfway(EngineError::Refused(Why::new("EngineRefused", "No ports here."))));
    let execution = launch(client, "fake/steps").await?;
    let seen = ended(client, &execution).await?;
    ensure!(seen["status"]["engine"] == "b" && starts(&execution, [&a, &b])? == [0, 1], "{seen:#}");
    ensure!(a.objects().is_empty(), "{:?}", a.objects());

    // Neither engine has the image. Each is tried once, and the last engine's message is the reason.
    let execution = launch(client, "fake/missing").await?;
    let seen = ended(client, &execution).await?;
    ensure!(seen["status"]["phase"] == "failed" && seen["status"]["reason"] == "ImageNotFound", "{seen:#}");
    ensure!(seen["status"]["placement"]["tried"][0]["engine"] == "a", "{seen:#}");
    ensure!(starts(&execution, [&a, &b])? == [0, 0]);
    deployment.stop().await
}

#[tokio::test]
async fn an_execution_moves_on_if_its_engine_cannot_prepare_it_now() -> Result<()> {
    let (a, b, deployment) = two_engines().await?;
    let client = &deployment.client;
    let full = Why::new("EngineDiskFull", "The engine's disk is full.");
    a.fail_next(Operation::Prepare, Fault::Fails(EngineError::Retry(full)));
    let execution = launch(client, "fake/steps").await?;
    let seen = ended(client, &execution).await?;
    ensure!(seen["status"]["engine"] == "b" && starts(&execution, [&a, &b])? == [0, 1], "{seen:#}");
    // If no other engine may take the execution, the same engine is tried again.
    let full = Why::new("EngineDiskFull", "The engine's disk is full.");
    a.fail_next(Operation::Prepare, Fault::Fails(EngineError::Retry(full)));
    let context = client.context(json!({ "image": "fake/steps", "command": ["exit:3"] })).await?;
    let execution = client.execute(&context, json!({ "engine": "a" })).await?;
    let seen = ended(client, &execution).await?;
    ensure!(seen["status"]["engine"] == "a" && starts(&execution, [&a, &b])? == [1, 0], "{seen:#}");
    deployment.stop().await
}
