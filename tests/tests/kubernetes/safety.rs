//! The token, the service account and the rights of a pod.

use anyhow::{Result, ensure};
use futures::TryStreamExt as _;
use renga_reconciler::engine::{ObjectState, object_name};
use renga_reconciler::launch::ACCESS_TOKEN;
use renga_shared::auth::OpenedToken;
use renga_tests::require;
use renga_tests::scripts::Script;

use crate::Ground;

const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.a-users-token";

#[tokio::test]
async fn a_token_is_passed_in_a_secret_that_is_deleted_with_the_job() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::new(cluster, "token").await?;
    let mut launch = ground.script(&Script::Variable(ACCESS_TOKEN))?;
    launch.access_token = Some(opened(TOKEN));
    let object = ground.run(&launch).await?;
    let logs: Vec<_> = ground.engine.logs(&object, 0).try_collect().await?;
    let text: String = logs.iter().map(|entry| String::from_utf8_lossy(&entry.bytes).into_owned()).collect();
    ensure!(text == format!("{TOKEN}\n"), "the container has another token");

    let in_it = format!("--namespace={}", ground.executions.namespace);
    let name = object_name(launch.id);
    let shown = cluster.kubectl(&["get", "jobs,pods,events", &in_it, "--output=yaml"]).await?;
    ensure!(!shown.contains(TOKEN), "whoever may read pods may read the token");
    let job = cluster.get(&["job", &name, &in_it]).await?;
    let secret = cluster.get(&["secret", &name, &in_it]).await?;
    let owner = &secret["metadata"]["ownerReferences"][0];
    ensure!(owner["uid"] == job["metadata"]["uid"] && owner["kind"] == "Job", "{owner}");

    ground.engine.remove(&object).await?;
    let left = cluster.get(&["secrets,services,pods,jobs", "--selector=io.renga.execution", &in_it]).await?;
    ensure!(left["items"].as_array().is_some_and(Vec::is_empty), "{left}");
    Ok(())
}

#[tokio::test]
async fn an_interrupted_create_is_completed() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::new(cluster, "cut").await?;
    let mut launch = ground.script(&Script::Serve)?;
    launch.access_token = Some(opened("an older token"));
    let object = ground.engine.create(&launch).await?;
    let in_it = format!("--namespace={}", ground.executions.namespace);
    let name = object_name(launch.id);
    for lost in ["secret", "service"] {
        cluster.kubectl(&["delete", lost, &name, &in_it]).await?;
        ensure!(ground.engine.create(&launch).await? == object, "it is adopted");
        cluster.get(&[lost, &name, &in_it]).await?;
    }
    // A token that was renewed meanwhile takes the place of the older one.
    launch.access_token = Some(opened(TOKEN));
    ensure!(ground.engine.create(&launch).await? == object);
    let secret = cluster.kubectl(&["get", "secret", &name, &in_it, "--output=jsonpath={.data.*}"]).await?;
    ensure!(secret == base64(TOKEN), "{secret}");
    let jobs = cluster.get(&["jobs", &in_it]).await?;
    ensure!(jobs["items"].as_array().is_some_and(|jobs| jobs.len() == 1), "{jobs}");
    Ok(())
}

fn opened(token: &str) -> OpenedToken {
    OpenedToken::new(Box::new(token.to_owned()))
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test]
async fn a_pod_has_no_account_and_no_more_rights_than_it_needs() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::new(cluster, "rights").await?;
    let launch = ground.script(&Script::Show("/var/run/secrets/kubernetes.io/serviceaccount/token"))?;
    let object = ground.run(&launch).await?;
    let state = ground.becomes(&launch, |state| matches!(state, ObjectState::Exited(_))).await?;
    ensure!(matches!(&state, ObjectState::Exited(exit) if exit.code == 1), "it has an account's token: {state:?}");
    let spec = ground.pod(cluster, &launch).await?["spec"].clone();
    ensure!(spec["automountServiceAccountToken"] == false && spec["enableServiceLinks"] == false, "{spec}");
    ensure!(spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "{spec}");
    let container = &spec["containers"][0]["securityContext"];
    ensure!(container["allowPrivilegeEscalation"] == false, "{container}");
    ground.engine.remove(&object).await?;
    Ok(())
}
