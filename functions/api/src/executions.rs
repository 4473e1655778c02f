//! Executions: asked for, read, stopped, deleted; where their ports are.

use std::time::Duration;

use http::{HeaderName, StatusCode, header};
use renga_shared::api::{ExecutionBody, ExecutionList, ExecutionQuery, PortList, Problem};
use renga_shared::auth::{Principal, Scope};
use renga_shared::domain::{ContextId, EngineName, ExecutionId, NewExecution, Phase, Wanted, additions};

use renga_shared::sql::executions::{self, ExecutionFilter, ExecutionRow, NewExecutionRow};
use renga_shared::sql::{Idempotency, Inserted, Page};
use serde_json::value::RawValue;

use crate::ambient;
use crate::answer::{Answer, database, database_away, internal};
use crate::contexts::{link, next_page};
use crate::instance::Instance;
use crate::placement::{namespace_not_allowed, no_engine};
use crate::request::{Asked, digest, id};
use crate::routes::ExecutionPath;
use crate::wait;

/// How long `…/ports` waits for an execution that is still starting: clients of the 2018 service ask once.
const PORTS_PATIENCE: Duration = Duration::from_secs(10);

static PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

pub(crate) async fn list(asked: &Asked<'_>, context: Option<&str>) -> Result<Answer, Problem> {
    let principal = match context {
        Some(_) => asked.by(&[Scope::ContextsRead, Scope::ExecutionsRead]).await?,
        None => asked.by(&[Scope::ExecutionsRead]).await?,
    };
    let context = context.map(|context| id(context, "context").map(ContextId)).transpose()?;
    let query = ExecutionQuery::parse(asked.query).map_err(Problem::bad_fields)?;
    let (db, visible) = (&asked.instance.database, asked.visible(&principal));
    let filter = ExecutionFilter { visible, context, label: query.list.label.as_deref(), state: query.state };
    let page = Page { before: query.list.before.map(ExecutionId), limit: query.list.rows() + 1 };
    let mut rows = executions::list(db, &filter, page).await.map_err(database)?;
    if let Some(context) = context.filter(|_| rows.is_empty())
        && !executions::context_exists(db, visible, context).await.map_err(database)?
    {
        return Err(Problem::not_found());
    }
    let next = next_page(&mut rows, &query.list, |row| row.id.0, |last| query.list.next_page(last, query.state));
    let executions: Result<_, _> = rows.into_iter().map(|row| shown(asked.instance, row)).collect();
    let answer = Answer::json(StatusCode::OK, &ExecutionList { executions: executions? })?;
    let path = match context {
        Some(context) => format!("{}/contexts/{context}/executions", asked.base),
        None => format!("{}/executions", asked.base),
    };
    Ok(match next {
        Some(query) => answer.with(header::LINK, link(&format!("{path}?{query}"))),
        None => answer,
    })
}

pub(crate) async fn create(asked: Asked<'_>, context: &str) -> Result<Answer, Problem> {
    let principal = asked.by(&[Scope::ContextsRead, Scope::ExecutionsWrite]).await?;
    let context = ContextId(id(context, "context")?);
    let mut mistakes = Vec::new();
    let key = asked.idempotency_key(&mut mistakes);
    let wait = asked.wait_preference();
    let created = ambient::now();
    let new_id = ExecutionId::new(created, ambient::random());
    let sealed_token = asked.sealed_token(new_id)?;
    let (instance, base) = (asked.instance, asked.base.clone());
    let posted = asked.json().await?;
    let wanted = match NewExecution::parse(&posted) {
        Ok(wanted) if mistakes.is_empty() => wanted,
        parsed => {
            mistakes.extend(parsed.err().into_iter().flatten());
            return Err(Problem::bad_fields(mistakes));
        }
    };
    let environment = serde_json::to_string(&wanted.environment).map_err(|error| internal(&error))?;
    let claims = serde_json::to_string(&*principal.claims).map_err(|error| internal(&error))?;
    let engine = wanted.engine.as_ref().map(EngineName::as_str);
    let digest = digest(&[&context.to_string(), engine.unwrap_or_default(), &wanted.namespace, &environment]);
    let visible = instance.visible(&principal);
    let new = NewExecutionRow {
        id: new_id,
        context,
        visible,
        requested_by: &principal.subject,
        created,
        engine,
        namespace: &wanted.namespace,
        environment: &environment,
        claims: &claims,
        sealed_token: sealed_token.as_ref(),
        idempotency: key.as_deref().map(|key| Idempotency { key, digest: &digest }),
    };
    let mut row = match executions::insert(&instance.database, &new).await.map_err(database)? {
        executions::Asked::NoContext => return Err(Problem::not_found()),
        executions::Asked::NoEngine => return Err(no_engine(instance, engine.unwrap_or_default()).await?),
        executions::Asked::NamespaceNotAllowed => return Err(namespace_not_allowed(&wanted)),
        executions::Asked::Inserted(inserted) => match *inserted {
            Inserted::New(row) | Inserted::Again(row) => row,
            Inserted::KeyReused => return Err(Problem::key_reused()),
        },
    };
    let mut applied = None;
    if let Some(seconds) = wait {
        let decided = |row: &ExecutionRow| row.status.phase() == Phase::Running || row.status.phase().is_terminal();
        let limit = Duration::from_secs(seconds.into());
        // The row is committed: whatever happens meanwhile, the answer is that it is there.
        let outcome = wait::until(instance, &principal, &mut row, limit, decided).await;
        applied = (outcome != wait::Outcome::TooManyWait).then(|| format!("wait={seconds}"));
    }
    let location = format!("{base}/contexts/{context}/executions/{}", row.id);
    let answer = Answer::json(StatusCode::CREATED, &shown(instance, row)?)?.with(header::LOCATION, location);
    Ok(match applied {
        Some(applied) => answer.with(PREFERENCE_APPLIED.clone(), applied),
        None => answer,
    })
}

