//! A small service that behaves like the API, for the client commands to call over a real socket.
//!
//! Its containers are threads of its own: the words of an execution's command are what it does, one after another.
//! `say=TEXT` writes a line, `cut` breaks every connection that follows it (`cut=A-B`: and those bytes of its log are
//! gone), `deaf` makes it ignore a stop, `forever` waits for one, `exit=N` ends it. The image `missing` cannot be run.
//! Pages hold two rows, so that every list has several.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::stream;
use renga_shared::api::LogRecord;
use serde_json::{Value, json};
use tokio::sync::watch;

/// The only token that is accepted.
pub(crate) const TOKEN: &str = "good-token";
const PAGE: usize = 2;

/// A running service. It ends with the test's runtime.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    records: Records,
}

#[derive(Clone)]
struct Records(Arc<(Mutex<Rows>, watch::Sender<u64>)>);

#[derive(Default)]
struct Rows {
    contexts: Vec<Value>,
    executions: Vec<Execution>,
    keys: HashMap<String, Value>,
    /// Number of further POSTs whose response gets lost after the request was performed.
    lost_answers: usize,
    /// It knows logs as texts only.
    texts_only: bool,
    /// A GET of an execution fails.
    reads_fail: bool,
}

struct Execution {
    id: String,
    context: String,
    wish: Value,
    status: Value,
    logs: Vec<u8>,
    /// Bytes of the log that are no longer stored.
    gone: Range<usize>,
    cuts: usize,
    stop: bool,
    removed: bool,
}

impl Service {
    pub(crate) async fn start() -> Self {
        let records = Records(Arc::new((Mutex::default(), watch::channel(0).0)));
        let execution = "/v1/contexts/{context}/executions/{execution}";
        let routes = Router::new()
            .route("/v1/contexts", get(contexts).post(create_context))
            .route("/v1/contexts/{context}/executions", post(create_execution))
            .route("/v1/executions", get(executions))
            .route("/v1/engines", get(engines))
            .route(execution, get(read).delete(remove))
            .route(&format!("{execution}/logs"), get(logs))
            .route(&format!("{execution}/ports"), get(ports))
            .route(&format!("{execution}/stop"), post(stop))
            .layer(middleware::from_fn(authorize))
            .with_state(records.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { address, records }
    }

    /// From now on, the responses of the next `count` POSTs get lost.
    pub(crate) fn lose_answers(&self, count: usize) {
        self.records.rows().lost_answers = count;
    }

    /// From now on it gives logs as texts only, as older services do.
    pub(crate) fn give_texts_only(&self) {
        self.records.rows().texts_only = true;
    }

    /// From now on, each GET of an execution fails; its logs can still be read.
    pub(crate) fn fail_reads(&self) {
        self.records.rows().reads_fail = true;
    }

    pub(crate) fn execution_ids(&self) -> Vec<String> {
        self.records.rows().executions.iter().map(|execution| execution.id.clone()).collect()
    }

    /// Returns the specification of the last context.
    pub(crate) fn last_specification(&self) -> Value {
        self.records.rows().contexts.last().unwrap()["spec"].clone()
    }

    /// Returns the body of the last request for an execution.
    pub(crate) fn last_wish(&self) -> Value {
        self.records.rows().executions.last().unwrap().wish.clone()
    }

    /// Completes when the last execution's phase is `phase`.
    pub(crate) async fn until_last_is(&self, phase: &str) {
        let mut changes = self.records.0.1.subscribe();
        loop {
            let is = self.records.rows().executions.last().is_some_and(|last| last.status["phase"] == phase);
            if is {
                return;
            }
            changes.changed().await.unwrap();
        }
    }
}

impl Records {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.0.lock().unwrap()
    }

    fn change<T>(&self, id: &str, change: impl FnOnce(&mut Execution) -> T) -> Option<T> {
        let changed = self.rows().executions.iter_mut().find(|execution| execution.id == id).map(change);
        self.0.1.send_modify(|revision| *revision += 1);
        changed
    }

