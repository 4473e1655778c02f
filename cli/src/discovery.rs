//! Reads the documents that a token issuer publishes (OpenID Connect Discovery), for `login` and for `token check`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use renga_shared::auth::discovery::{LONGEST_DOCUMENT, document_url};
use reqwest::{Client, Response};

/// Returns an HTTP client for an issuer. `answer` is the timeout of a request.
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
        let answer = http.get(url).send().await.and_then(Response::error_for_status);
        let whole = answer.map_err(reqwest::Error::without_url)?.bytes().await?;
        ensure!(whole.len() <= longest, "the answer is longer than {longest} bytes");
        Ok(whole.to_vec())
    };
    read.await.with_context(|| format!("cannot read {url}"))
}
