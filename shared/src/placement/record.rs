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
    /// The engines that were chosen before and did not take it, each once with its last answer, the oldest first.
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
    /// How often it was chosen and did not take it.
    #[serde(default = "once")]
    pub times: u32,
}

const fn once() -> u32 {
    1
}

/// The most engines that a record keeps the answers of: engines may come and go while an execution waits.
const MAX_TRIED: usize = 64;

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

    /// Adds an answer to those before. One answer of each engine is kept.
    pub fn add_tried(&mut self, answer: Tried) {
        let mut tried: Vec<Tried> = Vec::new();
        // A version before kept every answer.
        for mut new in self.tried.drain(..).chain([answer]) {
            if let Some(position) = tried.iter().position(|before| before.engine == new.engine) {
                new.times = new.times.saturating_add(tried.remove(position).times);
            }
            tried.push(new);
        }
        tried.drain(..tried.len().saturating_sub(MAX_TRIED));
        self.tried = tried;
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
        Self { engine, reason, message, at: rfc3339(now), outcome, times: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(engine: &str, second: i64) -> Tried {
        let why = Why::new("ImagePullFailed", format!("The engine {engine} could not pull it."));
        Tried::new(EngineName::parse(engine).unwrap(), &why, Timestamp(second * 1_000_000), Outcome::NotReady)
    }

    #[test]
    fn the_last_answer_of_each_engine_is_kept() {
        // As a version before stored it.
        let answers: Vec<Tried> = (0..1_000).map(|second| tried(["a", "b"][second as usize % 2], second)).collect();
        let mut record = PlacementRecord { tried: answers, ..PlacementRecord::default() };
        record.add_tried(tried("a", 1_000));
        let kept: Vec<(&str, u32)> = record.tried.iter().map(|tried| (tried.engine.as_str(), tried.times)).collect();
        assert_eq!(kept, [("b", 500), ("a", 501)]);
        assert_eq!(record.tried[1].at, tried("a", 1_000).at);
        for engine in 0..200 {
            record.add_tried(tried(&format!("gone-{engine}"), 2_000));
        }
        assert_eq!(record.tried.len(), MAX_TRIED);
        assert_eq!(record.tried[MAX_TRIED - 1].engine.as_str(), "gone-199");
    }

    #[test]
    fn an_answer_that_was_stored_without_a_count_was_one() {
        let stored = r#"{"engine":"a","reason":"R","message":"M","at":"","outcome":"refused"}"#;
        assert_eq!(serde_json::from_str::<Tried>(stored).unwrap().times, 1);
    }
}
