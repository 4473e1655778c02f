//! The yardsticks: native axum, and native axum with sqlx, for the same requests on this machine.
//!
//! They do only what the API does: verify the same token with the same code and a token cache, and read or write the
//! same row of the same database.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use clap::ValueEnum;
use renga_reconciler::clock::{Clock as _, SystemClock};
use renga_reconciler::random::Random;
use renga_shared::auth::{Expected, Principal, Remembered, VerificationKey, Verifier};
use renga_shared::domain::{ContextId, ExecutionId};
use tokio::net::TcpListener;

use crate::database::Database;

/// The kinds of yardstick server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Server {
    /// Responds with a constant.
    Hello,
    /// Responds with rows of the database.
    Rows,
}

/// Serves until the process is killed.
pub(crate) async fn serve(server: Server, listen: SocketAddr) -> Result<()> {
    let hello = axum::Router::new().route("/version", get(async || "{\"version\":\"0.1.0\"}"));
    let app = match server {
        Server::Hello => hello,
        Server::Rows => {
            let state = Arc::new(Rows::from_environment().await?);
            let rows = axum::Router::new()
                .route("/v1/contexts", get(list).post(create))
                .route("/v1/contexts/{id}", get(read))
                .route("/v1/contexts/{id}/executions", post(execute))
                .with_state(state);
            hello.merge(rows)
        }
    };
    // As in the host: otherwise the second part of a response would wait for the client's acknowledgement.
    let listener = TcpListener::bind(listen).await?.tap_io(|stream| drop(stream.set_nodelay(true)));
    Ok(axum::serve(listener, app).await?)
}

struct Rows {
    database: Database,
    verifier: Verifier,
    remembered: Mutex<Remembered>,
    random: Random,
}

type Answer = Result<Response, StatusCode>;

impl Rows {
    async fn from_environment() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
        let key = VerificationKey::parse(&variable("DEPLOYER_JWT_KEY")?)?;
        let scopes = std::env::var("DEPLOYER_TOKEN_SCOPE_KEY").ok();
        Ok(Self {
            database: Database::open(&variable("SQLALCHEMY_DATABASE_URI")?).await?,
            verifier: Verifier::new(key, Expected::of(variable("DEPLOYER_JWT_ISSUER")?, scopes)),
            remembered: Mutex::new(Remembered::new(1_000)),
            random: Random::from_system(),
        })
    }

    fn who(&self, headers: &HeaderMap) -> Result<Principal, StatusCode> {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = given.and_then(|value| value.strip_prefix("Bearer ")).ok_or(StatusCode::UNAUTHORIZED)?;
        let now = SystemClock.now();
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(principal) = remembered.get(token, now) {
            return Ok(principal.clone());
        }
        let principal = self.verifier.verify(token, now).map_err(|_| StatusCode::UNAUTHORIZED)?;
        remembered.insert(token, principal.clone(), principal.expires);
        Ok(principal)
    }
}

/// The id, the creation time in microseconds, and the specification.
type Context = (String, i64, String);

async fn read(State(state): State<Arc<Rows>>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let who = state.who(&headers)?;
    let row: Option<Context> = match &state.database {
        Database::Sqlite { read, .. } => {
            sqlx::query_as("SELECT id, created_at, spec FROM contexts WHERE id = ? AND owner = ?")
                .bind(id)
                .bind(who.subject)
                .fetch_optional(read)
                .await
        }
        Database::Postgres(pool) => {
            sqlx::query_as(
                "SELECT id::text, (extract(epoch FROM created_at) * 1000000)::int8, spec::text FROM contexts \
                 WHERE id = $1::uuid AND owner = $2",
            )
            .bind(id)
            .bind(who.subject)
            .fetch_optional(pool)
            .await
        }
    }
    .map_err(internal)?;
    Ok(json(StatusCode::OK, body(&row.ok_or(StatusCode::NOT_FOUND)?)))
}