    /// Does the work of the reconciler and an engine.
    async fn execute(self, id: String, specification: Value) {
        let set = |status: Value| self.change(&id, |execution| execution.status = status);
        let image = specification["image"].as_str().unwrap_or_default();
        if image == "missing" {
            set(json!({"phase": "failed", "reason": "ImageNotFound", "message": "There is no image missing:latest."}));
            return;
        }
        set(
            json!({"phase": "scheduled", "engine": "docker", "reason": "PullingImage", "message": "Pulling image: 40 %"}),
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
        set(json!({"phase": "running", "engine": "docker", "started": "2026-01-01T00:00:00.000000+00:00"}));
        let mut deaf = false;
        let mut changes = self.0.1.subscribe();
        let mut code = 0;
        for word in specification["command"].as_array().into_iter().flatten() {
            let word = word.as_str().unwrap_or_default();
            let (verb, text) = word.split_once('=').unwrap_or((word, ""));
            match verb {
                "say" => {
                    self.change(&id, |execution| execution.logs.extend(format!("{text}\n").bytes()));
                }
                // The connections of followers break; the client requests again the bytes that it has not received.
                "cut" => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    self.change(&id, |execution| {
                        execution.cuts += 1;
                        if let Some((from, to)) = text.split_once('-') {
                            execution.gone = from.parse().unwrap()..to.parse().unwrap();
                        }
                    });
                }
                "deaf" => deaf = true,
                "forever" => loop {
                    let stop = self.change(&id, |execution| execution.stop).unwrap();
                    if stop && !deaf {
                        code = 143;
                        break;
                    }
                    changes.mark_unchanged();
                    let _ = tokio::time::timeout(Duration::from_millis(50), changes.changed()).await;
                },
                "exit" => code = text.parse().unwrap(),
                other => panic!("{other:?} is no word of a container's"),
            }
        }
        let reason = match code {
            0 => "Completed",
            143 => "Stopped",
            _ => "ExitedWithError",
        };
        set(
            json!({"phase": "exited", "exit_code": code, "engine": "docker", "reason": reason, "message": "It ended."}),
        );
    }
}

impl Execution {
    fn body(&self) -> Value {
        let state = match self.status["phase"].as_str().unwrap() {
            _ if self.removed => "unavailable",
            "pending" | "scheduled" | "starting" => "pending",
            "running" | "stopping" => "running",
            "exited" => "exited",
            _ => "unavailable",
        };
        json!({
            "identifier": self.id, "context_id": self.context, "created": "2026-01-01T00:00:00.000000+00:00",
            "engine": self.wish.get("engine"), "namespace": "default", "environment": {},
            "state": state, "status": self.status,
        })
    }

    /// Returns the stored log from a byte on, and the position after it. For texts, the position counts the bytes given.
    fn stored(&self, from: usize, records: bool) -> (Vec<u8>, usize) {
        if !records {
            let told = format!("\n[renga: {} bytes of log were cut here]\n", self.gone.len());
            let told = if self.gone.is_empty() { "" } else { &told };
            let all = [&self.logs[..self.gone.start], told.as_bytes(), &self.logs[self.gone.end..]].concat();
            return (all[from..].to_vec(), all.len());
        }
        let from = if self.gone.contains(&from) { self.gone.end } else { from };
        (self.logs[from..].to_vec(), self.logs.len())
    }

    fn has_ended(&self) -> bool {
        matches!(self.status["phase"].as_str().unwrap(), "exited" | "failed" | "lost" | "removed")
    }
}

