//! Executions from end to end: HTTP → component → SQL → reconciler → engine, on both databases and every engine.

use anyhow::{Context as _, Result, ensure};
use renga_tests::deployment::{Deployment, until};
use renga_tests::kubernetes::Executions;
use renga_tests::scripts::{Script, TestEngine};
use renga_tests::{require, servers};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// Defines each test once per database and engine. Reports loudly what the machine does not have.
macro_rules! everywhere {
    ($($test:ident),+ $(,)?) => {
        mod sqlite_fake { $(#[tokio::test] async fn $test() -> anyhow::Result<()> {
            super::run(super::TestEngine::Fake, None, super::$test).await
        })+ }
        mod postgres_fake { $(#[tokio::test] async fn $test() -> anyhow::Result<()> {
            let database = super::require!(postgres).create_database().await?;
            super::run(super::TestEngine::Fake, Some(database), super::$test).await
        })+ }
        mod sqlite_docker { $(#[tokio::test] async fn $test() -> anyhow::Result<()> {
            super::require!(docker);
            super::run(super::TestEngine::Docker, None, super::$test).await
        })+ }
        mod postgres_docker { $(#[tokio::test] async fn $test() -> anyhow::Result<()> {
            super::require!(docker);
            let database = super::require!(postgres).create_database().await?;
            super::run(super::TestEngine::Docker, Some(database), super::$test).await
        })+ }
        mod sqlite_kubernetes { $(#[tokio::test] async fn $test() -> anyhow::Result<()> {
            let cluster = super::require!(kubernetes);
            let executions = super::Executions::new(cluster, "whole").await?;
            super::run_at(super::TestEngine::Kubernetes, &executions.url(), None, super::$test).await
        })+ }
    };
}

async fn run(
    engine: TestEngine,
    database: Option<String>,
    test: impl AsyncFnOnce(&Deployment, TestEngine) -> Result<()>,
) -> Result<()> {
    run_at(engine, engine.variable().1, database, test).await
}

async fn run_at(
    engine: TestEngine,
    url: &str,
    database: Option<String>,
    test: impl AsyncFnOnce(&Deployment, TestEngine) -> Result<()>,
) -> Result<()> {
    let mut variables = vec![(engine.variable().0, url)];
    if let Some(database) = &database {
        variables.push(("SQLALCHEMY_DATABASE_URI", database));
    }
    let deployment = Deployment::start(&variables).await?;
    test(&deployment, engine).await?;
    deployment.stop().await
}

everywhere! {
    prints_and_exits_3,
    serves_on_its_port,
    reports_an_image_that_does_not_exist,
    reports_a_command_that_does_not_exist,
    reports_that_it_ran_out_of_memory,
    is_stopped_and_keeps_its_logs,
    is_deleted_while_it_runs_and_again,
    is_deleted_although_it_ignores_term,
    is_deleted_before_it_starts,
    has_its_logs_followed_to_the_end,
}

async fn prints_and_exits_3(deployment: &Deployment, engine: TestEngine) -> Result<()> {
    let client = &deployment.client;
    let context = client.context(engine.specification(&Script::PrintAndExit3)).await?;
    let execution =
        client.execute(&context, json!({"engine": engine.name(), "environment": {"A": 1, "B": true}})).await?;
    let ended = client.wait_for(&execution, &["exited"]).await?;
    ensure!(ended["state"] == "exited", "{ended}");
    ensure!(ended["engine"] == engine.name(), "{ended}");
    ensure!(ended["environment"]["A"] == "1" && ended["environment"]["B"] == "true", "{ended}");
    ensure!(ended["environment"]["RENGA_CONTEXT_ID"] == context.as_str(), "{ended}");
    let status = &ended["status"];
    ensure!(status["exit_code"] == 3 && status["reason"] == "ExitedWithError", "{status}");
    ensure!(status["engine"] == engine.name() && status["engine_id"].is_string(), "{status}");
    ensure!(status["started"].as_str() <= status["finished"].as_str(), "{status}");
    let logs = client.logs(&execution, "").await?;
    for line in ["hello\n", "wörld\n", "oops\n"] {
        ensure!(logs.contains(line), "no {line:?} in {logs:?}");
    }
    ensure!(logs.len() == "hello\nwörld\noops\n".len(), "{logs:?}");
    let last = client.logs(&execution, "?tail=1&timestamps=true").await?;
    let (time, _) = last.split_once(' ').context("no time")?;
    ensure!(renga_shared::api::parse_rfc3339(time).is_some(), "{last:?}");
    ensure!(client.get(&format!("{}/ports", execution.path)).await?["ports"] == json!([]));
    let listed = client.get(&format!("/v1/contexts/{context}/executions?state=exited")).await?;
    ensure!(listed["executions"][0] == ended, "the list shows the same: {listed}");
    Ok(())
}

