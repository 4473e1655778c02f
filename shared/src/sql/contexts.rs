//! The table `contexts`: what to run. Written once, by the API.

use super::statement::{Composed, Statement, checked, statements};
use super::{Database, DatabaseError, Idempotency, Inserted, Page, Row, Visible};
use crate::domain::{ContextId, Timestamp};

/// A context as it is stored. The specification stays the JSON text that it is, so that reading one costs no parsing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextRow {
    /// Its id.
    pub id: ContextId,
    /// When it was made.
    pub created: Timestamp,
    /// Its specification: JSON that was valid when it was stored.
    pub spec: String,
}

/// A context to store.
#[derive(Clone, Copy, Debug)]
pub struct NewContext<'a> {
    /// Its id.
    pub id: ContextId,
    /// The subject that makes it.
    pub owner: &'a str,
    /// When.
    pub created: Timestamp,
    /// Its specification, as JSON.
    pub spec: &'a str,
    /// The project that the request named.
    pub project: Option<i64>,
    /// How a retry is known.
    pub idempotency: Option<Idempotency<'a>>,
}

/// Which contexts a list shows.
#[derive(Clone, Copy, Debug)]
pub struct ContextFilter<'a> {
    /// Whose.
    pub visible: Visible<'a>,
    /// Only those with this label, whole or by key.
    pub label: Option<&'a str>,
}

static INSERT: Statement = Statement::new(
    "INSERT INTO contexts (id, owner, created_at, spec, project, idempotency_key, request_digest) \
     VALUES ({uuid 1}, {text 2}, {time 3}, {json 4}, {int 5}, {text 6}, {text 7}) \
     ON CONFLICT DO NOTHING RETURNING {as_text id}, {as_micros created_at}, {as_text spec}",
);

static GET_BY_KEY: Statement = Statement::new(
    "SELECT {as_text id}, {as_micros created_at}, {as_text spec}, request_digest FROM contexts \
     WHERE owner = {text 1} AND idempotency_key = {text 2}",
);

static GET: Statement =
    Statement::new("SELECT {as_text id}, {as_micros created_at}, {as_text spec} FROM contexts WHERE id = {uuid 1}");

static GET_OF_OWNER: Statement = Statement::new(concat!(
    "SELECT {as_text id}, {as_micros created_at}, {as_text spec} FROM contexts WHERE id = {uuid 1} AND ",
    checked!("owner = {text 2}")
));

static LIST: Statement = Statement::new("SELECT {as_text id}, {as_micros created_at}, {as_text spec} FROM contexts");

static LIST_BY_LABEL: Statement = Statement::new(
    "SELECT {as_text id}, {as_micros created_at}, {as_text spec} FROM context_labels \
     JOIN contexts ON contexts.id = context_labels.context_id",
);

statements!(INSERT, GET_BY_KEY, GET, GET_OF_OWNER, LIST, LIST_BY_LABEL);

/// Stores a context.
pub async fn insert(db: &impl Database, new: &NewContext<'_>) -> Result<Inserted<ContextRow>, DatabaseError> {
    let parameters = vec![
        new.id.into(),
        new.owner.into(),
        new.created.into(),
        new.spec.into(),
        new.project.into(),
        new.idempotency.map(|same| same.key).into(),
        new.idempotency.map(|same| same.digest).into(),
    ];
    let inserted = db.query(INSERT.sql(db.dialect()), parameters).await?;
    if let Some(row) = inserted.into_iter().next() {
        return read(row).map(Inserted::New);
    }
    let Some(Idempotency { key, digest }) = new.idempotency else {
        return Err(DatabaseError::Unexpected(format!("the id {} is taken", new.id)));
    };
    let found = db.query(GET_BY_KEY.sql(db.dialect()), vec![new.owner.into(), key.into()]).await?;
    let mut row = found
        .into_iter()
        .next()
        .ok_or_else(|| DatabaseError::Unavailable("the row of this idempotency key is being changed".into()))?;
    let before = read_columns(&mut row)?;
    if row.optional_text()?.as_deref() == Some(digest) { Ok(Inserted::Again(before)) } else { Ok(Inserted::KeyReused) }
}

/// The context, if there is one and it may be seen.
pub async fn get(db: &impl Database, visible: Visible<'_>, id: ContextId) -> Result<Option<ContextRow>, DatabaseError> {
    let rows = match visible {
        Visible::All => db.query(GET.sql(db.dialect()), vec![id.into()]).await?,
        Visible::To(owner) => db.query(GET_OF_OWNER.sql(db.dialect()), vec![id.into(), owner.into()]).await?,
    };
    rows.into_iter().next().map(read).transpose()
}

/// One page of contexts, newest first.
pub async fn list(
    db: &impl Database,
    filter: &ContextFilter<'_>,
    page: Page<ContextId>,
) -> Result<Vec<ContextRow>, DatabaseError> {
    // With a label, the labels' index gives the order and the bound, and the join the rest.
    let (mut statement, id, owner) = match filter.label {
        None => (Composed::new(&LIST), "contexts.id", "contexts.owner"),
        Some(label) => {
            let mut statement = Composed::new(&LIST_BY_LABEL);
            statement.condition("context_labels.label = {text #}", label);
            (statement, "context_labels.context_id", "context_labels.owner")
        }
    };
    if let Visible::To(subject) = filter.visible {
        statement.condition(&format!("{owner} = {{text #}}"), subject);
    }
    if let Some(before) = page.before {
        statement.condition(&format!("{id} < {{uuid #}}"), before);
    }
    statement.part(&format!(" ORDER BY {id} DESC LIMIT {{int #}}"), i64::from(page.limit));
    let (sql, parameters) = statement.finish(db.dialect());
    db.query(&sql, parameters).await?.into_iter().map(read).collect()
}

fn read(mut row: Row) -> Result<ContextRow, DatabaseError> {
    read_columns(&mut row)
}

fn read_columns(row: &mut Row) -> Result<ContextRow, DatabaseError> {
    Ok(ContextRow { id: row.parsed()?, created: row.timestamp()?, spec: row.text()? })
}
