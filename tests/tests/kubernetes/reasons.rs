//! The reason why an execution does not start: reported within seconds, in the cluster's words.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use renga_reconciler::engine::ObjectState;
use renga_tests::require;
use renga_tests::scripts::Script;
use renga_tests::servers::{BUSYBOX, Cluster};
use serde_json::{Value, json};

use crate::Ground;

/// Maximum time until the reason of a delay is reported.
const SOON: Duration = Duration::from_secs(5);

/// Runs an execution with these fields. Fails unless it soon waits (`waits`) or fails for `reason`, with all `words`.
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
    // An execution can be cancelled, whatever it waits for.
    ground.engine.stop(&object, Duration::ZERO).await?;
    let stopped = ground.object(&launch).await?.state;
    ensure!(matches!(stopped, ObjectState::Failed(_)), "{stopped:?}");
    ground.engine.remove(&object).await?;
    ensure!(ground.engine.inspect(launch.id).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn no_node_has_free_capacity() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::new(cluster, "unschedulable").await?;
    let fields = json!({ "resources": { "requests": { "cpu": "1000" } } });
    is_told(&ground, fields, "Unschedulable", &["Insufficient cpu", "0/1 nodes are available"], true).await
}

#[tokio::test]
async fn an_image_is_missing() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::new(cluster, "image").await?;
    let fields = json!({ "image": "127.0.0.1:1/no/such:image" });
    is_told(&ground, fields, "ErrImagePull", &["127.0.0.1:1/no/such:image", "connection refused"], true).await
}

#[tokio::test]
async fn a_volume_is_missing() -> Result<()> {
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

/// Sets the Pod Security level of the ground's namespace.
async fn enforce(cluster: &Cluster, ground: &Ground, level: &str) -> Result<()> {
    let label = format!("pod-security.kubernetes.io/enforce={level}");
    cluster.kubectl(&["label", "namespace", &ground.executions.namespace, &label]).await.map(drop)
}

#[tokio::test]
async fn pod_security_rejects_the_pod() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::new(cluster, "security").await?;
    enforce(cluster, &ground, "restricted").await?;
    let words = ["violates PodSecurity", "runAsNonRoot", "pod-security.kubernetes.io/enforce", "?security=restricted"];
    is_told(&ground, json!({}), "PodSecurity", &words, false).await
}

#[tokio::test]
async fn an_image_that_runs_as_root_fails_with_the_setting_that_forbids_it() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::with(cluster, "restricted", "&security=restricted").await?;
    // The engine's `security=restricted` sets everything that Pod Security demands.
    enforce(cluster, &ground, "restricted").await?;
    is_told(&ground, json!({}), "RunsAsRoot", &["?security=restricted", "root"], false).await
}

#[tokio::test]
async fn baseline_admits_the_pod() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::new(cluster, "baseline").await?;
    enforce(cluster, &ground, "baseline").await?;
    let launch = ground.script(&Script::Exit(3))?;
    ground.run(&launch).await?;
    let state = ground.becomes(&launch, |state| matches!(state, ObjectState::Exited(_))).await?;
    ensure!(matches!(&state, ObjectState::Exited(exit) if exit.code == 3), "{state:?}");
    Ok(())
}
