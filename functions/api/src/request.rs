//! What is asked: who asks, the body, the headers that count.

use std::string::FromUtf8Error;

use bytes::Bytes;
use http::header;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use renga_shared::api::{Problem, idempotency_key, parse_json, wait_preference};
use renga_shared::auth::grant::GrantRequest;
use renga_shared::auth::{Principal, Scope, ScopeSet, SealedToken, bearer_token};
use renga_shared::domain::{ContextId, ExecutionId, FieldError, vertex_id};
use renga_shared::sql::{Visible, contexts};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use spin_sdk::wasip3::http::types;
use spin_sdk::wasip3::http_compat::IncomingRequestBody;
use uuid::Uuid;

use crate::ambient;
use crate::answer::{database, internal};
use crate::instance::{Authority, Instance};
use crate::routes::{CONTEXT_ID, Endpoint};

/// The longest body, in bytes.
const LONGEST_BODY: usize = 1 << 20;

/// A request at an endpoint. Its headers and its body are with the host, and are taken from there when they are wanted: to copy
/// every header, as the SDK's own request does, is a good part of what a small answer costs.
pub(crate) struct Asked<'a> {
    pub(crate) instance: &'a Instance,
    pub(crate) request: types::Request,
    /// What follows the question mark in its path.
    pub(crate) query: &'a str,
    /// The base path that was used, for links.
    pub(crate) base: String,
    /// What is asked for, with what stands in the path.
    pub(crate) endpoint: &'a Endpoint,
}

impl Asked<'_> {
    /// Who asks, with all of `needed` on what the path names.
    pub(crate) async fn by(&self, needed: &[Scope]) -> Result<Principal, Problem> {
        self.by_on(needed, None).await
    }

    /// Who asks, with all of `needed` on this vertex of the knowledge graph, or else on what the path names.
    pub(crate) async fn by_on(&self, needed: &[Scope], vertex: Option<i64>) -> Result<Principal, Problem> {
        let headers = self.header(header::AUTHORIZATION.as_str());
        let token = bearer_token(headers.iter().map(Vec::as_slice))?;
        let principal = match &self.instance.authority {
            Authority::ResourceManager(manager) => {
                let parameters = self.endpoint.parameters();
                let vertex = if vertex.is_some() { vertex } else { self.vertex(&parameters).await? };
                manager.exchange(token, &GrantRequest::new(needed, &parameters, vertex)).await?
            }
            Authority::Keys(tokens) => tokens.principal(&self.instance.database, token).await?,
        };
        let needed = ScopeSet::of(needed);
        let missing = principal.scopes.map(|given| needed.missing_from(given)).unwrap_or_default();
        if missing.is_empty() { Ok(principal) } else { Err(Problem::insufficient_scope(&missing.to_string())) }
    }

    /// The vertex of the context that the path names, if it has one.
    async fn vertex(&self, parameters: &[(&str, &str)]) -> Result<Option<i64>, Problem> {
        let Some((_, context)) = parameters.iter().find(|(name, _)| *name == CONTEXT_ID) else { return Ok(None) };
        let Ok(context) = id(context, "context") else { return Ok(None) };
        let row = contexts::get(&self.instance.database, Visible::All, ContextId(context)).await.map_err(database)?;
        Ok(row.and_then(|row| vertex_id(&row.spec)))
    }

    /// The token of whoever asks, sealed for an execution's container. `None`: there is no key to seal it with, and it
    /// is not to be stored.
    pub(crate) fn sealed_token(&self, execution: ExecutionId) -> Result<Option<SealedToken>, Problem> {
        let Some(keys) = &self.instance.config.seal_keys else { return Ok(None) };
        let headers = self.header(header::AUTHORIZATION.as_str());
        let token = bearer_token(headers.iter().map(Vec::as_slice))?;
        keys.seal(token, execution, ambient::nonce()).map(Some).map_err(|error| internal(&error))
    }

    /// What whoever asks may see.
    pub(crate) fn visible<'p>(&self, principal: &'p Principal) -> Visible<'p> {
        self.instance.visible(principal)
    }

    /// The values of a header, one for each time that it was sent.
    pub(crate) fn header(&self, name: &str) -> Vec<Vec<u8>> {
        self.request.get_headers().get(name)
    }

    /// The first value of a header, where that is text.
    fn text_header(&self, name: &str) -> Option<Result<String, FromUtf8Error>> {
        self.header(name).into_iter().next().map(String::from_utf8)
    }

    /// A number in a header, or none.
    pub(crate) fn integer_header(&self, name: &str, mistakes: &mut Vec<FieldError>) -> Option<i64> {
        let number = self.text_header(name)?.ok().and_then(|text| text.trim().parse().ok());
        if number.is_none() {
            mistakes.push(FieldError { pointer: name.to_owned(), detail: "must be a 64-bit integer".to_owned() });
        }
        number
    }

    /// The key under which this request may be sent again.
    pub(crate) fn idempotency_key(&self, mistakes: &mut Vec<FieldError>) -> Option<String> {
        let given = self.header("idempotency-key");
        let key = idempotency_key(given.first()?);
        key.map(str::to_owned).map_err(|error| mistakes.push(error)).ok()
    }

    /// How many seconds the client would wait for more than the row.
    pub(crate) fn wait_preference(&self) -> Option<u32> {
        let given = self.header("prefer");
        wait_preference(given.iter().filter_map(|value| std::str::from_utf8(value).ok()))
    }

    /// The body as JSON; null when there is none.
    pub(crate) async fn json(self) -> Result<Value, Problem> {
        if let Some(kind) = self.text_header(header::CONTENT_TYPE.as_str()) {
            let kind = kind.unwrap_or_default();
            let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            let json = kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
            if !json {
                return Err(Problem::unsupported_media_type());
            }
        }
        parse_json(&self.body().await?)
    }

    async fn body(self) -> Result<Bytes, Problem> {
        let ended = || Problem::bad_json("The body ended before its end.");
        let body = IncomingRequestBody::new(self.request).map_err(|_| ended())?;
        match Limited::new(body, LONGEST_BODY).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Problem::too_large(LONGEST_BODY)),
            Err(_) => Err(ended()),
        }
    }
}

/// The id that a part of the path is.
pub(crate) fn id(part: &str, what: &str) -> Result<Uuid, Problem> {
    // Hyphenated alone: the other forms that the library reads were never ids here.
    Uuid::try_parse(part).ok().filter(|_| part.len() == 36).ok_or_else(|| Problem::not_a_uuid(what))
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
