//! Why something does not start: told within seconds, in the cluster's words.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use renga_reconciler::engine::ObjectState;
use renga_tests::require;
use renga_tests::scripts::Script;
use renga_tests::servers::{BUSYBOX, Cluster};
use serde_json::{Value, json};

use crate::Ground;

/// What a user is told of a delay comes this soon.
const SOON: Duration = Duration::from_secs(5);

/// What it waits for, or why it failed, with the words that have to be in it.
async fn is_told(ground: &Ground, fields: Value, reason: &str, words: &[&str], waits: bool) -> Result<()> {
    let mut spec = json!({ "image": BUSYBOX, "command": ["true"] });
    for (name, value) in fields.as_object().into_iter().flatten() {
        spec[name] = value.clone();
    }
    let launch = ground.launch(&spec)?;
    let object = ground.run(&launch).await?;
    let begin = Instant::now();
    let told = |state: &ObjectState| match state {
        ObjectState::Starting(Some(why)) => waits && why.reason == reason,
        ObjectState::Failed(why) => !waits && why.reason == reason,
        _ => false,
    };
    let state = ground.becomes(&launch, told).await?;
    let took = begin.elapsed();
    ensure!(took < SOON, "{reason} was told after {took:?}");
    let text = format!("{state:?}");
    ensure!(words.iter().all(|words| text.contains(words)), "{text}");
    // Whatever it waits for, it can be cancelled.
    ground.engine.stop(&object, Duration::ZERO).await?;
    let stopped = ground.object(&launch).await?.state;
    ensure!(matches!(stopped, ObjectState::Failed(_)), "{stopped:?}");
    ground.engine.remove(&object).await?;
    ensure!(ground.engine.inspect(launch.id).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn no_node_has_room() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::new(cluster, "unschedulable").await?;
    let fields = json!({ "resources": { "requests": { "cpu": "1000" } } });
    is_told(&ground, fields, "Unschedulable", &["Insufficient cpu", "0/1 nodes are available"], true).await
}

#[tokio::test]
async fn an_image_is_not_there() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::new(cluster, "image").await?;
    let fields = json!({ "image": "127.0.0.1:1/no/such:image" });
    is_told(&ground, fields, "ErrImagePull", &["127.0.0.1:1/no/such:image", "connection refused"], true).await
}

#[tokio::test]
async fn a_volume_is_not_there() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::new(cluster, "volume").await?;
    let with = |source: Value| {
        let mut volume = source;
        volume["name"] = json!("v");
        json!({ "volumes": [volume], "volumeMounts": [{ "name": "v", "mountPath": "/data" }] })
    };
    let claim = with(json!({ "persistentVolumeClaim": { "claimName": "none-such" } }));
    is_told(&ground, claim, "VolumeNotBound", &["none-such", "not found"], true).await?;
    let map = with(json!({ "configMap": { "name": "none-such" } }));
    is_told(&ground, map, "FailedMount", &["none-such", "not found"], true).await
}

#[tokio::test]
async fn a_quota_is_used_up() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::new(cluster, "quota").await?;
    let namespace = &ground.executions.namespace;
    let metadata = json!({ "name": "small", "namespace": namespace });
    let spec = json!({ "hard": { "pods": "0" } });
    cluster.apply(&json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": spec })).await?;
    let counted = "--for=jsonpath={.status.hard.pods}=0";
    cluster.kubectl(&["wait", counted, "resourcequota/small", "--namespace", namespace, "--timeout=30s"]).await?;
    is_told(&ground, json!({}), "QuotaExceeded", &["exceeded quota: small"], true).await
}

/// Labels the ground's namespace, whose Pod Security admits less from then on.
async fn enforce(cluster: &Cluster, ground: &Ground, level: &str) -> Result<()> {
    let label = format!("pod-security.kubernetes.io/enforce={level}");
    cluster.kubectl(&["label", "namespace", &ground.executions.namespace, &label]).await.map(drop)
}

#[tokio::test]
async fn pod_security_does_not_admit_it() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::new(cluster, "security").await?;
    enforce(cluster, &ground, "restricted").await?;
    let words = ["violates PodSecurity", "runAsNonRoot", "pod-security.kubernetes.io/enforce", "?security=restricted"];
    is_told(&ground, json!({}), "PodSecurity", &words, false).await
}

#[tokio::test]
async fn an_image_that_runs_as_root_is_told_with_the_setting_that_forbids_it() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::with(cluster, "restricted", "&security=restricted").await?;
    // What this asks for is all that Pod Security does.
    enforce(cluster, &ground, "restricted").await?;
    is_told(&ground, json!({}), "RunsAsRoot", &["?security=restricted", "root"], false).await
}

#[tokio::test]
async fn baseline_admits_what_is_run() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::new(cluster, "baseline").await?;
    enforce(cluster, &ground, "baseline").await?;
    let launch = ground.script(&Script::Exit(3))?;
    ground.run(&launch).await?;
    let state = ground.becomes(&launch, |state| matches!(state, ObjectState::Exited(_))).await?;
    ensure!(matches!(&state, ObjectState::Exited(exit) if exit.code == 3), "{state:?}");
    Ok(())
}
