//! The database of a simulation: SQLite in memory, with the schema as it is shipped, answered in an order that the seed
//! decides. Whatever is written is held against the rules at once ([`super::rules`]).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use renga_reconciler::clock::{Clock as _, ManualClock};
use renga_reconciler::db::Substitute;
use renga_shared::domain::{ExecutionId, Timestamp};
use renga_shared::sql::{Database, DatabaseError, Dialect, Row, Value};
use rusqlite::{Connection, types};
use tokio::sync::Notify;

use super::dice::Dice;
use super::life::{Deed, Life};
use super::rules::Rules;
use crate::deployment::workspace;

/// How long a change takes to be heard of.
const HEARD_AFTER: Duration = Duration::from_millis(10);

/// The database itself.
#[derive(Clone)]
pub(super) struct Store {
    connection: Arc<Mutex<Connection>>,
    rules: Arc<Mutex<Rules>>,
    /// Counts what was written.
    version: Arc<AtomicU64>,
    written: Arc<Notify>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    pub(super) fn new(rules: Rules) -> anyhow::Result<Self> {
        let connection = Connection::open_in_memory()?;
        connection.set_prepared_statement_cache_capacity(256);
        let mut migrations: Vec<_> = std::fs::read_dir(workspace().join("migrations/sqlite"))?
            .map(|file| file.map(|file| file.path()))
            .collect::<Result<_, _>>()?;
        migrations.sort();
        for migration in migrations {
            connection.execute_batch(&std::fs::read_to_string(migration)?)?;
        }
        Rules::watch(&connection)?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            rules: Arc::new(Mutex::new(rules)),
            version: Arc::default(),
            written: Arc::default(),
        })
    }

    pub(super) fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one statement now.
    pub(super) fn run(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = query(&connection, sql, parameters).map_err(|error| DatabaseError::from_sqlite(&error.to_string()));
        if !sql.starts_with("SELECT") {
            self.rules().hold(&connection);
            self.version.fetch_add(1, Ordering::Relaxed);
            self.written.notify_waiters();
        }
        rows
    }
}

impl Store {
    /// Holds everything against what must be true at rest.
    pub(super) fn at_rest(&self) {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        self.rules().at_rest(&connection);
    }

    /// What has not come to rest.
    pub(super) fn restless(&self) -> Option<String> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        self.rules().restless(&connection)
    }

    /// Whether somebody waits for an engine.
    pub(super) fn waiting(&self) -> bool {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let sql = "SELECT EXISTS (SELECT 1 FROM executions WHERE queued_on IS NOT NULL)";
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Forgets what has ended. Returns what has not.
    pub(super) fn forget_ended(&self) -> Vec<ExecutionId> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        self.rules().forget_ended(&connection)
    }
}

fn query(connection: &Connection, sql: &str, parameters: Vec<Value>) -> rusqlite::Result<Vec<Row>> {
    let mut statement = connection.prepare_cached(sql)?;
    let columns = statement.column_count();
    let parameters = parameters.into_iter().map(|parameter| match parameter {
        Value::Null => types::Value::Null,
        Value::Integer(integer) => types::Value::Integer(integer),
        Value::Text(text) => types::Value::Text(text),
        Value::Blob(bytes) => types::Value::Blob(bytes),
    });
    let rows = statement.query_map(rusqlite::params_from_iter(parameters), |row| {
        let column = |index| {
            Ok(match row.get(index)? {
                types::Value::Null => Value::Null,
                types::Value::Integer(integer) => Value::Integer(integer),
                types::Value::Text(text) => Value::Text(text),
                types::Value::Blob(bytes) => Value::Blob(bytes),
                types::Value::Real(real) => Value::Text(real.to_string()),
            })
        };
        (0..columns).map(column).collect::<rusqlite::Result<_>>().map(Row::new)
    });
    rows?.collect()
}

/// As the API has it: at once, and without mishap.
impl Database for Store {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    async fn query(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
        self.run(sql, parameters)
    }
}

/// As one process has it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) store: Store,
    pub(super) life: Life,
    pub(super) dice: Dice,
    pub(super) clock: ManualClock,
    /// One statement in so many goes wrong; none for 0.
    pub(super) fails_one_in: Arc<Mutex<u64>>,
    pub(super) hearing: Mutex<Hearing>,
}

/// How far a process has heard of changes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hearing {
    version: u64,
    /// When it hears of what was written since. Kept here: who waits for it gives up and asks again.
    at: Option<Timestamp>,
}

impl Link {
    fn goes_wrong(&self) -> bool {
        let one_in = *self.fails_one_in.lock().unwrap_or_else(PoisonError::into_inner);
        one_in > 0 && self.dice.one_in(one_in)
    }

    /// How long until it hears of what was written; `None`: nothing was.
    fn hear(&self) -> Option<Duration> {
        let version = self.store.version.load(Ordering::Relaxed);
        let now = self.clock.now();
        let mut hearing = self.hearing.lock().unwrap_or_else(PoisonError::into_inner);
        if hearing.version == version {
            return None;
        }
        // Now and then so late that something else must have told.
        let late = if self.dice.one_in(8) { Duration::from_secs(30) } else { HEARD_AFTER };
        let at = *hearing.at.get_or_insert(now.plus(late));
        if at <= now {
            *hearing = Hearing { version, at: None };
        }
        Some(at.since(now))
    }
}

#[async_trait]
impl Substitute for Link {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    async fn query(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
        self.life.pass(Deed::Statement).await;
        let wrong = self.goes_wrong();
        if wrong && self.dice.one_in(2) {
            return Err(DatabaseError::Unavailable("it was not asked, as the dice fell".into()));
        }
        let answer = self.store.run(sql, parameters);
        self.life.pass(Deed::Statement).await;
        if wrong {
            return Err(DatabaseError::Unavailable("the answer was lost, as the dice fell".into()));
        }
        answer
    }

    async fn changed(&self) {
        loop {
            let written = self.store.written.notified();
            match self.hear() {
                Some(Duration::ZERO) => return,
                Some(later) => self.clock.sleep(later).await,
                None => written.await,
            }
        }
    }
}
