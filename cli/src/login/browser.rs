//! Login with a browser on this machine: authorization code with PKCE on a loopback port (RFC 8252, RFC 7636).

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::Router;
use axum::extract::{Query, State};
use axum::response::Html;
use axum::routing::get;
use oauth2::basic::BasicTokenResponse;
use oauth2::{AuthorizationCode, CsrfToken, PkceCodeChallenge, RedirectUrl, Scope};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::provider::{Provider, refused};

/// The maximum time for the user to log in.
const PATIENCE: Duration = Duration::from_secs(600);
/// The maximum time for the browser to read a page of one line.
const CLOSES_WITHIN: Duration = Duration::from_secs(2);

/// The query parameters of the issuer's redirect (RFC 6749, sections 4.1.2 and 4.1.2.1).
#[derive(Debug, Deserialize)]
struct Callback {
    code: Option<String>,
    #[serde(default)]
    state: String,
    error: Option<String>,
    error_description: Option<String>,
}

/// Prints the login URL, opens it in a browser if `open`, and waits for the redirect.
pub(super) async fn log_in(provider: &Provider, scopes: &[String], open: bool) -> Result<BasicTokenResponse> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on a loopback port")?;
    let port = listener.local_addr()?.port();
    let client =
        provider.client.clone().set_redirect_uri(RedirectUrl::new(format!("http://127.0.0.1:{port}/callback"))?);
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let (url, state) = client
        .authorize_url(CsrfToken::new_random)
        .add_scopes(scopes.iter().cloned().map(Scope::new))
        .set_pkce_challenge(challenge)
        .url();

    let (came, mut coming) = mpsc::channel(1);
    let app = Router::new().route("/callback", get(callback)).with_state(came);
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        // Dropping the sender stops the server as well.
        axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) }).await
    });
    eprintln!("Log in here, with a browser on this machine (elsewhere: --device):\n\n  {url}\n");
    if open && let Err(error) = webbrowser::open(url.as_str()) {
        eprintln!("No browser could be opened ({error}).");
    }
    let answer = loop {
        let answer = tokio::time::timeout(PATIENCE, coming.recv()).await;
        let answer = answer.with_context(|| format!("nobody logged in within {} min", PATIENCE.as_secs() / 60))?;
        let answer: Callback = answer.context("the loopback port is closed")?;
        // Any program on this machine can call the port. A request without the right state is not from our browser.
        if answer.state == *state.secret() {
            break answer;
        }
    };
    // Let the browser read its page before the port closes, for a limited time.
    drop(stop);
    let _ = tokio::time::timeout(CLOSES_WITHIN, serving).await;
    let Some(code) = answer.code else {
        let error = answer.error.unwrap_or_else(|| "there is no code in its answer".to_owned());
        let described = answer.error_description.map(|text| format!(" ({text})")).unwrap_or_default();
        bail!("the issuer refuses: {}", crate::output::plain(&format!("{error}{described}")));
    };
    let request = client.exchange_code(AuthorizationCode::new(code)).set_pkce_verifier(verifier);
    request.request_async(&provider.send()).await.map_err(refused)
}

async fn callback(State(came): State<mpsc::Sender<Callback>>, Query(answer): Query<Callback>) -> Html<&'static str> {
    let done = answer.code.is_some();
    // The receiver is gone if this is a second request.
    let _ = came.try_send(answer);
    Html(if done {
        "<!doctype html><title>Logged in</title><p>You are logged in. Go back to the terminal; this page can be closed."
    } else {
        "<!doctype html><title>Not logged in</title><p>You are not logged in. The terminal says why."
    })
}
