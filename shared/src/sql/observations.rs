//! The table `executions` as the reconciler uses it: rows are claimed, looked after, and what was seen is recorded.
//!
//! **Who looks after a row.** `holder` is the reconciler that does. Its lease is one row of `reconcilers`, renewed for
//! all that it holds at once, so that ten thousand live executions cost one write every few seconds. A row is free when
//! it has no holder or its holder's lease has ended.
//!
//! **When.** `due_at` is when somebody must look next: a wish sets it, a retry sets it, a claim puts it off by
//! [`CLAIMED_FOR`]. So a claim of which nothing comes, because its answer was lost on the way, is made again. A row that
//! only an event can change has none.
//!
//! **Who writes.** What is observed of a row (`RECORD`, `PLACE`, `DEFER`, the logs) is written by its holder alone,
//! which every such statement names; a claim and a release name who may take or free a row. `WAKE`, `WAKE_ENGINE` and
//! `PULL_IN` name nobody: they only have the holder look sooner. `SERVED`, `ALL_SERVED` and `FORGET_TURNS` decide
//! nothing but whose turn it is, and a reconciler writes its own lease whether or not it still has one.

use std::time::Duration;

use super::executions::{ExecutionRow, columns, live, read};
use super::statement::{Statement, checked, statements};
use super::{Database, DatabaseError, Row, Value};
use crate::auth::SealedToken;
use crate::domain::{EngineName, ExecutionId, Status, Timestamp};
use crate::placement::Needs;

/// How long a claimed row is left to its holder. One that takes longer is claimed again, which does no harm.
pub const CLAIMED_FOR: Duration = Duration::from_secs(60);

/// An execution with all that launching it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// The row.
    pub execution: ExecutionRow,
    /// How often something failed that is tried again.
    pub attempts: i64,
    /// The subject that it belongs to.
    pub owner: String,
    /// The context's specification, as JSON.
    pub spec: String,
    /// When somebody must look next.
    pub due: Option<Timestamp>,
    /// The token of whoever asked for it, until it is launched.
    pub sealed_token: Option<SealedToken>,
    /// What the token of whoever asked said of them: a JSON array.
    pub claims: String,
    /// The engines that it waits for, each between commas.
    pub queued_on: Option<String>,
}

/// What a pass recorded of an execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Its phase, with the facts.
    pub status: Status,
    /// Its published ports, as JSON; `None` leaves them.
    pub ports: Option<String>,
    /// Why it runs where it does, as JSON; `None` leaves what there is.
    pub placement: Option<String>,
    /// The engines that it waits for, each between commas.
    pub queued_on: Option<String>,
    /// How often something failed that is tried again.
    pub attempts: i64,
    /// When to look next; `None`: when an event says so.
    pub due: Option<Timestamp>,
    /// Whether the recorder goes on looking after it.
    pub hold: bool,
}

impl Observation {
    /// A status alone: held on to, and looked at again when an event says so.
    pub fn of(status: Status) -> Self {
        Self { status, ports: None, attempts: 0, due: None, hold: true, placement: None, queued_on: None }
    }
}

macro_rules! work_columns {
    () => {
        concat!(
            columns!(),
            ", attempts, executions.owner, \
             (SELECT {as_text contexts.spec} FROM contexts WHERE contexts.id = executions.context_id), {as_micros due_at}, \
             sealed_token, {as_text claims}, queued_on"
        )
    };
}

/// A row that is placed on an engine and has not ended: what an engine's places and resources are counted by. In the very words
/// of the index `executions_placed`.
macro_rules! placed {
    () => {
        "phase IN ('scheduled', 'starting', 'running', 'stopping')"
    };
}
pub(super) use placed;

/// A row that the reconciler `{text 1}` may claim at `{time 2}`.
macro_rules! free {
    () => {
        "(holder IS NULL OR holder = {text 1} OR NOT EXISTS \
         (SELECT 1 FROM reconcilers WHERE reconcilers.id = holder AND lease_until > {time 2}))"
    };
}

