//! The REST API: parse, call `renga_shared`, answer.
//!
//! Obligations: a handler records a wish or reads; it never talks to an engine. Nothing that a client sent causes a 500, and
//! nothing internal reaches a client.

mod ambient;
mod answer;
mod contexts;
mod engines;
mod executions;
mod instance;
mod issuer;
mod logs;
mod outbound;
mod placement;
mod request;
mod resource_manager;
mod routes;
mod tokens;
mod wait;

use answer::Answer;
use instance::Instance;
use renga_shared::api::Problem;
use request::Asked;
use routes::{Endpoint, Found};
use spin_sdk::wasip3;
use spin_sdk::wasip3::http::types::{self, ErrorCode, Response};

struct Api;

// What `#[http_service]` makes, less its conversion of each request, for which it asks the host for every header.
wasip3::http::service::export!(Api);

impl wasip3::exports::http::handler::Guest for Api {
    async fn handle(request: types::Request) -> Result<Response, ErrorCode> {
        let method = request.get_method();
        let head = matches!(method, types::Method::Head);
        let answer = answer(method, request).await.unwrap_or_else(Answer::from);
        if head { answer.without_body() } else { answer.into_response() }
    }
}

async fn answer(method: types::Method, request: types::Request) -> Result<Answer, Problem> {
    let instance = Instance::get().await?;
    let method = method.try_into().map_err(|_| Problem::bad_head())?;
    let target = request.get_path_with_query().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let base = instance.config.base_path.as_deref();
    let (endpoint, base) = match routes::find(&method, path, base)? {
        Found::Endpoint { endpoint, base } => (endpoint, base),
        Found::Options { allowed } => return Ok(Answer::options(&allowed)),
    };
    let asked = Asked { instance: &instance, request, query, base, endpoint: &endpoint };
    match &endpoint {
        Endpoint::Health => engines::health(&asked).await,
        Endpoint::Version => engines::version(),
        Endpoint::Engines => engines::list(&asked).await,
        Endpoint::ListContexts => contexts::list(&asked).await,
        Endpoint::CreateContext => contexts::create(asked).await,
        Endpoint::GetContext { context } => contexts::get(&asked, context).await,
        Endpoint::ListAllExecutions => executions::list(&asked, None).await,
        Endpoint::ListExecutions { context } => executions::list(&asked, Some(context)).await,
        Endpoint::CreateExecution { context } => executions::create(asked, context).await,
        Endpoint::Placement { context } => placement::dry_run(asked, context).await,
        Endpoint::GetExecution(path) => executions::get(&asked, path).await,
        Endpoint::DeleteExecution(path) => executions::delete(&asked, path).await,
        Endpoint::StopExecution(path) => executions::stop(&asked, path).await,
        Endpoint::GetPorts(path) => executions::ports(&asked, path).await,
        Endpoint::GetLogs(path) => logs::get(&asked, path).await,
    }
}
