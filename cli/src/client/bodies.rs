//! The API's answers as far as they are shown.
//!
//! These are not the service's own types: a client meets older and newer services, so it asks for little, and what it does
//! not know it leaves alone. `--output json` prints what was answered, not what is read here.

use renga_shared::domain::Phase;
use renga_shared::placement::Offer;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::names::Place;

/// An execution.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Execution {
    pub(crate) identifier: String,
    /// The context that it is an execution of.
    #[serde(default)]
    pub(crate) context_id: String,
    #[serde(default)]
    pub(crate) created: String,
    #[serde(default)]
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) status: Status,
}

/// Where it is in its life, and why.
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
    /// Reads one.
    pub(crate) fn read(value: &Value) -> anyhow::Result<Self> {
        Ok(Self::deserialize(value)?)
    }

    /// Its phase; `None` when it is one that this client does not know.
    pub(crate) fn phase(&self) -> Option<Phase> {
        self.status.phase.as_deref()?.parse().ok()
    }

    /// Whether nothing more will happen to it. Its state decides where its phase is not known.
    pub(crate) fn has_ended(&self) -> bool {
        self.phase().map_or_else(|| matches!(self.state.as_str(), "exited" | "unavailable"), Phase::is_terminal)
    }

    /// Where it is.
    pub(crate) fn place(&self) -> Place {
        Place { context: self.context_id.clone(), execution: self.identifier.clone() }
    }
}

/// A context, as far as it explains an execution.
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
    /// How many executions run there, are being started, and wait for a place.
    #[serde(default)]
    pub(crate) running: u32,
    #[serde(default)]
    pub(crate) pending: u32,
    #[serde(default)]
    pub(crate) waiting: u32,
    /// What it accepts and how much room it has; `None` when this client does not understand it.
    #[serde(default, deserialize_with = "understood")]
    pub(crate) offer: Option<Offer>,
}

fn understood<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Offer>, D::Error> {
    Ok(Offer::deserialize(Value::deserialize(deserializer)?).ok())
}
