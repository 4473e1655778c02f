//! Several engines: their profiles, the choice and its reasons, the queue, and failover if an engine does not take an
//! execution.

mod capacity;
mod choice;
mod clusters;
mod confirmed;
mod fail_over;
mod hand_overs;
mod turns;

use anyhow::{Context as _, Result};
use renga_tests::client::Client;
use renga_tests::deployment::until;
use serde_json::Value;

/// Waits until the API lists two engines and both are up.
async fn both_are_up(client: &Client) -> Result<()> {
    until("both engines to be up", async || {
        let seen = client.get("/v1/engines").await?;
        let up =
            seen["engines"].as_array().is_some_and(|all| all.len() == 2 && all.iter().all(|one| one["up"] == true));
        Ok(if up { Ok(()) } else { Err(seen) })
    })
    .await
}

/// Returns the reason that `status.placement`, or a dry run, gives for an engine.
fn reason_of<'a>(placement: &'a Value, engine: &str) -> Result<&'a str> {
    let engines = placement["engines"].as_array().with_context(|| format!("no engines in {placement}"))?;
    let found = engines.iter().find(|found| found["engine"] == engine);
    found.and_then(|found| found["reason"].as_str()).with_context(|| format!("no {engine} in {placement}"))
}
