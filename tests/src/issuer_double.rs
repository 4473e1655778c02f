//! A double of an OpenID Connect issuer, for behavior that a real one does not show on request: outages, slow and wrong
//! responses. It counts its requests. It is a real HTTP server. The tests of real signatures use Keycloak.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jwt_simple::prelude::JWTClaims;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::issuer::Issuer;
use crate::signing_key::SigningKey;

const REALM: &str = "/realms/Renga";

/// A document that the issuer serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// `<issuer>/.well-known/openid-configuration`.
    Discovery,
    /// The document at the `jwks_uri` of the discovery document.
    Keys,
}

/// A fault in the response.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The response is good, but so much later.
    Slow(Duration),
    /// The response has this status and the good document.
    Status(u16),
    /// The response redirects the client to this URL.
    Redirect(String),
    /// The document is followed by so many bytes of white space.
    Huge(usize),
    /// The document names this other issuer.
    Issuer(String),
    /// The response is an HTML page.
    NotJson,
}

/// Number of requests since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetches {
    /// For [`Document::Discovery`].
    pub discovery: usize,
    /// For [`Document::Keys`].
    pub keys: usize,
    /// For anything else.
    pub other: usize,
}

/// A running double. Dropping it ends it.
pub struct IssuerDouble {
    address: SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
    server: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Behaviour {
    issuer: String,
    keys: Vec<Arc<SigningKey>>,
    cache_control: Option<String>,
    faults: [Option<Fault>; 2],
    fetches: Fetches,
}

impl IssuerDouble {
    /// Starts a double without keys.
    ///
    /// # Errors
    /// Fails if there is no free port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("find a free port")?;
        let address = listener.local_addr()?;
        let behaviour = Behaviour { issuer: format!("http://{address}{REALM}"), ..Behaviour::default() };
        let behaviour = Arc::new(Mutex::new(behaviour));
        let server = Some(tokio::spawn(serve(listener, behaviour.clone())));
        Ok(Self { address, behaviour, server })
    }

    /// Returns the issuer's name. The URL of its discovery document begins with it.
    pub fn issuer(&self) -> String {
        self.behaviour().issuer.clone()
    }

    /// Publishes a new key and returns it. The key still signs when it is no longer published.
    ///
    /// # Errors
    /// Fails if the algorithm is unknown.
    pub fn add_key(&self, algorithm: &str, kid: &str) -> Result<Arc<SigningKey>> {
        let key = Arc::new(SigningKey::new(algorithm, Some(kid))?);
        self.behaviour().keys.push(key.clone());
        Ok(key)
    }

    /// Stops publishing a key.
    ///
    /// # Errors
    /// Fails if the key is not published.
    pub fn remove_key(&self, kid: &str) -> Result<()> {
        let keys = &mut self.behaviour().keys;
        let before = keys.len();
        keys.retain(|key| key.kid() != Some(kid));
        ensure!(keys.len() < before, "the issuer publishes no key {kid}");
        Ok(())
    }

    /// Returns the claims of a token for `subject`: every scope, valid for an hour, and further claims.
    pub fn claims(&self, subject: &str, further: Value) -> JWTClaims<Value> {
        let mut claims = json!({ "scope": Issuer::EVERY_SCOPE, "typ": "Bearer" });
        if let (Value::Object(claims), Value::Object(further)) = (&mut claims, further) {
            claims.extend(further);
        }
        Issuer::claims(subject, claims, 3600).with_issuer(self.issuer())
    }

    /// Returns a token for `subject`, signed with `key`.
    ///
    /// # Errors
    /// Fails if the token cannot be signed.
    pub fn token(&self, key: &SigningKey, subject: &str) -> Result<String> {
        key.sign(self.claims(subject, json!({})))
    }

    /// Sets the `Cache-Control` of the responses; there is none at first.
    pub fn set_cache_control(&self, value: Option<&str>) {
        self.behaviour().cache_control = value.map(str::to_owned);
    }

    /// Sets the fault of a document. `None` ends the fault.
    pub fn set_fault(&self, document: Document, fault: Option<Fault>) {
        self.behaviour().faults[document as usize] = fault;
    }

