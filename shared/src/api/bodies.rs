//! The bodies of answers. A specification or an environment that was stored as JSON is passed on as it is, unparsed.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::rfc3339;
use crate::placement::Offer;
use crate::sql::contexts::ContextRow;
use crate::sql::engines::EngineRow;
use crate::sql::executions::ExecutionRow;

/// A context.
#[derive(Debug, Serialize)]
pub struct ContextBody {
    /// Its id.
    pub identifier: String,
    /// Its specification, as it was given.
    pub spec: Box<RawValue>,
    /// When it was made.
    pub created: String,
}

/// A list of contexts.
#[derive(Debug, Serialize)]
pub struct ContextList {
    /// Newest first.
    pub contexts: Vec<ContextBody>,
}

/// An execution.
#[derive(Debug, Serialize)]
pub struct ExecutionBody {
    /// Its id.
    pub identifier: String,
    /// The id of its context.
    pub context_id: String,
    /// When it was asked for.
    pub created: String,
    /// The engine, or kind of engine, that was asked for; `null` leaves it to the deployer.
    pub engine: Option<String>,
    /// The namespace that was asked for.
    pub namespace: String,
    /// The environment that was asked for, with what the deployer adds.
    pub environment: serde_json::Map<String, serde_json::Value>,
    /// For clients of the 2018 service.
    pub state: &'static str,
    /// What became of it.
    pub status: StatusBody,
}

/// What became of an execution.
#[derive(Debug, Serialize)]
pub struct StatusBody {
    /// Where it is in its life.
    pub phase: &'static str,
    /// Why: a CamelCase word.
    pub reason: Option<String>,
    /// Why: a sentence.
    pub message: Option<String>,
    /// Its exit code; `128 + signal` after a signal.
    pub exit_code: Option<i64>,
    /// When it began to run.
    pub started: Option<String>,
    /// When it ended.
    pub finished: Option<String>,
    /// The engine that runs it.
    pub engine: Option<String>,
    /// That engine's own id of it.
    pub engine_id: Option<String>,
    /// Which engine was chosen, and why each other one was passed over: a [`PlacementRecord`](crate::placement::PlacementRecord).
    pub placement: Option<Box<RawValue>>,
}

/// A list of executions.
#[derive(Debug, Serialize)]
pub struct ExecutionList {
    /// Newest first.
    pub executions: Vec<ExecutionBody>,
}

/// A published port. Clients of the 2018 service look for `token` and `filename`, which must never be here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBody {
    /// The port inside the container.
    pub specified: String,
    /// The host to connect to.
    pub host: String,
    /// The port to connect to.
    pub exposed: String,
    /// In upper case.
    pub protocol: String,
    /// The path, behind an ingress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A list of ports.
#[derive(Debug, Serialize)]
pub struct PortList {
    /// In the order of the specification.
    pub ports: Box<RawValue>,
}

/// An engine.
#[derive(Debug, Serialize)]
pub struct EngineBody {
    /// Its configured name.
    pub name: String,
    /// What it is.
    pub kind: String,
    /// Whether it answers.
    pub up: bool,
    /// Since when it does, or does not.
    pub since: String,
    /// Why it does not.
    pub reason: Option<String>,
    /// The version that it told.
    pub version: Option<String>,
    /// How many executions are placed there and have not ended.
    pub placed: u32,
    /// How many of them run.
    pub running: u32,
    /// How many of them do not run yet.
    pub pending: u32,
    /// How many wait for a place there.
    pub waiting: u32,
    /// What it accepts and how much room it has.
    pub offer: Offer,
}

/// A list of engines.
#[derive(Debug, Serialize)]
pub struct EngineList {
    /// By name.
    pub engines: Vec<EngineBody>,
}

impl TryFrom<ContextRow> for ContextBody {
    type Error = serde_json::Error;

    fn try_from(row: ContextRow) -> Result<Self, Self::Error> {
        Ok(Self {
            identifier: row.id.to_string(),
            spec: RawValue::from_string(row.spec)?,
            created: rfc3339(row.created),
        })
    }
}

impl ExecutionBody {
    /// The body of a row, with what the deployer adds to every environment.
    ///
    /// # Errors
    /// When the stored environment is no JSON object.
    pub fn of(row: ExecutionRow, added: Vec<(String, String)>) -> Result<Self, serde_json::Error> {
        let state = row.client_state().as_str();
        let facts = row.status.facts();
        let mut environment: serde_json::Map<_, _> = serde_json::from_str(&row.environment)?;
        environment.extend(added.into_iter().map(|(name, value)| (name, value.into())));
        Ok(Self {
            identifier: row.id.to_string(),
            context_id: row.context.to_string(),
            created: rfc3339(row.created),
            engine: row.wanted_engine,
            namespace: row.namespace,
            environment,
            state,
            status: StatusBody {
                phase: facts.phase.as_str(),
                reason: facts.reason,
                message: facts.message,
                exit_code: facts.exit_code,
                started: facts.started.map(rfc3339),
                finished: facts.finished.map(rfc3339),
                engine: facts.engine.map(|name| name.to_string()),
                engine_id: facts.engine_id,
                placement: row.placement.map(RawValue::from_string).transpose()?,
            },
        })
    }
}

impl From<EngineRow> for EngineBody {
    fn from(row: EngineRow) -> Self {
        Self {
            name: row.name.to_string(),
            kind: row.kind,
            up: row.up,
            since: rfc3339(row.since),
            reason: row.reason,
            version: row.version,
            placed: row.usage.placed,
            running: row.usage.running,
            pending: row.usage.placed.saturating_sub(row.usage.running),
            waiting: row.usage.waiting,
            offer: Offer { capacity: row.offer.capacity.less(&row.usage), ..row.offer },
        }
    }
}
