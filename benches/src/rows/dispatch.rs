//! From a wish to its launch: how soon the engine is called, how soon a container runs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions};
use renga_reconciler::engine::object_name;
use renga_tests::client::Client;
use serde_json::json;

use super::specification;
use crate::database::Database;
use crate::load::{median, percentile};
use crate::process::Surroundings;
use crate::report::{Bar, Row, short};

/// Enough for a 99th percentile that is not the slowest one.
const PICK_UPS: usize = 200;
/// How many containers are launched each way.
const CONTAINERS: usize = 20;

/// From the row's creation to the engine's start of it, with nothing else going on.
pub(super) async fn pick_up() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, surroundings) in [("SQLite", Surroundings::sqlite()?), ("PostgreSQL", Surroundings::postgres().await?)] {
        let deployer = surroundings.deployer().await?;
        let client = deployer.ready().await?;
        let context = client.context(specification()).await?;
        for _ in 0..PICK_UPS {
            let execution = client.execute(&context, json!({})).await?;
            // Each alone, on an idle system.
            client.wait_for(&execution, &["running"]).await?;
        }
        let taken = Database::open(&surroundings.database).await?.pick_ups().await?;
        let note = format!("p50 {} ms, {} times", short(median(taken.clone())), taken.len());
        let name = format!("commit to engine call, idle, {name}, p99 ms");
        rows.push(Row::new(&name, percentile(taken, 99.0), None, Bar::Below(100.0), note));
        deployer.stop().await?;
    }
    Ok(rows)
}

/// From the POST until the API says that the container runs, beside create and start through the same socket.
pub(super) async fn docker() -> Result<Vec<Row>> {
    let docker = renga_tests::servers::docker().await?;
    let surroundings = Surroundings::sqlite()?.on_docker();
    let deployer = surroundings.deployer().await?;
    let client = deployer.ready().await?;
    let context = client.context(specification()).await?;
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    // The first of each warms caches.
    for round in 0..=CONTAINERS {
        let launched = through_the_deployer(&client, &docker, &context).await?;
        let by_hand = by_hand(&docker, round).await?;
        if round > 0 {
            ours.push(launched);
            raw.push(by_hand);
        }
    }
    deployer.stop().await?;
    let note = format!("medians of {CONTAINERS}, in turn; yardstick: create, then start, with bollard");
    Ok(vec![Row::new(
        "POST until the container runs, Docker, ms",
        median(ours),
        Some(median(raw)),
        Bar::AtMostTimes(1.1),
        note,
    )])
}

async fn through_the_deployer(client: &Client, docker: &Docker, context: &str) -> Result<f64> {
    let begin = Instant::now();
    let execution = client.execute(context, json!({})).await?;
    loop {
        let seen = client.get(&execution.path).await?;
        if seen["status"]["phase"] == "running" {
            break;
        }
        anyhow::ensure!(begin.elapsed() < Duration::from_secs(30), "the container does not run: {seen}");
        // Seldom enough not to take the engine's time.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let taken = begin.elapsed();
    let name = object_name(execution.id.parse()?);
    // Before the deployer stops it with a grace period that busybox would use up.
    kill(docker, &name).await?;
    client.wait_for(&execution, &["exited", "failed", "lost"]).await?;
    client.delete(&execution).await?;
    client.wait_for(&execution, &["removed"]).await?;
    Ok(taken.as_secs_f64() * 1e3)
}

async fn by_hand(docker: &Docker, round: usize) -> Result<f64> {
    let name = format!("renga-bench-{}-{round}", std::process::id());
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let body = ContainerCreateBody {
        image: Some(renga_tests::servers::BUSYBOX.to_owned()),
        cmd: Some(vec!["sleep".to_owned(), "3600".to_owned()]),
        host_config: Some(HostConfig::default()),
        ..ContainerCreateBody::default()
    };
    let begin = Instant::now();
    docker.create_container(Some(options), body).await?;
    let started = docker.start_container(&name, None::<StartContainerOptions>).await;
    let taken = begin.elapsed();
    let forced = RemoveContainerOptionsBuilder::default().force(true).build();
    docker.remove_container(&name, Some(forced)).await.context("remove the container that was made by hand")?;
    started?;
    Ok(taken.as_secs_f64() * 1e3)
}

async fn kill(docker: &Docker, name: &str) -> Result<()> {
    Ok(docker.kill_container(name, None::<bollard::query_parameters::KillContainerOptions>).await?)
}
