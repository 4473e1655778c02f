//! The table `engines`: those that the reconcilers serve, and whether they answer. Written by the reconcilers.

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
    /// What its executions use, and who waits for it.
    pub usage: Usage,
}

impl EngineRow {
    /// The engine as a placement sees it, whoever asks.
    pub fn candidate(self) -> Candidate {
        let away =
            (!self.up).then(|| unavailable(&self.name, self.reason.as_deref().unwrap_or("it has not answered yet")));
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
     COALESCE(used.gpus, 0) FROM engines LEFT JOIN (SELECT engine, COUNT(*) AS placed, \
     SUM(CASE WHEN phase IN ('running', 'stopping') THEN 1 ELSE 0 END) AS running, \
     {total cpu_millis} AS cpu, {total memory_bytes} AS memory, {total gpus} AS gpus FROM executions WHERE ",
    placed!(),
    " GROUP BY engine) used ON used.engine = engines.name ORDER BY name"
));

static FORGET: Statement = Statement::new("DELETE FROM engines WHERE served_at < {time 1} RETURNING 1");

statements!(PUT, DESCRIBE, LIST, FORGET);

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

/// Every engine, by name.
pub async fn list(db: &impl Database) -> Result<Vec<EngineRow>, DatabaseError> {
    db.query(LIST.sql(db.dialect()), Vec::new()).await?.iter_mut().map(read).collect()
}

/// Forgets the engines that no reconciler has served since `before`: they were taken out of the configuration.
pub async fn forget(db: &impl Database, before: Timestamp) -> Result<(), DatabaseError> {
    db.query(FORGET.sql(db.dialect()), vec![before.into()]).await?;
    Ok(())
}

fn read(row: &mut Row) -> Result<EngineRow, DatabaseError> {
    Ok(EngineRow {
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
            gpus: row.integer()?,
        },
    })
}

fn count(row: &mut Row) -> Result<u32, DatabaseError> {
    Ok(u32::try_from(row.integer()?).unwrap_or(u32::MAX))
}