static CLAIM_DUE: Statement = Statement::new(concat!(
    "UPDATE executions SET holder = {text 1}, due_at = {time 4} WHERE id IN \
     (SELECT found.id FROM (SELECT due.id FROM executions AS due WHERE due_at IS NOT NULL AND due_at <= {time 2} AND ",
    free!(),
    " ORDER BY due_at LIMIT {int 3} {skip_locked}) AS found WHERE {few found.id}) RETURNING {as_text id}"
));

static CLAIM: Statement = Statement::new(concat!(
    "UPDATE executions SET holder = {text 1}, due_at = {time 4} WHERE id IN {uuids 3} AND ",
    checked!(live!(), " AND ", free!()),
    " RETURNING {as_text id}"
));

static HELD_OF: Statement = Statement::new(concat!(
    "SELECT {as_text id} FROM executions WHERE id IN {uuids 2} AND ",
    checked!("holder = {text 1} AND ", live!())
));

static LOAD: Statement = Statement::new(concat!(
    "SELECT ",
    work_columns!(),
    " FROM executions WHERE id = {uuid 1} AND ",
    checked!("holder = {text 2}")
));

static NEXT_DUE: Statement = Statement::new(concat!(
    "SELECT {as_micros due_at} FROM executions WHERE due_at IS NOT NULL AND ",
    free!(),
    " ORDER BY due_at LIMIT 1"
));

/// The new value of a column, unless the row has ended.
macro_rules! kept_at_end {
    ($new:literal, $column:literal) => {
        concat!("CASE WHEN ", live!(), " THEN ", $new, " ELSE ", $column, " END")
    };
}

// The launch is recorded by leaving the phases before it: `super::executions` says why the token goes then.
// What has ended keeps its end, whatever a faulty reconciler or an older version believes.
static RECORD: Statement = Statement::new(concat!(
    "UPDATE executions SET phase = {text 4}, engine = {text 7}, engine_id = {text 8}, reason = ",
    kept_at_end!("{text 5}", "reason"),
    ", message = ",
    kept_at_end!("{text 6}", "message"),
    ", started_at = ",
    kept_at_end!("{time 9}", "started_at"),
    ", finished_at = ",
    kept_at_end!("{time 10}", "finished_at"),
    ", exit_code = ",
    kept_at_end!("{int 11}", "exit_code"),
    ", \
     ports = COALESCE({json 12}, ports), attempts = {int 13}, due_at = {time 14}, \
     holder = {text 15}, placement = COALESCE({json 16}, placement), queued_on = {text 17}, \
     slot = CASE WHEN {text 4} IN ('scheduled', 'starting', 'running', 'stopping') THEN slot END, \
     revision = revision + 1, \
     sealed_token = CASE WHEN {text 4} IN ('pending', 'scheduled') THEN sealed_token END \
     WHERE id = {uuid 1} AND ",
    checked!("revision = {int 2} AND holder = {text 3}"),
    " RETURNING revision"
));

// The least place that is free: two that are given the same at the same time cannot both have it, which the index
// `executions_slots` sees to. Who has none, because there was no limit when it was placed, counts as well.
static PLACE: Statement = Statement::new(concat!(
    "UPDATE executions SET phase = 'scheduled', reason = NULL, message = NULL, engine = {text 4}, placement = {json 5}, \
     queued_on = NULL, cpu_millis = {int 7}, memory_bytes = {int 8}, gpus = {int 9}, extended = {json 10}, due_at = NULL, \
     revision = revision + 1, slot = CASE WHEN {int 6} IS NOT NULL THEN (SELECT MIN(place) FROM (SELECT 1 AS place \
     UNION ALL SELECT taken.slot + 1 FROM executions AS taken WHERE taken.engine = {text 4} AND taken.slot IS NOT NULL) AS places \
     WHERE NOT EXISTS (SELECT 1 FROM executions AS taken WHERE taken.engine = {text 4} AND taken.slot = places.place)) END \
     WHERE id = {uuid 1} AND ",
    checked!("revision = {int 2} AND holder = {text 3} AND phase = 'pending'"),
    " AND ({int 6} IS NULL OR (SELECT COUNT(*) FROM executions AS other WHERE other.engine = {text 4} AND other.",
    placed!(),
    ") < {int 6}) RETURNING revision"
));