async fn serves_on_its_port(deployment: &Deployment, engine: TestEngine) -> Result<()> {
    let client = &deployment.client;
    let execution = client.run(engine.specification(&Script::Serve)).await?;
    // The ports are requested once, right after the POST, as old clients do.
    let ports = client.get(&format!("{}/ports", execution.path)).await?;
    let port = &ports["ports"][0];
    ensure!(port["specified"] == "8080" && port["protocol"] == "TCP" && port["host"].is_string(), "{ports}");
    ensure!(port.get("token").is_none() && port.get("filename").is_none(), "{ports}");
    client.wait_for(&execution, &["running"]).await?;
    if engine == TestEngine::Docker {
        let address = format!("{}:{}", port["host"].as_str().unwrap_or(""), port["exposed"].as_str().unwrap_or(""));
        let served = until("the page to be served", async || {
            let answer = match reqwest::get(format!("http://{address}/")).await {
                Ok(answer) => answer.text().await?,
                Err(error) => return Ok(Err(json!(error.to_string()))),
            };
            Ok(Ok(answer))
        });
        ensure!(served.await? == "served\n");
    }
    Ok(())
}

async fn fails_with(deployment: &Deployment, spec: Value, reason: &str) -> Result<()> {
    let client = &deployment.client;
    let execution = client.run(spec).await?;
    let failed = client.wait_for(&execution, &["failed"]).await?;
    ensure!(failed["state"] == "unavailable" && failed["status"]["reason"] == reason, "{failed}");
    ensure!(failed["status"]["message"].as_str().is_some_and(|message| message.len() > 10), "{failed}");
    ensure!(client.logs(&execution, "?follow=true").await?.is_empty(), "following ends at once");
    Ok(())
}

async fn reports_an_image_that_does_not_exist(deployment: &Deployment, engine: TestEngine) -> Result<()> {
    let execution = deployment.client.run(engine.specification(&Script::MissingImage)).await?;
    // A pull is retried if the registry does not respond, and refused if the registry does not have the image.
    until("the missing image to be told", async || {
        let seen = deployment.client.get(&execution.path).await?;
        let reason = seen["status"]["reason"].as_str().unwrap_or_default();
        let told = ["Image", "ErrImage"].iter().any(|word| reason.starts_with(word));
        Ok(if told && reason != "ImagePulling" { Ok(()) } else { Err(seen) })
    })
    .await
}

async fn reports_a_command_that_does_not_exist(deployment: &Deployment, engine: TestEngine) -> Result<()> {
    fails_with(deployment, engine.specification(&Script::MissingCommand), "CommandNotFound").await
}

async fn reports_that_it_ran_out_of_memory(deployment: &Deployment, engine: TestEngine) -> Result<()> {
    let client = &deployment.client;
    let execution = client.run(engine.specification(&Script::OutOfMemory)).await?;
    let ended = client.wait_for(&execution, &["exited"]).await?;
    ensure!(ended["status"]["reason"] == "OutOfMemory" && ended["status"]["exit_code"] == 137, "{ended}");
    Ok(())
}

