//! Simulated nodes, which run nothing: they report to the cluster that they are alive, and that each pod bound to them
//! runs. Followers of a pod's logs get none and wait.
//!
//! Thousands of pods therefore cost no more than their objects. Everything else is real: the API server, its store, the
//! controllers and the scheduler.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use renga_tests::servers::Cluster;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::simulated_kubelet::SimulatedKubelet;

const NODES: usize = 20;
/// Pods per node. In total more than are created, so that the scheduler always finds free capacity.
const PODS: usize = 1_000;
/// The interval of heartbeats. The cluster takes a node for dead after 40 s without one.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// Number of pods whose status is updated in parallel.
const AT_ONCE: usize = 8;

/// The nodes. They stop when the value is dropped.
pub(crate) struct SimulatedNodes {
    logs_asked: Arc<AtomicU64>,
    /// The tasks are aborted on drop.
    _tasks: JoinSet<Result<()>>,
}

impl SimulatedNodes {
    /// Creates the nodes, and returns when all are ready.
    pub(crate) async fn start(cluster: &Cluster, client: Client) -> Result<Self> {
        let kubelet = SimulatedKubelet::bind(cluster.machine_address(), cluster.folder()).await?;
        let kubelet_at = (cluster.machine_address(), kubelet.port()?);
        let nodes: Api<Node> = Api::all(client.clone());
        for number in 0..NODES {
            let name = format!("simulated-{number}");
            let node = json!({ "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } } });
            nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await.context("make a node")?;
        }
        tell_that_they_live(&nodes, kubelet_at).await?;
        let mut tasks = JoinSet::new();
        let logs_asked = kubelet.asked();
        tasks.spawn(kubelet.serve());
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(SIGN_OF_LIFE).await;
                tell_that_they_live(&nodes, kubelet_at).await?;
            }
        });
        tasks.spawn(run_pods(client));
        Ok(Self { logs_asked, _tasks: tasks })
    }

    /// Returns the number of requests for a pod's logs.
    pub(crate) fn logs_asked(&self) -> u64 {
        self.logs_asked.load(Ordering::Relaxed)
    }
}

async fn tell_that_they_live(nodes: &Api<Node>, (address, port): (Ipv4Addr, u16)) -> Result<()> {
    let now = k8s_openapi::jiff::Timestamp::now();
    let room = json!({ "cpu": "1000", "memory": "1000Gi", "pods": PODS.to_string() });
    let status = json!({ "status": {
        "capacity": room, "allocatable": room,
        "conditions": [{ "type": "Ready", "status": "True", "reason": "Simulated", "lastHeartbeatTime": now }],
        "addresses": [{ "type": "InternalIP", "address": address }],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
    }});
    for number in 0..NODES {
        let name = format!("simulated-{number}");
        nodes
            .patch_status(&name, &PatchParams::default(), &Patch::Strategic(&status))
            .await
            .context("a node's status")?;
        // This taint keeps pods away until a node is known to be ready.
        let untainted = json!({ "spec": { "taints": null } });
        nodes.patch(&name, &PatchParams::default(), &Patch::Merge(&untainted)).await.context("a node's taints")?;
    }
    Ok(())
}

/// Sets each pod that is bound to a node to running, and removes each pod that is being deleted.
async fn run_pods(client: Client) -> Result<()> {
    let pods: Api<Pod> = Api::all(client.clone());
    let config = watcher::Config::default().fields("spec.nodeName!=");
    watcher(pods, config)
        .default_backoff()
        .applied_objects()
        .map_err(anyhow::Error::from)
        .try_for_each_concurrent(AT_ONCE, |pod| {
            let client = client.clone();
            async move { run(&client, &pod).await }
        })
        .await
}

async fn run(client: &Client, pod: &Pod) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let name = pod.name_any();
    let done = if pod.metadata.deletion_timestamp.is_some() {
        pods.delete(&name, &DeleteParams::default().grace_period(0)).await.map(drop)
    } else if pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending") {
        pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&running(pod))).await.map(drop)
    } else {
        Ok(())
    };
    match done {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        done => done.context("a pod's status"),
    }
}

fn running(pod: &Pod) -> Value {
    let now = k8s_openapi::jiff::Timestamp::now();
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| {
        json!({
            "name": container.name, "image": container.image, "imageID": "simulated", "ready": true, "restartCount": 0,
            "started": true, "containerID": format!("simulated://{}", pod.name_any()), "state": { "running": { "startedAt": now } },
        })
    });
    json!({ "status": {
        "phase": "Running", "startTime": now, "podIP": "10.0.0.1", "hostIP": "10.0.0.1",
        "conditions": [{ "type": "Ready", "status": "True" }, { "type": "Initialized", "status": "True" }],
        "containerStatuses": containers.collect::<Value>(),
    }})
}
