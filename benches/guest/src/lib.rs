//! A component for the benchmarks: the API's `GET` of a context, built from the API's own modules.
//!
//! The API cannot give these figures, because its verification cannot be bypassed: the cost of the same request without
//! a token, whether a token had to be verified, and how long a verification takes. This component is not part of the
//! product.
#![allow(dead_code, reason = "of the API's modules only a part is used")]

#[path = "../../../functions/api/src/ambient.rs"]
mod ambient;
#[path = "../../../functions/api/src/answer.rs"]
mod answer;
#[path = "../../../functions/api/src/contexts.rs"]
mod contexts;
#[path = "../../../functions/api/src/instance.rs"]
mod instance;
#[path = "../../../functions/api/src/issuer.rs"]
mod issuer;
#[path = "../../../functions/api/src/outbound.rs"]
mod outbound;
#[path = "../../../functions/api/src/request.rs"]
mod request;
#[path = "../../../functions/api/src/resource_manager.rs"]
mod resource_manager;
#[path = "../../../functions/api/src/routes.rs"]
mod routes;
mod tokens;

use std::time::Duration;

use answer::Answer;
use http::{HeaderName, StatusCode, header};
use instance::{Authority, Instance};
use renga_shared::api::Problem;
use renga_shared::auth::{Verifier, bearer_token};
use request::Asked;
use routes::{Endpoint, Found};
use serde_json::json;
use spin_sdk::wasip3;
use spin_sdk::wasip3::http::types::{self, ErrorCode, Response};

/// The response header that tells whether the token had to be verified.
const TOKEN: HeaderName = HeaderName::from_static("bench-token");
/// The limit between a cache hit and a verification: a hit takes less, a verification more.
const LOOKED_UP: Duration = Duration::from_micros(60);
/// The number of verifications per figure.
const ROUNDS: u32 = 100;

struct Guest;

wasip3::http::service::export!(Guest);

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: types::Request) -> Result<Response, ErrorCode> {
        answer(request).await.unwrap_or_else(Answer::from).into_response()
    }
}

async fn answer(request: types::Request) -> Result<Answer, Problem> {
    let instance = Instance::get().await?;
    let target = request.get_path_with_query().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let Found::Endpoint { endpoint, base } = routes::find(&http::Method::GET, path, None)? else {
        return Err(Problem::not_found());
    };
    let asked = Asked { instance: &instance, request, query, base, endpoint: &endpoint };
    match (&endpoint, query) {
        (Endpoint::Version, _) => Answer::json(StatusCode::OK, &json!({})),
        (Endpoint::Health, _) => {
            let (good, micros) = verifying(&asked)?;
            Answer::json(StatusCode::OK, &json!({ "good": good, "micros": micros }))
        }
        (Endpoint::GetContext { context }, "told") => {
            let verified = if looked_up(&asked).await? { "remembered" } else { "verified" };
            Ok(contexts::get(&asked, context).await?.with(TOKEN, verified.to_owned()))
        }
        (Endpoint::GetContext { context }, _) => contexts::get(&asked, context).await,
        _ => Err(Problem::not_found()),
    }
}

/// Whether the token was in the cache, judged by the time of the look-up.
async fn looked_up(asked: &Asked<'_>) -> Result<bool, Problem> {
    let Authority::Keys(tokens) = &asked.instance.authority else { return Err(Problem::not_found()) };
    let headers = asked.header(header::AUTHORIZATION.as_str());
    let token = bearer_token(headers.iter().map(Vec::as_slice))?;
    let begin = ambient::now();
    tokens.principal(&asked.instance.database, token).await?;
    Ok(ambient::now().since(begin) < LOOKED_UP)
}

/// Returns whether the configured key verifies the token, and the time of one verification, in microseconds.
fn verifying(asked: &Asked<'_>) -> Result<(bool, f64), Problem> {
    let config = &asked.instance.config;
    let Some(key) = config.key.clone() else { return Err(Problem::not_found()) };
    let verifier = Verifier::new(key, config.expected.clone());
    let headers = asked.header(header::AUTHORIZATION.as_str());
    let token = bearer_token(headers.iter().map(Vec::as_slice))?;
    let (begin, mut good) = (ambient::now(), 0);
    for _ in 0..ROUNDS {
        good += u32::from(verifier.glance(token, begin).and_then(|()| verifier.verify(token, begin)).is_ok());
    }
    let micros = ambient::now().since(begin).as_secs_f64() * 1e6 / f64::from(ROUNDS);
    Ok((good == ROUNDS, micros))
}
