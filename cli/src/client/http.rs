//! Requests to the API, and what its answers mean.
//!
//! Obligations: an error says what is wrong in the service's own words and what to do about it; a token is sent to the
//! service it is for and to nobody else, and is never shown; a request is sent again only where that cannot do a thing twice.

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

/// How long one answer may take. The API itself waits at most 10 s, for ports.
const ANSWER: Duration = Duration::from_secs(60);
/// The longest answer that is read whole, in bytes, and the longest problem. A service has less memory for an answer.
const LONGEST: usize = 256 << 20;
const LONGEST_PROBLEM: usize = 1 << 20;
const CONNECT: Duration = Duration::from_secs(5);
/// How long to go on asking a service that says it will be back.
const RETRY_FOR: Duration = Duration::from_secs(15);

/// A service, and a token for it.
pub(crate) struct Api {
    client: Client,
    url: Url,
    url_from: String,
    token_from: String,
    /// Changes when a login is renewed.
    credential: Mutex<Credential>,
    now: fn() -> Timestamp,
}

/// Why there is no answer to use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// Nobody answers there.
    #[error(
        "cannot reach {url} (the address is from {from}): {cause}\n  \
         start a service with `renga-deployer up --dev`, or say where one is with --url or RENGA_DEPLOYER_URL"
    )]
    Unreachable {
        /// The address.
        url: Url,
        /// Where the address came from.
        from: String,
        /// What went wrong, in the system's words: it stands before the cure.
        cause: String,
    },
    /// The connection ended before the answer did.
    #[error("the answer of {url} ended early")]
    Interrupted {
        /// The address.
        url: Url,
        /// What went wrong.
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
        /// What it said.
        problem: Problem,
        /// Where the token came from.
        token_from: String,
    },
}

impl ApiError {
    /// The answer's status, if there was one.
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

/// A problem body (RFC 9457), or what can be said of an answer that has none.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    /// The answer's status.
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
    /// A client of `target`.
    pub(crate) fn new(target: Target, now: fn() -> Timestamp) -> Result<Self> {
        let mut builder = Client::builder()
            .connect_timeout(CONNECT)
            .tcp_keepalive(Duration::from_secs(30))
            // A redirect would take the token elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("renga-deployer/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&target.url) {
            // A proxy for the network has no way to this machine's loopback.
            builder = builder.no_proxy();
        }
        let client = builder.build().context("cannot set up HTTP")?;
        let Target { url, url_from, credential, token_from } = target;
        Ok(Self { client, url, url_from, token_from, credential: Mutex::new(credential), now })
    }

    /// Reads a JSON document.
    pub(crate) async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, ApiError> {
        let request = self.request(Method::GET, path).query(query);
        decoded(self.send(request).await?).await
    }

    /// Reads every item of a list, page after page, until `enough` says so of those read. The items stand under `name`.
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

    /// Creates something; `key` lets the service know the request again when it is sent twice.
    pub(crate) async fn create(&self, path: &[&str], body: &Value, key: &str) -> Result<Value, ApiError> {
        let request = self.request(Method::POST, path).header("Idempotency-Key", key).json(body);
        decoded(self.send(request).await?).await
    }

    /// Asks for something that may be asked for twice.
    pub(crate) async fn ask(&self, method: Method, path: &[&str]) -> Result<Value, ApiError> {
        decoded(self.send(self.request(method, path)).await?).await
    }

    /// Opens a text that may take any time to come.
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

    /// Sends, and sends again while the service says that it will be back. Every request here may be sent twice: it
    /// reads, it asks for an end, or it carries an idempotency key.
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
                // A login is renewed, once, when the service no longer takes its token.
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

    /// The token to send: that of a login is renewed before it expires, or if it is the one that was `refused`.
    async fn token(&self, refused: Option<&str>) -> String {
        let mut credential = self.credential.lock().await;
        let again = refused == Some(&credential.token);
        // What cannot be renewed is sent as it is: the service says what is wrong with it, and where it came from.
        let _ = credential.renew((self.now)(), again).await;
        credential.token.clone()
    }

    fn unsent(&self, source: reqwest::Error) -> ApiError {
        // The address is told apart from the cause, without what was asked for.
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

/// The query of the next page. Only the query is taken from the link: a service behind a proxy may know its own address
/// by another name, and the token must not follow it there.
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
    fn an_answer_that_is_no_problem_body_is_still_explained() {
        let shown = Problem::read(StatusCode::BAD_GATEWAY, b"<html>").to_string();
        assert_eq!(shown, "the answer was 502 Bad Gateway");
    }

    #[test]
    fn a_refused_token_is_traced_to_its_source() {
        let problem = Problem::read(StatusCode::UNAUTHORIZED, br#"{"title":"Token expired"}"#);
        let shown = ApiError::Refused { problem, token_from: "RENGA_DEPLOYER_TOKEN".into() }.to_string();
        assert_eq!(shown, "Token expired\n  the token is from RENGA_DEPLOYER_TOKEN");
    }

    #[test]
    fn the_next_page_is_the_links_query() {
        let mut headers = HeaderMap::new();
        assert_eq!(next_page(&headers), None);
        headers.insert(LINK, "<http://inner:1/v1/x?a=1&cursor=b>; rel=\"next\"".parse().unwrap());
        assert_eq!(next_page(&headers).as_deref(), Some("a=1&cursor=b"));
    }
}
