//! An engine that is removing a container already, as it says with 409: real ones do so for as long as their disk is slow, none at
//! will, so the answers are played.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, ensure};
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use renga_reconciler::engine::kubernetes::KubernetesSettings;
use renga_reconciler::engine::{EngineError, EngineSettings, EngineUrl};
use serde_json::json;
use tokio::net::TcpListener;

const CONTAINER: &str = "0123456789abcdef";

/// The container is there for so many more looks.
type Looks = Arc<AtomicU32>;

async fn answer(State(looks): State<Looks>, request: Request) -> Response {
    let path = request.uri().path();
    if path.ends_with("/version") {
        return Json(json!({ "Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12" })).into_response();
    }
    if request.method() == Method::DELETE {
        let text = format!("removal of container {CONTAINER} is already in progress");
        return (StatusCode::CONFLICT, Json(json!({ "message": text }))).into_response();
    }
    if path.ends_with("/wait") {
        return Json(json!({ "StatusCode": 0 })).into_response();
    }
    let left = looks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    if path.ends_with("/json") && left.is_ok() {
        return Json(json!({ "Id": CONTAINER, "State": { "Status": "removing" } })).into_response();
    }
    (StatusCode::NOT_FOUND, Json(json!({ "message": "No such container" }))).into_response()
}

#[tokio::test]
async fn a_removal_that_is_under_way_is_tried_again_and_then_done() -> Result<()> {
    let settings = EngineSettings {
        deployment: "played".into(),
        host_paths: Vec::new(),
        container_ip: IpAddr::from(Ipv4Addr::LOCALHOST),
        kubernetes: KubernetesSettings::default(),
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let url = format!("docker+tcp://{}", listener.local_addr()?);
    let router = axum::Router::new().fallback(answer).with_state(Looks::new(AtomicU32::new(1)));
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let engine = EngineUrl::parse(&url)?.connect(&settings);
    let busy = engine.remove(CONTAINER).await;
    ensure!(matches!(&busy, Err(EngineError::Retry(why)) if why.reason == "EngineBusy"), "{busy:?}");
    let done = engine.remove(CONTAINER).await;
    ensure!(done.is_ok(), "{done:?}");
    serving.abort();
    Ok(())
}