    /// Returns the number of requests.
    pub fn fetches(&self) -> Fetches {
        self.behaviour().fetches
    }

    /// Ends the server with all its connections. Further connections are refused.
    ///
    /// # Errors
    /// Fails if the server is down already, or has ended by itself.
    pub async fn go_down(&mut self) -> Result<()> {
        let server = self.server.take().context("the issuer is down already")?;
        server.abort();
        let ended = server.await;
        ensure!(ended.is_err_and(|error| error.is_cancelled()), "the issuer ended by itself");
        Ok(())
    }

    /// Starts the server again, at the same address.
    ///
    /// # Errors
    /// Fails if the server is up, or if another program has taken the address.
    pub async fn come_up(&mut self) -> Result<()> {
        ensure!(self.server.is_none(), "the issuer is up already");
        let listener = TcpListener::bind(self.address).await.context("take the issuer's address again")?;
        self.server = Some(tokio::spawn(serve(listener, self.behaviour.clone())));
        Ok(())
    }

    fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        lock(&self.behaviour)
    }
}

impl Drop for IssuerDouble {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

fn lock(behaviour: &Mutex<Behaviour>) -> MutexGuard<'_, Behaviour> {
    // A poisoned lock is ignored, because the failed test reports its own error.
    behaviour.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves until it is dropped; its connections end with it.
async fn serve(listener: TcpListener, behaviour: Arc<Mutex<Behaviour>>) {
    let mut connections = JoinSet::new();
    // The loop ends when no connection can be accepted any more. Further connections are then refused.
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let behaviour = behaviour.clone();
        connections.spawn(async move {
            let service = service_fn(|request| answer(request, &behaviour));
            // The server ignores a client that has closed its connection.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, behaviour: &Mutex<Behaviour>) -> Result<Response<Full<Bytes>>> {
    let (fault, good, cache_control) = {
        let mut behaviour = lock(behaviour);
        let Some(document) = behaviour.count(request.uri().path()) else {
            return Ok(Response::builder().status(StatusCode::NOT_FOUND).body(Full::default())?);
        };
        (behaviour.faults[document as usize].clone(), behaviour.document(document), behaviour.cache_control.clone())
    };
    let mut response = Response::builder().header(CONTENT_TYPE, "application/json");
    if let Some(value) = cache_control {
        response = response.header(CACHE_CONTROL, value);
    }
    let good_body = good.to_string();
    let body = match fault {
        None => good_body,
        Some(Fault::Slow(delay)) => {
            tokio::time::sleep(delay).await;
            good_body
        }
        Some(Fault::Status(status)) => {
            response = response.status(status);
            good_body
        }
        Some(Fault::Redirect(to)) => {
            response = response.status(StatusCode::FOUND).header(LOCATION, to);
            good_body
        }
        Some(Fault::Huge(bytes)) => good_body + &" ".repeat(bytes),
        Some(Fault::Issuer(name)) => {
            let mut document = good;
            document["issuer"] = json!(name);
            document.to_string()
        }
        Some(Fault::NotJson) => "<!DOCTYPE html><title>Sign in</title>".to_owned(),
    };
    Ok(response.body(Full::from(body))?)
}

impl Behaviour {
    fn count(&mut self, path: &str) -> Option<Document> {
        let (count, document) = match path.strip_prefix(REALM) {
            Some("/.well-known/openid-configuration") => (&mut self.fetches.discovery, Some(Document::Discovery)),
            Some("/certs") => (&mut self.fetches.keys, Some(Document::Keys)),
            _ => (&mut self.fetches.other, None),
        };
        *count += 1;
        document
    }

    fn document(&self, document: Document) -> Value {
        match document {
            Document::Discovery => json!({
                "issuer": self.issuer,
                "authorization_endpoint": format!("{}/auth", self.issuer),
                "token_endpoint": format!("{}/token", self.issuer),
                "jwks_uri": format!("{}/certs", self.issuer),
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }),
            Document::Keys => json!({ "keys": self.keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() }),
        }
    }
}
