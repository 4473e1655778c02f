//! Requests to the API, and the interpretation of its responses.
//!
//! Obligations: an error has the service's own words and a cure; a token is sent to its own service only, and is never
//! printed; a request is sent again only if that cannot perform the action twice.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use renga_shared::api::LogRecord;
use renga_shared::domain::Timestamp;
use reqwest::header::{ACCEPT, HeaderMap, LINK, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;

use super::target::{Credential, Target};
use crate::answer::{self, ReadError};
use crate::output::plain;

/// The timeout of a request until the end of its response. The API itself waits at most 10 s, for ports.
const ANSWER: Duration = Duration::from_secs(60);
/// The longest answer that is read whole, in bytes, and the longest problem. A service has less memory for an answer.
const LONGEST: usize = 256 << 20;
const LONGEST_PROBLEM: usize = 1 << 20;
const CONNECT: Duration = Duration::from_secs(5);
/// The maximum total wait for a service that responds with `Retry-After`.
const RETRY_FOR: Duration = Duration::from_secs(15);

/// A service, and a token for it.
pub(crate) struct Api {
    client: Client,
    url: Url,
    url_from: String,
    token_from: String,
    /// The token to send. It changes when a login is renewed.
    credential: Mutex<Credential>,
    now: fn() -> Timestamp,
}

/// Why a request has no usable response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// No service answers at the address.
    #[error(
        "cannot reach {url} (the address is from {from}): {cause}\n  \
         start a service with `renga-deployer up --dev`, or say where one is with --url or RENGA_DEPLOYER_URL"
    )]
    Unreachable {
        /// The address.
        url: Url,
        /// The source of the address.
        from: String,
        /// The system's error message. It is a field so that it is printed before the cure.
        cause: String,
    },
    /// The connection ended before the response did.
    #[error("the answer of {url} ended early")]
    Interrupted {
        /// The address.
        url: Url,
        /// The underlying error.
        source: reqwest::Error,
    },
    /// The answer is not JSON, or not of the expected form.
    #[error("the answer of {url} cannot be understood")]
    NotUnderstood {
        /// The address.
        url: Url,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The answer is longer than any that the service should give.
    #[error("the answer of {url} is longer than {longest} bytes")]
    TooLong {
        /// The address.
        url: Url,
        /// The most that is read.
        longest: usize,
    },
    /// The service refused.
    #[error("{problem}{}", token_hint(.problem.status, .token_from))]
    Refused {
        /// The problem in the response.
        problem: Problem,
        /// The source of the token.
        token_from: String,
    },
}

impl ApiError {
    /// Returns the status of the response, if there was one.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { problem, .. } => Some(problem.status),
            Self::Unreachable { .. } | Self::Interrupted { .. } | Self::TooLong { .. } | Self::NotUnderstood { .. } => {
                None
            }
        }
    }
}

fn token_hint(status: StatusCode, token_from: &str) -> String {
    match status {
        StatusCode::UNAUTHORIZED => format!("\n  the token is from {token_from}"),
        StatusCode::FORBIDDEN => format!("\n  the token is from {token_from}; it may not do this"),
        _ => String::new(),
    }
}

/// A problem body (RFC 9457), or a substitute for a response without one.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    /// The status of the response.
    pub(crate) status: StatusCode,
    title: String,
    detail: Option<String>,
    fields: Vec<Field>,
}

#[derive(Deserialize)]
struct ProblemBody {
    title: String,
    detail: Option<String>,
    #[serde(default)]
    errors: Vec<Field>,
}

/// A bad field.
#[derive(Clone, Debug, Deserialize)]
struct Field {
    #[serde(default)]
    pointer: String,
    #[serde(default)]
    detail: String,
}

