//! The capacity of a cluster: its nodes' allocatable resources, minus the requests of their pods.

use std::collections::{BTreeMap, HashMap, HashSet};

use k8s_openapi::api::core::v1::{Node, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use renga_shared::domain::Quantity;
use renga_shared::placement::{Amount, Room};

/// Amounts by resource.
type Amounts = BTreeMap<String, Amount>;

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Nodes,
    Pods,
}

/// What is known of all nodes of a cluster and the pods on them.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// What lists in progress have shown: names of nodes, uids of pods.
    listed_nodes: Option<HashSet<String>>,
    listed_pods: Option<HashSet<String>>,
    /// What each node that takes our pods can give, by its name.
    nodes: HashMap<String, Amounts>,
    architectures: HashMap<String, String>,
    /// The node and the requests of each pod, by pod uid.
    pods: HashMap<String, (String, Amounts)>,
}

impl Nodes {
    pub(super) fn put_node(&mut self, node: &Node) {
        let Some(name) = node.metadata.name.clone() else { return };
        if let Some(listed) = &mut self.listed_nodes {
            listed.insert(name.clone());
        }
        if !takes_pods(node) {
            self.nodes.remove(&name);
            return;
        }
        let status = node.status.as_ref();
        if let Some(info) = status.and_then(|status| status.node_info.as_ref()) {
            self.architectures.insert(name.clone(), info.architecture.clone());
        }
        let given = status.and_then(|status| status.allocatable.as_ref());
        self.nodes.insert(name, given.map(amounts).unwrap_or_default());
    }

    pub(super) fn node_gone(&mut self, name: &str) {
        self.nodes.remove(name);
        self.architectures.remove(name);
    }

    pub(super) fn put_pod(&mut self, pod: &Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        if let Some(listed) = &mut self.listed_pods {
            listed.insert(uid.clone());
        }
        let ended = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        match node.filter(|_| !matches!(ended, Some("Succeeded" | "Failed"))) {
            Some(node) => drop(self.pods.insert(uid, (node, requests(pod)))),
            None => self.pod_gone(&uid),
        }
    }

    pub(super) fn pod_gone(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    /// All objects of a kind are listed from now on.
    pub(super) fn begin_list(&mut self, kind: Kind) {
        match kind {
            Kind::Nodes => self.listed_nodes = Some(HashSet::new()),
            Kind::Pods => self.listed_pods = Some(HashSet::new()),
        }
    }

    /// All objects of a kind are listed: what the list did not show is gone.
    pub(super) fn end_list(&mut self, kind: Kind) {
        match kind {
            Kind::Nodes => {
                let listed = self.listed_nodes.take().unwrap_or_default();
                self.nodes.retain(|name, _| listed.contains(name));
                self.architectures.retain(|name, _| listed.contains(name));
            }
            Kind::Pods => {
                let listed = self.listed_pods.take().unwrap_or_default();
                self.pods.retain(|uid, _| listed.contains(uid));
            }
        }
    }

    /// Returns the architecture of all nodes, if they have the same.
    pub(super) fn architecture(&self) -> Option<String> {
        let mut all = self.nodes.keys().filter_map(|name| self.architectures.get(name));
        let first = all.next()?;
        all.all(|other| other == first).then(|| first.clone())
    }

    /// Returns the cluster's capacity. `queues` is set, because the cluster starts a pod as soon as it fits.
    pub(super) fn room(&self) -> Room {
        let mut asked: HashMap<&str, Amounts> = HashMap::new();
        for (node, requests) in self.pods.values() {
            add(asked.entry(node).or_default(), requests);
        }
        let mut room = Room { queues: true, ..Room::default() };
        for (name, given) in &self.nodes {
            add(&mut room.total, given);
            for (resource, amount) in given {
                let most = room.largest.entry(resource.clone()).or_default();
                *most = (*most).max(*amount);
                let used = asked.get(name.as_str()).and_then(|asked| asked.get(resource)).copied().unwrap_or_default();
                // The requests on a node may exceed what is allocatable now.
                let free = Amount(amount.0.saturating_sub(used.0).max(0));
                add(&mut room.free, &BTreeMap::from([(resource.clone(), free)]));
            }
        }
        room
    }
}

/// Whether pods without tolerations are scheduled on the node.
fn takes_pods(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.filter(|condition| condition.type_ == "Ready").all(|condition| condition.status == "True");
    let Some(spec) = &node.spec else { return ready };
    let keeps_out = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute");
    ready && spec.unschedulable != Some(true) && !spec.taints.iter().flatten().any(|taint| keeps_out(&taint.effect))
}

/// Returns a pod's requests: the sum of its containers or, if larger, its largest init container, plus its overhead.
fn requests(pod: &Pod) -> Amounts {
    let mut all = Amounts::new();
    let Some(spec) = &pod.spec else { return all };
    let of = |resources: &Option<ResourceRequirements>| {
        resources.as_ref().and_then(|resources| resources.requests.as_ref()).map(amounts).unwrap_or_default()
    };
    for container in &spec.containers {
        add(&mut all, &of(&container.resources));
    }
    for before in spec.init_containers.iter().flatten() {
        for (resource, amount) in of(&before.resources) {
            let most = all.entry(resource).or_default();
            *most = (*most).max(amount);
        }
    }
    add(&mut all, &spec.overhead.as_ref().map(amounts).unwrap_or_default());
    add(&mut all, &BTreeMap::from([("pods".to_owned(), Amount(1))]));
    all
}

fn amounts(written: &BTreeMap<String, Written>) -> Amounts {
    let read = |(name, Written(text)): (&String, &Written)| {
        Some((name.clone(), Amount::of(name, &Quantity::parse(text).ok()?)))
    };
    written.iter().filter_map(read).collect()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (resource, amount) in more {
        let before = sum.entry(resource.clone()).or_default();
        *before = Amount(before.0.saturating_add(amount.0));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, cpu: &str, spec: Value, ready: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name}, "spec": spec,
            "status": {"allocatable": {"cpu": cpu, "memory": "4Gi"}, "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    fn pod(uid: &str, node: &str, cpu: &str, phase: &str) -> Pod {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        serde_json::from_value(json!({
            "metadata": {"uid": uid}, "spec": {"nodeName": node, "containers": [container, container]}, "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn free_capacity_is_allocatable_minus_requests() {
        let mut nodes = Nodes::default();
        nodes.put_node(&node("a", "2", json!({}), "True"));
        nodes.put_node(&node("b", "3500m", json!({}), "True"));
        nodes.put_node(&node("cordoned", "64", json!({"unschedulable": true}), "True"));
        nodes.put_node(&node("away", "64", json!({}), "Unknown"));
        nodes.put_node(&node("tainted", "64", json!({"taints": [{"key": "k", "effect": "NoSchedule"}]}), "True"));
        nodes.put_pod(&pod("1", "a", "1500m", "Running"));
        nodes.put_pod(&pod("2", "b", "250m", "Running"));
        nodes.put_pod(&pod("3", "b", "1", "Succeeded"));
        let room = nodes.room();
        let cpu = |amounts: &Amounts| amounts["cpu"].0;
        // The requests on the first node exceed its allocatable CPU. This reduces nothing on the second.
        assert_eq!((cpu(&room.total), cpu(&room.largest), cpu(&room.free)), (5_500, 3_500, 3_000));
        assert_eq!(room.total["memory"].0, 8 << 30);
        nodes.pod_gone("2");
        nodes.node_gone("a");
        assert_eq!(cpu(&nodes.room().free), 3_500);
    }
}
