//! What must be true at every moment, and again when everything has come to rest.
//!
//! Triggers see each change of a row when it is made, so that no state goes by unseen, and the world is asked at that
//! moment what really is.

use std::collections::{BTreeMap, BTreeSet};

use renga_reconciler::engine::fake::FakeWorld;
use renga_reconciler::engine::{LogEntry, ObjectState};
use renga_shared::domain::{EngineName, ExecutionId, Phase, Wanted};
use renga_shared::sql::logs::Frame;
use rusqlite::{Connection, Row, params};

use super::change::{Change, TRIGGERS};
use super::trace;

/// The most that may be kept beyond the limit: chunks are cut whole.
const SLACK: i64 = 3 * 64 * 1024;

/// What one writes first that then writes the token that it was given.
pub(super) const SHOWS_TOKEN: &str = "my token:";

/// Why an engine refuses what it could take otherwise.
pub(super) const REFUSED: &str = "EngineRefused";

/// Why an execution failed that was stopped before it started.
const STOPPED_BEFORE_START: &str = "StoppedBeforeStart";

/// The token of whoever asks for an execution: each its own, so that a wrong one is seen.
pub(super) fn token_of(id: ExecutionId) -> String {
    format!("token-for-{id}")
}

/// What an execution is known to do, and what was done to it by hand.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Whether it cannot be started, whatever is tried.
    pub(super) hopeless: bool,
    /// What it had written when its object was taken away by hand.
    pub(super) taken_away: Option<Vec<LogEntry>>,
}

/// Holds what is seen against what must be.
pub(super) struct Rules {
    worlds: BTreeMap<EngineName, FakeWorld>,
    limits: BTreeMap<EngineName, u32>,
    log_limit: i64,
    pub(super) known: BTreeMap<ExecutionId, Known>,
    /// How many executions reached each phase.
    pub(super) reached: BTreeMap<Phase, u64>,
    /// How often an engine put off the removal of what had ended.
    pub(super) delayed_removals: u64,
    /// How often an execution was started although it was stopped before that.
    pub(super) late_starts: u64,
    /// What was broken, in words.
    pub(super) broken: Vec<String>,
}

pub(super) fn parse<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().unwrap()
}

