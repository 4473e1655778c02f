//! The plans that the databases make for every statement of the product.
//!
//! A plan depends on what a database knows of a table. So each statement is explained on a schema without rows, on
//! seeded tables that were never analysed, and on the same when they are; on PostgreSQL as it is planned for these
//! parameters, and as it is planned for any: a server keeps that plan, also when it was made before there were rows.
//!
//! [`RULES`] is what must hold of every plan. A statement that [`call_everything`] does not make fails the test.

mod access;
mod calls;
mod seed;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use renga_reconciler::db::NativeDatabase;
use renga_shared::sql::{Database as _, Dialect, Row, statements};
use renga_tests::require;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::{migrated, sqlite};
use access::{Access, Key, keys};
use calls::{Call, call_everything};

/// Returns what is wrong with the plan of a statement.
type Rule = fn(&str, &[Access]) -> Vec<String>;

/// What must hold of the plan of any statement.
const RULES: &[Rule] = &[ids_are_looked_up_in_the_primary_key];
/// At least so many statements name a row by its id: a rule that finds none to hold would hold of everything.
const BY_ID: usize = 20;

/// A row that is named by its id is found by the primary key, and nothing else is read to find it.
fn ids_are_looked_up_in_the_primary_key(sql: &str, plan: &[Access]) -> Vec<String> {
    let looked_up = |key: &Key| {
        let mut of_it = plan.iter().filter(|access| access.relation == key.relation).peekable();
        of_it.peek().is_some() && of_it.all(|access| access.is_lookup(key))
    };
    keys(sql)
        .into_iter()
        .filter(|key| !looked_up(key))
        .map(|key| format!("{} is not found by the primary key on {}", key.relation, key.column))
        .collect()
}

#[tokio::test]
async fn sqlite_finds_rows_by_their_ids() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let db = migrated(&sqlite(&folder)).await;
    let native = rusqlite::Connection::open(folder.path().join("deployer.db"))?;
    let calls = call_everything(Dialect::Sqlite).await;
    let mut faults = Faults::default();
    for (state, change) in [("no rows", ""), ("not analysed", seed::SQLITE), ("analysed", "ANALYZE")] {
        native.execute_batch(change)?;
        // Each state has connections of its own: what is known of the tables is read when a file is opened.
        let db = NativeDatabase::open(&sqlite(&folder))?;
        for call in &calls {
            let sql = format!("EXPLAIN QUERY PLAN {}", call.sql);
            let lines = db.query(&sql, call.parameters.clone()).await.with_context(|| call.sql.clone())?;
            faults.judge(call, state, &lines.into_iter().map(of_sqlite).collect::<Result<Vec<_>>>()?);
        }
        db.close().await;
    }
    db.close().await;
    faults.check(&calls)
}

fn of_sqlite(mut row: Row) -> Result<Vec<Access>> {
    for _ in 0..3 {
        row.integer()?;
    }
    Ok(Access::of_sqlite(&row.text()?))
}

#[tokio::test]
async fn postgres_finds_rows_by_their_ids() -> Result<()> {
    let uri = require!(postgres).create_database().await?;
    let db = migrated(&renga_shared::sql::uri::DatabaseUri::parse(&uri).map_err(anyhow::Error::msg)?).await;
    let (client, connection) = tokio_postgres::connect(&uri, NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute(seed::NEVER_BY_ITSELF).await?;
    client.batch_execute("SET plan_cache_mode = force_generic_plan").await?;
    let calls = call_everything(Dialect::Postgres).await;
    let mut faults = Faults::default();
    for (state, change) in [("no rows", ""), ("not analysed", seed::POSTGRES), ("analysed", "ANALYZE")] {
        client.batch_execute(change).await?;
        for call in &calls {
            let explained = format!("EXPLAIN (FORMAT JSON) {}", call.sql);
            let plan = db.query(&explained, call.parameters.clone()).await.with_context(|| call.sql.clone())?;
            let plan = plan.into_iter().next().context("no plan")?.text()?;
            faults.judge(call, &format!("{state}, these parameters"), &[Access::of_postgres(&plan)?]);

            let parameters = vec!["NULL"; call.parameters.len()].join(", ");
            let arguments = if parameters.is_empty() { String::new() } else { format!("({parameters})") };
            let any =
                format!("DEALLOCATE ALL; PREPARE call AS {}; EXPLAIN (FORMAT JSON) EXECUTE call {arguments}", call.sql);
            let answer = client.simple_query(&any).await.with_context(|| call.sql.clone())?;
            let plan = answer.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            });
            faults.judge(call, &format!("{state}, any parameters"), &[Access::of_postgres(plan.context("no plan")?)?]);
        }
    }
    db.close().await;
    faults.check(&calls)
}

/// What is wrong with the plans.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn judge(&mut self, call: &Call, state: &str, plan: &[Vec<Access>]) {
        let plan = plan.concat();
        for fault in RULES.iter().flat_map(|rule| rule(&call.sql, &plan)) {
            self.0.push(format!("{state}: {fault}\n  {}\n  {plan:?}", call.sql));
        }
    }

    /// Fails with all that is wrong, or if a statement was never looked at.
    fn check(self, calls: &[Call]) -> Result<()> {
        let missing: Vec<String> = statements()
            .filter(|(_, _, statement)| !calls.iter().any(|call| call.is_of(statement)))
            .map(|(module, name, _)| format!("{module}::{name}"))
            .collect();
        ensure!(missing.is_empty(), "{missing:?} is not called by `call_everything`: have it call what makes these");
        let by_id: BTreeSet<&str> =
            calls.iter().filter(|call| !keys(&call.sql).is_empty()).map(|call| call.sql.as_str()).collect();
        ensure!(by_id.len() >= BY_ID, "only {} statements name an id: {by_id:#?}", by_id.len());
        ensure!(self.0.is_empty(), "{} plans are wrong:\n{}", self.0.len(), self.0.join("\n"));
        Ok(())
    }
}