impl Problem {
    fn read(status: StatusCode, body: &[u8]) -> Self {
        match serde_json::from_slice::<ProblemBody>(body) {
            Ok(body) => Self { status, title: body.title, detail: body.detail, fields: body.errors },
            Err(_) => Self {
                status,
                title: format!("the answer was {status}"),
                detail: (status == StatusCode::NOT_FOUND)
                    .then(|| "is this the address of a deployer's API, base path included?".to_owned()),
                fields: Vec::new(),
            },
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", plain(&self.title))?;
        if let Some(detail) = self.detail.as_deref().filter(|detail| *detail != self.title) {
            write!(f, ": {}", plain(detail))?;
        }
        for field in &self.fields {
            write!(f, "\n  {}: {}", plain(&field.pointer), plain(&field.detail))?;
        }
        Ok(())
    }
}

impl Api {
    /// Returns a client of `target`.
    pub(crate) fn new(target: Target, now: fn() -> Timestamp) -> Result<Self> {
        let mut builder = Client::builder()
            .connect_timeout(CONNECT)
            .tcp_keepalive(Duration::from_secs(30))
            // A redirect would send the token to another server.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("renga-deployer/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&target.url) {
            // A network proxy cannot reach this machine's loopback.
            builder = builder.no_proxy();
        }
        let client = builder.build().context("cannot set up HTTP")?;
        let Target { url, url_from, credential, token_from } = target;
        Ok(Self { client, url, url_from, token_from, credential: Mutex::new(credential), now })
    }

    /// Fetches a JSON document.
    pub(crate) async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, ApiError> {
        let request = self.request(Method::GET, path).query(query);
        decoded(self.send(request).await?).await
    }

    /// Fetches a list page by page, until `enough` is true for the items so far. The items are in the field `name`.
    pub(crate) async fn list(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        name: &str,
        enough: impl Fn(&[Value]) -> bool,
    ) -> Result<Vec<Value>, ApiError> {
        let mut request = self.request(Method::GET, path).query(query).query(&[("limit", "1000")]);
        let mut items = Vec::new();
        loop {
            let response = self.send(request).await?;
            let next = next_page(response.headers());
            let mut page: Value = decoded(response).await?;
            if let Some(Value::Array(page)) = page.get_mut(name).map(Value::take) {
                items.extend(page);
            }
            match next {
                Some(query) if !enough(&items) => {
                    let mut url = self.url(path);
                    url.set_query(Some(&query));
                    request = self.client.get(url);
                }
                _ => return Ok(items),
            }
        }
    }

    /// Creates an object. By `key`, the service recognizes a request that is sent twice.
    pub(crate) async fn create(&self, path: &[&str], body: &Value, key: &str) -> Result<Value, ApiError> {
        let request = self.request(Method::POST, path).header("Idempotency-Key", key).json(body);
        decoded(self.send(request).await?).await
    }

    /// Sends a request that may be sent twice.
    pub(crate) async fn ask(&self, method: Method, path: &[&str]) -> Result<Value, ApiError> {
        decoded(self.send(self.request(method, path)).await?).await
    }

