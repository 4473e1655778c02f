//! Tracks a cluster's capacity with one watch of its nodes and one of the pods on them.
//!
//! No launch, stop or observed state depends on it. So if the deployer may not read nodes or other users' pods, the
//! capacity stays unknown, which is logged once.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::core::Resource;
use kube::runtime::watcher::{self, Event, watcher};
use renga_shared::placement::Room;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::client::Connection;
use super::room::Nodes;

/// Pause before a failed watch is restarted. It may be long, because nothing waits for the watch.
const PAUSE: Duration = Duration::from_secs(10);
/// Pause before a forbidden watch is restarted.
const FORBIDDEN_PAUSE: Duration = Duration::from_secs(300);
/// The field selector of pods that are on a node and have not ended.
const PODS_ON_NODES: &str = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed";

/// The present capacity of a cluster, as far as it is known.
pub(super) struct Capacity {
    connection: Arc<Connection>,
    nodes: Mutex<Nodes>,
    nodes_known: AtomicBool,
    pods_known: AtomicBool,
}

impl Capacity {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        let (nodes_known, pods_known) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { connection, nodes: Mutex::default(), nodes_known, pods_known }
    }

    /// Returns the architecture of all nodes and their capacity. `None`: unknown, or not the same on all nodes.
    pub(super) fn now(&self) -> (Option<String>, Option<Room>) {
        let known = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        let nodes = self.lock();
        let architecture = known(&self.nodes_known).then(|| nodes.architecture()).flatten();
        let room = known(&self.nodes_known) && known(&self.pods_known);
        (architecture, room.then(|| nodes.room()))
    }

    /// Spawns both watches into `tasks`.
    pub(super) fn begin(self: &Arc<Self>, tasks: &mut JoinSet<()>) {
        let (nodes, pods) = (Arc::clone(self), Arc::clone(self));
        tasks.spawn(async move { nodes.keep::<Node>().await });
        tasks.spawn(async move { pods.keep::<Pod>().await });
    }

    async fn keep<K: Counted>(&self) {
        let mut told = false;
        loop {
            let forbidden = self.until_it_fails::<K>().await;
            K::known(self).store(false, Ordering::Release);
            if forbidden && !std::mem::replace(&mut told, true) {
                let (url, what) = (&self.connection.url, K::plural(&()));
                tracing::info!(%url, "{url} does not let the deployer see its {what}: its room is not known (deploy/rbac/cluster.yaml)");
            }
            tokio::time::sleep(if forbidden { FORBIDDEN_PAUSE } else { PAUSE }).await;
        }
    }

    /// Watches until a failure. Returns whether the API server forbids the watch.
    async fn until_it_fails<K: Counted>(&self) -> bool {
        let Ok(client) = self.connection.client().await else { return false };
        let mut events = watcher(Api::<K>::all(client), K::selected()).boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => {
                    K::known(self).store(false, Ordering::Release);
                    K::clear(&mut self.lock());
                }
                Ok(Event::InitDone) => K::known(self).store(true, Ordering::Release),
                Ok(Event::InitApply(object) | Event::Apply(object)) => object.put(&mut self.lock()),
                Ok(Event::Delete(object)) => object.gone(&mut self.lock()),
                Err(watcher::Error::WatchError(status)) if status.code == 410 => {}
                Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) => return status.code == 403,
                Err(_) => return false,
            }
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A kind of object that determines the capacity.
trait Counted: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static {
    fn selected() -> watcher::Config;
    fn known(capacity: &Capacity) -> &AtomicBool;
    fn clear(nodes: &mut Nodes);
    fn put(&self, nodes: &mut Nodes);
    fn gone(&self, nodes: &mut Nodes);
}

impl Counted for Node {
    fn selected() -> watcher::Config {
        watcher::Config::default()
    }

    fn known(capacity: &Capacity) -> &AtomicBool {
        &capacity.nodes_known
    }

    fn clear(nodes: &mut Nodes) {
        nodes.clear_nodes();
    }

    fn put(&self, nodes: &mut Nodes) {
        nodes.put_node(self);
    }

    fn gone(&self, nodes: &mut Nodes) {
        nodes.node_gone(self.metadata.name.as_deref().unwrap_or_default());
    }
}

impl Counted for Pod {
    fn selected() -> watcher::Config {
        watcher::Config::default().fields(PODS_ON_NODES)
    }

    fn known(capacity: &Capacity) -> &AtomicBool {
        &capacity.pods_known
    }

    fn clear(nodes: &mut Nodes) {
        nodes.clear_pods();
    }

    fn put(&self, nodes: &mut Nodes) {
        nodes.put_pod(self);
    }

    fn gone(&self, nodes: &mut Nodes) {
        nodes.pod_gone(self.metadata.uid.as_deref().unwrap_or_default());
    }
}
