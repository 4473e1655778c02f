//! Errors for clients: `application/problem+json` (RFC 9457). This file has all titles except those of 503, which name
//! the unavailable service. There is no `type`: the status gives the meaning, and the title gives the case.

use serde::Serialize;

use crate::auth::TokenError;
use crate::domain::FieldError;

/// An error for a client, with its response headers. It has no internal information.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The title; the same for all problems of one kind.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// Details of this problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The bad fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<BadField>,
    /// Headers of the response.
    #[serde(skip)]
    pub headers: Vec<(&'static str, String)>,
}

/// A field that is not valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadField {
    /// A JSON pointer (RFC 6901), or the name of a header or query parameter.
    pub pointer: String,
    /// The fault, and the expected form.
    pub detail: String,
}

impl Problem {
    /// The media type of a problem.
    pub const MEDIA_TYPE: &'static str = "application/problem+json";

    fn new(status: u16, title: &'static str, detail: impl Into<Option<String>>) -> Self {
        Self { title, status, detail: detail.into(), errors: Vec::new(), headers: Vec::new() }
    }

    fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// 400: the method, the path or a header is not valid HTTP.
    pub fn bad_head() -> Self {
        Self::new(400, "Malformed request", "The method, the path or a header cannot be read.".to_owned())
    }

    /// 400: the body is not JSON.
    pub fn bad_json(detail: impl Into<String>) -> Self {
        Self::new(400, "Malformed JSON", detail.into())
    }

    /// 400: fields, headers or parameters are not valid.
    pub fn bad_fields(errors: Vec<FieldError>) -> Self {
        let mut problem = Self::new(400, "Invalid request", format!("{} field(s) are not valid.", errors.len()));
        problem.errors =
            errors.into_iter().map(|FieldError { pointer, detail }| BadField { pointer, detail }).collect();
        problem
    }

    /// 400: an id in the path is not a UUID.
    pub fn not_a_uuid(what: &str) -> Self {
        Self::new(400, "Malformed identifier", format!("The {what} in the path is not a UUID."))
    }

    /// 401: the token was rejected. `reason` goes into the challenge (RFC 6750, section 3); it must have nothing of the
    /// token.
    pub fn unauthorized(reason: &str) -> Self {
        // A description may have printable ASCII without quotes and backslashes.
        let described = reason.replace(|c| !matches!(c, ' '..='~') || c == '"' || c == '\\', "'");
        Self::new(401, "Unauthorized", reason.to_owned()).with_header(
            "www-authenticate",
            format!("Bearer error=\"invalid_token\", error_description=\"{described}\""),
        )
    }

    /// 403: the token lacks the scopes in `missing`, separated by spaces (RFC 6750, section 3.1).
    pub fn insufficient_scope(missing: &str) -> Self {
        Self::new(403, "Insufficient scope", format!("The token lacks: {missing}."))
            .with_header("www-authenticate", format!("Bearer error=\"insufficient_scope\", scope=\"{missing}\""))
    }

    /// 403: the authority that decides about access has refused the request.
    pub fn refused(detail: &str) -> Self {
        Self::new(403, "Refused", detail.to_owned())
    }

    /// 404: unknown, owned by another user, or under another context. All look the same.
    pub fn not_found() -> Self {
        Self::new(404, "Not found", "There is nothing here, or nothing that this token may see.".to_owned())
    }

    /// 405: the path has only the methods in `allowed`.
    pub fn method_not_allowed(allowed: &str) -> Self {
        Self::new(405, "Method not allowed", format!("Allowed here: {allowed}.")).with_header("allow", allowed)
    }

    /// 409: the idempotency key was used for another request.
    pub fn key_reused() -> Self {
        let detail = "This Idempotency-Key was used before, for another request; use a new one.".to_owned();
        Self::new(409, "Idempotency key reused", detail)
    }