pub(super) fn engine(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<EngineName>> {
    Ok(row.get::<_, Option<String>>(column)?.map(|name| EngineName::parse(&name).unwrap()))
}

impl Rules {
    pub(super) fn new(
        worlds: BTreeMap<EngineName, FakeWorld>,
        limits: BTreeMap<EngineName, u32>,
        log_limit: i64,
    ) -> Self {
        let (known, reached, broken) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Self { worlds, limits, log_limit, known, reached, delayed_removals: 0, late_starts: 0, broken }
    }

    pub(super) fn watch(connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch(TRIGGERS)
    }

    pub(super) fn broken(&mut self, text: String) {
        trace::say(format!("BROKEN: {text}"));
        self.broken.push(text);
    }

    /// The object of an execution on the engine that its row names. Another engine may have one too for a while, created
    /// and never started: its answer was lost, and the execution went elsewhere.
    fn object(&self, engine: Option<&EngineName>, id: ExecutionId) -> Option<(ObjectState, Vec<LogEntry>)> {
        self.worlds.get(engine?)?.object(id)
    }

    fn starts(&self, id: ExecutionId) -> u32 {
        self.worlds.values().map(|world| world.starts_of(id)).sum()
    }

    /// Whether a start that another reconciler sent before its lease ended was carried out after the look at the object and
    /// before the record of its end. No engine can tell such a start from one that is in time. The object is removed at once.
    fn is_late_start(&self, change: &Change) -> bool {
        (change.phase.1, change.reason()) == (Phase::Failed, STOPPED_BEFORE_START) && self.starts(change.id) == 1
    }

    /// Looks at what was just written.
    pub(super) fn hold(&mut self, connection: &Connection) {
        let changes: Vec<Change> = all(connection, "SELECT * FROM changes", Change::read);
        if !changes.is_empty() {
            connection.prepare_cached("DELETE FROM changes").unwrap().execute([]).unwrap();
        }
        for (engine, limit) in self.limits.clone() {
            let placed = placed(connection, &engine);
            if placed > limit {
                self.broken(format!("{placed} executions are placed on {engine}, which may run {limit}"));
            }
        }
        for change in changes {
            if change.phase.0 != change.phase.1 {
                *self.reached.entry(change.phase.1).or_default() += 1;
            }
            self.delayed_removals += u64::from(change.removal_is_delayed());
            self.late_starts += u64::from(change.phase.0 != change.phase.1 && self.is_late_start(&change));
            if let Err(text) = self.judge(&change, connection) {
                self.broken(format!("{}: {text}", change.id));
            }
        }
        let gaps: Vec<(String, i64)> = all(connection, "SELECT * FROM gaps", |row| Ok((row.get(0)?, row.get(1)?)));
        for (id, sequence) in gaps {
            self.broken(format!("{id}: chunk {sequence} does not follow the one before"));
        }
    }

    fn judge(&self, change: &Change, connection: &Connection) -> Result<(), String> {
        trace::say(change.to_string());
        let Change { id, wanted, phase, engine, engine_id, started, exit_code, revision, sealed, .. } = change;
        let (reason, message) = (change.reason(), change.message());
        rule(revision.1 == revision.0 + 1, || format!("revision {} follows {}", revision.1, revision.0))?;
        rule(wanted.1 >= wanted.0, || format!("{} is wanted after {}", wanted.1, wanted.0))?;
        rule(phase.0 == phase.1 || phase.0.may_become(phase.1), || format!("{} becomes {}", phase.0, phase.1))?;
        let kept = |what: &str, kept: bool| rule(kept, || format!("its {what} is forgotten"));
        // An engine that took nothing may hand it on.
        let handed_on = (phase.0, phase.1) == (Phase::Scheduled, Phase::Pending);
        kept("engine", engine.0.is_none() || engine.0 == engine.1 || handed_on)?;
        rule(!handed_on || self.starts(*id) == 0, || "it is handed on and was started".into())?;
        kept("object", engine_id.0.is_none() || engine_id.0 == engine_id.1)?;
        kept("start", started.0.is_none() || started.0 == started.1)?;
        kept("exit code", exit_code.0.is_none() || exit_code.0 == exit_code.1)?;
        change.judge_end()?;
        let waits = wanted.1 == Wanted::Running && matches!(phase.1, Phase::Pending | Phase::Scheduled);
        rule(*sealed == waits, || {
            if *sealed { "its token is kept for nothing" } else { "its token is forgotten before its launch" }.into()
        })?;
        rule(self.starts(*id) <= 1, || format!("it was started {} times", self.starts(*id)))?;
        if phase.0 == phase.1 {
            return Ok(());
        }
        let known = self.known.get(id).cloned().unwrap_or_default();
        let seen = self.object(engine.1.as_ref(), *id);
        let runs = matches!(seen, Some((ObjectState::Running { .. }, _)));
        match phase.1 {
            Phase::Running => rule(self.starts(*id) == 1, || "it runs and was never started".into()),
            Phase::Stopping => rule(wanted.1 != Wanted::Running, || "it is stopped and nobody asked for that".into()),
            Phase::Failed => {
                rule(known.hopeless || wanted.1 != Wanted::Running || reason == REFUSED, || {
                    format!("it failed without a reason: {message}")
                })?;
                rule(self.starts(*id) == 0 || self.is_late_start(change), || {
                    "it failed to start and was started".into()
                })
            }
            Phase::Lost => rule(known.taken_away.is_some(), || "it is lost and nobody took it away".into()),
            Phase::Removed => {
                rule(!runs, || "it is removed and runs".into())?;
                rule(wanted.1 == Wanted::Removed, || "it is removed and nobody asked for that".into())?;
                let left: i64 = connection
                    .query_row("SELECT COUNT(*) FROM log_chunks WHERE execution_id = ?1", [id.to_string()], |row| {
                        row.get(0)
                    })
                    .unwrap();
                rule(left == 0, || "it is removed and its logs are there".into())
            }
            Phase::Exited => {
                let Some((ObjectState::Exited(exit), written)) = seen else {
                    return rule(known.taken_away.is_some(), || format!("it exited and is {seen:?}"));
                };
                if let [first, second, ..] = &*written
                    && first.bytes == format!("{SHOWS_TOKEN}\n")
                {
                    rule(second.bytes == format!("{}\n", token_of(*id)), || format!("it has the token {second:?}"))?;
                }
                rule(*exit_code == (None, Some(exit.code)), || {
                    format!("its exit code is {}, not {exit_code:?}", exit.code)
                })?;
                if wanted.1 == Wanted::Removed {
                    return Ok(());
                }
                // An engine that would not give them in a minute, or failed again and again, is told of in the message.
                let given_up = message.contains("did not give the last of its logs");
                self.logs(connection, *id, &written, !given_up)
            }
            Phase::Pending | Phase::Scheduled | Phase::Starting => Ok(()),
        }
    }

    /// Whether the stored logs are what was written: in order, each byte once, and `whole` unless the limit cut them.
    pub(super) fn logs(
        &self,
        connection: &Connection,
        id: ExecutionId,
        written: &[LogEntry],
        whole: bool,
    ) -> Result<(), String> {
        let chunks: Vec<(i64, i64, Vec<u8>)> = all_of(
            connection,
            "SELECT start, length, frames FROM log_chunks WHERE execution_id = ?1 ORDER BY sequence",
            id,
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        );
        let size = |entry: &LogEntry| i64::try_from(entry.bytes.len()).unwrap();
        let mut offsets = BTreeMap::new();
        let mut total = 0;
        for (index, entry) in written.iter().enumerate() {
            // An entry without bytes begins where the next one does: the first of them is meant.
            offsets.entry(total).or_insert(index);
            total += size(entry);
        }
        let (mut end, mut kept) = (0, 0);
        for (start, length, frames) in &chunks {
            rule(*start == end || total > self.log_limit, || {
                format!("its logs lack {end} to {start} of {total} bytes")
            })?;
            let first = *offsets.get(start).ok_or_else(|| format!("a chunk begins at {start}, amid an entry"))?;
            for (frame, index) in Frame::decode(frames).zip(first..) {
                let entry = written.get(index).ok_or("more is stored than was written")?;
                let same = (frame.stream, frame.nanos, frame.bytes) == (entry.stream, entry.nanos, &entry.bytes[..]);
                rule(same, || format!("at {start} it stored {frame:?}, where {entry:?} was written"))?;
            }
            (end, kept) = (start + length, kept + length);
        }
        rule(!whole || end == total, || format!("{end} of {total} bytes are stored"))?;
        rule(kept <= self.log_limit + SLACK, || format!("{kept} bytes are kept"))
    }

    /// One execution that something is still to be done for, or none.
    pub(super) fn restless(&self, connection: &Connection) -> Option<String> {
        Resting::all(connection).iter().find_map(|row| self.judge_rest(connection, row).err())
    }

    /// What must be true when nothing is left to do.
    pub(super) fn at_rest(&mut self, connection: &Connection) {
        let rows = Resting::all(connection);
        for row in &rows {
            if let Err(text) = self.judge_rest(connection, row) {
                self.broken(text);
            }
        }
        let owned: BTreeSet<ExecutionId> =
            rows.iter().filter(|row| row.phase == Phase::Running).map(|row| row.id).collect();
        let objects: Vec<ExecutionId> = self.worlds.values().flat_map(FakeWorld::objects).collect();
        for id in objects.into_iter().filter(|id| !owned.contains(id)) {
            self.broken(format!("{id} at rest: it has an object and does not run"));
        }
    }

    /// Forgets what has ended, so that a long run does not grow slow. Returns what has not.
    pub(super) fn forget_ended(&mut self, connection: &Connection) -> Vec<ExecutionId> {
        let rows = Resting::all(connection);
        for row in rows.iter().filter(|row| row.phase.is_terminal()) {
            self.known.remove(&row.id);
            for sql in ["DELETE FROM log_chunks WHERE execution_id = ?1", "DELETE FROM executions WHERE id = ?1"] {
                connection.prepare_cached(sql).unwrap().execute([row.id.to_string()]).unwrap();
            }
        }
        rows.iter().filter(|row| !row.phase.is_terminal()).map(|row| row.id).collect()
    }

    fn judge_rest(&self, connection: &Connection, row: &Resting) -> Result<(), String> {
        let Resting { id, wanted, phase, holder, due, .. } = row;
        self.judge_rest_of(connection, row)
            .map_err(|text| format!("{id} at rest, {phase}, wanted {wanted}, held by {holder:?}, due {due:?}: {text}"))
    }

    fn judge_rest_of(&self, connection: &Connection, row: &Resting) -> Result<(), String> {
        let Resting { id, wanted, phase, holder, due, .. } = row;
        let known = self.known.get(id).cloned().unwrap_or_default();
        // Who waits for an engine that is full is looked at now and then.
        let full = |(engine, limit): (&EngineName, &u32)| {
            let waits = row.queued_on.as_ref().is_some_and(|engines| engines.contains(&format!(",{engine},")));
            waits && placed(connection, engine) == *limit
        };
        if (*phase, *wanted) == (Phase::Pending, Wanted::Running) && self.limits.iter().any(full) {
            return rule(holder.is_some() && due.is_some(), || "nobody looks after it".into());
        }
        rule(due.is_none(), || format!("it is due at {due:?}"))?;
        if phase.is_terminal() {
            rule(holder.is_none(), || format!("{holder:?} holds it"))?;
            rule(*wanted != Wanted::Removed || *phase == Phase::Removed, || "it is not removed".into())?;
            return match (&known.taken_away, phase) {
                (Some(written), Phase::Lost) => self.logs(connection, *id, written, false),
                _ => Ok(()),
            };
        }
        rule((*phase, *wanted) == (Phase::Running, Wanted::Running), || "it has not come to rest".into())?;
        rule(holder.is_some(), || "nobody looks after it".into())?;
        match self.object(row.engine.as_ref(), *id) {
            Some((ObjectState::Running { .. }, written)) => self.logs(connection, *id, &written, true),
            other => Err(format!("its object is {other:?}")),
        }
    }
}

/// A row, by what tells whether it rests.
struct Resting {
    id: ExecutionId,
    wanted: Wanted,
    phase: Phase,
    engine: Option<EngineName>,
    holder: Option<String>,
    due: Option<i64>,
    /// The engines that it waits for, each between commas.
    queued_on: Option<String>,
}

impl Resting {
    fn all(connection: &Connection) -> Vec<Self> {
        all(connection, "SELECT id, wanted, phase, engine, holder, due_at, queued_on FROM executions", |row| {
            Ok(Self {
                id: parse(&row.get::<_, String>(0)?),
                wanted: parse(&row.get::<_, String>(1)?),
                phase: parse(&row.get::<_, String>(2)?),
                engine: engine(row, 3)?,
                holder: row.get(4)?,
                due: row.get(5)?,
                queued_on: row.get(6)?,
            })
        })
    }
}

/// How many executions have a place on an engine.
fn placed(connection: &Connection, engine: &EngineName) -> u32 {
    let sql = "SELECT COUNT(*) FROM executions WHERE engine = ?1 AND phase IN ('scheduled', 'starting', 'running', 'stopping')";
    connection.prepare_cached(sql).unwrap().query_row([engine.as_str()], |row| row.get(0)).unwrap()
}

pub(super) fn rule(kept: bool, text: impl FnOnce() -> String) -> Result<(), String> {
    if kept { Ok(()) } else { Err(text()) }
}

fn all<T>(connection: &Connection, sql: &str, read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> Vec<T> {
    let mut statement = connection.prepare_cached(sql).unwrap();
    statement.query_map([], read).unwrap().collect::<Result<_, _>>().unwrap()
}

fn all_of<T>(
    connection: &Connection,
    sql: &str,
    id: ExecutionId,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Vec<T> {
    let mut statement = connection.prepare_cached(sql).unwrap();
    statement.query_map(params![id.to_string()], read).unwrap().collect::<Result<_, _>>().unwrap()
}
