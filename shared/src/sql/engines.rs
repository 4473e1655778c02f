//! The table `engines`: those that the reconcilers serve, and whether they answer. Written by the reconcilers.

use std::collections::BTreeMap;
use std::time::Duration;

use super::observations::placed;
use super::statement::{Statement, statements};
use super::{Database, DatabaseError, Row, between_commas};
use crate::domain::{EngineName, Timestamp, Why};
use crate::placement::{Candidate, Namespaces, Offer, Queue, Usage};

/// An engine as its reconciler last saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineRow {
    /// Its configured name.
    pub name: EngineName,
    /// What it is: `docker`.
    pub kind: String,
    /// Whether it answers.
    pub up: bool,
    /// Since when it does, or does not.
    pub since: Timestamp,
    /// Why it does not.
    pub reason: Option<String>,
    /// The version that it told.
    pub version: Option<String>,
    /// What it offers.
    pub offer: Offer,
    /// Where it is, as the configuration said it.
    pub url: Option<String>,
    /// Whether a reconciler that serves it is alive. Without one, nobody knows whether it answers, and it is not `up`.
    pub confirmed: bool,
    /// What its executions use, and who waits for it.
    pub usage: Usage,
}

impl EngineRow {
    /// The engine as a placement sees it, whoever asks.
    pub fn candidate(self) -> Candidate {
        let away = match self.confirmed {
            true if self.up => None,
            true => Some(unavailable(&self.name, self.reason.as_deref().unwrap_or("it has not answered yet"))),
            false => {
                let message = format!("No reconciler that serves the engine {} is alive.", self.name);
                Some(Why::new("EngineUnavailable", message))
            }
        };
        let mut offer = self.offer;
        offer.capacity = offer.capacity.less(&self.usage);
        let queue = Queue { placed: self.usage.placed, ahead: self.usage.waiting };
        Candidate { name: self.name, kind: self.kind, away, offer, queue }
    }
}

/// What is told of an engine that does not answer.
pub fn unavailable(engine: &EngineName, reason: &str) -> Why {
    Why::new("EngineUnavailable", format!("The engine {engine} does not answer: {reason}"))
}

/// The reason of an engine that is not confirmed.
const UNCONFIRMED: &str = "no reconciler that serves it is alive";

/// Whether a reconciler that serves the engine of the row is alive at `{time 1}`.
macro_rules! confirmed {
    () => {
        "EXISTS (SELECT 1 FROM served_engines JOIN reconcilers ON reconcilers.id = served_engines.reconciler \
         WHERE served_engines.engine = engines.name AND reconcilers.lease_until > {time 1})"
    };
}

/// Whether an execution is placed on the engine of the row.
macro_rules! in_use {
    () => {
        concat!("EXISTS (SELECT 1 FROM executions WHERE executions.engine = engines.name AND ", placed!(), ")")
    };
}

static SERVE: Statement = Statement::new(
    "INSERT INTO served_engines (engine, reconciler) VALUES ({text 1}, {text 2}) \
     ON CONFLICT (engine, reconciler) DO NOTHING RETURNING 1",
);

static LEAVE: Statement =
    Statement::new("DELETE FROM served_engines WHERE engine = {text 1} AND reconciler = {text 2} RETURNING 1");

static PUT: Statement = Statement::new(
    "INSERT INTO engines (name, kind, up, since, reason, version, served_at) \
     VALUES ({text 1}, {text 2}, {int 3}, {time 4}, {text 5}, {text 6}, {time 4}) \
     ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, up = excluded.up, reason = excluded.reason, \
     version = COALESCE(excluded.version, engines.version), served_at = excluded.served_at, \
     since = CASE WHEN engines.up = excluded.up THEN engines.since ELSE excluded.since END RETURNING 1",
);

static DESCRIBE: Statement = Statement::new(
    "UPDATE engines SET offer = {json 2}, namespaces = {text 3}, url = {text 4} WHERE name = {text 1} RETURNING 1",
);

