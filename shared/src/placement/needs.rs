//! What an execution needs of an engine, as far as its specification says.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Amount;
use crate::domain::{Protocol, Quantity, Resources, Specification, VolumeSource};

/// A context's label `renga.placement.requires.zone=eu`: only engines with the label `zone=eu`.
const REQUIRES: &str = "renga.placement.requires.";
/// A context's label `renga.placement.prefers.zone=eu`: engines with the label `zone=eu` first.
const PREFERS: &str = "renga.placement.prefers.";

/// The kinds of volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Volumes {
    /// Empty at the start.
    EmptyDir,
    /// Storage that outlives the execution.
    PersistentVolumeClaim,
    /// A path of the host.
    HostPath,
    /// A ConfigMap of the namespace.
    ConfigMap,
    /// A Secret of the namespace.
    Secret,
}

impl Volumes {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::EmptyDir, Self::PersistentVolumeClaim, Self::HostPath, Self::ConfigMap, Self::Secret];

    /// As a specification names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EmptyDir => "emptyDir",
            Self::PersistentVolumeClaim => "persistentVolumeClaim",
            Self::HostPath => "hostPath",
            Self::ConfigMap => "configMap",
            Self::Secret => "secret",
        }
    }

    const fn of(source: &VolumeSource) -> Self {
        match source {
            VolumeSource::EmptyDir { .. } => Self::EmptyDir,
            VolumeSource::PersistentVolumeClaim { .. } => Self::PersistentVolumeClaim,
            VolumeSource::HostPath { .. } => Self::HostPath,
            VolumeSource::ConfigMap { .. } => Self::ConfigMap,
            VolumeSource::Secret { .. } => Self::Secret,
        }
    }
}

/// What an execution needs of an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// How much of each resource: what is requested, or the limit where only that is given, as Kubernetes reads it.
    pub resources: BTreeMap<String, Amount>,
    /// The kinds of volumes.
    pub volumes: BTreeSet<Volumes>,
    /// The protocols of its ports.
    pub protocols: BTreeSet<Protocol>,
    /// Labels that the engine must have.
    pub requires: BTreeMap<String, String>,
    /// Labels that it should have.
    pub prefers: BTreeMap<String, String>,
}

impl Needs {
    /// What a specification needs.
    pub fn of(spec: &Specification) -> Self {
        let labels = |prefix: &str| {
            let named = spec.labels.iter().filter_map(|label| label.as_str().strip_prefix(prefix));
            named.map(|label| label.split_once('=').unwrap_or((label, ""))).map(owned).collect()
        };
        Self {
            resources: resources(&spec.resources),
            volumes: spec.volumes.iter().map(|volume| Volumes::of(&volume.source)).collect(),
            protocols: spec.ports.iter().map(|port| port.protocol).collect(),
            requires: labels(REQUIRES),
            prefers: labels(PREFERS),
        }
    }

    /// How much it needs of a resource.
    pub fn amount(&self, resource: &str) -> Amount {
        self.resources.get(resource).copied().unwrap_or_default()
    }

    /// How much of each extended resource.
    pub fn extended(&self) -> BTreeMap<&str, Amount> {
        let extended = self.resources.iter().filter(|(name, amount)| name.contains('/') && amount.0 > 0);
        extended.map(|(name, amount)| (name.as_str(), *amount)).collect()
    }
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn resources(resources: &Resources) -> BTreeMap<String, Amount> {
    let amount = |(name, quantity): (&String, &Quantity)| (name.clone(), Amount::of(name, quantity));
    let limits = resources.limits.iter().map(amount);
    // Later entries win: a request over a limit.
    limits.chain(resources.requests.iter().map(amount)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_specification_says_what_it_needs() {
        let spec = Specification::parse(&json!({
            "image": "busybox",
            "ports": ["80", "53/udp"],
            "labels": ["renga.placement.requires.zone=eu", "renga.placement.prefers.disk=ssd", "a=b"],
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "secret": {"secretName": "s"}}],
            "resources": {"limits": {"cpu": "2", "memory": "1Gi", "nvidia.com/gpu": 2}, "requests": {"cpu": "0.5"}},
        }));
        let needs = Needs::of(&spec.unwrap());
        assert_eq!(needs.amount("cpu"), Amount(500));
        assert_eq!(needs.amount("memory"), Amount(1 << 30));
        assert_eq!(needs.amount("ephemeral-storage"), Amount(0));
        assert_eq!(needs.extended(), [("nvidia.com/gpu", Amount(2))].into());
        assert_eq!(needs.volumes, [Volumes::EmptyDir, Volumes::Secret].into());
        assert_eq!(needs.protocols, [Protocol::Tcp, Protocol::Udp].into());
        assert_eq!(needs.requires, [("zone".to_owned(), "eu".to_owned())].into());
        assert_eq!(needs.prefers, [("disk".to_owned(), "ssd".to_owned())].into());
    }
}
