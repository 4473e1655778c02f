//! What operators ask over HTTP: `/healthz`, `/readyz`, `/metrics`, on a port of their own.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use renga_shared::sql::{deployment, observations};
use tokio::net::TcpListener;

use crate::metrics::Metrics;
use crate::tasks::Context;

/// What is told before there is anything to tell of: that the process lives, and is not ready.
pub type Begun = Arc<OnceLock<Context>>;

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, begun: Begun) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(begun);
    axum::serve(listener, routes).await
}

/// Ready: it holds its lease and the database answers.
async fn ready(State(begun): State<Begun>) -> impl IntoResponse {
    let Some(context) = begun.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the database is waited for\n");
    };
    if !context.lease_holds() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the lease has ended: the database did not take its renewal\n");
    }
    match deployment::ping(&context.db).await {
        Ok(()) => (StatusCode::OK, "ready\n"),
        Err(error) => {
            tracing::warn!(%error, "not ready: {error}");
            (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n")
        }
    }
}

async fn metrics(State(begun): State<Begun>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let Some(context) = begun.get() else {
        return ([(header::CONTENT_TYPE, kind)], Metrics::default().text());
    };
    if let Ok(counts) = observations::count_by_phase(&context.db).await {
        context.metrics.executions(&counts);
    }
    ([(header::CONTENT_TYPE, kind)], context.metrics.text())
}
