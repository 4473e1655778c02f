//! A stored login: tokens for one service, renewed when they are about to expire.
//!
//! Obligations: only the owner can read the file; the tokens are sent to their service and to the issuer only.

use std::time::Duration;

use anyhow::{Context as _, Result};
use oauth2::TokenResponse as _;
use oauth2::basic::BasicTokenResponse;
use renga_shared::domain::Timestamp;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::provider::Provider;
use crate::state::StateFolder;

/// A token is renewed if it expires within this time.
const RENEW_BEFORE: Duration = Duration::from_secs(30);

/// The stored login.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The service that the tokens are for: its API's address, base path included.
    pub(crate) service: String,
    /// The issuer of the tokens.
    pub(crate) issuer: String,
    client_id: String,
    access_token: String,
    /// The expiry of the access token in microseconds since the Unix epoch; absent if the issuer gave none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
}

impl Session {
    /// Returns a new login.
    pub(super) fn new(
        service: &Url,
        issuer: &str,
        client_id: &str,
        tokens: &BasicTokenResponse,
        now: Timestamp,
    ) -> Self {
        let mut session = Self {
            service: service.to_string(),
            issuer: issuer.to_owned(),
            client_id: client_id.to_owned(),
            access_token: String::new(),
            expires: None,
            refresh_token: None,
        };
        session.take(tokens, now);
        session
    }

    fn take(&mut self, tokens: &BasicTokenResponse, now: Timestamp) {
        self.access_token.clone_from(tokens.access_token().secret());
        self.expires = tokens.expires_in().map(|span| now.plus(span).0);
        // A refresh token without a replacement stays valid (RFC 6749, section 6).
        if let Some(refresh) = tokens.refresh_token() {
            self.refresh_token = Some(refresh.secret().clone());
        }
    }

    /// Returns the access token.
    pub(crate) fn token(&self) -> &str {
        &self.access_token
    }

    /// Returns how long the access token lasts from `now`; `None` if its expiry is not known.
    pub(crate) fn lasts(&self, now: Timestamp) -> Option<Duration> {
        self.expires.map(|expires| Timestamp(expires).since(now))
    }

    /// Renews the token if it is about to expire, and stores the new one in `folder`. With `even_if_good`, renews it in
    /// any case, because the service has rejected it.
    pub(crate) async fn renew(&mut self, folder: &StateFolder, now: Timestamp, even_if_good: bool) -> Result<()> {
        if !even_if_good && self.lasts(now).is_none_or(|left| left > RENEW_BEFORE) {
            return Ok(());
        }
        let Some(refresh_token) = &self.refresh_token else { return Ok(()) };
        let renewal = async {
            let provider = Provider::discover(&self.issuer, &self.client_id).await?;
            provider.refresh(refresh_token).await
        };
        match renewal.await {
            Ok(tokens) => {
                self.take(&tokens, now);
                folder.write_session(self)
            }
            // A concurrent command may have renewed it, which invalidated the refresh token.
            Err(error) => match folder.session()? {
                Some(other) if other.access_token != self.access_token => {
                    *self = other;
                    Ok(())
                }
                _ => Err(error).context("the login cannot be renewed; log in again with `renga-deployer login`"),
            },
        }
    }
}