    /// Opens a response of unlimited duration.
    pub(crate) async fn open(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Response, ApiError> {
        self.send_within(self.request(Method::GET, path).query(query), None).await
    }

    /// Opens logs that may take any time to come: as records, or as a text where the service knows no records.
    pub(crate) async fn open_logs(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Response, ApiError> {
        let accept = format!("{}, text/plain;q=0.5", LogRecord::MEDIA_TYPE);
        let request = self.request(Method::GET, path).query(query).header(ACCEPT, accept);
        self.send_within(request, None).await
    }

    /// What a broken-off answer means.
    pub(crate) fn interrupted(&self, source: reqwest::Error) -> ApiError {
        ApiError::Interrupted { url: self.url.clone(), source }
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ApiError> {
        self.send_within(request, Some(ANSWER)).await
    }

    /// Sends a request, and sends it again while the service responds with `Retry-After`. Every request of this client
    /// may be sent twice: it reads, it stops or removes, or it has an idempotency key.
    async fn send_within(&self, request: RequestBuilder, limit: Option<Duration>) -> Result<Response, ApiError> {
        let mut waited = Duration::ZERO;
        let mut refused = None;
        loop {
            let Some(attempt) = request.try_clone() else { unreachable!("no body here is a stream") };
            let attempt = match limit {
                Some(limit) => attempt.timeout(limit),
                None => attempt,
            };
            let token = self.token(refused.as_deref()).await;
            let response = attempt.bearer_auth(&token).send().await.map_err(|error| self.unsent(error))?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if let Some(pause) = retry_after(status, response.headers())
                && waited + pause <= RETRY_FOR
            {
                waited += pause;
                tokio::time::sleep(pause).await;
                continue;
            }
            if status == StatusCode::UNAUTHORIZED && refused.is_none() {
                // If the service rejects the token of a login, the login is renewed, once.
                refused = Some(token);
                if self.credential.lock().await.session.is_some() {
                    continue;
                }
            }
            let body = whole(response, LONGEST_PROBLEM).await?;
            let problem = Problem::read(status, &body);
            return Err(ApiError::Refused { problem, token_from: self.token_from.clone() });
        }
    }

    /// Returns the token to send. The token of a login is renewed before it expires, or if it is the `refused` one.
    async fn token(&self, refused: Option<&str>) -> String {
        let mut credential = self.credential.lock().await;
        let again = refused == Some(&credential.token);
        // A token that cannot be renewed is sent as it is: the service's error and the token's source explain the
        // problem.
        let _ = credential.renew((self.now)(), again).await;
        credential.token.clone()
    }

    fn unsent(&self, source: reqwest::Error) -> ApiError {
        // The error has the address in a field of its own. The rest of the request's URL is not shown.
        let source = source.without_url();
        let (url, from) = (self.url.clone(), self.url_from.clone());
        if source.is_connect() {
            let first = std::iter::successors(Some(&source as &dyn std::error::Error), |error| error.source()).last();
            ApiError::Unreachable { url, from, cause: first.map(ToString::to_string).unwrap_or_default() }
        } else {
            ApiError::Interrupted { url, source }
        }
    }
}

async fn decoded<T: DeserializeOwned>(response: Response) -> Result<T, ApiError> {
    let url = response.url().clone();
    let body = whole(response, LONGEST).await?;
    serde_json::from_slice(&body).map_err(|source| ApiError::NotUnderstood { url, source })
}

async fn whole(response: Response, longest: usize) -> Result<Vec<u8>, ApiError> {
    let url = response.url().clone();
    answer::read(response, longest).await.map_err(|error| match error {
        ReadError::TooLong(longest) => ApiError::TooLong { url, longest },
        ReadError::Broken(source) => ApiError::Interrupted { url, source: source.without_url() },
    })
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).max(Duration::from_millis(200)))
}

/// Returns the query of the next page. The rest of the link is ignored: a service behind a proxy may know itself by
/// another address, and the token must not be sent there.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let next = links.flat_map(|value| value.split(',')).find(|link| {
        link.split(';').skip(1).any(|parameter| matches!(parameter.trim(), "rel=\"next\"" | "rel=next"))
    })?;
    let target = next.split_once('<')?.1.split_once('>')?.0;
    Some(target.split_once('?')?.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_shown_with_every_field() {
        let body = br##"{"title":"Bad request","status":400,"detail":"2 fields are wrong",
            "errors":[{"pointer":"#/image","detail":"it is missing"},{"pointer":"#/ports/0","detail":"\u001b[2Jbad"}]}"##;
        let shown = Problem::read(StatusCode::BAD_REQUEST, body).to_string();
        assert_eq!(shown, "Bad request: 2 fields are wrong\n  #/image: it is missing\n  #/ports/0: \u{fffd}[2Jbad");
    }

    #[test]
    fn a_response_without_a_problem_body_is_still_explained() {
        let shown = Problem::read(StatusCode::BAD_GATEWAY, b"<html>").to_string();
        assert_eq!(shown, "the answer was 502 Bad Gateway");
    }

    #[test]
    fn a_rejected_token_is_reported_with_its_source() {
        let problem = Problem::read(StatusCode::UNAUTHORIZED, br#"{"title":"Token expired"}"#);
        let shown = ApiError::Refused { problem, token_from: "RENGA_DEPLOYER_TOKEN".into() }.to_string();
        assert_eq!(shown, "Token expired\n  the token is from RENGA_DEPLOYER_TOKEN");
    }

    #[test]
    fn the_next_page_has_the_query_of_the_link() {
        let mut headers = HeaderMap::new();
        assert_eq!(next_page(&headers), None);
        headers.insert(LINK, "<http://inner:1/v1/x?a=1&cursor=b>; rel=\"next\"".parse().unwrap());
        assert_eq!(next_page(&headers).as_deref(), Some("a=1&cursor=b"));
    }
}
