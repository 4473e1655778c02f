//! Calls every function of `shared::sql`, and keeps the statements with their parameters.

use std::cell::RefCell;
use std::time::Duration;

use renga_shared::domain::{ClientState, ContextId, EngineName, ExecutionId, Status, Timestamp, Wanted};
use renga_shared::placement::{Needs, Offer};
use renga_shared::sql::contexts::{ContextFilter, NewContext};
use renga_shared::sql::executions::{ExecutionFilter, NewExecutionRow};
use renga_shared::sql::logs::{self, Chunk};
use renga_shared::sql::observations::{self, Observation, Placing};
use renga_shared::sql::{
    Database, DatabaseError, Dialect, Idempotency, Page, Row, Statement, Value, Visible, contexts, deployment, engines,
    executions, issuer_keys, reconcilers,
};

/// A statement as the product makes it.
pub(super) struct Call {
    pub(super) sql: String,
    pub(super) parameters: Vec<Value>,
    dialect: Dialect,
}

impl Call {
    /// Whether it is this statement, or begins with it and has conditions.
    pub(super) fn is_of(&self, statement: &Statement) -> bool {
        let rest = self.sql.strip_prefix(statement.sql(self.dialect));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    }
}

/// A database that keeps what it is asked. It has a context and nothing else, so that whoever asks on finds that
/// missing too.
struct Recorder {
    dialect: Dialect,
    calls: RefCell<Vec<Call>>,
}

impl Database for Recorder {
    fn dialect(&self) -> Dialect {
        self.dialect
    }

    async fn query(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
        self.calls.borrow_mut().push(Call { sql: sql.to_owned(), parameters, dialect: self.dialect });
        let a_context = sql.starts_with("SELECT 1 FROM contexts").then(|| Row::new(vec![Value::Integer(1)]));
        Ok(a_context.into_iter().collect())
    }
}

/// All statements of the product, with parameters that find rows among the seeded.
pub(super) async fn call_everything(dialect: Dialect) -> Vec<Call> {
    let db = Recorder { dialect, calls: RefCell::default() };
    contexts_are_called(&db).await;
    executions_are_called(&db).await;
    observations_are_called(&db).await;
    logs_are_called(&db).await;
    the_rest_is_called(&db).await;
    db.calls.into_inner()
}

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);
const OWNER: &str = "owner-1";
const HOLDER: &str = "one";
const KEY: Idempotency<'_> = Idempotency { key: "key", digest: "digest" };

fn context() -> ContextId {
    "01890000-0000-7000-8000-000000000001".parse().unwrap()
}

fn execution() -> ExecutionId {
    "01890000-0000-7000-9000-000000000001".parse().unwrap()
}

fn docker() -> EngineName {
    EngineName::parse("docker").unwrap()
}

/// None, and one.
fn maybe<T: Copy>(value: T) -> [Option<T>; 2] {
    [None, Some(value)]
}

/// Marks what a call returns as of no interest: nothing is found, which some functions take for an error.
fn ignore<T>(_: Result<T, DatabaseError>) {}

async fn contexts_are_called(db: &Recorder) {
    let new = NewContext {
        id: context(),
        owner: OWNER,
        created: NOW,
        spec: r#"{"image":"busybox"}"#,
        project: None,
        idempotency: Some(KEY),
    };
    ignore(contexts::insert(db, &new).await);
    for visible in [Visible::All, Visible::To(OWNER)] {
        ignore(contexts::get(db, visible, context()).await);
        for label in maybe("team=one") {
            for before in maybe(context()) {
                let page = Page { before, limit: 100 };
                ignore(contexts::list(db, &ContextFilter { visible, label }, page).await);
            }
        }
    }
}

