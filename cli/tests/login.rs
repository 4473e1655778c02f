//! Login, renewal and logout, with the real program against a small issuer on a real socket.

#[allow(dead_code, reason = "the tests of the other commands use the rest")]
mod service;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Form, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use oauth2::{PkceCodeChallenge, PkceCodeVerifier};
use serde_json::{Value, json};
use service::{Service, TOKEN};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

/// Long enough for a slow machine, short enough that a hang is noticed.
const PATIENCE: Duration = Duration::from_secs(60);

type Fields = std::collections::HashMap<String, String>;

/// The behaviour of the issuer, and the requests that it got.
#[derive(Default)]
struct Inner {
    base: String,
    /// The lifetime of the first token, in seconds, and the token.
    first: Option<(u64, &'static str)>,
    refuses: bool,
    challenge: String,
    device_polls: usize,
    grants: Vec<String>,
}

#[derive(Clone, Default)]
struct Issuer(Arc<Mutex<Inner>>);

impl Issuer {
    async fn start() -> Self {
        let issuer = Self::default();
        let app = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/authorize", get(authorize))
            .route("/device", post(device))
            .route("/token", post(token))
            .with_state(issuer.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        issuer.inner(|inner| inner.base = format!("http://{}", listener.local_addr().unwrap()));
        tokio::spawn(async move { axum::serve(listener, app).await });
        issuer
    }

    fn inner<T>(&self, use_it: impl FnOnce(&mut Inner) -> T) -> T {
        use_it(&mut self.0.lock().unwrap())
    }

    fn base(&self) -> String {
        self.inner(|inner| inner.base.clone())
    }

    fn grants(&self) -> Vec<String> {
        self.inner(|inner| std::mem::take(&mut inner.grants))
    }
}

async fn discovery(State(issuer): State<Issuer>) -> Json<Value> {
    let base = issuer.base();
    Json(json!({
        "issuer": base,
        "authorization_endpoint": format!("{base}/authorize"),
        "token_endpoint": format!("{base}/token"),
        "device_authorization_endpoint": format!("{base}/device"),
        "jwks_uri": format!("{base}/keys"),
    }))
}

/// The login page, where a user would type a password.
async fn authorize(State(issuer): State<Issuer>, Query(asked): Query<Fields>) -> Redirect {
    assert_eq!((asked["response_type"].as_str(), asked["code_challenge_method"].as_str()), ("code", "S256"));
    assert_eq!(asked["client_id"], "demo-client");
    let refuses = issuer.inner(|inner| {
        inner.challenge.clone_from(&asked["code_challenge"]);
        inner.refuses
    });
    let (back, state) = (&asked["redirect_uri"], &asked["state"]);
    Redirect::to(&if refuses {
        format!("{back}?error=access_denied&error_description=Not%20today&state={state}")
    } else {
        format!("{back}?code=the-code&state={state}")
    })
}

async fn device(State(issuer): State<Issuer>) -> Json<Value> {
    let base = issuer.base();
    Json(json!({
        "device_code": "the-device", "user_code": "WDJB-MJHT", "verification_uri": format!("{base}/enter"),
        "expires_in": 600, "interval": 1,
    }))
}

async fn token(State(issuer): State<Issuer>, Form(asked): Form<Fields>) -> Response {
    let refused = |error: &str| (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response();
    issuer.inner(|inner| {
        inner.grants.push(asked["grant_type"].clone());
        let (seconds, token) = inner.first.unwrap_or((300, TOKEN));
        let granted = json!({
            "access_token": token, "token_type": "Bearer", "expires_in": seconds, "refresh_token": "the-refresh",
        });
        match asked["grant_type"].as_str() {
            "authorization_code" => {
                let verifier = PkceCodeVerifier::new(asked["code_verifier"].clone());
                let proven = PkceCodeChallenge::from_code_verifier_sha256(&verifier).as_str() == inner.challenge;
                if proven && asked["code"] == "the-code" {
                    Json(granted).into_response()
                } else {
                    refused("invalid_grant")
                }
            }
            "refresh_token" if asked["refresh_token"] == "the-refresh" && !inner.refuses => {
                Json(json!({ "access_token": TOKEN, "token_type": "Bearer", "expires_in": 300 })).into_response()
            }
            "urn:ietf:params:oauth:grant-type:device_code" => {
                inner.device_polls += 1;
                if inner.device_polls > 1 { Json(granted).into_response() } else { refused("authorization_pending") }
            }
            _ => refused("invalid_grant"),
        }
    })
}

/// Fetches a page, as a browser does.
async fn page(address: &str) -> String {
    // One provider for the whole process; if another test installed one, it is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::get(address).await.unwrap().text().await.unwrap()
}

fn program(state: &Path, line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_renga-deployer"));
    command
        .args(line)
        .env_clear()
        .env("RENGA_DEPLOYER_STATE", state)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn ended(child: tokio::process::Child) -> (i32, String, String) {
    let output: Output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it hangs").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().expect("it ended by itself"), text(output.stdout), text(output.stderr))
}

async fn perform(state: &Path, line: &[&str]) -> (i32, String, String) {
    ended(program(state, line).spawn().unwrap()).await
}

/// Logs in as a user with a browser does. Returns the page in the browser, and the outcome of the program.
async fn log_in(issuer: &Issuer, service: &Service, state: &Path) -> (String, (i32, String, String)) {
    let url = format!("http://{}", service.address);
    let base = issuer.base();
    let line = ["login", "--no-browser", "--issuer", &base, "--url", &url];
    let mut child = program(state, &line).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = loop {
        let line = lines.next_line().await.unwrap().expect("it shows where to log in");
        if line.trim().starts_with("http") {
            break line.trim().to_owned();
        }
    };
    // Another program on this machine calls the port first.
    let back = reqwest::Url::parse(&address)
        .unwrap()
        .query_pairs()
        .find(|(name, _)| name == "redirect_uri")
        .unwrap()
        .1
        .into_owned();
    page(&format!("{back}?code=stolen&state=guessed")).await;
    let page = page(&address).await;
    let mut rest = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        rest.push_str(&line);
    }
    let (code, out, _) = ended(child).await;
    (page, (code, out, rest))
}

#[tokio::test]
async fn login_with_a_browser_and_then_every_command_uses_it() {
    let (issuer, service, state) = (Issuer::start().await, Service::start().await, tempfile::tempdir().unwrap());
    let (page, (code, out, err)) = log_in(&issuer, &service, state.path()).await;
    assert_eq!(code, 0, "{err}");
    assert!(page.contains("You are logged in"), "{page}");
    assert!(out.contains(&issuer.base()) && !out.contains(TOKEN) && !err.contains(TOKEN), "{out}{err}");
    let kept = state.path().join("login.json");
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    // Neither --url nor a token.
    let (code, _, err) = perform(state.path(), &["ps"]).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(issuer.grants(), ["authorization_code"]);

    let other = Service::start().await;
    let (code, _, err) = perform(state.path(), &["ps", "--url", &format!("http://{}", other.address)]).await;
    assert!(code == 1 && err.contains("there is no token for"), "it goes to another service: {err}");

    assert_eq!(perform(state.path(), &["logout"]).await.1, "logged out\n");
    assert!(!kept.exists());
    let (code, _, err) = perform(state.path(), &["ps"]).await;
    assert!(code == 1 && err.contains("renga-deployer login"), "{err}");
    assert_eq!(perform(state.path(), &["logout"]).await.1, "nobody was logged in\n");
}

#[tokio::test]
async fn login_with_a_device_code() {
    let (issuer, service, state) = (Issuer::start().await, Service::start().await, tempfile::tempdir().unwrap());
    let (url, base) = (format!("http://{}", service.address), issuer.base());
    let (code, _, err) = perform(state.path(), &["login", "--device", "--issuer", &base, "--url", &url]).await;
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("WDJB-MJHT") && err.contains("/enter"), "{err}");
    assert_eq!(issuer.grants().len(), 2, "asked again while it was pending");
    assert_eq!(perform(state.path(), &["ps"]).await.0, 0);
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires_and_when_it_is_rejected() {
    for first in [(1, "expires-soon"), (300, "revoked")] {
        let (issuer, service, state) = (Issuer::start().await, Service::start().await, tempfile::tempdir().unwrap());
        issuer.inner(|inner| inner.first = Some(first));
        assert_eq!(log_in(&issuer, &service, state.path()).await.1.0, 0);
        for _ in 0..2 {
            let (code, _, err) = perform(state.path(), &["ps"]).await;
            assert_eq!(code, 0, "{first:?}: {err}");
        }
        assert_eq!(issuer.grants(), ["authorization_code", "refresh_token"], "{first:?}");
    }
}

#[tokio::test]
async fn a_login_that_cannot_be_renewed_is_reported() {
    let (issuer, service, state) = (Issuer::start().await, Service::start().await, tempfile::tempdir().unwrap());
    issuer.inner(|inner| inner.first = Some((300, "revoked")));
    assert_eq!(log_in(&issuer, &service, state.path()).await.1.0, 0);
    issuer.inner(|inner| inner.refuses = true);
    let (code, _, err) = perform(state.path(), &["ps"]).await;
    assert!(code == 1 && err.contains("renga-deployer login") && !err.contains("revoked"), "{err}");
}

#[tokio::test]
async fn a_rejected_login_gives_the_reason() {
    let (issuer, service, state) = (Issuer::start().await, Service::start().await, tempfile::tempdir().unwrap());
    issuer.inner(|inner| inner.refuses = true);
    let (page, (code, _, err)) = log_in(&issuer, &service, state.path()).await;
    assert!(page.contains("not logged in"), "{page}");
    assert!(code == 1 && err.contains("access_denied (Not today)"), "{err}");
    assert!(!state.path().join("login.json").exists());
    let (code, _, err) = perform(state.path(), &["login", "--issuer", &format!("{}/", issuer.base())]).await;
    assert!(code == 1 && err.contains("to the letter") && err.contains("DEPLOYER_JWT_ISSUER"), "{err}");
}
