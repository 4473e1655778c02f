//! A decision as it is stored with the execution and shown as `status.placement`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Decision;
use crate::api::{parse_rfc3339, rfc3339};
use crate::domain::{EngineName, Timestamp, Why};

/// How long an engine is left alone that could not make ready what an execution needs.
pub const LEFT_ALONE: Duration = Duration::from_secs(20);

/// The last decision, and what came of those before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementRecord {
    /// The engine that was chosen; `None`: none fits now.
    pub engine: Option<EngineName>,
    /// When it was decided.
    pub decided: String,
    /// Every engine, by name, with what is said of it.
    pub engines: Vec<EngineRecord>,
    /// The engines that were chosen before and did not take it, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<Tried>,
}

/// What is said of an engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineRecord {
    /// Its name.
    pub engine: EngineName,
    /// A CamelCase word: `Chosen`, or why it was passed over.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// An engine that was chosen and did not take it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Its name.
    pub engine: EngineName,
    /// Why: a CamelCase word.
    pub reason: String,
    /// Why: a sentence.
    pub message: String,
    /// When.
    pub at: String,
    /// What that means for asking it again.
    pub outcome: Outcome,
}

/// Why an engine did not take an execution, by when it is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It refused it: never.
    Refused,
    /// It could not make ready what it needs: after [`LEFT_ALONE`].
    NotReady,
    /// It was not reached: when it answers.
    Unreached,
}

impl PlacementRecord {
    /// A decision of `now`, after what was tried before.
    pub fn of(decision: &Decision, now: Timestamp, tried: Vec<Tried>) -> Self {
        let engines = decision.considered.iter().map(|considered| {
            let why = considered.verdict.why(decision.chosen.as_ref() == Some(&considered.engine));
            EngineRecord { engine: considered.engine.clone(), reason: why.reason, message: why.message }
        });
        Self { engine: decision.chosen.clone(), decided: rfc3339(now), engines: engines.collect(), tried }
    }

    /// The engines that are not asked at `now`: those that have refused it, and those that could not take it a moment ago.
    pub fn refused(&self, now: Timestamp) -> Vec<(EngineName, Why)> {
        let refused = self.tried.iter().filter(|tried| tried.is_left_alone(now));
        refused.map(|tried| (tried.engine.clone(), tried.why())).collect()
    }
}

impl Tried {
    /// Whether it is not to be asked at `now`.
    fn is_left_alone(&self, now: Timestamp) -> bool {
        let recent = || parse_rfc3339(&self.at).is_some_and(|at| now >= at && now.since(at) < LEFT_ALONE);
        match self.outcome {
            Outcome::Refused => true,
            Outcome::NotReady => recent(),
            Outcome::Unreached => false,
        }
    }

    /// Why it did not take it.
    pub fn why(&self) -> Why {
        Why::new(&self.reason, &self.message)
    }

    /// An engine that did not take it at `now`.
    pub fn new(engine: EngineName, why: &Why, now: Timestamp, outcome: Outcome) -> Self {
        let Why { reason, message } = why.clone();
        Self { engine, reason, message, at: rfc3339(now), outcome }
    }
}
