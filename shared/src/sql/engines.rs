//! The table `engines`: those that the reconcilers serve, and whether they answer. Written by the reconcilers.

use super::statement::Statement;
use super::{Database, DatabaseError, Row};
use crate::domain::{EngineName, Timestamp};

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
}

static PUT: Statement = Statement::new(
    "INSERT INTO engines (name, kind, up, since, reason, version, served_at) \
     VALUES ({text 1}, {text 2}, {int 3}, {time 4}, {text 5}, {text 6}, {time 4}) \
     ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, up = excluded.up, reason = excluded.reason, \
     version = COALESCE(excluded.version, engines.version), served_at = excluded.served_at, \
     since = CASE WHEN engines.up = excluded.up THEN engines.since ELSE excluded.since END RETURNING 1",
);

static LIST: Statement =
    Statement::new("SELECT name, kind, up, {as_micros since}, reason, version FROM engines ORDER BY name");

static FORGET: Statement = Statement::new("DELETE FROM engines WHERE served_at < {time 1} RETURNING 1");

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
    })
}
