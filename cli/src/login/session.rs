//! A login that is kept: tokens for one service, renewed when they are about to expire.
//!
//! Obligations: its file is its owner's alone; its tokens go to the service that they were asked for and to the issuer, and to
//! nobody else.

use std::time::Duration;

use anyhow::{Context as _, Result};
use oauth2::TokenResponse as _;
use oauth2::basic::BasicTokenResponse;
use renga_shared::domain::Timestamp;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::provider::Provider;
use crate::state::StateFolder;

/// A token that expires within this is renewed first.
const RENEW_BEFORE: Duration = Duration::from_secs(30);

/// What `login` keeps.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The service that the tokens are for: its API's address, base path included.
    pub(crate) service: String,
    /// Who issued them.
    pub(crate) issuer: String,
    client_id: String,
    access_token: String,
    /// In microseconds since the Unix epoch; absent if the issuer did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
}

impl Session {
    /// A login that has just been made.
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
        // One that is not replaced stays good (RFC 6749, section 6).
        if let Some(refresh) = tokens.refresh_token() {
            self.refresh_token = Some(refresh.secret().clone());
        }
    }

    /// Its access token.
    pub(crate) fn token(&self) -> &str {
        &self.access_token
    }

    /// How long its access token lasts from `now`; `None`: nobody said.
    pub(crate) fn lasts(&self, now: Timestamp) -> Option<Duration> {
        self.expires.map(|expires| Timestamp(expires).since(now))
    }

    /// Sees to it that the token lasts, and keeps in `folder` what it is renewed to. `even_if_good`: it is renewed anyhow, since
    /// the service no longer takes the one there is.
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
            // Another command may have renewed it at the same moment, which used the refresh token up.
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
