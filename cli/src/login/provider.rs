//! A client of a token issuer: the issuer's endpoints, and requests to them.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, Result};
use oauth2::basic::{BasicClient, BasicTokenResponse};
use oauth2::{
    AuthUrl, ClientId, DeviceAuthorizationUrl, EndpointMaybeSet, EndpointNotSet, EndpointSet, HttpRequest,
    HttpResponse, RefreshToken, RequestTokenError, TokenUrl,
};
use renga_shared::auth::discovery::{endpoint, is_issuer_url};

use crate::answer::{self, ReadError};
use crate::discovery;

/// The timeout of a request to the issuer.
const ANSWER: Duration = Duration::from_secs(20);
/// The longest answer of its endpoints, in bytes: a few tokens.
const LONGEST_ANSWER: usize = 1 << 20;

/// An issuer's endpoints, with the client id, and an HTTP client.
pub(super) struct Provider {
    pub(super) client: Client,
    http: reqwest::Client,
}

pub(super) type Client = BasicClient<EndpointSet, EndpointMaybeSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// The function by which the library's flows send requests.
pub(super) type Send = Box<dyn Fn(HttpRequest) -> Sending>;
type Sending = Pin<Box<dyn Future<Output = Result<HttpResponse, ReadError>>>>;

impl Provider {
    /// Discovers an issuer's endpoints for `client_id`, a public client.
    pub(super) async fn discover(issuer: &str, client_id: &str) -> Result<Self> {
        anyhow::ensure!(is_issuer_url(issuer), "the issuer {issuer:?} is no http or https URL");
        let http = discovery::client(ANSWER)?;
        let (document, url) = discovery::document(&http, issuer).await?;
        let named = |name| endpoint(&document, issuer, name).with_context(|| format!("cannot use {url}"));
        let device = endpoint(&document, issuer, "device_authorization_endpoint").ok();
        let client = BasicClient::new(ClientId::new(client_id.to_owned()))
            .set_auth_uri(AuthUrl::new(named("authorization_endpoint")?)?)
            .set_token_uri(TokenUrl::new(named("token_endpoint")?)?)
            .set_device_authorization_url_option(device.map(DeviceAuthorizationUrl::new).transpose()?);
        Ok(Self { client, http })
    }

    /// Returns the function that sends the library's requests.
    pub(super) fn send(&self) -> Send {
        let http = self.http.clone();
        Box::new(move |request| {
            let http = http.clone();
            Box::pin(async move {
                let answer = http.execute(request.try_into()?).await?;
                let (status, headers) = (answer.status(), answer.headers().clone());
                let mut whole = HttpResponse::new(answer::read(answer, LONGEST_ANSWER).await?);
                (*whole.status_mut(), *whole.headers_mut()) = (status, headers);
                Ok(whole)
            })
        })
    }

    /// Returns new tokens for a refresh token.
    pub(super) async fn refresh(&self, token: &str) -> Result<BasicTokenResponse> {
        let token = RefreshToken::new(token.to_owned());
        self.client.exchange_refresh_token(&token).request_async(&self.send()).await.map_err(refused)
    }
}

/// Converts an error, with the issuer's message if there is one, and without the data that was sent.
pub(super) fn refused<T: oauth2::ErrorResponse + std::fmt::Display + 'static>(
    error: RequestTokenError<ReadError, T>,
) -> anyhow::Error {
    match error {
        RequestTokenError::ServerResponse(said) => anyhow::anyhow!("the issuer refuses: {said}"),
        RequestTokenError::Request(error) => {
            anyhow::Error::new(error.without_url()).context("the issuer does not answer")
        }
        RequestTokenError::Parse(..) => anyhow::anyhow!("the issuer's answer cannot be read"),
        RequestTokenError::Other(what) => anyhow::anyhow!("{what}"),
    }
}
