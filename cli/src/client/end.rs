//! `stop` and `rm`.

use anyhow::{Result, bail};
use reqwest::Method;
use serde_json::Value;

use super::http::Api;
use super::names::find;
use crate::args::Output;
use crate::output;

/// Stops executions.
pub(crate) async fn stop(api: &Api, ids: &[String], output: Output) -> Result<()> {
    each(api, ids, output, &Method::POST, &["stop"]).await
}

/// Removes executions.
pub(crate) async fn rm(api: &Api, ids: &[String], output: Output) -> Result<()> {
    each(api, ids, output, &Method::DELETE, &[]).await
}

/// Sends the same request for every execution. A failure for one does not stop the others; all are reported at the end.
async fn each(api: &Api, ids: &[String], output: Output, method: &Method, rest: &[&str]) -> Result<()> {
    let mut done = Vec::new();
    let mut problems = Vec::new();
    for id in ids {
        let asked = async {
            let place = find(api, id).await?;
            let execution = api.ask(method.clone(), &place.path(rest)).await?;
            if output == Output::Table {
                output::line(&place.execution)?;
            }
            Ok::<_, anyhow::Error>(execution)
        };
        match asked.await {
            Ok(execution) => done.push(execution),
            Err(error) => problems.push(format!("{id}: {error:#}")),
        }
    }
    if output == Output::Json {
        output::json(&Value::Array(done))?;
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}
