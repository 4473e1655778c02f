//! Contexts: listed, made, read.

use http::{StatusCode, header};
use renga_shared::api::{ContextBody, ContextList, ListQuery, Problem};
use renga_shared::auth::Scope;
use renga_shared::domain::{ContextId, Specification};
use renga_shared::sql::contexts::{self, ContextFilter, ContextRow, NewContext};
use renga_shared::sql::{Idempotency, Inserted, Page};

use crate::ambient;
use crate::answer::{Answer, database, internal};
use crate::request::{Asked, digest, id};

/// Names the project that a context is made in.
const PROJECT: &str = "renga-projects-project";

pub(crate) async fn list(asked: &Asked<'_>) -> Result<Answer, Problem> {
    let principal = asked.by(&[Scope::ContextsRead]).await?;
    let query = ListQuery::parse(asked.query).map_err(Problem::bad_fields)?;
    let filter = ContextFilter { visible: asked.visible(&principal), label: query.label.as_deref() };
    let page = Page { before: query.before.map(ContextId), limit: query.rows() + 1 };
    let mut rows = contexts::list(&asked.instance.database, &filter, page).await.map_err(database)?;
    let next = next_page(&mut rows, &query, |row| row.id.0, |last| query.next_page(last, None));
    let contexts: Result<_, _> = rows.into_iter().map(ContextBody::try_from).collect();
    let answer = Answer::json(StatusCode::OK, &ContextList { contexts: contexts.map_err(|error| internal(&error))? })?;
    Ok(match next {
        Some(query) => answer.with(header::LINK, link(&format!("{}/contexts?{query}", asked.base))),
        None => answer,
    })
}

/// Cuts off the row that was asked for only to see whether there is a next page, and returns that page's query.
pub(crate) fn next_page<R>(
    rows: &mut Vec<R>,
    query: &ListQuery,
    id: impl Fn(&R) -> uuid::Uuid,
    next: impl Fn(uuid::Uuid) -> String,
) -> Option<String> {
    let most = query.rows() as usize;
    if rows.len() <= most {
        return None;
    }
    rows.truncate(most);
    rows.last().map(|last| next(id(last)))
}

/// A link to the next page (RFC 8288).
pub(crate) fn link(target: &str) -> String {
    format!("<{target}>; rel=\"next\"")
}

pub(crate) async fn create(asked: Asked<'_>) -> Result<Answer, Problem> {
    let mut mistakes = Vec::new();
    let project = asked.integer_header(PROJECT, &mut mistakes);
    // What is made in a project is the project's to allow.
    let principal = asked.by_on(&[Scope::ContextsRead, Scope::ContextsWrite], project).await?;
    let key = asked.idempotency_key(&mut mistakes);
    let (instance, base) = (asked.instance, asked.base.clone());
    let posted = asked.json().await?;
    mistakes.extend(Specification::parse(&posted).err().into_iter().flatten());
    if !mistakes.is_empty() {
        return Err(Problem::bad_fields(mistakes));
    }
    let spec = Specification::to_stored(&posted);
    let created = ambient::now();
    let digest = digest(&[&spec, &format!("{project:?}")]);
    let new = NewContext {
        id: ContextId::new(created, ambient::random()),
        owner: &principal.subject,
        created,
        spec: &spec,
        project,
        idempotency: key.as_deref().map(|key| Idempotency { key, digest: &digest }),
    };
    match contexts::insert(&instance.database, &new).await.map_err(database)? {
        Inserted::New(row) | Inserted::Again(row) => {
            let location = format!("{base}/contexts/{}", row.id);
            Ok(body(StatusCode::CREATED, row)?.with(header::LOCATION, location))
        }
        Inserted::KeyReused => Err(Problem::key_reused()),
    }
}

pub(crate) async fn get(asked: &Asked<'_>, context: &str) -> Result<Answer, Problem> {
    let principal = asked.by(&[Scope::ContextsRead]).await?;
    let id = ContextId(id(context, "context")?);
    let row = contexts::get(&asked.instance.database, asked.visible(&principal), id).await.map_err(database)?;
    body(StatusCode::OK, row.ok_or_else(Problem::not_found)?)
}

fn body(status: StatusCode, row: ContextRow) -> Result<Answer, Problem> {
    Answer::json(status, &ContextBody::try_from(row).map_err(|error| internal(&error))?)
}
