//! `login` and `logout`: obtains, stores and renews a token of the platform's issuer for the client commands.

mod browser;
mod provider;
mod session;

use std::time::Duration;

use anyhow::{Context as _, Result};
use oauth2::basic::BasicTokenResponse;
use oauth2::{PkceCodeChallenge, Scope, StandardDeviceAuthorizationResponse};
use renga_shared::config::DEFAULT_ISSUER;
use renga_shared::domain::Timestamp;
use reqwest::Url;

use crate::args::Login;
use crate::output;
use crate::state::{ClientFile, StateFolder};
use provider::{Provider, refused};
pub(crate) use session::Session;

const DEFAULT_CLIENT: &str = "demo-client";

/// Logs in, and stores the tokens for `service`.
pub(crate) async fn login(
    login: &Login,
    service: &Url,
    folder: &StateFolder,
    get: &dyn Fn(&str) -> Option<String>,
    now: impl Fn() -> Timestamp,
) -> Result<()> {
    let said = |flag: &Option<String>, variable: &str, default: &str| {
        flag.clone().or_else(|| get(variable)).unwrap_or_else(|| default.to_owned())
    };
    let issuer = said(&login.issuer, "DEPLOYER_JWT_ISSUER", DEFAULT_ISSUER);
    let client_id = said(&login.client_id, "DEPLOYER_CLIENT_ID", DEFAULT_CLIENT);
    let provider = Provider::discover(&issuer, &client_id).await.context(
        "the token issuer cannot be used: --issuer or DEPLOYER_JWT_ISSUER says which one, as the service has it",
    )?;
    let tokens = if login.device {
        with_device(&provider, &login.scope).await?
    } else {
        browser::log_in(&provider, &login.scope, !login.no_browser).await?
    };
    let now = now();
    let session = Session::new(service, &issuer, &client_id, &tokens, now);
    folder.write_session(&session)?;
    // From now on the commands use this service, until `up --dev` writes another.
    folder.write_client(&ClientFile { url: service.to_string(), issuer: None })?;
    let lasts = match session.lasts(now) {
        Some(left) => format!("for {}, renewed as long as the issuer allows", humantime::format_duration(left)),
        None => "until the issuer says otherwise".to_owned(),
    };
    output::line(&format!("logged in at {issuer} for {service}\nkept in {}, {lasts}", folder.session_path().display()))
}

/// Logs in by the device code grant (RFC 8628), for a machine without a browser.
async fn with_device(provider: &Provider, scopes: &[String]) -> Result<BasicTokenResponse> {
    let send = provider.send();
    // Keycloak also requires PKCE (RFC 7636) here, if the client requires it.
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let request = provider.client.exchange_device_code().context("the issuer does not offer the device code grant")?;
    let request = request
        .add_extra_param("code_challenge", challenge.as_str())
        .add_extra_param("code_challenge_method", challenge.method().as_str())
        .add_scopes(scopes.iter().cloned().map(Scope::new));
    let device: StandardDeviceAuthorizationResponse = request.request_async(&send).await.map_err(refused)?;
    eprintln!(
        "Open {} on any device, and enter the code {}",
        output::plain(device.verification_uri().as_str()),
        output::plain(device.user_code().secret())
    );
    if let Some(whole) = device.verification_uri_complete() {
        eprintln!("or open {}", output::plain(whole.secret()));
    }
    let request = provider.client.exchange_device_access_token(&device);
    let request = request.add_extra_param("code_verifier", verifier.secret());
    request.request_async(&send, tokio::time::sleep, None::<Duration>).await.map_err(refused)
}

/// Deletes the login.
pub(crate) fn logout(folder: &StateFolder) -> Result<()> {
    let forgotten = folder.forget_session()?;
    output::line(if forgotten { "logged out" } else { "nobody was logged in" })
}
