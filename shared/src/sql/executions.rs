//! The table `executions` as the API uses it: wishes are written, everything is read.
//!
//! What the reconciler writes to the same table is in [`super::observations`]. No column is written by both, but that either
//! empties `sealed_token`: the caller's token, which waits there for the launch.
//!
//! **When the token goes.** The launch is the engine's making of the object, since the environment is fixed then, and the record of
//! it empties the column in the same statement. A wish to stop or to remove does too, for then there will be no launch; and so
//! does any other end. Before that the row keeps it, so that after a crash or a failed try the launch can be made again.

use super::statement::{Composed, Statement, checked, statements};
use super::{Database, DatabaseError, Idempotency, Inserted, Page, Row, Visible};
use crate::auth::SealedToken;
use crate::domain::{ClientState, ContextId, EngineName, ExecutionId, Facts, Status, Timestamp, Wanted};

/// An execution as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutionRow {
    /// Its id.
    pub id: ExecutionId,
    /// The context that it is an execution of.
    pub context: ContextId,
    /// When it was asked for.
    pub created: Timestamp,
    /// The engine, or kind of engine, that was asked for. `None`: the deployer chooses.
    pub wanted_engine: Option<String>,
    /// The namespace that was asked for.
    pub namespace: String,
    /// The environment that was asked for: a JSON object of strings.
    pub environment: String,
    /// What its user asked for last.
    pub wanted: Wanted,
    /// Its phase, with the facts.
    pub status: Status,
    /// Its published ports: a JSON array of the API's port objects.
    pub ports: String,
    /// Why it runs where it does: a JSON [`PlacementRecord`](crate::placement::PlacementRecord), once there is one.
    pub placement: Option<String>,
    /// Counts every change.
    pub revision: i64,
}

impl ExecutionRow {
    /// What old clients are told.
    pub fn client_state(&self) -> ClientState {
        ClientState::of(self.wanted, self.status.phase())
    }
}

/// An execution to store.
#[derive(Clone, Copy, Debug)]
pub struct NewExecutionRow<'a> {
    /// Its id.
    pub id: ExecutionId,
    /// The context to execute.
    pub context: ContextId,
    /// Whose contexts may be executed.
    pub visible: Visible<'a>,
    /// The subject that asks. The execution belongs to the context's owner.
    pub requested_by: &'a str,
    /// When.
    pub created: Timestamp,
    /// The engine, or kind of engine; `None` leaves it to the deployer.
    pub engine: Option<&'a str>,
    /// The namespace.
    pub namespace: &'a str,
    /// A JSON object of strings.
    pub environment: &'a str,
    /// What the token of whoever asks says of them: a JSON array of [`Claim`](crate::placement::Claim)s.
    pub claims: &'a str,
    /// The token of whoever asks, for the container. `None`: it starts without one.
    pub sealed_token: Option<&'a SealedToken>,
    /// How a retry is known.
    pub idempotency: Option<Idempotency<'a>>,
}

/// What came of asking for an execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// There is a row, or the key was used before.
    Inserted(Box<Inserted<ExecutionRow>>),
    /// No such context may be seen.
    NoContext,
    /// No engine has this name or is of this kind.
    NoEngine,
    /// None of those engines runs in this namespace.
    NamespaceNotAllowed,
}

/// Which executions a list shows.
#[derive(Clone, Copy, Debug)]
pub struct ExecutionFilter<'a> {
    /// Whose.
    pub visible: Visible<'a>,
    /// Only those of this context.
    pub context: Option<ContextId>,
    /// Only those whose context has this label, whole or by key.
    pub label: Option<&'a str>,
    /// Only those in this state.
    pub state: Option<ClientState>,
}

/// The columns of [`ExecutionRow`], in the order in which [`read`] takes them.
macro_rules! columns {
    () => {
        "{as_text executions.id}, {as_text context_id}, {as_micros executions.created_at}, wanted_engine, namespace, \
         {as_text environment}, wanted, phase, reason, message, engine, engine_id, {as_micros started_at}, \
         {as_micros finished_at}, exit_code, {as_text ports}, {as_text placement}, executions.revision"
    };
}
pub(super) use columns;

/// A row that has not ended: one that may own an engine object.
macro_rules! live {
    () => {
        "phase NOT IN ('exited', 'failed', 'lost', 'removed')"
    };
}
pub(super) use live;

/// Whether one of the engines that `$engine` names, or any if it is NULL, runs in `$namespace`.
macro_rules! runs_in {
    ($engine:literal, $namespace:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM engines WHERE (",
            $engine,
            " IS NULL OR name = ",
            $engine,
            " OR kind = ",
            $engine,
            ") AND (namespaces IS NULL OR namespaces LIKE '%,' || ",
            $namespace,
            " || ',%'))"
        )
    };
}

