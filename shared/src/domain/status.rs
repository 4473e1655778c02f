//! The status of an execution: its phase, with the facts that are true in that phase. Written by the reconciler alone.
//!
//! Obligations: a transition returns the next status, or fails with [`InvalidTransition`] if [`Phase::may_become`] does not
//! allow it, so that a mistake in the reconciler is an error and never a row that lies. An [`End`] has no public field and no
//! method that changes it, so that no delay and no deletion can overwrite why, when and with which code an execution ended.

mod facts;
#[cfg(test)]
mod tests;

pub use facts::{Facts, InvalidFacts};

use super::{EngineName, Phase, Timestamp, Why};

/// The phase of an execution with its facts.
///
/// `waiting` says what delays a phase that has not ended; `None`: nothing does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// No engine is chosen yet.
    Pending {
        /// What it waits for.
        waiting: Option<Why>,
    },
    /// An engine is chosen.
    Scheduled {
        /// The engine.
        engine: EngineName,
        /// What it waits for.
        waiting: Option<Why>,
    },
    /// The engine has an object of the execution, which does not run yet.
    Starting {
        /// The engine.
        engine: EngineName,
        /// The engine's own id of the object.
        engine_id: String,
        /// What it waits for.
        waiting: Option<Why>,
    },
    /// It runs.
    Running {
        /// The engine.
        engine: EngineName,
        /// The engine's own id of the object.
        engine_id: String,
        /// When it began to run.
        started: Timestamp,
        /// What cannot be done for it now.
        waiting: Option<Why>,
    },
    /// It is being stopped.
    Stopping {
        /// The engine.
        engine: EngineName,
        /// The engine's own id of the object. `None`: it was to be stopped before one was recorded.
        engine_id: Option<String>,
        /// When it began to run. `None`: it was not seen to run.
        started: Option<Timestamp>,
        /// Why it is being stopped, or what delays that.
        waiting: Option<Why>,
    },
    /// It ended by itself, or was stopped.
    Exited(End),
    /// It could not be started.
    Failed(End),
    /// It was started, and how it ended cannot be known.
    Lost(End),
    /// It is deleted. The end is the one that it had before, if it had ended.
    Removed(End),
}

/// How and why an execution ended.
///
/// A new end has every fact that its phase has. Rows of other versions may lack some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    engine: Option<EngineName>,
    engine_id: Option<String>,
    started: Option<Timestamp>,
    finished: Option<Timestamp>,
    exit_code: Option<i64>,
    why: Option<Why>,
}

/// A change of a status that the states do not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTransition {
    /// The one phase does not follow the other.
    #[error("an execution that is {from} cannot become {to}")]
    Phase {
        /// The phase that it is in.
        from: Phase,
        /// The phase that was asked for.
        to: Phase,
    },
    /// What has ended is not explained anew.
    #[error("an execution that is {0} keeps the reason of its end")]
    Ended(Phase),
}

impl Status {
    /// A new execution.
    pub fn pending() -> Self {
        Self::Pending { waiting: None }
    }

    /// The same phase with another explanation of what keeps it waiting. `None`: nothing does any more.
    ///
    /// # Errors
    /// If it has ended: the reason of an end stays.
    pub fn waiting(&self, why: Option<Why>) -> Result<Self, InvalidTransition> {
        let mut next = self.clone();
        match &mut next {
            Self::Pending { waiting }
            | Self::Scheduled { waiting, .. }
            | Self::Starting { waiting, .. }
            | Self::Running { waiting, .. }
            | Self::Stopping { waiting, .. } => *waiting = why,
            Self::Exited(_) | Self::Failed(_) | Self::Lost(_) | Self::Removed(_) => {
                return Err(InvalidTransition::Ended(self.phase()));
            }
        }
        Ok(next)
    }

    /// An engine was chosen.
    ///
    /// # Errors
    /// If it is not pending.
    pub fn scheduled(&self, engine: EngineName) -> Result<Self, InvalidTransition> {
        match self {
            Self::Pending { .. } => Ok(Self::Scheduled { engine, waiting: None }),
            _ => Err(self.refuses(Phase::Scheduled)),
        }
    }

    /// The engine handed it back before anything was created there.
    ///
    /// # Errors
    /// If it is not scheduled.
    pub fn unscheduled(&self, why: Why) -> Result<Self, InvalidTransition> {
        match self {
            Self::Scheduled { .. } => Ok(Self::Pending { waiting: Some(why) }),
            _ => Err(self.refuses(Phase::Pending)),
        }
    }

    /// The object exists on the engine, not yet started.
    ///
    /// # Errors
    /// If it is not scheduled.
    pub fn created(&self, engine_id: String) -> Result<Self, InvalidTransition> {
        match self {
            Self::Scheduled { engine, .. } => Ok(Self::Starting { engine: engine.clone(), engine_id, waiting: None }),
            _ => Err(self.refuses(Phase::Starting)),
        }
    }

    /// It runs since `started`.
    ///
    /// # Errors
    /// If it is not starting.
    pub fn running(&self, started: Timestamp) -> Result<Self, InvalidTransition> {
        match self {
            Self::Starting { engine, engine_id, .. } => {
                let (engine, engine_id) = (engine.clone(), engine_id.clone());
                Ok(Self::Running { engine, engine_id, started, waiting: None })
            }
            _ => Err(self.refuses(Phase::Running)),
        }
    }

