//! What another connection wrote is heard of, also where every connection for statements is in use.

use std::time::Duration;

use anyhow::Result;
use renga_reconciler::db::{Changes, NativeDatabase};
use renga_shared::sql::Database as _;
use renga_shared::sql::uri::DatabaseUri;
use renga_tests::deployment::until;
use renga_tests::require;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::NoTls;

use super::{migrated, sqlite};

/// More statements at once than there are connections.
const STATEMENTS: usize = 32;
/// The driver gives up waiting for a change whenever something else happens.
const SOMETHING_ELSE: Duration = Duration::from_millis(2);

/// Uses every connection until it is dropped: whichever becomes free is taken by the next statement.
fn use_up(db: &NativeDatabase, sql: &'static str) -> JoinSet<()> {
    let mut busy = JoinSet::new();
    for _ in 0..STATEMENTS {
        let db = db.clone();
        busy.spawn(async move {
            loop {
                // Its turn may not come in time.
                let _ = db.query(sql, Vec::new()).await;
            }
        });
    }
    busy
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_heard_while_every_connection_is_in_use() -> Result<()> {
    let uri = require!(postgres).create_database().await?;
    let db = migrated(&DatabaseUri::parse(&uri)?).await;
    let (client, connection) = tokio_postgres::connect(&uri, NoTls).await?;
    tokio::spawn(connection);
    let _busy = use_up(&db, "SELECT 1 FROM pg_sleep(0.2)");
    let mut changes = Changes::of(db);
    let listeners = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    until("a listener", async || {
        let _ = timeout(SOMETHING_ELSE, changes.next()).await;
        let count: i64 = client.query_one(listeners, &[]).await?.get(0);
        Ok(if count > 0 { Ok(()) } else { Err(json!(count)) })
    })
    .await?;
    // That it is connected is a change, and what it hears is another.
    let mut changed = 0;
    until("a change to be heard", async || {
        client.batch_execute("NOTIFY renga_executions").await?;
        changed += usize::from(timeout(SOMETHING_ELSE, changes.next()).await.is_ok());
        Ok(if changed > 1 { Ok(()) } else { Err(json!(changed)) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_is_heard_while_every_connection_is_in_use() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let db = migrated(&sqlite(&folder)).await;
    let long = "SELECT count(*) FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500000) \
                SELECT i FROM n)";
    let _busy = use_up(&db, long);
    // They have all connections once one of them has waited for long enough to have been answered.
    db.query(long, Vec::new()).await?;
    let mut changes = Changes::of(db);
    until("the file to be watched", async || {
        let seen = timeout(SOMETHING_ELSE, changes.next()).await;
        Ok(if seen.is_ok() { Ok(()) } else { Err(json!("nothing")) })
    })
    .await
}
