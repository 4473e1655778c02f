//! Reads the documents that a token issuer publishes (OpenID Connect Discovery), for `login` and for `token check`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use renga_shared::auth::discovery::{LONGEST_DOCUMENT, document_url};
use reqwest::{Client, Response};

use crate::answer::{self, ReadError};

/// A client for an issuer, whose answers may take as long as `answer`.
pub(crate) fn client(answer: Duration) -> Result<Client> {
    // A redirect could lead to another server.
    let builder = Client::builder().timeout(answer).redirect(reqwest::redirect::Policy::none());
    builder.build().context("cannot set up HTTP")
}

/// Returns the issuer's discovery document and its URL.
pub(crate) async fn document(http: &Client, issuer: &str) -> Result<(Vec<u8>, String)> {
    let url = document_url(issuer);
    Ok((get(http, &url, LONGEST_DOCUMENT).await?, url))
}

/// Returns the body at `url`. Fails if it has more than `longest` bytes.
pub(crate) async fn get(http: &Client, url: &str, longest: usize) -> Result<Vec<u8>> {
    let read = async {
        let answer = http.get(url).send().await.and_then(Response::error_for_status)?;
        answer::read(answer, longest).await
    };
    read.await.map_err(ReadError::without_url).with_context(|| format!("cannot read {url}"))
}