// Who has the fewest there is next, then who was served longest ago, and of each owner's the oldest.
static QUEUE: Statement = Statement::new(concat!(
    "SELECT {as_text id} FROM (SELECT id, ROW_NUMBER() OVER (PARTITION BY waiting.owner ORDER BY id) + \
     COALESCE(has.placed, 0) AS turn, turns.served_at FROM executions AS waiting LEFT JOIN \
     (SELECT owner, COUNT(*) AS placed FROM executions WHERE engine = {text 1} AND ",
    placed!(),
    " GROUP BY owner) has ON has.owner = waiting.owner \
     LEFT JOIN turns ON turns.engine = {text 1} AND turns.owner = waiting.owner WHERE queued_on IS NOT NULL \
     AND queued_on LIKE '%,' || {text 1} || ',%' AND wanted = 'running') queue ORDER BY turn, served_at NULLS FIRST, id LIMIT {int 2}"
));

static SERVED: Statement = Statement::new(
    "INSERT INTO turns (engine, owner, served_at) VALUES ({text 1}, {text 2}, {time 3}) \
     ON CONFLICT (engine, owner) DO UPDATE SET served_at = excluded.served_at RETURNING 1",
);

static ALL_SERVED: Statement = Statement::new(concat!(
    "INSERT INTO turns (engine, owner, served_at) SELECT DISTINCT engine, owner, {time 2} FROM executions \
     WHERE engine = {text 1} AND ",
    placed!(),
    " ON CONFLICT (engine, owner) DO UPDATE SET served_at = excluded.served_at RETURNING 1"
));

static FORGET_TURNS: Statement = Statement::new("DELETE FROM turns WHERE served_at < {time 1} RETURNING 1");

static WAKE: Statement = Statement::new(concat!(
    "UPDATE executions SET due_at = {time 2} WHERE id IN {uuids 1} AND ",
    checked!("phase = 'pending' AND (due_at IS NULL OR due_at > {time 2})"),
    " RETURNING 1"
));

static DEFER: Statement = Statement::new(concat!(
    "UPDATE executions SET due_at = {time 4} WHERE id = {uuid 1} AND ",
    checked!("revision = {int 2} AND holder = {text 3}"),
    " RETURNING 1"
));

// The holders are found by stepping through the index from one to the next: there are few, and they hold thousands of rows.
static RELEASE_DEAD: Statement = Statement::new(
    "WITH RECURSIVE holders (name) AS (SELECT min(holder) FROM executions WHERE holder IS NOT NULL UNION ALL \
     SELECT (SELECT min(holder) FROM executions WHERE holder > holders.name) FROM holders WHERE holders.name IS NOT NULL) \
     UPDATE executions SET holder = NULL, due_at = {time 1} WHERE holder IN \
     (SELECT holders.name FROM holders WHERE holders.name IS NOT NULL AND NOT EXISTS \
     (SELECT 1 FROM reconcilers WHERE reconcilers.id = holders.name AND lease_until > {time 1})) RETURNING {as_text id}",
);

static RELEASE_ALL: Statement = Statement::new(
    "UPDATE executions SET holder = NULL, due_at = {time 2} WHERE holder = {text 1} RETURNING {as_text id}",
);

static WAKE_ENGINE: Statement = Statement::new(
    "UPDATE executions SET due_at = {time 2} WHERE due_at > {time 2} AND (engine = {text 1} OR engine IS NULL) \
     RETURNING 1",
);