    /// 409: the context was stored before a rule that its specification does not keep. The pointers lead into the context.
    pub fn not_accepted(errors: Vec<FieldError>) -> Self {
        let mut problem = Self::bad_fields(errors);
        (problem.title, problem.status) = ("Specification not accepted", 409);
        for field in &mut problem.errors {
            field.pointer.insert_str(0, "/spec");
        }
        problem
    }

    /// 413: the body is longer than `most` bytes.
    pub fn too_large(most: usize) -> Self {
        Self::new(413, "Body too large", format!("At most {most} bytes are accepted."))
    }

    /// 415: the declared media type is not JSON.
    pub fn unsupported_media_type() -> Self {
        Self::new(415, "Unsupported media type", "Send application/json.".to_owned())
    }

    /// 503: a service that is needed is unavailable for now.
    pub fn unavailable(title: &'static str, detail: &str, retry_after_seconds: u32) -> Self {
        Self::new(503, title, detail.to_owned()).with_header("retry-after", retry_after_seconds.to_string())
    }

    /// 500: a fault of this service.
    pub fn internal() -> Self {
        Self::new(500, "Internal error", "The service made a mistake; its operator finds more in its log.".to_owned())
    }
}

impl From<TokenError> for Problem {
    /// 401, with the reason that the token was rejected.
    fn from(error: TokenError) -> Self {
        Self::unauthorized(&error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn shown(problem: &Problem) -> Value {
        serde_json::to_value(problem).unwrap()
    }

    #[test]
    fn every_bad_field_is_shown() {
        let errors = ["/ports/2", ""].map(|pointer| FieldError { pointer: pointer.into(), detail: "is bad".into() });
        assert_eq!(
            shown(&Problem::bad_fields(errors.into())),
            json!({"title": "Invalid request", "status": 400, "detail": "2 field(s) are not valid.",
                "errors": [{"pointer": "/ports/2", "detail": "is bad"}, {"pointer": "", "detail": "is bad"}]})
        );
    }

    #[test]
    fn each_problem_has_its_status_and_headers() {
        let header = |name, value: &str| vec![(name, value.to_owned())];
        for (problem, status, headers) in [
            (Problem::bad_json("x".to_owned()), 400, vec![]),
            (Problem::bad_head(), 400, vec![]),
            (Problem::not_a_uuid("context"), 400, vec![]),
            (
                Problem::unauthorized("the token has expired"),
                401,
                header(
                    "www-authenticate",
                    r#"Bearer error="invalid_token", error_description="the token has expired""#,
                ),
            ),
            (
                Problem::insufficient_scope("deployer:contexts_read deployer:contexts_write"),
                403,
                header(
                    "www-authenticate",
                    r#"Bearer error="insufficient_scope", scope="deployer:contexts_read deployer:contexts_write""#,
                ),
            ),
            (Problem::refused("Not granted."), 403, vec![]),
            (Problem::not_found(), 404, vec![]),
            (Problem::method_not_allowed("GET, HEAD"), 405, header("allow", "GET, HEAD")),
            (Problem::key_reused(), 409, vec![]),
            (Problem::not_accepted(Vec::new()), 409, vec![]),
            (Problem::too_large(1 << 20), 413, vec![]),
            (Problem::unsupported_media_type(), 415, vec![]),
            (Problem::internal(), 500, vec![]),
            (Problem::unavailable("Database unavailable", "Try again.", 5), 503, header("retry-after", "5")),
        ] {
            assert_eq!((problem.status, &problem.headers), (status, &headers), "{}", problem.title);
            let shown = shown(&problem);
            assert_eq!(shown["status"], status);
            assert!(shown["title"].as_str().is_some_and(|title| !title.is_empty()));
            assert!(shown.get("headers").is_none() && shown.get("errors").is_none());
        }
    }

    #[test]
    fn a_reason_cannot_escape_the_challenge() {
        let problem = Problem::unauthorized("a\"b\\c\r\nd: ä");
        assert_eq!(problem.headers[0].1, r#"Bearer error="invalid_token", error_description="a'b'c''d: '""#);
    }
}