/// Whether `$subject` may see a row that an id finds: one of its own, or any if it is NULL.
macro_rules! visible {
    ($subject:literal) => {
        checked!($subject, " IS NULL OR owner = ", $subject)
    };
}

static INSERT: Statement = Statement::new(concat!(
    "INSERT INTO executions (id, context_id, owner, requested_by, created_at, wanted_engine, namespace, environment, \
     idempotency_key, request_digest, due_at, sealed_token, claims) \
     SELECT {uuid 1}, id, owner, {text 3}, {time 4}, {text 5}, {text 6}, {json 7}, {text 8}, {text 9}, {time 4}, {blob 11}, \
     {json 12} FROM contexts WHERE id = {uuid 2} AND ",
    visible!("{text 10}"),
    " AND ({text 5} IS NULL OR EXISTS (SELECT 1 FROM engines WHERE name = {text 5} OR kind = {text 5})) \
     AND ({text 6} = 'default' OR NOT EXISTS (SELECT 1 FROM engines) OR ",
    runs_in!("{text 5}", "{text 6}"),
    ") ON CONFLICT DO NOTHING RETURNING ",
    columns!()
));

// Neither a namespace nor the name of an engine has a character that LIKE would not take as it is.
static ENGINE_EXISTS: Statement = Statement::new("SELECT 1 FROM engines WHERE name = {text 1} OR kind = {text 1}");

static GET_BY_KEY: Statement = Statement::new(concat!(
    "SELECT ",
    columns!(),
    ", request_digest FROM executions WHERE requested_by = {text 1} AND idempotency_key = {text 2}"
));

static CONTEXT_EXISTS: Statement =
    Statement::new(concat!("SELECT 1 FROM contexts WHERE id = {uuid 1} AND ", visible!("{text 2}")));

static GET: Statement = Statement::new(concat!(
    "SELECT ",
    columns!(),
    " FROM executions WHERE id = {uuid 1} AND ",
    checked!("context_id = {uuid 2}"),
    " AND ",
    visible!("{text 3}")
));

// A wish only ever goes further: what is to be removed is never again only to be stopped, and neither is started.
static WISH: Statement = Statement::new(concat!(
    "UPDATE executions SET wanted = {text 4}, due_at = {time 5}, sealed_token = NULL, revision = revision + 1 \
     WHERE id = {uuid 1} AND ",
    checked!("context_id = {uuid 2}"),
    " AND ",
    visible!("{text 3}"),
    " AND wanted <> {text 4} AND wanted <> 'removed' \
     AND ({text 4} = 'removed' OR ",
    live!(),
    ") RETURNING ",
    columns!()
));

static LIST: Statement = Statement::new(concat!("SELECT ", columns!(), " FROM executions"));

static LIST_BY_LABEL: Statement = Statement::new(concat!(
    "SELECT ",
    columns!(),
    " FROM execution_labels JOIN executions ON executions.id = execution_labels.execution_id"
));

statements!(INSERT, ENGINE_EXISTS, GET_BY_KEY, CONTEXT_EXISTS, GET, WISH, LIST, LIST_BY_LABEL);

/// Asks for an execution of a context.
pub async fn insert(db: &impl Database, new: &NewExecutionRow<'_>) -> Result<Asked, DatabaseError> {
    let owner = owner(new.visible);
    let parameters = vec![
        new.id.into(),
        new.context.into(),
        new.requested_by.into(),
        new.created.into(),
        new.engine.into(),
        new.namespace.into(),
        new.environment.into(),
        new.idempotency.map(|same| same.key).into(),
        new.idempotency.map(|same| same.digest).into(),
        owner.into(),
        new.sealed_token.into(),
        new.claims.into(),
    ];
    if let Some(mut row) = db.query(INSERT.sql(db.dialect()), parameters).await?.into_iter().next() {
        return Ok(Asked::Inserted(Box::new(Inserted::New(read(&mut row)?))));
    }
    // Nothing was written. Which of the conditions failed?
    if let Some(Idempotency { key, digest }) = new.idempotency {
        let found = db.query(GET_BY_KEY.sql(db.dialect()), vec![new.requested_by.into(), key.into()]).await?;
        if let Some(mut row) = found.into_iter().next() {
            let before = read(&mut row)?;
            let same = row.optional_text()?.as_deref() == Some(digest);
            return Ok(Asked::Inserted(Box::new(if same { Inserted::Again(before) } else { Inserted::KeyReused })));
        }
    }
    let context = db.query(CONTEXT_EXISTS.sql(db.dialect()), vec![new.context.into(), owner.into()]).await?;
    if context.is_empty() {
        return Ok(Asked::NoContext);
    }
    let known = match new.engine {
        Some(engine) => !db.query(ENGINE_EXISTS.sql(db.dialect()), vec![engine.into()]).await?.is_empty(),
        None => true,
    };
    Ok(if known { Asked::NamespaceNotAllowed } else { Asked::NoEngine })
}