    /// It is being stopped.
    ///
    /// # Errors
    /// If there is nothing to stop: no engine is chosen, or it has ended.
    pub fn stopping(&self, why: Why) -> Result<Self, InvalidTransition> {
        match (self.phase().may_become(Phase::Stopping), self.engine()) {
            (true, Some(engine)) => Ok(Self::Stopping {
                engine: engine.clone(),
                engine_id: self.engine_id().map(str::to_owned),
                started: self.started(),
                waiting: Some(why),
            }),
            _ => Err(self.refuses(Phase::Stopping)),
        }
    }

    /// It ended with `exit_code`. `started` is when the engine says that it began, in case that was never seen.
    ///
    /// # Errors
    /// If it cannot have run, or has ended.
    pub fn exited(
        &self,
        exit_code: i64,
        started: Option<Timestamp>,
        finished: Timestamp,
        why: Why,
    ) -> Result<Self, InvalidTransition> {
        let started = self.started().or(started);
        self.end(Phase::Exited, started, finished, why)
            .map(|end| Self::Exited(End { exit_code: Some(exit_code), ..end }))
    }

    /// It will never run.
    ///
    /// # Errors
    /// If it has run, or has ended.
    pub fn failed(&self, why: Why, finished: Timestamp) -> Result<Self, InvalidTransition> {
        self.end(Phase::Failed, self.started(), finished, why).map(Self::Failed)
    }

    /// It was started, and its end was not seen and cannot be known.
    ///
    /// # Errors
    /// If it was never started, or has ended.
    pub fn lost(&self, why: Why, finished: Timestamp) -> Result<Self, InvalidTransition> {
        self.end(Phase::Lost, self.started(), finished, why).map(Self::Lost)
    }

    /// Its object and its logs are gone. What has ended keeps its end; of everything else this is the end.
    ///
    /// # Errors
    /// If its object may still be there.
    pub fn removed(&self, why: Why, finished: Timestamp) -> Result<Self, InvalidTransition> {
        match self {
            Self::Exited(end) | Self::Failed(end) | Self::Lost(end) => Ok(Self::Removed(end.clone())),
            _ => self.end(Phase::Removed, self.started(), finished, why).map(Self::Removed),
        }
    }

    fn end(
        &self,
        phase: Phase,
        started: Option<Timestamp>,
        finished: Timestamp,
        why: Why,
    ) -> Result<End, InvalidTransition> {
        if !self.phase().may_become(phase) {
            return Err(self.refuses(phase));
        }
        Ok(End {
            engine: self.engine().cloned(),
            engine_id: self.engine_id().map(str::to_owned),
            started,
            // The engine's clock may be ahead of the reconciler's: nothing ends before it begins.
            finished: Some(started.map_or(finished, |started| finished.max(started))),
            exit_code: None,
            why: Some(why),
        })
    }

    fn refuses(&self, to: Phase) -> InvalidTransition {
        InvalidTransition::Phase { from: self.phase(), to }
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Pending { .. } => Phase::Pending,
            Self::Scheduled { .. } => Phase::Scheduled,
            Self::Starting { .. } => Phase::Starting,
            Self::Running { .. } => Phase::Running,
            Self::Stopping { .. } => Phase::Stopping,
            Self::Exited(_) => Phase::Exited,
            Self::Failed(_) => Phase::Failed,
            Self::Lost(_) => Phase::Lost,
            Self::Removed(_) => Phase::Removed,
        }
    }

    /// Why it is where it is: what it waits for, or why it ended.
    pub fn why(&self) -> Option<&Why> {
        match self {
            Self::Pending { waiting }
            | Self::Scheduled { waiting, .. }
            | Self::Starting { waiting, .. }
            | Self::Running { waiting, .. }
            | Self::Stopping { waiting, .. } => waiting.as_ref(),
            _ => self.ended()?.why.as_ref(),
        }
    }

    /// The engine that was chosen.
    pub fn engine(&self) -> Option<&EngineName> {
        match self {
            Self::Pending { .. } => None,
            Self::Scheduled { engine, .. }
            | Self::Starting { engine, .. }
            | Self::Running { engine, .. }
            | Self::Stopping { engine, .. } => Some(engine),
            _ => self.ended()?.engine.as_ref(),
        }
    }

    /// The engine's own id of the object.
    pub fn engine_id(&self) -> Option<&str> {
        match self {
            Self::Pending { .. } | Self::Scheduled { .. } => None,
            Self::Starting { engine_id, .. } | Self::Running { engine_id, .. } => Some(engine_id),
            Self::Stopping { engine_id, .. } => engine_id.as_deref(),
            _ => self.ended()?.engine_id.as_deref(),
        }
    }

    /// When it began to run.
    pub fn started(&self) -> Option<Timestamp> {
        match self {
            Self::Pending { .. } | Self::Scheduled { .. } | Self::Starting { .. } => None,
            Self::Running { started, .. } => Some(*started),
            Self::Stopping { started, .. } => *started,
            _ => self.ended()?.started,
        }
    }

    fn ended(&self) -> Option<&End> {
        match self {
            Self::Exited(end) | Self::Failed(end) | Self::Lost(end) | Self::Removed(end) => Some(end),
            _ => None,
        }
    }
}