async fn executions_are_called(db: &Recorder) {
    for visible in [Visible::All, Visible::To(OWNER)] {
        let new = NewExecutionRow {
            id: execution(),
            context: context(),
            visible,
            requested_by: OWNER,
            created: NOW,
            engine: Some("docker"),
            namespace: "default",
            environment: "{}",
            claims: "[]",
            sealed_token: None,
            idempotency: Some(KEY),
        };
        ignore(executions::insert(db, &new).await);
        ignore(executions::get(db, visible, context(), execution()).await);
        ignore(executions::context_exists(db, visible, context()).await);
        ignore(executions::wish(db, visible, context(), execution(), Wanted::Removed, NOW).await);
        for of in maybe(context()) {
            for label in maybe("team=one") {
                for state in maybe(ClientState::Running) {
                    for before in maybe(execution()) {
                        let filter = ExecutionFilter { visible, context: of, label, state };
                        ignore(executions::list(db, &filter, Page { before, limit: 100 }).await);
                    }
                }
            }
        }
    }
}

async fn observations_are_called(db: &Recorder) {
    let (engine, needs) = (docker(), Needs::default());
    // As the driver claims them: several at once.
    let ids: Vec<ExecutionId> =
        (1..=60).map(|number| format!("01890000-0000-7000-9000-{number:012}").parse().unwrap()).collect();
    ignore(observations::claim_due(db, HOLDER, NOW, 256).await);
    ignore(observations::claim(db, HOLDER, NOW, &ids).await);
    ignore(observations::load(db, HOLDER, execution()).await);
    ignore(observations::next_due(db, HOLDER, NOW).await);
    ignore(observations::record(db, HOLDER, execution(), 1, &Observation::of(Status::pending())).await);
    for max in maybe(10) {
        let placing = Placing { engine: &engine, placement: "{}", max, needs: &needs };
        ignore(observations::place(db, HOLDER, execution(), 1, &placing).await);
    }
    ignore(observations::queue(db, &engine, 10).await);
    ignore(observations::served(db, &engine, OWNER, NOW).await);
    ignore(observations::all_served(db, &engine, NOW).await);
    ignore(observations::forget_turns(db, NOW).await);
    ignore(observations::wake(db, &ids, NOW).await);
    ignore(observations::defer(db, HOLDER, execution(), 1, Some(NOW)).await);
    ignore(observations::release_dead(db, NOW).await);
    ignore(observations::release_all(db, HOLDER, NOW).await);
    ignore(observations::wake_engine(db, &engine, NOW).await);
    ignore(observations::pull_in(db, NOW.plus(Duration::from_secs(180)), NOW).await);
    ignore(observations::held(db, HOLDER, &engine).await);
    ignore(observations::with_object(db, &ids).await);
    ignore(observations::count_by_phase(db).await);
}

async fn logs_are_called(db: &Recorder) {
    let chunk = Chunk { sequence: 5, start: 40, length: 1, last_nanos: 1, frames: vec![0] };
    ignore(logs::append(db, HOLDER, execution(), chunk).await);
    ignore(logs::after(db, execution(), 1, 100).await);
    ignore(logs::before(db, execution(), 4, 100).await);
    ignore(logs::reaching(db, execution(), 40).await);
    ignore(logs::sizes(db, execution()).await);
    ignore(logs::cut(db, HOLDER, execution(), 1, 3).await);
    ignore(logs::remove(db, HOLDER, execution()).await);
}

async fn the_rest_is_called(db: &Recorder) {
    ignore(deployment::id(db, "proposed").await);
    ignore(deployment::known_id(db).await);
    ignore(deployment::set_audit(db, false).await);
    ignore(deployment::ping(db).await);
    ignore(engines::put(db, &docker(), "docker", Ok("29.1"), NOW).await);
    ignore(engines::describe(db, &docker(), &Offer::default(), "docker:///var/run/docker.sock").await);
    ignore(engines::serve(db, &docker(), HOLDER).await);
    ignore(engines::list(db, NOW).await);
    ignore(engines::forget(db, NOW, NOW).await);
    ignore(engines::retire(db, &docker(), HOLDER, NOW).await);
    ignore(issuer_keys::get(db, "issuer").await);
    ignore(issuer_keys::claim(db, "issuer", NOW, Some(NOW), true).await);
    ignore(issuer_keys::store(db, "issuer", NOW, "{}", NOW).await);
    ignore(issuer_keys::fail(db, "issuer", NOW, "why").await);
    ignore(reconcilers::renew(db, HOLDER, NOW).await);
    ignore(reconcilers::end(db, HOLDER).await);
    ignore(reconcilers::forget(db, NOW).await);
}
