//! Reads what a token issuer publishes (OpenID Connect Discovery): the same way for whoever logs in there and for whoever wonders
//! whether its tokens would be accepted.

use std::time::Duration;

use anyhow::{Context as _, Result};
use renga_shared::auth::discovery::{LONGEST_DOCUMENT, document_url};
use reqwest::{Client, Response};

use crate::answer::{self, ReadError};

/// A client for an issuer, whose answers may take as long as `answer`.
pub(crate) fn client(answer: Duration) -> Result<Client> {
    // A redirect could lead to somebody else.
    let builder = Client::builder().timeout(answer).redirect(reqwest::redirect::Policy::none());
    builder.build().context("cannot set up HTTP")
}

/// The issuer's discovery document, and where it is.
pub(crate) async fn document(http: &Client, issuer: &str) -> Result<(Vec<u8>, String)> {
    let url = document_url(issuer);
    Ok((get(http, &url, LONGEST_DOCUMENT).await?, url))
}

/// What is at `url`, of `longest` bytes at most.
pub(crate) async fn get(http: &Client, url: &str, longest: usize) -> Result<Vec<u8>> {
    let read = async {
        let answer = http.get(url).send().await.and_then(Response::error_for_status)?;
        answer::read(answer, longest).await
    };
    read.await.map_err(ReadError::without_url).with_context(|| format!("cannot read {url}"))
}
