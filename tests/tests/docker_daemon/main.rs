//! The Docker daemon stopped, killed and started again under running containers: what is recorded stays true.

mod busy_removal;
mod late_cause;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use renga_tests::client::{Client, Execution};
use renga_tests::deployment::{Deployment, PATIENCE, until};
use renga_tests::require;
use renga_tests::scripts::{Script, TestEngine};
use renga_tests::servers::{BUSYBOX, DedicatedDocker};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

async fn deployment(engine: &DedicatedDocker) -> Result<Deployment> {
    Deployment::start(&[("DEPLOYER_ENGINE_DOCKER", &format!("docker://{}", engine.socket().display()))]).await
}

/// Ends with code 7 when it is told to.
fn tells_its_end() -> Value {
    let script = "trap 'echo told; exit 7' TERM; echo started; while :; do sleep 0.1; done";
    json!({ "image": BUSYBOX, "command": ["sh", "-c", script] })
}

async fn has_written(client: &Client, execution: &Execution, text: &str) -> Result<()> {
    until(&format!("{text:?} in the logs"), async || {
        let logs = client.logs(execution, "").await?;
        Ok(if logs.contains(text) { Ok(()) } else { Err(json!(logs)) })
    })
    .await
}

async fn engine_is(client: &Client, up: bool) -> Result<Value> {
    until(&format!("the engine to be shown as up: {up}"), async || {
        let seen = client.get("/v1/engines").await?;
        let engine = seen["engines"][0].clone();
        Ok(if engine["up"] == up { Ok(engine) } else { Err(seen) })
    })
    .await
}

