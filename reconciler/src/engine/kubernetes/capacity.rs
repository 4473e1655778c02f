//! Tracks a cluster's capacity with one watch of its nodes and one of the pods on them.
//!
//! What runs is never judged by it. Until both have listed everything, the capacity is not known yet, and nothing is
//! placed on the cluster. Where the deployer may not see nodes or other people's pods, the cluster does not report its
//! capacity, which is said once.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::core::Resource;
use kube::runtime::watcher::{self, Event, watcher};
use renga_shared::placement::Capacity;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::client::Connection;
use super::room::{Kind, Nodes};

/// Pause before a failed watch is restarted. It may be long, because nothing waits for the watch.
const PAUSE: Duration = Duration::from_secs(10);
/// Pause before a forbidden watch is restarted.
const FORBIDDEN_PAUSE: Duration = Duration::from_secs(300);
/// The field selector of pods that are on a node and have not ended.
const PODS_ON_NODES: &str = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed";

/// The watches of a cluster's nodes and of the pods on them.
pub(super) struct NodesWatch {
    connection: Arc<Connection>,
    seen: Mutex<NodesSeen>,
}

/// What the watches have shown.
#[derive(Debug, Default)]
pub(super) struct NodesSeen {
    nodes: Nodes,
    of_nodes: Listing,
    of_pods: Listing,
}

/// How far a watch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Listing {
    /// It has not listed everything yet.
    #[default]
    Never,
    /// It lists everything anew, among what it has shown before.
    Again,
    /// It has listed everything.
    Complete,
    /// It may not list anything.
    Forbidden,
}

impl Listing {
    fn begin(&mut self) {
        if *self == Self::Complete {
            *self = Self::Again;
        }
    }
}

impl NodesSeen {
    /// The architecture of all nodes, if it is known and the same, and the room on them.
    fn capacity(&self) -> (Option<String>, Capacity) {
        let known = |listing| matches!(listing, Listing::Again | Listing::Complete);
        let architecture = known(self.of_nodes).then(|| self.nodes.architecture()).flatten();
        let capacity = match (self.of_nodes, self.of_pods) {
            (Listing::Forbidden, _) | (_, Listing::Forbidden) => Capacity::NotReported,
            (nodes, pods) if known(nodes) && known(pods) => Capacity::Known(self.nodes.room()),
            _ => Capacity::Unknown,
        };
        (architecture, capacity)
    }
}

impl NodesWatch {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self { connection, seen: Mutex::default() }
    }

    /// The architecture of all nodes, if it is known and the same, and the room on them.
    pub(super) fn now(&self) -> (Option<String>, Capacity) {
        self.lock().capacity()
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
            if forbidden {
                *K::listing(&mut self.lock()) = Listing::Forbidden;
            }
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
                Ok(event) => self.lock().heard(event),
                Err(watcher::Error::WatchError(status)) if status.code == 410 => {}
                Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) => {
                    return matches!(status.code, 401 | 403 | 404 | 405);
                }
                Err(_) => return false,
            }
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, NodesSeen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodesSeen {
    fn heard<K: Counted>(&mut self, event: Event<K>) {
        match event {
            Event::Init => {
                K::listing(self).begin();
                self.nodes.begin_list(K::KIND);
            }
            Event::InitDone => {
                *K::listing(self) = Listing::Complete;
                self.nodes.end_list(K::KIND);
            }
            Event::InitApply(object) | Event::Apply(object) => object.put(&mut self.nodes),
            Event::Delete(object) => object.gone(&mut self.nodes),
        }
    }
}

/// A kind of object that determines the capacity.
trait Counted: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static {
    const KIND: Kind;

    fn selected() -> watcher::Config;
    fn listing(seen: &mut NodesSeen) -> &mut Listing;
    fn put(&self, nodes: &mut Nodes);
    fn gone(&self, nodes: &mut Nodes);
}

impl Counted for Node {
    const KIND: Kind = Kind::Nodes;

    fn selected() -> watcher::Config {
        watcher::Config::default()
    }

    fn listing(seen: &mut NodesSeen) -> &mut Listing {
        &mut seen.of_nodes
    }

    fn put(&self, nodes: &mut Nodes) {
        nodes.put_node(self);
    }

    fn gone(&self, nodes: &mut Nodes) {
        nodes.node_gone(self.metadata.name.as_deref().unwrap_or_default());
    }
}

impl Counted for Pod {
    const KIND: Kind = Kind::Pods;

    fn selected() -> watcher::Config {
        watcher::Config::default().fields(PODS_ON_NODES)
    }

    fn listing(seen: &mut NodesSeen) -> &mut Listing {
        &mut seen.of_pods
    }

    fn put(&self, nodes: &mut Nodes) {
        nodes.put_pod(self);
    }

    fn gone(&self, nodes: &mut Nodes) {
        nodes.pod_gone(self.metadata.uid.as_deref().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read<K: Counted>(value: Value) -> K {
        serde_json::from_value(value).unwrap()
    }

    fn node(name: &str) -> Node {
        read(json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "2"}}}))
    }

    fn cpu(seen: &NodesSeen) -> i64 {
        match seen.capacity().1 {
            Capacity::Known(room) => room.total.get("cpu").map_or(0, |amount| amount.0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_capacity_is_unknown_until_both_have_listed_everything() {
        let mut seen = NodesSeen::default();
        assert_eq!(seen.capacity().1, Capacity::Unknown);
        seen.heard::<Node>(Event::Init);
        seen.heard(Event::InitApply(node("a")));
        seen.heard::<Node>(Event::InitDone);
        assert_eq!(seen.capacity().1, Capacity::Unknown, "the pods are not listed yet");
        seen.heard::<Pod>(Event::Init);
        assert_eq!(seen.capacity().1, Capacity::Unknown);
        seen.heard::<Pod>(Event::InitDone);
        assert_eq!(cpu(&seen), 2_000);
    }

    #[test]
    fn a_list_that_is_made_anew_changes_nothing_until_it_is_complete() {
        let mut seen = NodesSeen { of_pods: Listing::Complete, ..NodesSeen::default() };
        seen.heard::<Node>(Event::Init);
        for name in ["a", "b"] {
            seen.heard(Event::InitApply(node(name)));
        }
        seen.heard::<Node>(Event::InitDone);
        seen.heard::<Node>(Event::Init);
        assert_eq!(cpu(&seen), 4_000);
        seen.heard(Event::InitApply(node("b")));
        assert_eq!(cpu(&seen), 4_000);
        seen.heard::<Node>(Event::InitDone);
        assert_eq!(cpu(&seen), 2_000, "the node a is gone");
    }

    #[test]
    fn a_cluster_that_does_not_show_its_nodes_does_not_report_its_capacity() {
        for (of_nodes, of_pods) in [(Listing::Forbidden, Listing::Complete), (Listing::Complete, Listing::Forbidden)] {
            let seen = NodesSeen { of_nodes, of_pods, ..NodesSeen::default() };
            assert_eq!(seen.capacity().1, Capacity::NotReported);
        }
        let mut seen = NodesSeen { of_nodes: Listing::Forbidden, of_pods: Listing::Complete, ..NodesSeen::default() };
        seen.heard::<Node>(Event::Init);
        assert_eq!(seen.capacity().1, Capacity::NotReported, "it is asked again now and then");
    }
}
