//! Answers: status, headers and body in one form, whatever made them.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use renga_shared::api::Problem;
use renga_shared::sql::DatabaseError;
use serde::Serialize;
use spin_sdk::http::{EmptyBody, FullBody, IntoResponse as _};
use spin_sdk::wasip3::http::types::{self, ErrorCode};
use spin_sdk::wasip3::http_compat::{BodyResult, BodyWriter};
use spin_sdk::wit_bindgen::{FutureReader, StreamReader};

/// An answer.
pub(crate) struct Answer {
    status: StatusCode,
    headers: Vec<(HeaderName, String)>,
    body: Body,
}

enum Body {
    None,
    Whole(Vec<u8>),
    /// Written while it is read, and whether it came to its end.
    Stream(StreamReader<u8>, FutureReader<BodyResult>),
}

impl Answer {
    /// A body as JSON.
    pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Result<Self, Problem> {
        let json = serde_json::to_vec(body).map_err(|error| internal(&error))?;
        let kind = (header::CONTENT_TYPE, "application/json".to_owned());
        Ok(Self { status, headers: vec![kind], body: Body::Whole(json) })
    }

    /// A text that somebody else wrote, and what to write it to.
    pub(crate) fn text() -> (Self, BodyWriter) {
        let (writer, contents, end) = BodyWriter::new();
        let headers = vec![
            (header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
            // A browser that guessed might find a page with scripts in it.
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        ];
        (Self { status: StatusCode::OK, headers, body: Body::Stream(contents, end) }, writer)
    }

    /// Which methods there are.
    pub(crate) fn options(allowed: &str) -> Self {
        let allow = (header::ALLOW, allowed.to_owned());
        Self { status: StatusCode::NO_CONTENT, headers: vec![allow], body: Body::None }
    }

    /// The same with one more header.
    pub(crate) fn with(mut self, name: HeaderName, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The answer to `HEAD`: what `GET` would say, less the body.
    pub(crate) fn without_body(self) -> Result<types::Response, ErrorCode> {
        let mut head = self.head();
        // A whole body's length; a stream's is not known.
        if let Body::Whole(body) = &self.body {
            head.headers_mut().insert(header::CONTENT_LENGTH, body.len().into());
        }
        head.map(|()| EmptyBody::new()).into_response()
    }

    pub(crate) fn into_response(self) -> Result<types::Response, ErrorCode> {
        let mut head = self.head();
        match self.body {
            Body::None => head.map(|()| EmptyBody::new()).into_response(),
            Body::Whole(body) => {
                head.headers_mut().insert(header::CONTENT_LENGTH, body.len().into());
                head.map(|()| FullBody::new(Bytes::from(body))).into_response()
            }
            Body::Stream(contents, end) => {
                let headers = std::mem::take(head.headers_mut());
                let headers = headers.try_into().map_err(|_| ErrorCode::InternalError(None))?;
                let (response, _) = types::Response::new(headers, Some(contents), end);
                // Every status of ours is one that HTTP knows.
                let _ = response.set_status_code(self.status.as_u16());
                Ok(response)
            }
        }
    }

    fn head(&self) -> Response<()> {
        let mut head = Response::new(());
        *head.status_mut() = self.status;
        for (name, value) in &self.headers {
            // What we put into headers is ASCII; what is not is left out rather than the answer with it.
            if let Ok(value) = HeaderValue::from_str(value) {
                head.headers_mut().append(name, value);
            }
        }
        head
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut headers = vec![(header::CONTENT_TYPE, Problem::MEDIA_TYPE.to_owned())];
        for (name, value) in &problem.headers {
            headers.push((HeaderName::from_static(name), value.clone()));
        }
        // A problem holds texts and numbers, which always have a JSON form.
        Self { status, headers, body: Body::Whole(serde_json::to_vec(&problem).unwrap_or_default()) }
    }
}

/// What a client is told of a database that did not do what it was asked; the operator finds the rest in the log.
pub(crate) fn database(error: DatabaseError) -> Problem {
    eprintln!("{error}");
    match error {
        DatabaseError::Unavailable(_) => {
            Problem::unavailable("Database unavailable", "The database does not answer. Try again.", 5)
        }
        DatabaseError::Schema(_) => Problem::unavailable(
            "Database schema missing or outdated",
            "The database is to be migrated: renga-reconciler migrate.",
            30,
        ),
        DatabaseError::Full(_) => Problem::unavailable(
            "Database full or read-only",
            "The database takes no changes for now; reading still works.",
            60,
        ),
        DatabaseError::Unexpected(_) => Problem::internal(),
    }
}

/// A mistake of ours.
pub(crate) fn internal(error: &dyn std::error::Error) -> Problem {
    eprintln!("{error}");
    Problem::internal()
}