/// The execution, if there is one of this context and it may be seen.
pub async fn get(
    db: &impl Database,
    visible: Visible<'_>,
    context: ContextId,
    id: ExecutionId,
) -> Result<Option<ExecutionRow>, DatabaseError> {
    let parameters = vec![id.into(), context.into(), owner(visible).into()];
    db.query(GET.sql(db.dialect()), parameters).await?.first_mut().map(read).transpose()
}

/// Whether the context exists and may be seen.
pub async fn context_exists(
    db: &impl Database,
    visible: Visible<'_>,
    context: ContextId,
) -> Result<bool, DatabaseError> {
    let rows = db.query(CONTEXT_EXISTS.sql(db.dialect()), vec![context.into(), owner(visible).into()]).await?;
    Ok(!rows.is_empty())
}

/// Records that an execution is to be stopped, or removed. Repeating a wish, or stopping what has ended, changes
/// nothing and answers with the row as it is. `None`: there is none to be seen.
pub async fn wish(
    db: &impl Database,
    visible: Visible<'_>,
    context: ContextId,
    id: ExecutionId,
    wanted: Wanted,
    now: Timestamp,
) -> Result<Option<ExecutionRow>, DatabaseError> {
    let parameters = vec![id.into(), context.into(), owner(visible).into(), wanted.as_str().into(), now.into()];
    match db.query(WISH.sql(db.dialect()), parameters).await?.first_mut() {
        Some(row) => read(row).map(Some),
        None => get(db, visible, context, id).await,
    }
}

/// One page of executions, newest first.
pub async fn list(
    db: &impl Database,
    filter: &ExecutionFilter<'_>,
    page: Page<ExecutionId>,
) -> Result<Vec<ExecutionRow>, DatabaseError> {
    let (mut statement, id, owner) = match filter.label {
        None => (Composed::new(&LIST), "executions.id", "executions.owner"),
        Some(label) => {
            let mut statement = Composed::new(&LIST_BY_LABEL);
            statement.condition("label = {text #}", label);
            (statement, "execution_labels.execution_id", "execution_labels.owner")
        }
    };
    if let Some(context) = filter.context {
        match filter.visible {
            Visible::To(subject) => {
                statement.condition("context_id = (SELECT id FROM contexts WHERE id = {uuid #} AND ", context);
                statement.part(concat!(checked!("owner = {text #}"), ")"), subject);
            }
            Visible::All => statement.condition("context_id = {uuid #}", context),
        }
    }
    // An execution belongs to its context's owner. Said of the execution too, SQLite would look for those of one context
    // among all of the owner's, however many there are.
    let told = filter.context.is_some() && filter.label.is_none() && filter.state.is_none();
    if let Visible::To(subject) = filter.visible
        && !told
    {
        statement.condition(&format!("{owner} = {{text #}}"), subject);
    }
    if let Some(state) = filter.state {
        statement.condition("state = {text #}", state.as_str());
    }
    if let Some(before) = page.before {
        statement.condition(&format!("{id} < {{uuid #}}"), before);
    }
    statement.part(&format!(" ORDER BY {id} DESC LIMIT {{int #}}"), i64::from(page.limit));
    let (sql, parameters) = statement.finish(db.dialect());
    db.query(&sql, parameters).await?.iter_mut().map(read).collect()
}

fn owner(visible: Visible<'_>) -> Option<&str> {
    match visible {
        Visible::To(subject) => Some(subject),
        Visible::All => None,
    }
}

pub(super) fn read(row: &mut Row) -> Result<ExecutionRow, DatabaseError> {
    Ok(ExecutionRow {
        id: row.parsed()?,
        context: row.parsed()?,
        created: row.timestamp()?,
        wanted_engine: row.optional_text()?,
        namespace: row.text()?,
        environment: row.text()?,
        wanted: row.parsed()?,
        status: read_status(row)?,
        ports: row.text()?,
        placement: row.optional_text()?,
        revision: row.integer()?,
    })
}

fn read_status(row: &mut Row) -> Result<Status, DatabaseError> {
    let unexpected = |error: &dyn std::fmt::Display| DatabaseError::Unexpected(error.to_string());
    let facts = Facts {
        phase: row.parsed()?,
        reason: row.optional_text()?,
        message: row.optional_text()?,
        engine: row
            .optional_text()?
            .map(|name| EngineName::parse(&name))
            .transpose()
            .map_err(|error| unexpected(&error))?,
        engine_id: row.optional_text()?,
        started: row.optional_timestamp()?,
        finished: row.optional_timestamp()?,
        exit_code: row.optional_integer()?,
    };
    Status::restore(facts).map_err(|error| unexpected(&error))
}
