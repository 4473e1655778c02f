//! Changes to a cluster behind the deployer's back, as its administrator.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use renga_reconciler::engine::{EXECUTION_LABEL, Launch, object_name};
use renga_tests::deployment::until;
use serde_json::json;

use crate::bed::Namespace;

/// Creates a PersistentVolumeClaim, and a volume for it alone in a folder of the node.
pub(crate) async fn claim(Namespace { cluster, executions, .. }: &Namespace, name: &str, folder: &Path) -> Result<()> {
    let size = json!({ "storage": "1Mi" });
    let spec = json!({
        "capacity": size,
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "hostPath": { "path": folder.join(name), "type": "DirectoryOrCreate" },
    });
    let metadata = json!({ "name": name });
    cluster
        .apply(&json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec }))
        .await?;
    let spec = json!({
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "volumeName": name,
        "resources": { "requests": size },
    });
    let metadata = json!({ "name": name, "namespace": executions.namespace });
    cluster
        .apply(&json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec }))
        .await
}

/// Creates a ConfigMap and a Secret, each with the file `file`.
pub(crate) async fn config(Namespace { cluster, executions, .. }: &Namespace) -> Result<()> {
    for (kind, field) in [("ConfigMap", "data"), ("Secret", "stringData")] {
        let metadata = json!({ "name": "given", "namespace": executions.namespace });
        let object = json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata, (field): { "file": kind } });
        cluster.apply(&object).await?;
    }
    Ok(())
}

/// Returns the name of the execution's pod.
async fn pod(Namespace { cluster, executions, .. }: &Namespace, launch: &Launch) -> Result<String> {
    let label = format!("--selector={EXECUTION_LABEL}={}", launch.id);
    let pods = cluster.get(&["pods", &label, "--namespace", &executions.namespace]).await?;
    Ok(pods["items"][0]["metadata"]["name"].as_str().context("there is no pod")?.to_owned())
}

pub(crate) async fn kill(namespace: &Namespace, launch: &Launch) -> Result<()> {
    let running = until("it to run", async || {
        let pod = pod(namespace, launch).await?;
        let seen = namespace.cluster.get(&["pod", &pod, "--namespace", &namespace.executions.namespace]).await?;
        let state = &seen["status"]["containerStatuses"][0]["state"];
        Ok(if state["running"].is_null() { Err(state.clone()) } else { Ok(pod) })
    });
    namespace.cluster.kill_container(&namespace.executions.namespace, &running.await?).await
}

pub(crate) async fn lose(Namespace { cluster, executions, .. }: &Namespace, launch: &Launch) -> Result<()> {
    let in_it = format!("--namespace={}", executions.namespace);
    cluster.kubectl(&["delete", "job", &object_name(launch.id), &in_it, "--grace-period=1"]).await.map(drop)
}

/// Deletes the namespace and the volumes of `claims`. Fails if the deployer left anything in the namespace.
pub(crate) async fn clean(Namespace { cluster, executions, .. }: &Namespace, claims: &[String]) -> Result<()> {
    let kinds = "jobs,pods,services,secrets,ingresses";
    let selector = format!("--selector={EXECUTION_LABEL}");
    let gone = until("what belongs to a Job to go with it", async || {
        let left = cluster.get(&[kinds, &selector, "--namespace", &executions.namespace]).await?;
        let names: Vec<_> =
            left["items"].as_array().into_iter().flatten().map(|item| &item["metadata"]["name"]).collect();
        Ok(if names.is_empty() { Ok(()) } else { Err(json!(names)) })
    });
    let gone = gone.await;
    cluster.kubectl(&["delete", "namespace", &executions.namespace, "--wait=false"]).await?;
    for claim in claims {
        cluster.kubectl(&["delete", "persistentvolume", claim, "--wait=false"]).await?;
    }
    ensure!(gone.is_ok(), "{gone:?}");
    Ok(())
}
