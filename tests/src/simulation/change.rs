//! One change of a row, before and after, and the rules that need nothing else: an end stays as it was recorded.

use std::fmt;

use renga_shared::domain::{EngineName, ExecutionId, Phase, Wanted};
use rusqlite::Row;

use super::rules::{engine, parse, rule};

/// Record every change of an execution, and every gap in its logs.
pub(super) const TRIGGERS: &str = "
    CREATE TEMP TABLE changes (
        id, wanted, phase, engine, engine_id, started_at, exit_code, revision, message, reason, finished_at,
        old_wanted, old_phase, old_engine, old_engine_id, old_started_at, old_exit_code, old_revision, old_message,
        old_reason, old_finished_at, sealed, attempts);
    CREATE TEMP TRIGGER changes_seen AFTER UPDATE ON main.executions WHEN OLD.revision <> NEW.revision
        OR (OLD.wanted, OLD.phase) <> (NEW.wanted, NEW.phase)
        OR (OLD.message, OLD.reason, OLD.exit_code, OLD.finished_at)
            IS NOT (NEW.message, NEW.reason, NEW.exit_code, NEW.finished_at) BEGIN
        INSERT INTO changes VALUES (
            NEW.id, NEW.wanted, NEW.phase, NEW.engine, NEW.engine_id, NEW.started_at, NEW.exit_code, NEW.revision,
            NEW.message, NEW.reason, NEW.finished_at, OLD.wanted, OLD.phase, OLD.engine, OLD.engine_id, OLD.started_at,
            OLD.exit_code, OLD.revision, OLD.message, OLD.reason, OLD.finished_at, NEW.sealed_token IS NOT NULL,
            NEW.attempts);
    END;
    CREATE TEMP TABLE gaps (id, sequence);
    CREATE TEMP TRIGGER gaps_seen AFTER INSERT ON main.log_chunks WHEN NEW.start <> COALESCE(
        (SELECT start + length FROM main.log_chunks
            WHERE execution_id = NEW.execution_id AND sequence = NEW.sequence - 1), 0) BEGIN
        INSERT INTO gaps VALUES (NEW.execution_id, NEW.sequence);
    END;
";

/// The reason of what was deleted before it ended.
const DELETED: &str = "Deleted";

/// A change of a row: each column before and after.
pub(super) struct Change {
    pub(super) id: ExecutionId,
    pub(super) wanted: (Wanted, Wanted),
    pub(super) phase: (Phase, Phase),
    pub(super) engine: (Option<EngineName>, Option<EngineName>),
    pub(super) engine_id: (Option<String>, Option<String>),
    pub(super) started: (Option<i64>, Option<i64>),
    pub(super) exit_code: (Option<i64>, Option<i64>),
    pub(super) revision: (i64, i64),
    message: (Option<String>, Option<String>),
    reason: (Option<String>, Option<String>),
    finished: (Option<i64>, Option<i64>),
    /// Whether it still has a sealed token.
    pub(super) sealed: bool,
    attempts: i64,
}

impl Change {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let parsed = |index| row.get::<_, String>(index);
        Ok(Self {
            id: parse(&parsed(0)?),
            wanted: (parse(&parsed(11)?), parse(&parsed(1)?)),
            phase: (parse(&parsed(12)?), parse(&parsed(2)?)),
            engine: (engine(row, 13)?, engine(row, 3)?),
            engine_id: (row.get(14)?, row.get(4)?),
            started: (row.get(15)?, row.get(5)?),
            exit_code: (row.get(16)?, row.get(6)?),
            revision: (row.get(17)?, row.get(7)?),
            message: (row.get(18)?, row.get(8)?),
            reason: (row.get(19)?, row.get(9)?),
            finished: (row.get(20)?, row.get(10)?),
            sealed: row.get(21)?,
            attempts: row.get(22)?,
        })
    }

    /// The reason that it has now.
    pub(super) fn reason(&self) -> &str {
        self.reason.1.as_deref().unwrap_or_default()
    }

    /// The message that it has now.
    pub(super) fn message(&self) -> &str {
        self.message.1.as_deref().unwrap_or_default()
    }

    /// Whether the engine did not remove the object of what has ended, so that it is tried again.
    pub(super) fn removal_is_delayed(&self) -> bool {
        self.phase.0.is_terminal() && self.phase.0 == self.phase.1 && self.attempts > 0
    }

    /// Whether every end is complete, and stays as it was recorded.
    pub(super) fn judge_end(&self) -> Result<(), String> {
        let (before, after) = self.phase;
        let unchanged = |what: &str, before: &dyn fmt::Debug, after: &dyn fmt::Debug, same: bool| {
            rule(same, || format!("the {what} of its end was {before:?} and is {after:?}"))
        };
        if before.is_terminal() {
            unchanged("reason", &self.reason.0, &self.reason.1, self.reason.0 == self.reason.1)?;
            unchanged("message", &self.message.0, &self.message.1, self.message.0 == self.message.1)?;
            unchanged("exit code", &self.exit_code.0, &self.exit_code.1, self.exit_code.0 == self.exit_code.1)?;
            unchanged("time", &self.finished.0, &self.finished.1, self.finished.0 == self.finished.1)?;
            unchanged("start", &self.started.0, &self.started.1, self.started.0 == self.started.1)?;
        }
        let ended = after.is_terminal();
        rule(self.finished.1.is_some() == ended, || format!("it is {after} and finished at {:?}", self.finished.1))?;
        rule(ended || self.exit_code.1.is_none(), || format!("it is {after} and has an exit code"))?;
        rule(!ended || !self.reason().is_empty() && !self.message().is_empty(), || {
            format!("it is {after} without a reason")
        })?;
        rule(after != Phase::Exited || self.exit_code.1.is_some(), || "it exited without a code".into())?;
        if after == Phase::Removed && !before.is_terminal() {
            rule(self.reason() == DELETED, || format!("it was deleted before it ended, by reason {}", self.reason()))?;
        }
        // Whatever their clocks: who shows how long it ran must not find less than nothing.
        let backwards = self.started.1.zip(self.finished.1).is_some_and(|(started, finished)| finished < started);
        rule(!backwards, || format!("it ended at {:?}, before it started at {:?}", self.finished.1, self.started.1))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, wanted, phase, revision, .. } = self;
        write!(
            f,
            "row {id} wanted {} phase {} -> {} revision {} {}: {}",
            wanted.1,
            phase.0,
            phase.1,
            revision.1,
            self.reason(),
            self.message()
        )
    }
}
