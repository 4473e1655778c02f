//! Where an execution would run, without running it; and why a request names no place to run at.

use http::StatusCode;
use renga_shared::api::Problem;
use renga_shared::auth::Scope;
use renga_shared::domain::{ContextId, EngineName, FieldError, NewExecution, Specification, StoredSpecificationError};
use renga_shared::placement::{Asked as ToPlace, Candidate, Needs, PlacementRecord, decide};
use renga_shared::sql::engines::EngineRow;
use renga_shared::sql::{contexts, engines};

use crate::ambient;
use crate::answer::{Answer, database};
use crate::instance::Instance;
use crate::request::{Asked, id};

/// Tells where an execution would run, and runs nothing.
pub(crate) async fn dry_run(asked: Asked<'_>, context: &str) -> Result<Answer, Problem> {
    let principal = asked.by(&[Scope::ContextsRead]).await?;
    let context = ContextId(id(context, "context")?);
    let instance = asked.instance;
    let row = contexts::get(&instance.database, instance.visible(&principal), context).await.map_err(database)?;
    let row = row.ok_or_else(Problem::not_found)?;
    let spec = Specification::from_stored(&row.spec).map_err(|error| match error {
        StoredSpecificationError::NotAccepted(fields) => Problem::not_accepted(fields),
        StoredSpecificationError::Unreadable(_) => {
            eprintln!("the specification of context {context} cannot be read: {error}");
            Problem::internal()
        }
    })?;
    let wanted = NewExecution::parse(&asked.json().await?).map_err(Problem::bad_fields)?;
    let engine = wanted.engine.as_ref().map(EngineName::as_str);
    let rows = engines::list(&instance.database, ambient::now()).await.map_err(database)?;
    let candidates: Vec<Candidate> = rows.into_iter().map(EngineRow::candidate).collect();
    let mut asked_for = candidates.iter().filter(|candidate| candidate.is_meant_by(engine)).peekable();
    if let Some(engine) = engine
        && asked_for.peek().is_none()
    {
        return Err(no_engine(instance, engine).await?);
    }
    if asked_for.peek().is_some() && !asked_for.any(|candidate| candidate.offer.namespaces.allow(&wanted.namespace)) {
        return Err(namespace_not_allowed(&wanted));
    }
    let needs = Needs::of(&spec);
    let claims = &principal.claims;
    let to_place = ToPlace { engine, namespace: &wanted.namespace, claims, needs: &needs, refused: &[] };
    let decision = decide(&to_place, &candidates);
    Answer::json(StatusCode::OK, &PlacementRecord::of(&decision, ambient::now(), Vec::new()))
}

/// 403: no engine that was asked for runs in the namespace.
pub(crate) fn namespace_not_allowed(wanted: &NewExecution) -> Problem {
    let engines = match &wanted.engine {
        Some(engine) => format!("No engine named or of kind {engine:?} runs", engine = engine.as_str()),
        None => "No engine runs".to_owned(),
    };
    Problem::refused(&format!("{engines} in the namespace {:?}.", wanted.namespace))
}

/// 400: no engine has this name or is of this kind. Tells which there are.
pub(crate) async fn no_engine(instance: &Instance, wanted: &str) -> Result<Problem, Problem> {
    let engines = engines::list(&instance.database, ambient::now()).await.map_err(database)?;
    let names: Vec<String> = engines.iter().map(|engine| format!("{} ({})", engine.name, engine.kind)).collect();
    let there_are =
        if names.is_empty() { "none is served now".to_owned() } else { format!("there are: {}", names.join(", ")) };
    let detail = format!("no engine is named or of kind {wanted:?}; {there_are}");
    Ok(Problem::bad_fields(vec![FieldError { pointer: "/engine".into(), detail }]))
}
