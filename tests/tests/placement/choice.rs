//! The choice of an engine, over HTTP.

use anyhow::{Result, ensure};
use renga_tests::client::Client;
use renga_tests::deployment::{Deployment, until};
use renga_tests::issuer::Issuer;
use reqwest::Method;
use serde_json::{Value, json};

use super::{both_are_up, reason_of};

/// Returns a specification that the fake engine runs until it is stopped.
fn waits() -> Value {
    json!({ "image": "fake/steps", "command": ["out:started", "wait"] })
}

/// Two engines. `b` accepts only staff, and at most two executions.
const ENGINES: [(&str, &str); 2] = [
    ("DEPLOYER_ENGINE_A", "fake://?labels=zone=eu"),
    ("DEPLOYER_ENGINE_B", "fake://?max=2&claims=role:staff,group:/heads&labels=zone=us,disk=ssd"),
];

fn of_staff(deployment: &Deployment) -> Client {
    let claims = json!({ "scope": Issuer::EVERY_SCOPE, "realm_access": { "roles": ["staff"] } });
    deployment.client.with_token(&deployment.issuer.sign(Issuer::claims("alice", claims, 3600)))
}

async fn dry_run(client: &Client, context: &str, request: Value) -> Result<Value> {
    client.post(&format!("/v1/contexts/{context}/placement"), &request).await?.json(200)
}

#[tokio::test]
async fn a_dry_run_reports_the_choice_and_runs_nothing() -> Result<()> {
    let deployment = Deployment::start(&ENGINES).await?;
    both_are_up(&deployment.client).await?;
    let client = &deployment.client;
    let context = client.context(waits()).await?;
    let told = dry_run(client, &context, json!({})).await?;
    ensure!(told["engine"] == "a" && reason_of(&told, "a")? == "Chosen", "{told:#}");
    ensure!(reason_of(&told, "b")? == "AccessDenied", "{told:#}");
    let told = dry_run(client, &context, json!({ "engine": "b" })).await?;
    ensure!(told["engine"].is_null() && reason_of(&told, "a")? == "NotAskedFor", "{told:#}");

    // The same user, with a token that has the role.
    let staff = of_staff(&deployment);
    let told = dry_run(&staff, &context, json!({ "engine": "fake" })).await?;
    ensure!(told["engine"] == "a" && reason_of(&told, "b")? == "RankedLower", "{told:#}");
    let mut prefers = waits();
    prefers["labels"] = json!(["renga.placement.prefers.disk=ssd"]);
    let preferring = client.context(prefers).await?;
    ensure!(dry_run(&staff, &preferring, json!({})).await?["engine"] == "b");
    ensure!(
        dry_run(client, &preferring, json!({})).await?["engine"] == "a",
        "who may not use it has no use for what it has"
    );

    let all = client.get("/v1/executions").await?;
    ensure!(all["executions"] == json!([]), "{all}");
    // A dry run is validated like an execution.
    let path = format!("/v1/contexts/{context}/placement");
    client.post(&path, &json!({ "engine": "warp" })).await?.bad_fields(400)?;
    client.post(&path, &json!({ "motor": 1 })).await?.bad_fields(400)?;
    deployment.client_of("bob").post(&path, &json!({})).await?.problem(404)?;
    client
        .with_token(&deployment.issuer.token_with("alice", "deployer:executions_read", 60))
        .post(&path, &json!({}))
        .await?
        .problem(403)?;
    ensure!(client.ask(Method::GET, &path).await?.header("allow") == "POST, OPTIONS");
    deployment.stop().await
}

