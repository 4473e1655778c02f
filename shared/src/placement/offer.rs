//! What an engine offers, as it was configured and last observed.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Claim, Volumes};
use crate::domain::{EngineName, Protocol, Quantity, Why};

/// How much of a resource: thousandths of a processor, bytes of memory or storage, pieces of anything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Amount(pub i64);

impl Amount {
    /// A quantity of the resource `name`, rounded up.
    pub fn of(name: &str, quantity: &Quantity) -> Self {
        const MILLI: i64 = 1_000_000;
        match name {
            "cpu" => Self(quantity.as_nanos() / MILLI + i64::from(quantity.as_nanos() % MILLI != 0)),
            _ => Self(quantity.as_whole()),
        }
    }

    /// As people read it, of the resource `name`.
    pub fn show(self, name: &str) -> impl fmt::Display {
        let bytes = |bytes: i64| match bytes {
            gi if gi >= 10 << 30 => format!("{}Gi", gi >> 30),
            mi if mi >= 10 << 20 => format!("{}Mi", mi >> 20),
            ki if ki >= 10 << 10 => format!("{}Ki", ki >> 10),
            other => other.to_string(),
        };
        match name {
            "cpu" if self.0 % 1000 == 0 => (self.0 / 1000).to_string(),
            "cpu" => format!("{}m", self.0),
            "memory" | "ephemeral-storage" => bytes(self.0),
            _ => self.0.to_string(),
        }
    }
}

/// The namespaces that executions may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Namespaces {
    /// Any: the engine has none, or its operator allows all.
    #[default]
    Any,
    /// These. `default` is always allowed: it stands for the engine's own.
    Only(Vec<String>),
}

impl Namespaces {
    /// The namespace of who names none: the engine's own.
    pub const DEFAULT: &'static str = "default";

    /// Whether an execution may ask for `namespace`.
    pub fn allow(&self, namespace: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(names) => namespace == Self::DEFAULT || names.iter().any(|name| name == namespace),
        }
    }
}

/// How much room an engine has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// All that it has, of every resource that it knows.
    pub total: BTreeMap<String, Amount>,
    /// The most that one execution can be given: the largest node. Absent for what is as in `total`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub largest: BTreeMap<String, Amount>,
    /// What is left after requests. What the engine does not count itself is left out, and is what its executions do not
    /// request: see [`Room::less`].
    #[serde(default)]
    pub free: BTreeMap<String, Amount>,
    /// Whether it takes what does not fit now, and starts it as soon as it does.
    #[serde(default)]
    pub queues: bool,
}

impl Room {
    /// The most that one execution can be given of a resource. `None`: there is no such resource.
    pub fn most(&self, resource: &str) -> Option<Amount> {
        self.largest.get(resource).or_else(|| self.total.get(resource)).copied()
    }

    /// The same room, where the engine does not count what is left of it: less what its executions use.
    pub fn less(mut self, usage: &Usage) -> Self {
        for (resource, total) in &self.total {
            let used = match resource.as_str() {
                "cpu" => usage.cpu_millis,
                "memory" => usage.memory_bytes,
                extended => usage.extended.get(extended).copied().unwrap_or_default(),
            };
            let left = || Amount(total.0.saturating_sub(used).max(0));
            self.free.entry(resource.clone()).or_insert_with(left);
        }
        self
    }
}

/// What is known of an engine's capacity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredCapacity", into = "StoredCapacity")]
pub enum Capacity {
    /// The engine has not told it yet: nothing is placed there before it has.
    #[default]
    Unknown,
    /// The engine does not tell it: nothing is refused for it.
    NotReported,
    /// So much.
    Known(Room),
}

/// A capacity as it is stored and shown: `room` is what it was before there was a state beside it.
#[derive(Serialize, Deserialize)]
struct StoredCapacity {
    #[serde(default)]
    capacity: CapacityState,
    #[serde(default)]
    room: Option<Room>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum CapacityState {
    #[default]
    Unknown,
    NotReported,
    Known,
}

impl From<StoredCapacity> for Capacity {
    fn from(stored: StoredCapacity) -> Self {
        match (stored.capacity, stored.room) {
            (_, Some(room)) => Self::Known(room),
            (CapacityState::NotReported, None) => Self::NotReported,
            (CapacityState::Unknown | CapacityState::Known, None) => Self::Unknown,
        }
    }
}

impl From<Capacity> for StoredCapacity {
    fn from(capacity: Capacity) -> Self {
        match capacity {
            Capacity::Unknown => Self { capacity: CapacityState::Unknown, room: None },
            Capacity::NotReported => Self { capacity: CapacityState::NotReported, room: None },
            Capacity::Known(room) => Self { capacity: CapacityState::Known, room: Some(room) },
        }
    }
}

impl Capacity {
    /// The room, if it is known.
    pub const fn room(&self) -> Option<&Room> {
        match self {
            Self::Known(room) => Some(room),
            Self::Unknown | Self::NotReported => None,
        }
    }