static LIST: Statement = Statement::new(concat!(
    "SELECT name, kind, up, {as_micros since}, reason, version, {as_text offer}, url, COALESCE(used.placed, 0), \
     COALESCE(used.running, 0), (SELECT COUNT(*) FROM executions WHERE queued_on IS NOT NULL \
     AND queued_on LIKE '%,' || engines.name || ',%'), COALESCE(used.cpu, 0), COALESCE(used.memory, 0), \
     {as_micros served_at}, {as_micros (SELECT MAX(lease_until) FROM served_engines \
     JOIN reconcilers ON reconcilers.id = served_engines.reconciler WHERE served_engines.engine = engines.name)} \
     FROM engines LEFT JOIN (SELECT engine, COUNT(*) AS placed, \
     SUM(CASE WHEN phase IN ('running', 'stopping') THEN 1 ELSE 0 END) AS running, \
     {total cpu_millis} AS cpu, {total memory_bytes} AS memory FROM executions WHERE ",
    placed!(),
    " GROUP BY engine) used ON used.engine = engines.name ORDER BY name"
));

// Read by the index `executions_extended`: most executions have none.
static EXTENDED: Statement = Statement::new(concat!(
    "SELECT executions.engine, used.key, {total CAST(used.value AS bigint)} FROM executions, {each extended} AS used \
     WHERE extended IS NOT NULL AND ",
    placed!(),
    " GROUP BY executions.engine, used.key"
));

// A reconciler of a version that did not write `served_engines` may serve an engine without rows there, so that engine is
// left for longer.
static FORGET: Statement = Statement::new(concat!(
    "DELETE FROM engines WHERE served_at < {time 2} AND (served_at < {time 3} OR EXISTS \
     (SELECT 1 FROM served_engines WHERE served_engines.engine = engines.name)) AND NOT ",
    confirmed!(),
    " AND NOT ",
    in_use!(),
    " RETURNING name"
));

static RETIRE: Statement = Statement::new(concat!(
    "DELETE FROM engines WHERE name = {text 2} AND NOT ",
    confirmed!(),
    " AND NOT ",
    in_use!(),
    " RETURNING 1"
));

static IN_USE: Statement = Statement::new(concat!("SELECT 1 FROM engines WHERE name = {text 1} AND ", in_use!()));

// The last rows of an engine are kept as long as the engine's own: see `FORGET`.
static FORGET_SERVED: Statement = Statement::new(
    "DELETE FROM served_engines WHERE NOT EXISTS (SELECT 1 FROM reconcilers WHERE reconcilers.id = served_engines.reconciler) \
     AND (NOT EXISTS (SELECT 1 FROM engines WHERE engines.name = served_engines.engine) OR EXISTS \
     (SELECT 1 FROM served_engines AS other JOIN reconcilers ON reconcilers.id = other.reconciler \
     WHERE other.engine = served_engines.engine)) RETURNING 1",
);

/// How long the row of an engine is kept that no reconciler of this version has served.
const KEPT: Duration = Duration::from_secs(3600);

statements!(SERVE, LEAVE, PUT, DESCRIBE, LIST, EXTENDED, FORGET, RETIRE, IN_USE, FORGET_SERVED);

/// Records how an engine is `now`. `since` changes only when it goes up or down.
pub async fn put(
    db: &impl Database,
    name: &EngineName,
    kind: &str,
    state: Result<&str, &str>,
    now: Timestamp,
) -> Result<(), DatabaseError> {
    let parameters = vec![
        name.as_str().into(),
        kind.into(),
        i64::from(state.is_ok()).into(),
        now.into(),
        state.err().into(),
        state.ok().into(),
    ];
    db.query(PUT.sql(db.dialect()), parameters).await?;
    Ok(())
}

/// Records what an engine that has a row offers, and where it is.
pub async fn describe(db: &impl Database, name: &EngineName, offer: &Offer, url: &str) -> Result<(), DatabaseError> {
    let namespaces = match &offer.namespaces {
        Namespaces::Any => None,
        Namespaces::Only(names) => Some(between_commas(names.iter().map(String::as_str))),
    };
    let offer = serde_json::to_string(offer).map_err(|error| DatabaseError::Unexpected(error.to_string()))?;
    let parameters = vec![name.as_str().into(), offer.into(), namespaces.into(), url.into()];
    db.query(DESCRIBE.sql(db.dialect()), parameters).await?;
    Ok(())
}

