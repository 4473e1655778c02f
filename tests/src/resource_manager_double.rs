//! A double of the resource manager, by the platform's own specification, with possible faults.
//!
//! It knows users by its own tokens (`token-of-alice`), grants the requested scopes that a user holds, and signs
//! grants.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::issuer::Issuer;

/// A fault of the resource manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It responds after 30 s.
    Slow,
    /// It responds at once, and sends one byte of its body every second.
    Trickling,
    /// Another key signs the grant.
    WrongSignature,
    /// The grant has the claims of another context.
    OtherClaims,
    /// The grant is on another vertex.
    OtherResource,
    /// The grant expired an hour ago.
    Expired,
    /// The grant is from another issuer.
    OtherIssuer,
    /// It responds with 500.
    Broken,
    /// It responds with 10 MiB.
    Huge,
    /// It redirects the client to a good grant.
    Redirecting,
    /// The response is not JSON.
    NotJson,
    /// The response has no token.
    NoToken,
    /// It responds with 403.
    Refusing,
    /// It rejects every token with 401, whatever the request.
    Unauthenticated,
}

/// A running double. Dropping it ends it.
pub struct ResourceManager {
    address: SocketAddr,
    issuer: Arc<Issuer>,
    shared: Shared,
    task: JoinHandle<()>,
}

type Shared = Arc<Mutex<Inner>>;

struct Inner {
    fault: Option<Fault>,
    held: HashMap<String, Vec<String>>,
    lifetime: u64,
    asked: Vec<Value>,
}

impl ResourceManager {
    /// The issuer's name in the grants.
    pub const NAME: &'static str = Issuer::NAME;

    /// Starts a double on a free port. Every user holds every scope.
    pub async fn start() -> Result<Self> {
        let issuer = Arc::new(Issuer::rsa());
        let inner = Inner { fault: None, held: HashMap::new(), lifetime: 3_600, asked: Vec::new() };
        let shared: Shared = Arc::new(Mutex::new(inner));
        let app = axum::Router::new()
            .route("/authorize", post(authorize))
            .route("/elsewhere", post(grant_anything).get(grant_anything))
            .with_state((Arc::clone(&issuer), Arc::clone(&shared)));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            // The server ends with the task.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address, issuer, shared, task })
    }

    /// Returns the value of `RESOURCE_MANAGER_URL`.
    pub fn url(&self) -> String {
        format!("http://{}/authorize", self.address)
    }

    /// Returns the value of `DEPLOYER_JWT_KEY`.
    pub fn public_key(&self) -> String {
        self.issuer.public_key_base64()
    }

    /// Returns a token that identifies this user.
    pub fn token(user: &str) -> String {
        format!("token-of-{user}")
    }

    /// Sets or ends the fault of the responses from now on.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.inner().fault = fault;
    }

    /// Limits `user` to these scopes from now on.
    pub fn let_hold(&self, user: &str, scopes: &[&str]) {
        self.inner().held.insert(user.to_owned(), scopes.iter().map(|scope| (*scope).to_owned()).collect());
    }

    /// Sets the lifetime of the grants from now on, in seconds.
    pub fn set_lifetime(&self, seconds: u64) {
        self.inner().lifetime = seconds;
    }

    /// Returns the requests since the last call.
    pub fn asked(&self) -> Vec<Value> {
        std::mem::take(&mut self.inner().asked)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.shared)
    }
}

impl Drop for ResourceManager {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Inner> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn authorize(
    State((issuer, shared)): State<(Arc<Issuer>, Shared)>,
    headers: HeaderMap,
    Json(request): Json<Value>,
) -> Response {
    let (fault, held, lifetime) = {
        let mut inner = lock(&shared);
        inner.asked.push(request.clone());
        (inner.fault, inner.held.clone(), inner.lifetime)
    };
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(user) = bearer.strip_prefix("Bearer token-of-") else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    match fault {
        Some(Fault::Slow) => tokio::time::sleep(Duration::from_secs(30)).await,
        Some(Fault::Trickling) => return trickle(),
        Some(Fault::Broken) => return (StatusCode::INTERNAL_SERVER_ERROR, "secret stack trace").into_response(),
        Some(Fault::Huge) => return vec![b' '; 10 << 20].into_response(),
        Some(Fault::Redirecting) => return Redirect::temporary("/elsewhere").into_response(),
        Some(Fault::NotJson) => return "granted!".into_response(),
        Some(Fault::NoToken) => return Json(json!({ "access_token": null })).into_response(),
        Some(Fault::Refusing) => return StatusCode::FORBIDDEN.into_response(),
        Some(Fault::Unauthenticated) => return StatusCode::UNAUTHORIZED.into_response(),
        _ => {}
    }
    let wanted: Vec<&str> = request["scope"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let granted: Vec<&str> = wanted
        .into_iter()
        .filter(|scope| held.get(user).is_none_or(|held| held.iter().any(|one| one == scope)))
        .collect();
    let about = match fault {
        Some(Fault::OtherClaims) => json!({ "claims": { "context_id": "another" } }),
        _ => request["service_claims"].clone(),
    };
    let mut further = json!({
        "https://rm.datascience.ch/scope": granted,
        "https://rm.datascience.ch/service_claims": about.to_string(),
    });
    match (fault, request["resource_id"].as_i64()) {
        (Some(Fault::OtherResource), _) => further["https://rm.datascience.ch/resource_id"] = json!(4_711),
        (_, Some(id)) => further["https://rm.datascience.ch/resource_id"] = json!(id),
        (_, None) => {}
    }
    let mut claims = Issuer::claims(user, further, lifetime);
    let signer = if fault == Some(Fault::WrongSignature) { Arc::new(Issuer::rsa()) } else { issuer };
    match fault {
        Some(Fault::Expired) => {
            claims.expires_at = claims.issued_at.map(|at| at - jwt_simple::prelude::Duration::from_hours(1));
            claims.invalid_before = None;
        }
        Some(Fault::OtherIssuer) => claims.issuer = Some(format!("{}/", ResourceManager::NAME)),
        _ => {}
    }
    Json(json!({ "access_token": signer.sign(claims) })).into_response()
}

/// Returns the target of the redirect: a good grant of everything. No client may follow the redirect.
async fn grant_anything(State((issuer, _)): State<(Arc<Issuer>, Shared)>) -> Response {
    let every: Vec<&str> = Issuer::EVERY_SCOPE.split(' ').collect();
    let further = json!({
        "https://rm.datascience.ch/scope": every,
        "https://rm.datascience.ch/service_claims": r#"{"claims":{}}"#,
    });
    Json(json!({ "access_token": issuer.sign(Issuer::claims("alice", further, 3_600)) })).into_response()
}

fn trickle() -> Response {
    let bytes = futures::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from_static(b" ")), ()))
    });
    axum::body::Body::from_stream(bytes).into_response()
}
