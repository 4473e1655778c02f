//! An execution whose pod or node is deleted is lost, with the reason. An outage of a node changes nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use renga_reconciler::engine::ObjectState;
use renga_tests::require;
use renga_tests::scripts::Script;
use serde_json::json;

use crate::Ground;

fn is_lost(state: &ObjectState) -> bool {
    matches!(state, ObjectState::Lost(_))
}

async fn is_lost_as(
    ground: &Ground,
    script: &Script,
    reason: &str,
    take: impl AsyncFnOnce(&str) -> Result<()>,
    cluster: &renga_tests::servers::Cluster,
) -> Result<()> {
    let launch = ground.script(script)?;
    let object = ground.run_until_started(&launch).await?;
    take(&ground.pod_name(cluster, &launch).await?).await?;
    let state = ground.becomes(&launch, is_lost).await?;
    ensure!(matches!(&state, ObjectState::Lost(why) if why.reason == reason), "{state:?}");
    // The execution is still lost after its pod and the pod's status are gone.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let state = ground.object(&launch).await?.state;
    ensure!(is_lost(&state), "{state:?}");
    ground.engine.remove(&object).await?;
    ensure!(ground.engine.inspect(launch.id).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_deleted_pod_is_lost() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::new(cluster, "deleted").await?;
    let in_it = format!("--namespace={}", ground.executions.namespace);
    for options in [&["--wait=false"][..], &["--grace-period=1", "--wait=false"], &["--force", "--wait=false"]] {
        let delete = async |pod: &str| {
            let arguments = [&["delete", "pod", pod, &in_it], options].concat();
            cluster.kubectl(&arguments).await.map(drop)
        };
        is_lost_as(&ground, &Script::Sleep, "PodDeleted", delete, cluster).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_evicted_pod_is_lost() -> Result<()> {
    let cluster = require!(kubernetes);
    let ground = Ground::new(cluster, "evicted").await?;
    let namespace = &ground.executions.namespace;
    let evict = async |pod: &str| {
        let eviction = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": { "name": pod, "namespace": namespace },
        });
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("eviction.json");
        std::fs::write(&file, eviction.to_string())?;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
        cluster.kubectl(&["create", "--raw", &path, "--filename", &file.display().to_string()]).await.map(drop)
    };
    is_lost_as(&ground, &Script::Sleep, "Evicted", evict, cluster).await
}

#[tokio::test]
async fn a_node_is_lost_when_it_is_deleted_and_not_while_it_is_unreachable() -> Result<()> {
    let mut cluster = require!(dedicated_kubernetes);
    let ground = Ground::new(&cluster, "node").await?;
    let launch = ground.script(&Script::Sleep)?;
    let object = ground.run_until_started(&launch).await?;
    let before = ground.object(&launch).await?;

    cluster.lose_node().await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    ensure!(ground.object(&launch).await? == before);
    cluster.return_node().await?;
    ensure!(ground.object(&launch).await? == before);

    cluster.delete_node().await?;
    let mut state = before.state;
    for _ in 0..200 {
        state = ground.object(&launch).await?.state;
        if is_lost(&state) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    ensure!(
        matches!(&state, ObjectState::Lost(why) if why.reason == "NodeLost" || why.reason == "PodDeleted"),
        "{state:?}"
    );
    // The node cannot report the end of the pod. The pod is removed nevertheless.
    ground.engine.remove(&object).await?;
    ensure!(ground.engine.inspect(launch.id).await?.is_none());
    Ok(())
}
