//! Which engines are shown, and as what, when the reconcilers that serve them come and go.

use anyhow::{Result, ensure};
use renga_tests::client::Client;
use renga_tests::deployment::{Deployment, until};
use serde_json::{Value, json};

use super::both_are_up;

const ENGINES: [(&str, &str); 2] = [("DEPLOYER_ENGINE_A", "fake://"), ("DEPLOYER_ENGINE_B", "fake://")];

async fn names(client: &Client) -> Result<Vec<String>> {
    let seen = client.get("/v1/engines").await?;
    let all = seen["engines"].as_array().into_iter().flatten();
    Ok(all.filter_map(|engine| engine["name"].as_str().map(str::to_owned)).collect())
}

#[tokio::test]
async fn without_a_reconciler_no_engine_is_up() -> Result<()> {
    let mut deployment = Deployment::start(&ENGINES).await?;
    both_are_up(&deployment.client).await?;
    deployment.stop_reconciler().await?;
    let client = deployment.client.clone();
    let seen = client.get("/v1/engines").await?;
    for engine in seen["engines"].as_array().into_iter().flatten() {
        ensure!(engine["up"] == false && engine["reason"] == "no reconciler that serves it is alive", "{seen:#}");
    }
    let context = client.context(json!({ "image": "fake/steps", "command": ["exit:0"] })).await?;
    let told = client.post(&format!("/v1/contexts/{context}/placement"), &json!({})).await?.json(200)?;
    ensure!(told["engine"].is_null(), "{told:#}");
    let considered = told["engines"].as_array().into_iter().flatten();
    ensure!(considered.into_iter().all(|engine| engine["reason"] == "EngineUnavailable"), "{told:#}");
    // A reconciler confirms them again.
    deployment.start_reconciler().await?;
    both_are_up(&client).await?;
    deployment.stop().await
}

#[tokio::test]
async fn one_that_is_taken_out_goes_with_the_first_restart() -> Result<()> {
    let mut deployment = Deployment::start(&ENGINES).await?;
    both_are_up(&deployment.client).await?;
    deployment.stop_reconciler().await?;
    deployment.environment.set("DEPLOYER_ENGINE_B", "");
    deployment.start_reconciler().await?;
    until("the engine to be gone", async || {
        let names = names(&deployment.client).await?;
        Ok(if names == ["a"] { Ok(()) } else { Err(json!(names)) })
    })
    .await?;
    deployment.stop().await
}

#[tokio::test]
async fn one_that_another_reconciler_serves_stays_as_that_one_sees_it() -> Result<()> {
    let mut deployment = Deployment::start(&ENGINES).await?;
    let client = deployment.client.clone();
    both_are_up(&client).await?;
    let before = client.get("/v1/engines").await?;
    deployment.environment.set("DEPLOYER_ENGINE_B", "");
    deployment.environment.set("DEPLOYER_ENGINE_C", "fake://");
    deployment.start_another_reconciler()?;
    let of = |all: &Value, name: &str| {
        let all = all["engines"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|engine| engine["name"] == name)
    };
    let now = until("the new engine to be up", async || {
        let seen = client.get("/v1/engines").await?;
        let up = of(&seen, "c").is_some_and(|engine| engine["up"] == true);
        Ok(if up { Ok(seen) } else { Err(seen) })
    })
    .await?;
    for name in ["a", "b"] {
        ensure!(of(&now, name) == of(&before, name), "the engine {name} was up all the time: {now:#}");
    }
    deployment.stop().await
}