#[tokio::test]
async fn an_execution_shows_why_its_engine_was_chosen() -> Result<()> {
    let deployment = Deployment::start(&ENGINES).await?;
    both_are_up(&deployment.client).await?;
    let staff = of_staff(&deployment);
    let mut requires = waits();
    requires["labels"] = json!(["renga.placement.requires.zone=us"]);
    let context = staff.context(requires).await?;
    let execution = staff.execute(&context, json!({ "engine": "auto" })).await?;
    let running = staff.wait_for(&execution, &["running"]).await?;
    let placement = &running["status"]["placement"];
    ensure!(running["status"]["engine"] == "b" && placement["engine"] == "b", "{running:#}");
    ensure!(reason_of(placement, "a")? == "LabelMissing" && placement["decided"].is_string(), "{running:#}");
    ensure!(placement.get("tried").is_none(), "{running:#}");

    // The same execution without the role waits, shows the reason, and can be stopped.
    let waiting = deployment.client.execute(&context, json!({})).await?;
    let seen = until("it to say what is missing", async || {
        let seen = deployment.client.get(&waiting.path).await?;
        Ok(if seen["status"]["reason"].is_string() { Ok(seen) } else { Err(seen) })
    })
    .await?;
    ensure!(seen["status"]["phase"] == "pending" && seen["status"]["reason"] == "NoEngineFits", "{seen:#}");
    ensure!(
        seen["status"]["message"].as_str().is_some_and(|text| text.contains("role:staff or group:/heads")),
        "{seen:#}"
    );
    deployment.client.stop(&waiting).await?;
    deployment.client.wait_for(&waiting, &["failed"]).await?;
    deployment.stop().await
}

#[tokio::test]
async fn engines_show_their_profiles_and_their_load() -> Result<()> {
    let deployment = Deployment::start(&ENGINES).await?;
    both_are_up(&deployment.client).await?;
    let staff = of_staff(&deployment);
    let context = staff.context(waits()).await?;
    for _ in 0..3 {
        staff.execute(&context, json!({ "engine": "b" })).await?;
    }
    let busy = until("two to run and one to wait", async || {
        let seen = staff.get("/v1/engines").await?;
        let engine = &seen["engines"][1];
        let busy = (engine["running"] == 2) && (engine["waiting"] == 1);
        Ok(if busy { Ok(engine.clone()) } else { Err(seen) })
    })
    .await?;
    ensure!(busy["placed"] == 2 && busy["pending"] == 0 && busy["kind"] == "fake", "{busy:#}");
    let offer = &busy["offer"];
    ensure!(offer["max"] == 2 && offer["claims"] == json!(["role:staff", "group:/heads"]), "{busy:#}");
    ensure!(offer["labels"] == json!({ "zone": "us", "disk": "ssd", "kind": "fake" }), "{busy:#}");
    ensure!(offer["volumes"].as_array().is_some_and(|kinds| kinds.contains(&json!("emptyDir"))), "{busy:#}");
    deployment.stop().await
}

#[tokio::test]
async fn a_removed_engine_is_listed_as_retired_until_its_executions_have_ended() -> Result<()> {
    // Docker, because the fake's executions end with the reconciler.
    renga_tests::require!(docker);
    let docker = "docker:///var/run/docker.sock";
    let mut deployment =
        Deployment::start(&[("DEPLOYER_ENGINE_OLD", docker), ("DEPLOYER_ENGINE_KEPT", "fake://")]).await?;
    let spec = renga_tests::scripts::TestEngine::Docker.specification(&renga_tests::scripts::Script::Sleep);
    let context = deployment.client.context(spec).await?;
    let running = deployment.client.execute(&context, json!({ "engine": "old" })).await?;
    deployment.client.wait_for(&running, &["running"]).await?;
    deployment.stop_reconciler().await?;
    deployment.environment.set("DEPLOYER_ENGINE_OLD", "");
    deployment.start_reconciler().await?;

    let client = &deployment.client;
    let seen = until("it to be shown as retired", async || {
        let seen = client.get("/v1/engines").await?;
        let old = seen["engines"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "old")).cloned();
        Ok(old.filter(|old| old["offer"]["retired"] == true && old["up"] == true).ok_or(seen))
    })
    .await?;
    ensure!(seen["running"] == 1, "{seen:#}");
    let told = dry_run(client, &context, json!({ "engine": "old" })).await?;
    ensure!(told["engine"].is_null() && reason_of(&told, "old")? == "EngineRetired", "{told:#}");
    // The execution there is still reconciled.
    client.stop(&running).await?;
    let ended = client.wait_for(&running, &["exited", "failed", "lost"]).await?;
    ensure!(ended["status"]["exit_code"] == 143, "{ended:#}");
    until("it to be shown no more", async || {
        let seen = client.get("/v1/engines").await?;
        let gone = seen["engines"].as_array().is_some_and(|all| all.iter().all(|one| one["name"] != "old"));
        Ok(if gone { Ok(()) } else { Err(seen) })
    })
    .await?;
    deployment.stop().await
}