static PULL_IN: Statement =
    Statement::new("UPDATE executions SET due_at = {time 2} WHERE due_at > {time 1} RETURNING 1");

static HELD: Statement = Statement::new(
    "SELECT {as_text id} FROM executions WHERE holder = {text 1} AND engine = {text 2} \
     AND phase IN ('starting', 'running', 'stopping')",
);

static WITH_OBJECT: Statement =
    Statement::new(concat!("SELECT {as_text id} FROM executions WHERE id IN {uuids 1} AND ", checked!(live!())));

static COUNT_BY_PHASE: Statement = Statement::new(
    "SELECT phase, COUNT(*) FROM executions WHERE holder IS NOT NULL OR due_at IS NOT NULL GROUP BY phase",
);

statements!(
    CLAIM_DUE,
    CLAIM,
    HELD_OF,
    LOAD,
    NEXT_DUE,
    RECORD,
    PLACE,
    QUEUE,
    SERVED,
    ALL_SERVED,
    FORGET_TURNS,
    WAKE,
    DEFER,
    RELEASE_DEAD,
    RELEASE_ALL,
    WAKE_ENGINE,
    PULL_IN,
    HELD,
    WITH_OBJECT,
    COUNT_BY_PHASE
);

/// Claims up to `limit` rows that are due and free, the longest due first.
pub async fn claim_due(
    db: &impl Database,
    holder: &str,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<ExecutionId>, DatabaseError> {
    let parameters = vec![holder.into(), now.into(), i64::from(limit).into(), now.plus(CLAIMED_FOR).into()];
    db.query(CLAIM_DUE.sql(db.dialect()), parameters).await?.iter_mut().map(Row::parsed).collect()
}

/// Claims those of `ids`, due or not, of which something was heard, and returns those that are `holder`'s now. The others
/// have ended, or are somebody else's. What is held already costs no write: if its holder dies, the end of the lease makes
/// it due.
pub async fn claim(
    db: &impl Database,
    holder: &str,
    now: Timestamp,
    ids: &[ExecutionId],
) -> Result<Vec<ExecutionId>, DatabaseError> {
    let parameters = vec![holder.into(), json_list(ids)];
    let mut held = db.query(HELD_OF.sql(db.dialect()), parameters).await?;
    let mut claimed: Vec<ExecutionId> = held.iter_mut().map(Row::parsed).collect::<Result<_, _>>()?;
    let others: Vec<ExecutionId> = ids.iter().copied().filter(|id| !claimed.contains(id)).collect();
    if !others.is_empty() {
        let parameters = vec![holder.into(), now.into(), json_list(&others), now.plus(CLAIMED_FOR).into()];
        for mut row in db.query(CLAIM.sql(db.dialect()), parameters).await? {
            claimed.push(row.parsed()?);
        }
    }
    Ok(claimed)
}

/// The row as it is now, if `holder` still looks after it.
pub async fn load(db: &impl Database, holder: &str, id: ExecutionId) -> Result<Option<Work>, DatabaseError> {
    let rows = db.query(LOAD.sql(db.dialect()), vec![id.into(), holder.into()]).await;
    rows?.first_mut().map(read_work).transpose()
}

/// When the next row will be due that `holder` may claim.
pub async fn next_due(db: &impl Database, holder: &str, now: Timestamp) -> Result<Option<Timestamp>, DatabaseError> {
    let rows = db.query(NEXT_DUE.sql(db.dialect()), vec![holder.into(), now.into()]).await;
    rows?.first_mut().map(Row::timestamp).transpose()
}

/// Records what was seen of the row that was read at `revision`. `None`: it has changed since, or is no longer the
/// recorder's; nothing was written. Otherwise the new revision.
pub async fn record(
    db: &impl Database,
    holder: &str,
    id: ExecutionId,
    revision: i64,
    seen: &Observation,
) -> Result<Option<i64>, DatabaseError> {
    let facts = seen.status.facts();
    let parameters = vec![
        id.into(),
        revision.into(),
        holder.into(),
        facts.phase.as_str().into(),
        facts.reason.as_deref().into(),
        facts.message.as_deref().into(),
        facts.engine.as_ref().map(EngineName::as_str).into(),
        facts.engine_id.as_deref().into(),
        facts.started.into(),
        facts.finished.into(),
        facts.exit_code.into(),
        seen.ports.as_deref().into(),
        seen.attempts.into(),
        seen.due.into(),
        seen.hold.then_some(holder).into(),
        seen.placement.as_deref().into(),
        seen.queued_on.as_deref().into(),
    ];
    db.query(RECORD.sql(db.dialect()), parameters).await?.first_mut().map(Row::integer).transpose()
}

/// What placing an execution records.
#[derive(Clone, Copy, Debug)]
pub struct Placing<'a> {
    /// The engine.
    pub engine: &'a EngineName,
    /// Why there: a JSON [`PlacementRecord`](crate::placement::PlacementRecord).
    pub placement: &'a str,
    /// The most that may be placed there at once.
    pub max: Option<u32>,
    /// What it needs.
    pub needs: &'a Needs,
}