async fn is_stopped_and_keeps_its_logs(deployment: &Deployment, engine: TestEngine) -> Result<()> {
    let client = &deployment.client;
    let execution = client.run(engine.specification(&Script::Sleep)).await?;
    client.wait_for(&execution, &["running"]).await?;
    until("the first line", async || {
        let logs = client.logs(&execution, "").await?;
        Ok(if logs == "started\n" { Ok(()) } else { Err(json!(logs)) })
    })
    .await?;
    client.stop(&execution).await?;
    let ended = client.wait_for(&execution, &["exited"]).await?;
    ensure!(ended["status"]["reason"] == "Stopped" && ended["status"]["exit_code"] == 143, "{ended}");
    ensure!(client.logs(&execution, "").await? == "started\n");
    ensure!(client.stop(&execution).await? == ended, "stopping what has ended changes nothing");
    Ok(())
}

async fn is_gone(deployment: &Deployment, execution: &renga_tests::client::Execution) -> Result<()> {
    let client = &deployment.client;
    let removed = client.wait_for(execution, &["removed"]).await?;
    ensure!(removed["state"] == "unavailable", "{removed}");
    ensure!(client.delete(execution).await? == removed, "deleting again changes nothing");
    let (status, problem) = client.json(Method::GET, &format!("{}/logs", execution.path), None).await?;
    ensure!(status == StatusCode::NOT_FOUND, "{problem}");
    ensure!(client.get(&format!("{}/ports", execution.path)).await?["ports"] == json!([]));
    let listed = client.get(&format!("/v1/contexts/{}/executions", execution.context)).await?;
    ensure!(listed["executions"][0]["identifier"] == execution.id.as_str(), "the row stays: {listed}");
    Ok(())
}

/// Returns whether the machine's Docker Engine has the object of an execution.
async fn docker_has(execution: &renga_tests::client::Execution) -> Result<bool> {
    let docker = servers::docker().await?;
    Ok(docker.inspect_container(&format!("renga-{}", execution.id), None).await.is_ok())
}

async fn is_deleted_while_it_runs_and_again(deployment: &Deployment, engine: TestEngine) -> Result<()> {
    let client = &deployment.client;
    let execution = client.run(engine.specification(&Script::Sleep)).await?;
    client.wait_for(&execution, &["running"]).await?;
    if engine == TestEngine::Docker {
        ensure!(docker_has(&execution).await?, "it runs under its derived name");
    }
    let deleted = client.delete(&execution).await?;
    ensure!(deleted["state"] == "unavailable", "{deleted}");
    is_gone(deployment, &execution).await?;
    ensure!(engine != TestEngine::Docker || !docker_has(&execution).await?, "the container is gone");
    Ok(())
}

async fn is_deleted_although_it_ignores_term(deployment: &Deployment, engine: TestEngine) -> Result<()> {
    let client = &deployment.client;
    let execution = client.run(engine.specification(&Script::IgnoreTerm)).await?;
    client.wait_for(&execution, &["running"]).await?;
    client.delete(&execution).await?;
    is_gone(deployment, &execution).await?;
    ensure!(engine != TestEngine::Docker || !docker_has(&execution).await?, "the container is gone");
    Ok(())
}

async fn is_deleted_before_it_starts(deployment: &Deployment, engine: TestEngine) -> Result<()> {
    let client = &deployment.client;
    let context = client.context(engine.specification(&Script::Sleep)).await?;
    for _ in 0..5 {
        let execution = client.execute(&context, json!({})).await?;
        client.delete(&execution).await?;
        is_gone(deployment, &execution).await?;
        ensure!(engine != TestEngine::Docker || !docker_has(&execution).await?, "nothing is left");
    }
    Ok(())
}

async fn has_its_logs_followed_to_the_end(deployment: &Deployment, engine: TestEngine) -> Result<()> {
    let client = &deployment.client;
    let execution = client.run(engine.specification(&Script::Count(40))).await?;
    let followed = client.logs(&execution, "?follow=true").await?;
    let expected: String = (1..=40).map(|line| format!("line {line}\n")).collect();
    ensure!(followed == expected, "{followed}");
    let ended = client.get(&execution.path).await?;
    ensure!(ended["status"]["phase"] == "exited", "following ends when it has ended: {ended}");
    ensure!(client.logs(&execution, "").await? == expected);
    ensure!(client.logs(&execution, "?tail=2").await? == "line 39\nline 40\n");
    Ok(())
}
