//! The table `reconcilers`: who is alive. See [`super::observations`] for what a lease covers.

use super::statement::{Statement, statements};
use super::{Database, DatabaseError};
use crate::domain::Timestamp;

static RENEW: Statement = Statement::new(
    "INSERT INTO reconcilers (id, lease_until) VALUES ({text 1}, {time 2}) \
     ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until RETURNING 1",
);

static END: Statement = Statement::new("DELETE FROM reconcilers WHERE id = {text 1} RETURNING 1");

static FORGET: Statement = Statement::new("DELETE FROM reconcilers WHERE lease_until < {time 1} RETURNING 1");

statements!(RENEW, END, FORGET);

/// Takes or renews the lease of reconciler `id`.
pub async fn renew(db: &impl Database, id: &str, until: Timestamp) -> Result<(), DatabaseError> {
    db.query(RENEW.sql(db.dialect()), vec![id.into(), until.into()]).await?;
    Ok(())
}

/// Ends the lease of reconciler `id`: it stops.
pub async fn end(db: &impl Database, id: &str) -> Result<(), DatabaseError> {
    db.query(END.sql(db.dialect()), vec![id.into()]).await?;
    Ok(())
}

/// Forgets the leases that ended before `before`.
pub async fn forget(db: &impl Database, before: Timestamp) -> Result<(), DatabaseError> {
    db.query(FORGET.sql(db.dialect()), vec![before.into()]).await?;
    Ok(())
}
