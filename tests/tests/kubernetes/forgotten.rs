//! An API server that no longer has the events that a watch has missed responds `410 Gone`, and the engine lists
//! everything again. No real API server can be made to do that at will, so the test has a double.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use renga_reconciler::clock::{Clock as _, SystemClock};
use renga_reconciler::engine::kubernetes::KubernetesSettings;
use renga_reconciler::engine::{DEPLOYMENT_LABEL, EXECUTION_LABEL, EngineEvent, EngineUrl, object_name};
use renga_shared::domain::ExecutionId;
use renga_tests::deployment::until;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::settings;

/// A double of an API server. Only its first list has the Job. After `forgets`, its watch reports missed events.
struct Played {
    job: Value,
    lists: AtomicUsize,
    forgets: Notify,
}

async fn answer(State(played): State<Arc<Played>>, request: Request) -> Response {
    let uri = request.uri();
    let is_of_jobs = uri.path().ends_with("/jobs");
    if uri.path() == "/version" {
        let version = json!({
            "major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "", "gitTreeState": "", "buildDate": "",
            "goVersion": "", "compiler": "", "platform": "",
        });
        return Json(version).into_response();
    }
    if uri.query().unwrap_or_default().contains("watch=") {
        let gone = json!({ "type": "ERROR", "object": {
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410,
            "message": "too old resource version: 7 (1000)",
        }});
        let told = async move {
            if is_of_jobs {
                played.forgets.notified().await;
            } else {
                std::future::pending::<()>().await;
            }
            Ok::<_, std::convert::Infallible>(format!("{gone}\n"))
        };
        return Body::from_stream(stream::once(told)).into_response();
    }
    let has_the_job = is_of_jobs && played.lists.fetch_add(1, Ordering::SeqCst) == 0;
    let items = if has_the_job { json!([played.job]) } else { json!([]) };
    Json(json!({ "metadata": { "resourceVersion": "7" }, "items": items })).into_response()
}

#[tokio::test]
async fn an_expired_watch_lists_everything_again() -> Result<()> {
    let settings = settings(KubernetesSettings::default());
    let id = ExecutionId::new(SystemClock.now(), [1; 8]);
    let labels = json!({ EXECUTION_LABEL: id.to_string(), DEPLOYMENT_LABEL: settings.deployment });
    let job = json!({
        "metadata": {
            "name": object_name(id), "namespace": "jobs", "uid": "the-only-one", "resourceVersion": "5", "labels": labels,
        },
        "spec": { "suspend": true, "template": {} },
    });
    let played = Arc::new(Played { job, lists: AtomicUsize::new(0), forgets: Notify::new() });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let server = format!("http://{}", listener.local_addr()?);
    let router = axum::Router::new().fallback(answer).with_state(Arc::clone(&played));
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });

    let folder = tempfile::tempdir()?;
    let kubeconfig = folder.path().join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "played",
        "clusters": [{ "name": "played", "cluster": { "server": server } }],
        "users": [{ "name": "anybody", "user": {} }],
        "contexts": [{ "name": "played", "context": { "cluster": "played", "user": "anybody" } }],
    });
    std::fs::write(&kubeconfig, config.to_string())?;
    let url = format!("k8s://?namespace=jobs&kubeconfig={}", kubeconfig.display());
    let engine = EngineUrl::parse(&url)?.connect(&settings);

    engine.probe().await?;
    let mut events = engine.events();
    ensure!(events.try_next().await? == Some(EngineEvent::Resync));
    engine.inspect(id).await?.context("the Job was listed")?;
    played.forgets.notify_one();
    until("the Job to be gone", async || {
        Ok(engine.inspect(id).await?.map_or(Ok(()), |object| Err(json!(format!("{object:?}")))))
    })
    .await?;
    let event = events.next().await.context("nobody is told")??;
    ensure!(event == EngineEvent::Resync, "{event:?}");
    ensure!(played.lists.load(Ordering::SeqCst) == 2, "Jobs were listed {} times", played.lists.load(Ordering::SeqCst));
    serving.abort();
    Ok(())
}