async fn list(State(state): State<Arc<Rows>>, headers: HeaderMap) -> Answer {
    let who = state.who(&headers)?;
    let rows: Vec<Context> = match &state.database {
        Database::Sqlite { read, .. } => {
            sqlx::query_as("SELECT id, created_at, spec FROM contexts WHERE owner = ? ORDER BY id DESC LIMIT 100")
                .bind(who.subject)
                .fetch_all(read)
                .await
        }
        Database::Postgres(pool) => {
            sqlx::query_as(
                "SELECT id::text, (extract(epoch FROM created_at) * 1000000)::int8, spec::text FROM contexts \
                 WHERE owner = $1 ORDER BY id DESC LIMIT 100",
            )
            .bind(who.subject)
            .fetch_all(pool)
            .await
        }
    }
    .map_err(internal)?;
    let contexts: Vec<String> = rows.iter().map(body).collect();
    Ok(json(StatusCode::OK, format!("{{\"contexts\":[{}]}}", contexts.join(","))))
}

async fn create(State(state): State<Arc<Rows>>, headers: HeaderMap, spec: String) -> Answer {
    let who = state.who(&headers)?;
    serde_json::from_str::<serde::de::IgnoredAny>(&spec).map_err(|_| StatusCode::BAD_REQUEST)?;
    let now = SystemClock.now();
    let id = ContextId::new(now, state.random.number().to_be_bytes()).to_string();
    match &state.database {
        Database::Sqlite { write, .. } => {
            sqlx::query("INSERT INTO contexts (id, owner, created_at, spec) VALUES (?, ?, ?, ?)")
                .bind(&id)
                .bind(who.subject)
                .bind(now.0)
                .bind(&spec)
                .execute(write)
                .await
                .map(drop)
        }
        Database::Postgres(pool) => sqlx::query(
            "INSERT INTO contexts (id, owner, created_at, spec) \
                 VALUES ($1::uuid, $2, to_timestamp($3::int8 / 1000000.0), $4::jsonb)",
        )
        .bind(&id)
        .bind(who.subject)
        .bind(now.0)
        .bind(&spec)
        .execute(pool)
        .await
        .map(drop),
    }
    .map_err(internal)?;
    Ok(json(StatusCode::CREATED, body(&(id, now.0, spec))))
}

/// Inserts only the row. No reconciler runs the execution, because its desired state is `removed`.
async fn execute(State(state): State<Arc<Rows>>, Path(context): Path<String>, headers: HeaderMap) -> Answer {
    let who = state.who(&headers)?;
    let now = SystemClock.now();
    let id = ExecutionId::new(now, state.random.number().to_be_bytes()).to_string();
    match &state.database {
        Database::Sqlite { write, .. } => {
            sqlx::query(
                "INSERT INTO executions (id, context_id, owner, requested_by, created_at, namespace, environment, wanted, phase) \
                 VALUES (?1, ?2, ?3, ?3, ?4, 'default', '{}', 'removed', 'removed')",
            )
            .bind(&id)
            .bind(context)
            .bind(who.subject)
            .bind(now.0)
            .execute(write)
            .await
            .map(drop)
        }
        Database::Postgres(pool) => {
            sqlx::query(
                "INSERT INTO executions (id, context_id, owner, requested_by, created_at, namespace, environment, wanted, phase) \
                 VALUES ($1::uuid, $2::uuid, $3, $3, to_timestamp($4::int8 / 1000000.0), 'default', '{}', 'removed', 'removed')",
            )
            .bind(&id)
            .bind(context)
            .bind(who.subject)
            .bind(now.0)
            .execute(pool)
            .await
            .map(drop)
        }
    }
    .map_err(internal)?;
    Ok(json(StatusCode::CREATED, format!("{{\"identifier\":\"{id}\"}}")))
}

fn body((id, created, spec): &Context) -> String {
    format!("{{\"identifier\":\"{id}\",\"spec\":{spec},\"created\":{created}}}")
}

fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Responds with 500, which fails the measurement. The first error is printed to the log.
fn internal(error: sqlx::Error) -> StatusCode {
    static TOLD: std::sync::Once = std::sync::Once::new();
    TOLD.call_once(|| eprintln!("{error}"));
    StatusCode::INTERNAL_SERVER_ERROR
}
