//! An HTTP client of the API for tests, which can wait for states.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::deployment::until;

/// Numbers of idempotency keys.
static KEYS: AtomicU64 = AtomicU64::new(0);

/// A client of one API as one user.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
    /// Maximum time for which a request is retried after a 503.
    patience: Duration,
}

/// An execution, identified by its path.
#[derive(Clone, Debug)]
pub struct Execution {
    /// The path, without the base of the API's address.
    pub path: String,
    /// The execution's id.
    pub id: String,
    /// The context's id.
    pub context: String,
}

/// A complete response.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl Answer {
    /// Returns a header's value, or an empty string if the header is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Returns the body as JSON. Fails unless the response has this status.
    pub fn json(&self, status: u16) -> Result<Value> {
        ensure!(self.status == status, "{self:?}");
        ensure!(self.header("content-type") == "application/json", "{self:?}");
        Ok(serde_json::from_str(&self.body)?)
    }

    /// Returns the body as a problem document. Fails unless the response has this status.
    pub fn problem(&self, status: u16) -> Result<Value> {
        ensure!(self.status == status, "{self:?}");
        ensure!(self.header("content-type") == "application/problem+json", "{self:?}");
        let problem: Value = serde_json::from_str(&self.body)?;
        ensure!(problem["status"] == status, "{problem}");
        for name in ["title", "detail"] {
            ensure!(problem[name].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        Ok(problem)
    }

    /// Returns the pointers of all bad fields in a problem with this status, in order.
    pub fn bad_fields(&self, status: u16) -> Result<Vec<String>> {
        let problem = self.problem(status)?;
        let errors = problem["errors"].as_array().with_context(|| format!("no errors in {problem}"))?;
        ensure!(errors.iter().all(|error| error["detail"].as_str().is_some_and(|text| !text.is_empty())), "{problem}");
        let mut pointers: Vec<String> =
            errors.iter().map(|error| error["pointer"].as_str().unwrap_or_default().to_owned()).collect();
        pointers.sort();
        Ok(pointers)
    }
}

/// Returns an HTTP client for any server. Its connections belong to the runtime that uses it, and so to one test.
#[must_use]
pub fn http() -> reqwest::Client {
    // The process has one provider; if another one was installed before, it is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

impl Client {
    /// Creates a client of the API at `base` that sends `token`.
    pub fn new(base: &str, token: &str) -> Self {
        let (base, token) = (base.to_owned(), token.to_owned());
        Self { http: http(), base, token, patience: Duration::ZERO }
    }

    /// Returns the same client with retries: it repeats a request after a 503 and a pause, for up to `patience`, and
    /// posts with idempotency keys. For tests that load the machine until its disk does not respond for seconds.
    pub fn patient(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
    }

    /// Returns the same client with another token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// Returns the token that the client sends.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Returns the base of the API's address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Creates a request with the token.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    /// Sends a request and reads the whole response.
    pub async fn send(&self, request: RequestBuilder) -> Result<Answer> {
        let answer = self.answered(request).await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = String::from_utf8_lossy(&answer.bytes().await?).into_owned();
        Ok(Answer { status, headers, body })
    }

    /// Sends a request, and repeats it while the response is 503 and `patience` has not passed.
    async fn answered(&self, request: RequestBuilder) -> Result<Response> {
        let deadline = Instant::now() + self.patience;
        loop {
            let Some(again) = request.try_clone() else { return Ok(request.send().await?) };
            let answer = again.send().await?;
            if answer.status() != StatusCode::SERVICE_UNAVAILABLE || Instant::now() >= deadline {
                return Ok(answer);
            }
            // This output is shown even if the test passes.
            let _ = writeln!(std::io::stderr(), "{}: 503, asked again", answer.url().path());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Posts a resource that must be created once, even if the request is repeated.
    async fn make(&self, path: &str, body: &Value) -> Result<Value> {
        let mut request = self.request(Method::POST, path).json(body);
        if !self.patience.is_zero() {
            request = request.header("Idempotency-Key", format!("made-{}", KEYS.fetch_add(1, Ordering::Relaxed)));
        }
        let answer = self.answered(request).await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status == StatusCode::CREATED, "POST {path}: {status} {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Sends a request without a body.
    pub async fn ask(&self, method: Method, path: &str) -> Result<Answer> {
        self.send(self.request(method, path)).await
    }

    /// Posts JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// Sends a request, and returns the status and the body as JSON.
    pub async fn json(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, Value)> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = self.answered(request).await?;
        let status = answer.status();
        let text = answer.text().await?;
        let body = serde_json::from_str(&text).with_context(|| format!("{path} answered {status}: {text}"))?;
        Ok((status, body))
    }

    /// Gets a resource. Fails unless the status is 200.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.json(Method::GET, path, None).await?;
        ensure!(status == StatusCode::OK, "GET {path}: {status} {body}");
        Ok(body)
    }

    /// Creates a context and returns its id.
    pub async fn context(&self, spec: Value) -> Result<String> {
        let body = self.make("/v1/contexts", &spec).await?;
        Ok(body["identifier"].as_str().context("no identifier")?.to_owned())
    }

    /// Creates an execution of a context.
    pub async fn execute(&self, context: &str, request: Value) -> Result<Execution> {
        let path = format!("/v1/contexts/{context}/executions");
        let body = self.make(&path, &request).await?;
        let id = body["identifier"].as_str().context("no identifier")?.to_owned();
        Ok(Execution { path: format!("{path}/{id}"), id, context: context.to_owned() })
    }

    /// Creates a context and one execution of it.
    pub async fn run(&self, spec: Value) -> Result<Execution> {
        let context = self.context(spec).await?;
        self.execute(&context, json!({})).await
    }

    /// Waits until the execution's phase is one of `phases`, and returns it.
    pub async fn wait_for(&self, execution: &Execution, phases: &[&str]) -> Result<Value> {
        until(&format!("{} to be {phases:?}", execution.path), async || {
            let seen = self.get(&execution.path).await?;
            let phase = seen["status"]["phase"].as_str().unwrap_or_default();
            Ok(if phases.contains(&phase) { Ok(seen) } else { Err(seen) })
        })
        .await
    }

    /// Stops an execution.
    pub async fn stop(&self, execution: &Execution) -> Result<Value> {
        let (status, body) = self.json(Method::POST, &format!("{}/stop", execution.path), None).await?;
        ensure!(status == StatusCode::OK, "POST {}/stop: {status} {body}", execution.path);
        Ok(body)
    }

    /// Deletes an execution.
    pub async fn delete(&self, execution: &Execution) -> Result<Value> {
        let (status, body) = self.json(Method::DELETE, &execution.path, None).await?;
        ensure!(status == StatusCode::OK, "DELETE {}: {status} {body}", execution.path);
        Ok(body)
    }

    /// Returns the present logs, with a query such as `?tail=1`.
    pub async fn logs(&self, execution: &Execution, query: &str) -> Result<String> {
        let path = format!("{}/logs{query}", execution.path);
        let answer = self.answered(self.request(Method::GET, &path)).await?;
        ensure!(answer.status() == StatusCode::OK, "GET {path}: {}", answer.status());
        Ok(String::from_utf8_lossy(&answer.bytes().await?).into_owned())
    }

    /// Deletes every execution of this user and waits until each is removed.
    pub async fn remove_everything(&self) -> Result<()> {
        let all = self.get("/v1/executions").await?;
        for execution in all["executions"].as_array().context("no list")? {
            let (id, context) = (&execution["identifier"], &execution["context_id"]);
            let (id, context) = (id.as_str().unwrap_or_default(), context.as_str().unwrap_or_default());
            let path = format!("/v1/contexts/{context}/executions/{id}");
            let execution = Execution { path, id: id.to_owned(), context: context.to_owned() };
            self.delete(&execution).await?;
            self.wait_for(&execution, &["removed"]).await?;
        }
        Ok(())
    }
}
