//! The table `deployment`: facts about the deployment itself.

use super::statement::{Statement, statements};
use super::{Database, DatabaseError, Row};

/// The deployment's id, with which its engine objects are labelled.
const ID: &str = "id";
/// Whether changes are appended to the table `audit`; triggers read it.
const AUDIT: &str = "audit";

static PUT_ONCE: Statement = Statement::new(
    "INSERT INTO deployment (name, value) VALUES ({text 1}, {text 2}) \
     ON CONFLICT (name) DO UPDATE SET value = deployment.value RETURNING value",
);

static GET: Statement = Statement::new("SELECT value FROM deployment WHERE name = {text 1}");

static PUT: Statement = Statement::new(
    "INSERT INTO deployment (name, value) VALUES ({text 1}, {text 2}) \
     ON CONFLICT (name) DO UPDATE SET value = excluded.value RETURNING value",
);

static PING: Statement = Statement::new("SELECT COUNT(*) FROM deployment");

statements!(PUT_ONCE, GET, PUT, PING);

/// The deployment's id: `proposed` if it has none yet.
pub async fn id(db: &impl Database, proposed: &str) -> Result<String, DatabaseError> {
    let mut rows = db.query(PUT_ONCE.sql(db.dialect()), vec![ID.into(), proposed.into()]).await?;
    rows.first_mut()
        .map(Row::text)
        .unwrap_or_else(|| Err(DatabaseError::Unexpected("storing the deployment's id returned no row".into())))
}

/// The deployment's id, if it has one.
pub async fn known_id(db: &impl Database) -> Result<Option<String>, DatabaseError> {
    db.query(GET.sql(db.dialect()), vec![ID.into()]).await?.first_mut().map(Row::text).transpose()
}

/// Switches the audit of changes on or off.
pub async fn set_audit(db: &impl Database, on: bool) -> Result<(), DatabaseError> {
    let value = if on { "on" } else { "off" };
    db.query(PUT.sql(db.dialect()), vec![AUDIT.into(), value.into()]).await?;
    Ok(())
}

/// Whether the database answers and has our schema.
pub async fn ping(db: &impl Database) -> Result<(), DatabaseError> {
    db.query(PING.sql(db.dialect()), Vec::new()).await?;
    Ok(())
}
