//! Bodies of responses. Stored JSON (specification, placement, ports) is passed on as it is, unparsed.

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
    /// The id.
    pub identifier: String,
    /// The specification, as the client sent it.
    pub spec: Box<RawValue>,
    /// The time of creation.
    pub created: String,
}

/// A list of contexts.
#[derive(Debug, Serialize)]
pub struct ContextList {
    /// The contexts, newest first.
    pub contexts: Vec<ContextBody>,
}

/// An execution.
#[derive(Debug, Serialize)]
pub struct ExecutionBody {
    /// The id.
    pub identifier: String,
    /// The id of the context.
    pub context_id: String,
    /// The time of the request.
    pub created: String,
    /// The requested engine, or kind of engine; `null` if the deployer chooses.
    pub engine: Option<String>,
    /// The requested namespace.
    pub namespace: String,
    /// The requested environment, with the variables that the deployer adds.
    pub environment: serde_json::Map<String, serde_json::Value>,
    /// The legacy state, for clients of the 2018 service.
    pub state: &'static str,
    /// The observed status.
    pub status: StatusBody,
}

/// The observed status of an execution.
#[derive(Debug, Serialize)]
pub struct StatusBody {
    /// The phase of its life cycle.
    pub phase: &'static str,
    /// The reason of the phase: a CamelCase word.
    pub reason: Option<String>,
    /// The reason of the phase: a sentence.
    pub message: Option<String>,
    /// The exit code; `128 + signal` after a signal.
    pub exit_code: Option<i64>,
    /// The time when the container started.
    pub started: Option<String>,
    /// The time when the container ended.
    pub finished: Option<String>,
    /// The engine that runs the execution.
    pub engine: Option<String>,
    /// The id of the container in that engine.
    pub engine_id: Option<String>,
    /// The chosen engine, and why each other one was not chosen: a
    /// [`PlacementRecord`](crate::placement::PlacementRecord).
    pub placement: Option<Box<RawValue>>,
}

/// A list of executions.
#[derive(Debug, Serialize)]
pub struct ExecutionList {
    /// The executions, newest first.
    pub executions: Vec<ExecutionBody>,
}

/// A published port. It must never have the fields `token` or `filename`, because clients of the 2018 service look for
/// them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBody {
    /// The port inside the container.
    pub specified: String,
    /// The host to connect to.
    pub host: String,
    /// The port to connect to.
    pub exposed: String,
    /// The protocol, in upper case.
    pub protocol: String,
    /// The path, if the port is behind an ingress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A list of ports.
#[derive(Debug, Serialize)]
pub struct PortList {
    /// The ports, in the order of the specification.
    pub ports: Box<RawValue>,
}

/// An engine.
#[derive(Debug, Serialize)]
pub struct EngineBody {
    /// The configured name.
    pub name: String,
    /// The kind of engine.
    pub kind: String,
    /// Whether the engine answers.
    pub up: bool,
    /// The time since when `up` has its value.
    pub since: String,
    /// Why the engine does not answer.
    pub reason: Option<String>,
    /// The version that the engine reported.
    pub version: Option<String>,
    /// Number of executions that are placed on the engine and have not ended.
    pub placed: u32,
    /// Number of those that run.
    pub running: u32,
    /// Number of those that do not run yet.
    pub pending: u32,
    /// Number of executions that wait for capacity on the engine.
    pub waiting: u32,
    /// The engine's profile, with its free capacity.
    pub offer: Offer,
}

/// A list of engines.
#[derive(Debug, Serialize)]
pub struct EngineList {
    /// The engines, ordered by name.
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
    /// Returns the body of a row, with the variables that the deployer adds to every environment.
    ///
    /// # Errors
    /// Fails if the stored environment or placement is not valid JSON.
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
