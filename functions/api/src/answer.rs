//! Answers: status, headers and body in one form, whatever made them.

use http::{HeaderName, HeaderValue, StatusCode, header};
use renga_shared::api::Problem;
use renga_shared::sql::DatabaseError;
use serde::Serialize;
use spin_sdk::wasip3::http::types::{self, ErrorCode};
use spin_sdk::wasip3::http_compat::{BodyResult, BodyWriter};
use spin_sdk::wasip3::{wit_future, wit_stream};
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

    /// Something that somebody else wrote, of the media type `kind`, and what to write it to.
    pub(crate) fn stream(kind: &str) -> (Self, BodyWriter) {
        let (writer, contents, end) = BodyWriter::new();
        let headers = vec![
            (header::CONTENT_TYPE, kind.to_owned()),
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
        let (_, end) = wit_future::new(|| Ok(None));
        // A whole body's length; a stream's is not known.
        let length = match &self.body {
            Body::Whole(body) => Some(body.len()),
            Body::None | Body::Stream(..) => None,
        };
        response(self.status, &self.headers, length, None, end)
    }

    pub(crate) fn into_response(self) -> Result<types::Response, ErrorCode> {
        let (length, contents, end) = match self.body {
            Body::None => (None, None, wit_future::new(|| Ok(None)).1),
            Body::Whole(body) => {
                let (length, (mut writer, contents)) = (body.len(), wit_stream::new());
                let (end_writer, end) = wit_future::new(|| Ok(None));
                spin_sdk::wasip3::spawn(async move {
                    // What is not taken was for a client that has gone.
                    drop(writer.write_all(body).await);
                    // Tells that nothing comes after it.
                    drop(end_writer);
                });
                (Some(length), Some(contents), end)
            }
            Body::Stream(contents, end) => (None, Some(contents), end),
        };
        response(self.status, &self.headers, length, contents, end)
    }
}

/// Straight to what the host takes: over the library's types it would be copied twice on the way.
fn response(
    status: StatusCode,
    headers: &[(HeaderName, String)],
    length: Option<usize>,
    contents: Option<StreamReader<u8>>,
    end: FutureReader<BodyResult>,
) -> Result<types::Response, ErrorCode> {
    let mut fields = Vec::with_capacity(headers.len() + 1);
    for (name, value) in headers {
        // What we put into headers is ASCII; what is not is left out rather than the answer with it.
        if HeaderValue::from_str(value).is_ok() {
            fields.push((name.as_str().to_owned(), value.as_bytes().to_vec()));
        }
    }
    if let Some(length) = length {
        fields.push((header::CONTENT_LENGTH.as_str().to_owned(), length.to_string().into_bytes()));
    }
    let headers = types::Headers::from_list(&fields).map_err(|_| ErrorCode::InternalError(None))?;
    let (response, _) = types::Response::new(headers, contents, end);
    if status != StatusCode::OK {
        // Every status of ours is one that HTTP knows.
        let _ = response.set_status_code(status.as_u16());
    }
    Ok(response)
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
        DatabaseError::Unavailable(_) => database_away(),
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
        DatabaseError::Conflict(_) | DatabaseError::Unexpected(_) => Problem::internal(),
    }
}

/// The database does not answer.
pub(crate) fn database_away() -> Problem {
    Problem::unavailable("Database unavailable", "The database does not answer. Try again.", 5)
}

/// A mistake of ours.
pub(crate) fn internal(error: &dyn std::error::Error) -> Problem {
    eprintln!("{error}");
    Problem::internal()
}