fn problem(status: StatusCode, title: &str, detail: Option<&str>, errors: Value) -> Response {
    let body = json!({"title": title, "status": status.as_u16(), "detail": detail, "errors": errors});
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

fn not_found() -> Response {
    problem(StatusCode::NOT_FOUND, "Not found", None, json!([]))
}

async fn authorize(request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if given == Some(format!("Bearer {TOKEN}").as_str()) {
        return next.run(request).await;
    }
    problem(StatusCode::UNAUTHORIZED, "Unauthorized", Some("The token has expired."), json!([]))
}

/// Returns a page of a list, newest first, from the cursor on, with a link to the next page that names another host.
fn page(name: &str, newest_first: Vec<Value>, query: &HashMap<String, String>) -> Response {
    let from: usize = query.get("cursor").map_or(0, |cursor| cursor.parse().unwrap());
    let rows: Vec<_> = newest_first.iter().skip(from).take(PAGE).collect();
    let next = from + rows.len();
    let mut answer = Json(json!({name: rows})).into_response();
    if next < newest_first.len() {
        let state = query.get("state").map_or(String::new(), |state| format!("state={state}&"));
        let link = format!("<http://inside.example:1/v1/{name}?{state}cursor={next}>; rel=\"next\"");
        answer.headers_mut().insert(header::LINK, link.parse().unwrap());
    }
    answer
}

async fn contexts(State(records): State<Records>, Query(query): Query<HashMap<String, String>>) -> Response {
    let rows = records.rows().contexts.iter().rev().cloned().collect();
    page("contexts", rows, &query)
}

async fn executions(State(records): State<Records>, Query(query): Query<HashMap<String, String>>) -> Response {
    let wanted = query.get("state").cloned();
    let bodies = records.rows().executions.iter().rev().map(Execution::body).collect::<Vec<_>>();
    let rows = bodies.into_iter().filter(|body| wanted.as_deref().is_none_or(|state| body["state"] == state));
    page("executions", rows.collect(), &query)
}

async fn engines() -> Response {
    let up = json!({"name": "docker", "kind": "docker", "up": true, "since": "2026-01-01T00:00:00+00:00", "reason": null, "version": "20.10"});
    let down = json!({"name": "far", "kind": "docker", "up": false, "since": "2026-01-01T00:00:00+00:00", "reason": "connection refused", "version": null});
    Json(json!({"engines": [up, down]})).into_response()
}

/// Responds with 201, or with 503 if this response gets lost: the client then sees a 503.
fn created(records: &Records, body: Value) -> Response {
    let mut rows = records.rows();
    if rows.lost_answers > 0 {
        rows.lost_answers -= 1;
        let lost = problem(StatusCode::SERVICE_UNAVAILABLE, "Database locked", None, json!([]));
        return ([(header::RETRY_AFTER, "0")], lost).into_response();
    }
    (StatusCode::CREATED, Json(body)).into_response()
}

async fn create_context(State(records): State<Records>, headers: HeaderMap, Json(spec): Json<Value>) -> Response {
    let ports = spec["ports"].as_array().cloned().unwrap_or_default();
    let bad =
        ports.iter().enumerate().filter(|(_, port)| !port.as_str().unwrap().starts_with(|c: char| c.is_ascii_digit()));
    let errors: Vec<_> =
        bad.map(|(at, _)| json!({"pointer": format!("/ports/{at}"), "detail": "is no port"})).collect();
    if !errors.is_empty() {
        return problem(StatusCode::BAD_REQUEST, "Invalid request", Some("Fields are not valid."), json!(errors));
    }
    let body = {
        let mut rows = records.rows();
        let key = headers["idempotency-key"].to_str().unwrap().to_owned();
        let id = format!("0190aaaa-0000-7000-8000-0000c0000{:03}", rows.contexts.len());
        let rows = &mut *rows;
        rows.keys
            .entry(key)
            .or_insert_with(|| {
                let body = json!({"identifier": id, "spec": spec, "created": "2026-01-01T00:00:00.000000+00:00"});
                rows.contexts.push(body.clone());
                body
            })
            .clone()
    };
    created(&records, body)
}

async fn create_execution(
    State(records): State<Records>,
    Path(context): Path<String>,
    headers: HeaderMap,
    Json(wish): Json<Value>,
) -> Response {
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    let (body, new) = {
        let mut rows = records.rows();
        let Some(specification) = rows.contexts.iter().find(|row| row["identifier"] == context.as_str()) else {
            return not_found();
        };
        let specification = specification["spec"].clone();
        if let Some(body) = rows.keys.get(&key) {
            (body.clone(), None)
        } else {
            let number = rows.executions.len();
            let execution = Execution {
                id: format!("0190aaaa-0000-7000-8000-{number:03}0000e0{number:03}"),
                context,
                wish,
                status: json!({"phase": "pending"}),
                logs: Vec::new(),
                gone: 0..0,
                cuts: 0,
                stop: false,
                removed: false,
            };
            let (id, body) = (execution.id.clone(), execution.body());
            rows.executions.push(execution);
            rows.keys.insert(key, body.clone());
            (body, Some((id, specification)))
        }
    };
    if let Some((id, specification)) = new {
        tokio::spawn(records.clone().execute(id, specification));
    }
    created(&records, body)
}

type Ids = Path<(String, String)>;

async fn read(State(records): State<Records>, Path((_, id)): Ids) -> Response {
    if records.rows().reads_fail {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable", None, json!([]));
    }
    let body = records.change(&id, |execution| execution.body());
    body.map_or_else(not_found, |body| Json(body).into_response())
}

async fn stop(State(records): State<Records>, Path((_, id)): Ids) -> Response {
    let body = records.change(&id, |execution| {
        execution.stop = true;
        execution.body()
    });
    body.map_or_else(not_found, |body| Json(body).into_response())
}

async fn remove(State(records): State<Records>, Path((_, id)): Ids) -> Response {
    let body = records.change(&id, |execution| {
        (execution.stop, execution.removed) = (true, true);
        execution.body()
    });
    body.map_or_else(not_found, |body| Json(body).into_response())
}

async fn ports(State(records): State<Records>, Path((_, id)): Ids) -> Response {
    let port = json!({"specified": "8888", "host": "127.0.0.1", "exposed": "32768", "protocol": "TCP"});
    records.change(&id, |_| ()).map_or_else(not_found, |()| Json(json!({"ports": [port]})).into_response())
}

async fn logs(
    State(records): State<Records>,
    Path((_, id)): Ids,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let Some((removed, cuts)) = records.change(&id, |execution| (execution.removed, execution.cuts)) else {
        return not_found();
    };
    if removed {
        return not_found();
    }
    if !query.contains_key("follow") {
        let all = records.change(&id, |execution| execution.logs.clone()).unwrap();
        return Response::new(Body::from(all));
    }
    let accept = headers.get(header::ACCEPT).map(|kinds| kinds.to_str().unwrap().to_owned());
    let as_records = accept.is_some_and(|kinds| LogRecord::are_accepted(&kinds)) && !records.rows().texts_only;
    let from: usize = query.get("offset").map_or(0, |offset| offset.parse().unwrap());
    let changes = records.0.1.subscribe();
    let chunks = stream::try_unfold((records, id, from, changes), move |(records, id, sent, mut changes)| async move {
        loop {
            let ((new, next), ended, cut) = {
                let rows = records.rows();
                let execution = rows.executions.iter().find(|execution| execution.id == id).unwrap();
                (execution.stored(sent, as_records), execution.has_ended(), execution.cuts > cuts)
            };
            if cut {
                return Err(std::io::Error::other("the connection is cut"));
            }
            if !new.is_empty() {
                let record = || serde_json::to_string(&LogRecord::new(next as i64, &new)).unwrap() + "\n";
                let sent = if as_records { Bytes::from(record()) } else { Bytes::from(new) };
                return Ok(Some((sent, (records, id, next, changes))));
            }
            if ended {
                return Ok(None);
            }
            changes.changed().await.unwrap();
        }
    });
    let body: Result<_, Infallible> = Ok(Body::from_stream(chunks));
    let mut answer = body.map(Response::new).unwrap_or_else(|never| match never {});
    if as_records {
        answer.headers_mut().insert(header::CONTENT_TYPE, LogRecord::MEDIA_TYPE.parse().unwrap());
    }
    answer
}