/// Places the row that was read at `revision` and waits for an engine. `None`: it has changed since, or is no longer the
/// recorder's, or the engine has as many as it may; nothing was written. Otherwise the new revision.
pub async fn place(
    db: &impl Database,
    holder: &str,
    id: ExecutionId,
    revision: i64,
    placing: &Placing<'_>,
) -> Result<Option<i64>, DatabaseError> {
    let extended = placing.needs.extended();
    let all = extended.values().fold(0, |sum: i64, amount| sum.saturating_add(amount.0));
    let extended = (!extended.is_empty()).then(|| serde_json::to_string(&extended)).transpose();
    let extended = extended.map_err(|error| DatabaseError::Unexpected(error.to_string()))?;
    let parameters = vec![
        id.into(),
        revision.into(),
        holder.into(),
        placing.engine.as_str().into(),
        placing.placement.into(),
        placing.max.map(i64::from).into(),
        placing.needs.amount("cpu").0.into(),
        placing.needs.amount("memory").0.into(),
        all.into(),
        extended.into(),
    ];
    match db.query(PLACE.sql(db.dialect()), parameters).await {
        // Another was given the same place at the same moment.
        Err(DatabaseError::Conflict(_)) => Ok(None),
        answer => answer?.first_mut().map(Row::integer).transpose(),
    }
}

/// Who waits for an engine, whose turn it is first; at most `limit`.
pub async fn queue(db: &impl Database, engine: &EngineName, limit: u32) -> Result<Vec<ExecutionId>, DatabaseError> {
    let parameters = vec![engine.as_str().into(), i64::from(limit).into()];
    db.query(QUEUE.sql(db.dialect()), parameters).await?.iter_mut().map(Row::parsed).collect()
}

/// Takes note that an execution of `owner`'s was placed on an engine that others wait for.
pub async fn served(db: &impl Database, engine: &EngineName, owner: &str, now: Timestamp) -> Result<(), DatabaseError> {
    db.query(SERVED.sql(db.dialect()), vec![engine.as_str().into(), owner.into(), now.into()]).await?;
    Ok(())
}

/// Takes note that whoever has executions on an engine was served before those who begin to wait for it now.
pub async fn all_served(db: &impl Database, engine: &EngineName, now: Timestamp) -> Result<(), DatabaseError> {
    db.query(ALL_SERVED.sql(db.dialect()), vec![engine.as_str().into(), now.into()]).await?;
    Ok(())
}

/// Forgets who was served before `before`: whose turn it is does not reach back that far.
pub async fn forget_turns(db: &impl Database, before: Timestamp) -> Result<(), DatabaseError> {
    db.query(FORGET_TURNS.sql(db.dialect()), vec![before.into()]).await?;
    Ok(())
}

