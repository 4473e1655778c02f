//! What is asked: who asks, the body, the headers that count.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use renga_shared::api::{Problem, idempotency_key, parse_json};
use renga_shared::auth::{Principal, Scope, ScopeSet, bearer_token};
use renga_shared::domain::FieldError;
use renga_shared::sql::Visible;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use spin_sdk::http::Request;
use uuid::Uuid;

use crate::instance::Instance;

/// The longest body, in bytes.
const LONGEST_BODY: usize = 1 << 20;

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A request at an endpoint.
pub(crate) struct Asked<'a> {
    pub(crate) instance: &'a Instance,
    pub(crate) request: Request,
    /// The base path that was used, for links.
    pub(crate) base: String,
}

impl Asked<'_> {
    /// Who asks, with all of `needed`.
    pub(crate) fn by(&self, needed: &[Scope]) -> Result<Principal, Problem> {
        let headers = self.headers().get_all(header::AUTHORIZATION).iter().map(http::HeaderValue::as_bytes);
        let principal = bearer_token(headers)
            .and_then(|token| self.instance.verify(token))
            .map_err(|error| Problem::unauthorized(&error.to_string()))?;
        let needed = ScopeSet::of(needed);
        let missing = principal.scopes.map(|given| needed.missing_from(given)).unwrap_or_default();
        if missing.is_empty() { Ok(principal) } else { Err(Problem::insufficient_scope(&missing.to_string())) }
    }

    /// What whoever asks may see.
    pub(crate) fn visible<'p>(&self, principal: &'p Principal) -> Visible<'p> {
        self.instance.config.access.of(&principal.subject)
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    pub(crate) fn query(&self) -> &str {
        self.request.uri().query().unwrap_or_default()
    }

    /// The key under which this request may be sent again.
    pub(crate) fn idempotency_key(&self, mistakes: &mut Vec<FieldError>) -> Option<String> {
        let key = idempotency_key(self.headers().get(&IDEMPOTENCY_KEY)?.as_bytes());
        key.map(str::to_owned).map_err(|error| mistakes.push(error)).ok()
    }

    /// The body as JSON; null when there is none.
    pub(crate) async fn json(self) -> Result<Value, Problem> {
        if let Some(kind) = self.headers().get(header::CONTENT_TYPE) {
            let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
            let kind = kind.to_ascii_lowercase();
            let json = kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
            if !json {
                return Err(Problem::unsupported_media_type());
            }
        }
        parse_json(&self.body().await?)
    }

    async fn body(self) -> Result<Bytes, Problem> {
        match Limited::new(self.request.into_body(), LONGEST_BODY).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Problem::too_large(LONGEST_BODY)),
            Err(_) => Err(Problem::bad_json("The body ended before its end.")),
        }
    }
}

/// The id that a part of the path is.
pub(crate) fn id(part: &str, what: &str) -> Result<Uuid, Problem> {
    // Hyphenated alone: the other forms that the library reads were never ids here.
    Uuid::try_parse(part).ok().filter(|_| part.len() == 36).ok_or_else(|| Problem::not_a_uuid(what))
}

/// A number in a header, or none.
pub(crate) fn integer_header(headers: &HeaderMap, name: &str, mistakes: &mut Vec<FieldError>) -> Option<i64> {
    let number = headers.get(name)?.to_str().ok().and_then(|text| text.trim().parse().ok());
    if number.is_none() {
        mistakes.push(FieldError { pointer: name.to_owned(), detail: "must be a 64-bit integer".to_owned() });
    }
    number
}

/// Tells a retry from another request with the same key.
pub(crate) fn digest(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
