//! The engines, and the service itself.

use http::StatusCode;
use renga_shared::api::{EngineBody, EngineList, Problem};
use renga_shared::sql::{deployment, engines};
use serde_json::json;

use crate::ambient;
use crate::answer::{Answer, database};
use crate::request::Asked;

pub(crate) async fn list(asked: &Asked<'_>) -> Result<Answer, Problem> {
    asked.by(&[]).await?;
    let rows = engines::list(&asked.instance.database, ambient::now()).await.map_err(database)?;
    let engines = rows.into_iter().map(EngineBody::from).collect();
    Answer::json(StatusCode::OK, &EngineList { engines })
}

/// Healthy: the database answers and has our schema.
pub(crate) async fn health(asked: &Asked<'_>) -> Result<Answer, Problem> {
    deployment::ping(&asked.instance.database).await.map_err(database)?;
    Answer::json(StatusCode::OK, &json!({"status": "ok"}))
}

pub(crate) fn version() -> Result<Answer, Problem> {
    Answer::json(StatusCode::OK, &json!({"version": env!("CARGO_PKG_VERSION"), "api": "v1"}))
}
