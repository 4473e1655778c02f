//! A status as a row holds it.

use super::{End, Status};
use crate::domain::{EngineName, Phase, Timestamp, Why};

/// The stored form of a [`Status`]: one field per column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Where it is in its life.
    pub phase: Phase,
    /// A CamelCase word that says why.
    pub reason: Option<String>,
    /// A sentence that says why.
    pub message: Option<String>,
    /// The engine that was chosen.
    pub engine: Option<EngineName>,
    /// The engine's own id of the object.
    pub engine_id: Option<String>,
    /// When it began to run.
    pub started: Option<Timestamp>,
    /// When it ended, or was given up.
    pub finished: Option<Timestamp>,
    /// The exit code; `128 + signal` after a signal.
    pub exit_code: Option<i64>,
}

/// Columns of a row that do not belong together, because somebody changed them by hand or another version wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an execution is stored as {0} without a fact that this phase has, or with one that it cannot have yet")]
pub struct InvalidFacts(pub Phase);

impl Status {
    /// The stored form.
    pub fn facts(&self) -> Facts {
        // A row of another version may have a message and no reason.
        let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let (why, end) = (self.why(), self.ended());
        Facts {
            phase: self.phase(),
            reason: why.and_then(|why| text(&why.reason)),
            message: why.and_then(|why| text(&why.message)),
            engine: self.engine().cloned(),
            engine_id: self.engine_id().map(str::to_owned),
            started: self.started(),
            finished: end.and_then(|end| end.finished),
            exit_code: end.and_then(|end| end.exit_code),
        }
    }

    /// The status that a row holds. An end is taken as it is, because other versions may have recorded less of it. A phase
    /// before the end has the facts that the reconciler goes on from, and no others.
    ///
    /// # Errors
    /// If the columns do not belong together.
    pub fn restore(facts: Facts) -> Result<Self, InvalidFacts> {
        let Facts { phase, reason, message, engine, engine_id, started, finished, exit_code } = facts;
        let why = match (reason, message) {
            (None, None) => None,
            (reason, message) => Some(Why::new(reason.unwrap_or_default(), message.unwrap_or_default())),
        };
        let terminal = match phase {
            Phase::Exited => Some(Self::Exited as fn(End) -> Self),
            Phase::Failed => Some(Self::Failed as fn(End) -> Self),
            Phase::Lost => Some(Self::Lost as fn(End) -> Self),
            Phase::Removed => Some(Self::Removed as fn(End) -> Self),
            Phase::Pending | Phase::Scheduled | Phase::Starting | Phase::Running | Phase::Stopping => None,
        };
        if let Some(terminal) = terminal {
            return Ok(terminal(End { engine, engine_id, started, finished, exit_code, why }));
        }
        if finished.is_some() || exit_code.is_some() {
            return Err(InvalidFacts(phase));
        }
        let waiting = why;
        let restored = match (phase, engine, engine_id, started) {
            (Phase::Pending, None, None, None) => Self::Pending { waiting },
            (Phase::Scheduled, Some(engine), None, None) => Self::Scheduled { engine, waiting },
            (Phase::Starting, Some(engine), Some(engine_id), None) => Self::Starting { engine, engine_id, waiting },
            (Phase::Running, Some(engine), Some(engine_id), Some(started)) => {
                Self::Running { engine, engine_id, started, waiting }
            }
            (Phase::Stopping, Some(engine), engine_id, started) => {
                Self::Stopping { engine, engine_id, started, waiting }
            }
            _ => return Err(InvalidFacts(phase)),
        };
        Ok(restored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::status::tests::each;

    #[test]
    fn every_status_is_read_back_as_it_was_stored() {
        for status in each() {
            assert_eq!(Status::restore(status.facts()), Ok(status));
        }
    }

    #[test]
    fn an_end_that_another_version_recorded_is_read_whatever_it_lacks() {
        for phase in Phase::ALL.iter().filter(|phase| phase.is_terminal()) {
            let bare = Facts { phase: *phase, ..Status::pending().facts() };
            let without_reason = Facts { message: Some("A sentence.".into()), ..bare.clone() };
            for facts in [bare, without_reason] {
                assert_eq!(Status::restore(facts.clone()).map(|status| status.facts()), Ok(facts));
            }
        }
    }

    #[test]
    fn a_row_that_does_not_fit_is_an_error() {
        for status in each().into_iter().filter(|status| !status.phase().is_terminal()) {
            let (phase, facts) = (status.phase(), status.facts());
            let mut unfit = vec![
                Facts { finished: Some(Timestamp(9)), ..facts.clone() },
                Facts { exit_code: Some(0), ..facts.clone() },
            ];
            unfit.push(match phase {
                Phase::Pending => Facts { engine: EngineName::parse("docker").ok(), ..facts },
                Phase::Scheduled => Facts { engine_id: Some("one".into()), ..facts },
                Phase::Starting => Facts { engine_id: None, ..facts },
                Phase::Running => Facts { started: None, ..facts },
                _ => Facts { engine: None, ..facts },
            });
            for facts in unfit {
                assert_eq!(Status::restore(facts.clone()), Err(InvalidFacts(phase)), "{facts:?}");
            }
        }
    }
}