pub(crate) async fn get(asked: &Asked<'_>, path: &ExecutionPath) -> Result<Answer, Problem> {
    let principal = asked.by(&[Scope::ContextsRead, Scope::ExecutionsRead]).await?;
    let row = find(asked, &principal, path).await?;
    Answer::json(StatusCode::OK, &shown(asked.instance, row)?)
}

pub(crate) async fn delete(asked: &Asked<'_>, path: &ExecutionPath) -> Result<Answer, Problem> {
    wish(asked, path, Wanted::Removed).await
}

pub(crate) async fn stop(asked: &Asked<'_>, path: &ExecutionPath) -> Result<Answer, Problem> {
    wish(asked, path, Wanted::Stopped).await
}

async fn wish(asked: &Asked<'_>, path: &ExecutionPath, wanted: Wanted) -> Result<Answer, Problem> {
    let principal = asked.by(&[Scope::ExecutionsRead, Scope::ExecutionsWrite]).await?;
    let (context, execution) = ids(path)?;
    let (db, visible) = (&asked.instance.database, asked.visible(&principal));
    let row = executions::wish(db, visible, context, execution, wanted, ambient::now()).await.map_err(database)?;
    Answer::json(StatusCode::OK, &shown(asked.instance, row.ok_or_else(Problem::not_found)?)?)
}

pub(crate) async fn ports(asked: &Asked<'_>, path: &ExecutionPath) -> Result<Answer, Problem> {
    let principal = asked.by(&[Scope::ExecutionsRead]).await?;
    let mut row = find(asked, &principal, path).await?;
    let known = |row: &ExecutionRow| {
        let starting = matches!(row.status.phase(), Phase::Pending | Phase::Scheduled | Phase::Starting);
        row.wanted != Wanted::Running || !starting
    };
    match wait::until(asked.instance, &principal, &mut row, PORTS_PATIENCE, known).await {
        wait::Outcome::Looked => {}
        // An empty list would say that it has none. Nothing was written, so asking again is right.
        wait::Outcome::DatabaseAway => return Err(database_away()),
        wait::Outcome::TooManyWait => {
            return Err(Problem::unavailable("Too many requests wait", "The ports are not known yet. Try again.", 1));
        }
    }
    let ports = if row.wanted == Wanted::Removed { "[]".to_owned() } else { row.ports };
    Answer::json(StatusCode::OK, &PortList { ports: RawValue::from_string(ports).map_err(|error| internal(&error))? })
}

/// The execution at a path, if whoever asks may see it.
pub(crate) async fn find(
    asked: &Asked<'_>,
    principal: &Principal,
    path: &ExecutionPath,
) -> Result<ExecutionRow, Problem> {
    let (context, execution) = ids(path)?;
    let row = executions::get(&asked.instance.database, asked.visible(principal), context, execution).await;
    row.map_err(database)?.ok_or_else(Problem::not_found)
}

fn ids(path: &ExecutionPath) -> Result<(ContextId, ExecutionId), Problem> {
    Ok((ContextId(id(&path.context, "context")?), ExecutionId(id(&path.execution, "execution")?)))
}

fn shown(instance: &Instance, row: ExecutionRow) -> Result<ExecutionBody, Problem> {
    let added = additions(row.context, &instance.config.default_base_url);
    ExecutionBody::of(row, added).map_err(|error| internal(&error))
}