    /// The same, where the engine does not count what is left of it: see [`Room::less`].
    pub fn less(self, usage: &Usage) -> Self {
        match self {
            Self::Known(room) => Self::Known(room.less(usage)),
            other => other,
        }
    }
}

/// What an engine offers. Stored with the engine, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Offer {
    /// Whether it was taken out of the configuration: it is kept in view until what it runs has ended.
    pub retired: bool,
    /// The most executions at once: `?max=`.
    pub max: Option<u32>,
    /// A user must have one of these: `?claims=`. Empty: everybody may use it.
    pub claims: Vec<Claim>,
    /// Labels that contexts may require or prefer: `?labels=`, and `arch` and `kind`.
    pub labels: BTreeMap<String, String>,
    /// The namespaces that may be asked for.
    pub namespaces: Namespaces,
    /// The kinds of volumes that it can mount.
    pub volumes: Vec<Volumes>,
    /// The protocols of ports that it can publish, by name.
    pub protocols: Vec<String>,
    /// How much room it has.
    #[serde(flatten)]
    pub capacity: Capacity,
}

impl Offer {
    /// Whether ports of this protocol can be published.
    pub fn publishes(&self, protocol: Protocol) -> bool {
        self.protocols.iter().any(|name| name == protocol.as_str())
    }
}

/// What an engine's executions use, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Those that are placed there and have not ended.
    pub placed: u32,
    /// Those of them that run.
    pub running: u32,
    /// Those that wait for a place there.
    pub waiting: u32,
    /// The thousandths of a processor that the placed ones request.
    pub cpu_millis: i64,
    /// The bytes of memory that they request.
    pub memory_bytes: i64,
    /// How much they request of each extended resource.
    pub extended: BTreeMap<String, i64>,
}

/// Who else waits for an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// How many executions are placed there and have not ended.
    pub placed: u32,
    /// How many wait for it and come before this one.
    pub ahead: u32,
}

/// An engine that may be chosen, as it was last observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its configured name.
    pub name: EngineName,
    /// What it is: `docker`.
    pub kind: String,
    /// Why it takes nothing now: it does not answer.
    pub away: Option<Why>,
    /// What it offers.
    pub offer: Offer,
    /// Who else is there.
    pub queue: Queue,
}

impl Candidate {
    /// Whether a request that names an engine or a kind of engine may mean this one; one that names none means any.
    pub fn is_meant_by(&self, asked: Option<&str>) -> bool {
        asked.is_none_or(|asked| asked == self.name.as_str() || asked == self.kind)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_used_of_an_extended_resource_leaves_the_others() {
        let amounts = |given: &[(&str, i64)]| -> BTreeMap<String, Amount> {
            given.iter().map(|(name, amount)| ((*name).to_owned(), Amount(*amount))).collect()
        };
        let total = amounts(&[("cpu", 4_000), ("nvidia.com/gpu", 4), ("example.com/fpga", 2)]);
        let usage = Usage { extended: [("nvidia.com/gpu".to_owned(), 3)].into(), ..Usage::default() };
        let left = Room { total, ..Room::default() }.less(&usage).free;
        assert_eq!(left, amounts(&[("cpu", 4_000), ("nvidia.com/gpu", 1), ("example.com/fpga", 2)]));
    }

    #[test]
    fn a_capacity_is_read_as_it_is_stored_and_as_it_was_stored_before() {
        let room = Room { total: [("cpu".to_owned(), Amount(4_000))].into(), ..Room::default() };
        for (capacity, state) in [
            (Capacity::Unknown, "unknown"),
            (Capacity::NotReported, "notReported"),
            (Capacity::Known(room.clone()), "known"),
        ] {
            let offer = Offer { capacity, max: Some(3), ..Offer::default() };
            let stored = serde_json::to_value(&offer).unwrap();
            assert_eq!((&stored["capacity"], stored["room"].is_object()), (&json!(state), state == "known"));
            assert_eq!(serde_json::from_value::<Offer>(stored).unwrap(), offer);
        }
        let before = |stored| serde_json::from_value::<Offer>(stored).unwrap().capacity;
        assert_eq!(before(json!({})), Capacity::Unknown);
        assert_eq!(before(json!({"room": null})), Capacity::Unknown);
        assert_eq!(before(json!({"max": 2, "room": {"total": {"cpu": 4_000}}})), Capacity::Known(room));
    }
}
