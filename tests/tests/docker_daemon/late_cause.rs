//! An engine that hears of a container's end before it hears that memory was the cause never says so in the container's state,
//! only in an event that follows. Real ones do it now and then, none at will, so the answers are played.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use renga_reconciler::clock::{Clock as _, SystemClock};
use renga_reconciler::engine::kubernetes::KubernetesSettings;
use renga_reconciler::engine::{
    DEPLOYMENT_LABEL, EXECUTION_LABEL, EngineSettings, EngineUrl, Exit, ObjectState, object_name,
};
use renga_shared::domain::ExecutionId;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const CONTAINER: &str = "0123456789abcdef";

/// An engine with one container, which was killed.
#[derive(Clone)]
struct Played {
    container: Value,
    /// What it tells after a while.
    event: Value,
}

async fn answer(State(played): State<Played>, request: Request) -> Response {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    if path.ends_with("/version") {
        return Json(json!({ "Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12" })).into_response();
    }
    if path.ends_with("/json") {
        return Json(played.container).into_response();
    }
    // It would otherwise go on for ever, and tell of others.
    if !path.ends_with("/events") || !query.contains("until=") || !query.contains(CONTAINER) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let told = async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok::<_, std::convert::Infallible>(format!("{}\n", played.event))
    };
    Body::from_stream(stream::once(told)).into_response()
}

/// What is seen of a container that was killed.
async fn seen(limit: u64, action: &str, signal: &str) -> Result<Exit> {
    let settings = EngineSettings {
        deployment: "played".into(),
        host_paths: Vec::new(),
        container_ip: IpAddr::from(Ipv4Addr::LOCALHOST),
        kubernetes: KubernetesSettings::default(),
    };
    let id = ExecutionId::new(SystemClock.now(), [1; 8]);
    let container = json!({
        "Id": CONTAINER,
        "Name": format!("/{}", object_name(id)),
        "Config": { "Labels": { EXECUTION_LABEL: id.to_string(), DEPLOYMENT_LABEL: "played" } },
        "HostConfig": { "Memory": limit },
        "State": {
            "Status": "exited", "ExitCode": 137, "OOMKilled": false,
            "StartedAt": "2026-01-01T00:00:00.5Z", "FinishedAt": "2026-01-01T00:00:01.25Z",
        },
    });
    let actor = json!({ "ID": CONTAINER, "Attributes": { "signal": signal } });
    let event = json!({ "Type": "container", "Action": action, "Actor": actor });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let url = format!("docker+tcp://{}", listener.local_addr()?);
    let router = axum::Router::new().fallback(answer).with_state(Played { container, event });
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let object = EngineUrl::parse(&url)?.connect(&settings).inspect(id).await?.context("there is a container")?;
    serving.abort();
    let ObjectState::Exited(exit) = object.state else { anyhow::bail!("it has ended: {object:?}") };
    ensure!(exit.code == 137, "{exit:?}");
    Ok(exit)
}

#[tokio::test]
async fn what_killed_a_container_is_asked_for_where_its_state_does_not_tell() -> Result<()> {
    const LIMIT: u64 = 16 << 20;
    ensure!(seen(LIMIT, "oom", "").await?.out_of_memory, "an event told the cause");
    ensure!(!seen(LIMIT, "kill", "9").await?.out_of_memory, "the engine killed it");
    ensure!(!seen(LIMIT, "kill", "15").await?.out_of_memory, "nobody knows who killed it");
    // Without a limit of its own it was not the container that had too little.
    ensure!(!seen(0, "oom", "").await?.out_of_memory, "it had no limit");
    Ok(())
}