/// Makes those of `ids` due that wait for an engine.
pub async fn wake(db: &impl Database, ids: &[ExecutionId], now: Timestamp) -> Result<(), DatabaseError> {
    db.query(WAKE.sql(db.dialect()), vec![json_list(ids), now.into()]).await?;
    Ok(())
}

/// Says when to look next at the row that was read at `revision`. `false`: it has changed since, or is somebody else's.
pub async fn defer(
    db: &impl Database,
    holder: &str,
    id: ExecutionId,
    revision: i64,
    due: Option<Timestamp>,
) -> Result<bool, DatabaseError> {
    let parameters = vec![id.into(), revision.into(), holder.into(), due.into()];
    Ok(!db.query(DEFER.sql(db.dialect()), parameters).await?.is_empty())
}

/// Frees what is held by reconcilers whose lease has ended, due at once.
pub async fn release_dead(db: &impl Database, now: Timestamp) -> Result<Vec<ExecutionId>, DatabaseError> {
    db.query(RELEASE_DEAD.sql(db.dialect()), vec![now.into()]).await?.iter_mut().map(Row::parsed).collect()
}

/// Hands over all that `holder` holds, due at once.
pub async fn release_all(db: &impl Database, holder: &str, now: Timestamp) -> Result<Vec<ExecutionId>, DatabaseError> {
    let parameters = vec![holder.into(), now.into()];
    db.query(RELEASE_ALL.sql(db.dialect()), parameters).await?.iter_mut().map(Row::parsed).collect()
}

/// Makes everything due that waits for this engine, or for any.
pub async fn wake_engine(db: &impl Database, engine: &EngineName, now: Timestamp) -> Result<(), DatabaseError> {
    db.query(WAKE_ENGINE.sql(db.dialect()), vec![engine.as_str().into(), now.into()]).await?;
    Ok(())
}

/// Makes due what is put off until after `farthest`.
pub async fn pull_in(db: &impl Database, farthest: Timestamp, now: Timestamp) -> Result<(), DatabaseError> {
    db.query(PULL_IN.sql(db.dialect()), vec![farthest.into(), now.into()]).await?;
    Ok(())
}

/// The executions of an engine that `holder` looks after and that should have an object there.
pub async fn held(db: &impl Database, holder: &str, engine: &EngineName) -> Result<Vec<ExecutionId>, DatabaseError> {
    let parameters = vec![holder.into(), engine.as_str().into()];
    db.query(HELD.sql(db.dialect()), parameters).await?.iter_mut().map(Row::parsed).collect()
}

/// Which of `ids` have a row that may own an engine object. The objects of the others are nobody's.
pub async fn with_object(db: &impl Database, ids: &[ExecutionId]) -> Result<Vec<ExecutionId>, DatabaseError> {
    db.query(WITH_OBJECT.sql(db.dialect()), vec![json_list(ids)]).await?.iter_mut().map(Row::parsed).collect()
}

/// How many executions are in each phase, of those that somebody looks after or must.
pub async fn count_by_phase(db: &impl Database) -> Result<Vec<(String, i64)>, DatabaseError> {
    let rows = db.query(COUNT_BY_PHASE.sql(db.dialect()), Vec::new()).await?;
    rows.into_iter().map(|mut row| Ok((row.text()?, row.integer()?))).collect()
}

/// As `{uuids}` takes them.
fn json_list(ids: &[ExecutionId]) -> Value {
    Value::Text(format!("[{}]", ids.iter().map(|id| format!("\"{id}\"")).collect::<Vec<_>>().join(",")))
}

fn read_work(row: &mut Row) -> Result<Work, DatabaseError> {
    Ok(Work {
        execution: read(row)?,
        attempts: row.integer()?,
        owner: row.text()?,
        spec: row.text()?,
        due: row.optional_timestamp()?,
        sealed_token: row.optional_blob()?.map(SealedToken::from_stored),
        claims: row.text()?,
        queued_on: row.optional_text()?,
    })
}