/// Takes note that `reconciler` serves an engine: its lease confirms the engine's row from now on.
pub async fn serve(db: &impl Database, name: &EngineName, reconciler: &str) -> Result<(), DatabaseError> {
    db.query(SERVE.sql(db.dialect()), vec![name.as_str().into(), reconciler.into()]).await?;
    Ok(())
}

/// Every engine, by name, as it is known at `now`.
pub async fn list(db: &impl Database, now: Timestamp) -> Result<Vec<EngineRow>, DatabaseError> {
    let rows = db.query(LIST.sql(db.dialect()), Vec::new()).await;
    let mut engines: Vec<EngineRow> = rows?.iter_mut().map(|row| read(row, now)).collect::<Result<_, _>>()?;
    for mut row in db.query(EXTENDED.sql(db.dialect()), Vec::new()).await? {
        let (name, resource, amount) = (row.text()?, row.text()?, row.integer()?);
        if let Some(engine) = engines.iter_mut().find(|engine| engine.name.as_str() == name) {
            engine.usage.extended.insert(resource, amount);
        }
    }
    Ok(engines)
}

/// Forgets the engines that were taken out of the configuration, and returns their names: no reconciler that is alive serves
/// them, nothing is placed on them, and they were last served before `before`.
pub async fn forget(db: &impl Database, before: Timestamp, now: Timestamp) -> Result<Vec<String>, DatabaseError> {
    let parameters = vec![now.into(), before.into(), now.minus(KEPT).into()];
    let forgotten = db.query(FORGET.sql(db.dialect()), parameters).await?.iter_mut().map(Row::text).collect();
    db.query(FORGET_SERVED.sql(db.dialect()), Vec::new()).await?;
    forgotten
}

/// Ends what `reconciler` does for an engine that was taken out of the configuration, once nothing is placed there.
/// The last reconciler to do so removes the row. `false`: something is placed there.
pub async fn retire(
    db: &impl Database,
    name: &EngineName,
    reconciler: &str,
    now: Timestamp,
) -> Result<bool, DatabaseError> {
    if !db.query(IN_USE.sql(db.dialect()), vec![name.as_str().into()]).await?.is_empty() {
        return Ok(false);
    }
    db.query(LEAVE.sql(db.dialect()), vec![name.as_str().into(), reconciler.into()]).await?;
    db.query(RETIRE.sql(db.dialect()), vec![now.into(), name.as_str().into()]).await?;
    Ok(true)
}

fn read(row: &mut Row, now: Timestamp) -> Result<EngineRow, DatabaseError> {
    let mut engine = EngineRow {
        name: EngineName::parse(&row.text()?).map_err(|error| DatabaseError::Unexpected(error.to_string()))?,
        kind: row.text()?,
        up: row.integer()? != 0,
        since: row.timestamp()?,
        reason: row.optional_text()?,
        version: row.optional_text()?,
        // One that a newer version wrote offers nothing to this one.
        offer: serde_json::from_str(&row.text()?).unwrap_or_default(),
        url: row.optional_text()?,
        usage: Usage {
            placed: count(row)?,
            running: count(row)?,
            waiting: count(row)?,
            cpu_millis: row.integer()?,
            memory_bytes: row.integer()?,
            extended: BTreeMap::new(),
        },
        confirmed: true,
    };
    let (served_at, lease_until) = (row.timestamp()?, row.optional_timestamp()?);
    if lease_until.is_none_or(|until| until <= now) {
        if engine.up {
            engine.since = lease_until.unwrap_or(served_at);
        }
        (engine.up, engine.confirmed) = (false, false);
        engine.reason = Some(UNCONFIRMED.to_owned());
    }
    Ok(engine)
}

fn count(row: &mut Row) -> Result<u32, DatabaseError> {
    Ok(u32::try_from(row.integer()?).unwrap_or(u32::MAX))
}