/// Looks at an execution that runs until it is at its end, and tells every phase that it was seen in.
fn phases_of(client: &Client, execution: &Execution) -> JoinHandle<Result<Vec<String>>> {
    let (client, execution) = (client.clone(), execution.clone());
    tokio::spawn(async move {
        let begin = Instant::now();
        let first = client.get(&execution.path).await?;
        let mut phases: Vec<String> = Vec::new();
        loop {
            let seen = client.get(&execution.path).await?;
            for fact in ["started", "engine", "engine_id"] {
                ensure!(seen["status"][fact] == first["status"][fact], "{fact} changed: {first:#} {seen:#}");
            }
            let phase = seen["status"]["phase"].as_str().context("no phase")?;
            if phases.last().is_none_or(|last| last != phase) {
                phases.push(phase.to_owned());
            }
            if phase != "running" {
                return Ok(phases);
            }
            ensure!(begin.elapsed() < 2 * PATIENCE, "it never ends: {seen:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

/// A container that outlives its daemon: it runs on in the record, and no line of it is lost.
async fn runs_on(
    away: impl AsyncFnOnce(&mut DedicatedDocker) -> Result<()>,
    engine: &mut DedicatedDocker,
) -> Result<()> {
    let deployment = deployment(engine).await?;
    let client = &deployment.client;
    let execution = client.run(TestEngine::Docker.specification(&Script::Count(250))).await?;
    client.wait_for(&execution, &["running"]).await?;
    has_written(client, &execution, "line 10\n").await?;
    let phases = phases_of(client, &execution);
    away(engine).await?;
    ensure!(phases.await?? == ["running", "exited"]);
    let ended = client.get(&execution.path).await?;
    ensure!(ended["status"]["reason"] == "Completed", "{ended}");
    let expected: String = (1..=250).map(|line| format!("line {line}\n")).collect();
    ensure!(client.logs(&execution, "").await? == expected);
    deployment.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_run_on_under_live_restore_while_the_daemon_restarts() -> Result<()> {
    let mut engine = require!(dedicated_docker, "--live-restore");
    runs_on(async |engine| engine.restart().await, &mut engine).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_run_on_under_live_restore_when_the_daemon_is_killed() -> Result<()> {
    let mut engine = require!(dedicated_docker, "--live-restore");
    let killed = async |engine: &mut DedicatedDocker| {
        engine.kill()?;
        engine.start_again().await
    };
    runs_on(killed, &mut engine).await
}

/// A container that its daemon takes along: it ended as it really did, and its last words are kept.
async fn ends(away: impl AsyncFnOnce(&mut DedicatedDocker) -> Result<()>, engine: &mut DedicatedDocker) -> Result<()> {
    let deployment = deployment(engine).await?;
    let client = &deployment.client;
    let execution = client.run(tells_its_end()).await?;
    has_written(client, &execution, "started\n").await?;
    let phases = phases_of(client, &execution);
    away(engine).await?;
    ensure!(phases.await?? == ["running", "exited"]);
    let ended = client.get(&execution.path).await?;
    ensure!(ended["status"]["exit_code"] == 7 && ended["status"]["reason"] == "ExitedWithError", "{ended}");
    ensure!(client.logs(&execution, "").await? == "started\ntold\n");
    deployment.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_end_with_a_daemon_that_restarts() -> Result<()> {
    let mut engine = require!(dedicated_docker);
    ends(async |engine| engine.restart().await, &mut engine).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_end_when_a_killed_daemon_comes_back() -> Result<()> {
    let mut engine = require!(dedicated_docker);
    let killed = async |engine: &mut DedicatedDocker| {
        engine.kill()?;
        engine.start_again().await
    };
    ends(killed, &mut engine).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_daemon_is_away_nothing_changes_and_what_is_asked_for_waits() -> Result<()> {
    let mut engine = require!(dedicated_docker, "--live-restore");
    let deployment = deployment(&engine).await?;
    let client = &deployment.client;
    let up = engine_is(client, true).await?;
    let sleep = client.context(TestEngine::Docker.specification(&Script::Sleep)).await?;
    let kept = client.execute(&sleep, json!({})).await?;
    let deleted = client.execute(&sleep, json!({})).await?;
    let stopped = client.execute(&sleep, json!({})).await?;
    let before = client.wait_for(&kept, &["running"]).await?;
    for execution in [&deleted, &stopped] {
        client.wait_for(execution, &["running"]).await?;
        has_written(client, execution, "started\n").await?;
    }

    engine.stop()?;
    let down = engine_is(client, false).await?;
    ensure!(down["reason"].as_str().is_some_and(|reason| reason.contains("docker.sock")), "{down}");
    ensure!(down["since"].as_str() > up["since"].as_str(), "{up} {down}");

    let later = client.run(TestEngine::Docker.specification(&Script::PrintAndExit3)).await?;
    let named = client.context(TestEngine::Docker.specification(&Script::PrintAndExit3)).await?;
    let named = client.execute(&named, json!({ "engine": "docker" })).await?;
    ensure!(client.delete(&deleted).await?["state"] == "unavailable");
    client.stop(&stopped).await?;
    for (execution, phase) in [(&later, "pending"), (&named, "pending"), (&deleted, "running"), (&stopped, "running")] {
        until("what waits to say why", async || {
            let seen = client.get(&execution.path).await?;
            ensure!(seen["status"]["phase"] == phase, "{seen}");
            let explained = seen["status"]["reason"] == "EngineUnavailable";
            Ok(if explained { Ok(()) } else { Err(seen) })
        })
        .await?;
    }
    ensure!(client.get(&kept.path).await? == before, "what runs and is to go on is as it was");

    engine.start_again().await?;
    engine_is(client, true).await?;
    for execution in [&later, &named] {
        let ended = client.wait_for(execution, &["exited"]).await?;
        ensure!(ended["status"]["exit_code"] == 3, "{ended}");
    }
    client.wait_for(&deleted, &["removed"]).await?;
    let ended = client.wait_for(&stopped, &["exited"]).await?;
    ensure!(ended["status"]["reason"] == "Stopped", "{ended}");
    ensure!(client.get(&kept.path).await? == before, "it never knew");
    let names = engine.client()?.list_containers(None).await?;
    let names: Vec<String> = names.into_iter().filter_map(|container| container.names).flatten().collect();
    ensure!(names == [format!("/renga-{}", kept.id)], "{names:?}");
    deployment.stop().await
}
