//! The credentials of the deployer, and the error that it reports if they are not valid.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use renga_reconciler::engine::{EngineError, ObjectState};
use renga_tests::deployment::until;
use renga_tests::require;
use renga_tests::scripts::Script;
use serde_json::{Value, json};

use crate::{Ground, connect};

/// Writes the ground's kubeconfig with another user, and returns its path.
fn with_user(ground: &Ground, name: &str, user: Value) -> Result<PathBuf> {
    let mut config: Value = serde_json::from_slice(&std::fs::read(&ground.executions.kubeconfig)?)?;
    config["users"][0]["user"] = user;
    let file = ground.executions.kubeconfig.with_extension(name);
    std::fs::write(&file, config.to_string())?;
    Ok(file)
}

fn token(ground: &Ground) -> Result<String> {
    let config: Value = serde_json::from_slice(&std::fs::read(&ground.executions.kubeconfig)?)?;
    Ok(config["users"][0]["user"]["token"].as_str().context("it has a token")?.to_owned())
}

/// Fails unless an execution runs to its end with this kubeconfig.
async fn runs(ground: &Ground, kubeconfig: &Path) -> Result<()> {
    let engine = connect(&ground.executions.url_by(kubeconfig))?;
    let launch = ground.script(&Script::Exit(3))?;
    let object = engine.create(&launch).await?;
    engine.start(&object).await?;
    until("it to end", async || {
        let seen = engine.inspect(launch.id).await?.context("it is gone")?.state;
        Ok(if matches!(seen, ObjectState::Exited(_)) { Ok(()) } else { Err(json!(format!("{seen:?}"))) })
    })
    .await?;
    Ok(engine.remove(&object).await?)
}

#[tokio::test]
async fn certificates_token_files_and_exec_programs_authenticate() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::new(cluster, "credentials").await?;
    runs(&ground, &cluster.certificate_kubeconfig()).await?;

    let token = token(&ground)?;
    let file = ground.executions.kubeconfig.with_extension("token");
    std::fs::write(&file, &token)?;
    runs(&ground, &with_user(&ground, "file.conf", json!({ "tokenFile": file }))?).await?;

    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": { "token": token },
    });
    let answer = ground.executions.kubeconfig.with_extension("credential");
    std::fs::write(&answer, credential.to_string())?;
    let exec = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "cat",
        "args": [answer],
        "interactiveMode": "Never",
    });
    runs(&ground, &with_user(&ground, "exec.conf", json!({ "exec": exec }))?).await
}

#[tokio::test]
async fn a_replaced_token_file_is_read_again() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::new(cluster, "rotated").await?;
    let token = token(&ground)?;
    let file = ground.executions.kubeconfig.with_extension("rotated");
    std::fs::write(&file, "no-longer-valid")?;
    let kubeconfig = with_user(&ground, "rotated.conf", json!({ "tokenFile": file }))?;
    let engine = connect(&ground.executions.url_by(&kubeconfig))?;
    let refused = engine.probe().await;
    ensure!(
        matches!(&refused, Err(EngineError::Unreached(reason) | EngineError::Down(reason)) if reason.contains("credentials")),
        "{refused:?}"
    );
    std::fs::write(&file, &token)?;
    until("the new token to be used", async || Ok(engine.probe().await.map_err(|error| json!(error.to_string()))))
        .await?;
    let launch = ground.script(&Script::Exit(0))?;
    engine.create(&launch).await?;
    Ok(())
}
