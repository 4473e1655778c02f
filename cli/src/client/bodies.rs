//! The parts of the API's responses that the client shows.
//!
//! These are not the service's own types, because a client meets older and newer services: it needs few fields and
//! ignores unknown ones. `--output json` prints the response, not these types.

use renga_shared::domain::Phase;
use renga_shared::placement::Offer;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::names::Place;

/// An execution.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Execution {
    pub(crate) identifier: String,
    /// The id of its context.
    #[serde(default)]
    pub(crate) context_id: String,
    #[serde(default)]
    pub(crate) created: String,
    #[serde(default)]
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) status: Status,
}

/// The phase of its life cycle, and the reason.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) phase: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) exit_code: Option<i64>,
    pub(crate) started: Option<String>,
    pub(crate) finished: Option<String>,
    pub(crate) engine: Option<String>,
}

impl Execution {
    /// Deserializes an execution.
    pub(crate) fn read(value: &Value) -> anyhow::Result<Self> {
        Ok(Self::deserialize(value)?)
    }

    /// Returns the phase; `None` if this client does not know it.
    pub(crate) fn phase(&self) -> Option<Phase> {
        self.status.phase.as_deref()?.parse().ok()
    }

    /// Whether the execution has ended. If the phase is not known, the legacy state decides.
    pub(crate) fn has_ended(&self) -> bool {
        self.phase().map_or_else(|| matches!(self.state.as_str(), "exited" | "unavailable"), Phase::is_terminal)
    }

    /// Returns the ids that its path needs.
    pub(crate) fn place(&self) -> Place {
        Place { context: self.context_id.clone(), execution: self.identifier.clone() }
    }
}

/// The parts of a context that explain an execution.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Context {
    pub(crate) identifier: String,
    #[serde(default)]
    pub(crate) spec: Specification,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Specification {
    pub(crate) image: String,
}

/// An engine.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Engine {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) up: bool,
    #[serde(default)]
    pub(crate) since: String,
    #[serde(default)]
    pub(crate) reason: Option<String>,
    #[serde(default)]
    pub(crate) version: Option<String>,
    /// Numbers of executions that run, that are starting, and that wait for capacity.
    #[serde(default)]
    pub(crate) running: u32,
    #[serde(default)]
    pub(crate) pending: u32,
    #[serde(default)]
    pub(crate) waiting: u32,
    /// The engine's profile with its free capacity; `None` if this client cannot read it.
    #[serde(default, deserialize_with = "understood")]
    pub(crate) offer: Option<Offer>,
}

fn understood<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Offer>, D::Error> {
    Ok(Offer::deserialize(Value::deserialize(deserializer)?).ok())
}
