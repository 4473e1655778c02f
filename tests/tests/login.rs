//! `renga-deployer login` at a real Keycloak, with a browser and with a device code, and the service afterwards.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use renga_tests::deployment::{Deployment, PATIENCE, workspace};
use renga_tests::servers::Realm;
use renga_tests::{process, require};
use reqwest::header::{CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Method, Url};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

#[tokio::test]
async fn with_a_browser() -> Result<()> {
    let realm = require!(keycloak).realm();
    let (deployment, state) = (deployment(&realm).await?, tempfile::tempdir()?);
    log_in(&deployment, &realm, state.path(), &["--no-browser"]).await?;
    works(&deployment, &realm, state.path()).await?;
    deployment.leave().await
}

#[tokio::test]
async fn with_a_device_code() -> Result<()> {
    let realm = require!(keycloak).realm();
    let (deployment, state) = (deployment(&realm).await?, tempfile::tempdir()?);
    log_in(&deployment, &realm, state.path(), &["--device"]).await?;
    works(&deployment, &realm, state.path()).await?;
    deployment.leave().await
}

async fn deployment(realm: &Realm) -> Result<Deployment> {
    let issuer = realm.issuer();
    let variables =
        [("DEPLOYER_JWT_KEY", ""), ("DEPLOYER_JWT_ISSUER", &issuer), ("DEPLOYER_JWT_AUDIENCE", Realm::AUDIENCE)];
    Deployment::without_reconciler(&variables).await
}

/// Logs in as alice, at the address that the program shows.
async fn log_in(deployment: &Deployment, realm: &Realm, state: &Path, how: &[&str]) -> Result<()> {
    let issuer = realm.issuer();
    let line = [&["login", "--url", deployment.client.base(), "--issuer", &issuer], how].concat();
    let mut child = program(state, &line)?.spawn()?;
    let mut lines = BufReader::new(child.stderr.take().context("no standard error")?).lines();
    // With a device code, the program shows two addresses; the second contains the code.
    let marks = if how == ["--device"] { "user_code=" } else { "code_challenge=" };
    let address = loop {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.context("it shows nothing")??;
        let line = line.context("it ended")?;
        if let Some(url) = line.split_whitespace().find(|word| word.starts_with("http") && word.contains(marks)) {
            break url.to_owned();
        }
    };
    let shown = Browser::new()?.log_in(&address).await?;
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.with_context(|| format!("it waits on; the browser shows: {shown}"))??;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

/// Fails unless the commands are logged in, `token check` accepts the token, and the service demands one.
async fn works(deployment: &Deployment, realm: &Realm, state: &Path) -> Result<()> {
    let listed = program(state, &["ps"])?.output().await?;
    ensure!(listed.status.success(), "{listed:?}");
    let issuer = realm.issuer();
    let mut check = program(state, &["token", "check"])?;
    check.envs([("DEPLOYER_JWT_ISSUER", issuer.as_str()), ("DEPLOYER_JWT_AUDIENCE", Realm::AUDIENCE)]);
    let checked = check.env("DEPLOYER_TOKEN_SCOPE_KEY", "scope").output().await?;
    let told = String::from_utf8(checked.stdout)?;
    ensure!(checked.status.success() && told.contains("deployer:executions_write"), "{told}");
    ensure!(deployment.client.request(Method::GET, "/v1/contexts").send().await?.status() == 401, "anybody is let in");
    Ok(())
}

fn program(state: &Path, line: &[&str]) -> Result<Command> {
    let mut command = Command::new(process::deployer()?);
    command.args(line).env_clear().env("RENGA_DEPLOYER_STATE", state).current_dir(workspace()).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// The parts of a browser that are needed to fill in Keycloak's forms.
struct Browser {
    http: reqwest::Client,
    cookies: BTreeMap<String, String>,
}

impl Browser {
    fn new() -> Result<Self> {
        // Installs the cryptography provider that reqwest needs.
        drop(renga_tests::client::http());
        Ok(Self { http: reqwest::Client::builder().redirect(Policy::none()).build()?, cookies: BTreeMap::new() })
    }

    /// Fills in one form after another, until there is none. Returns the last page.
    async fn log_in(&mut self, address: &str) -> Result<String> {
        let (mut url, mut page) = self.go(Method::GET, Url::parse(address)?, None).await?;
        for _ in 0..4 {
            let Some(action) = attribute(&page, "<form", "action") else { return Ok(page) };
            // A form without a password asks for consent to what the client requests.
            let fields: &[(&str, &str)] = if page.contains("name=\"password\"") {
                &[("username", "alice"), ("password", "alice-pw")]
            } else {
                &[("accept", "Yes")]
            };
            let mut body = form_urlencoded::Serializer::new(String::new());
            body.extend_pairs(fields);
            if let Some(code) = attribute(&page, "name=\"code\"", "value") {
                body.append_pair("code", &code);
            }
            (url, page) = self.go(Method::POST, url.join(&action)?, Some(body.finish())).await?;
        }
        bail!("there is no end of forms; the last: {page}")
    }

    /// Loads a page, and follows its redirects.
    async fn go(&mut self, method: Method, url: Url, body: Option<String>) -> Result<(Url, String)> {
        let (mut method, mut url, mut body) = (method, url, body);
        for _ in 0..10 {
            let mut request = self.http.request(method, url.clone());
            if !self.cookies.is_empty() {
                let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
                request = request.header(COOKIE, cookies.join("; "));
            }
            if let Some(body) = body.take() {
                request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
            }
            let answer = request.send().await?;
            for cookie in answer.headers().get_all(SET_COOKIE) {
                let pair = cookie.to_str()?.split(';').next().unwrap_or_default();
                let (name, value) = pair.split_once('=').context("a cookie without a value")?;
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
            match answer.headers().get(LOCATION) {
                Some(next) => url = url.join(next.to_str()?)?,
                None => return Ok((url, answer.text().await?)),
            }
            method = Method::GET;
        }
        bail!("it leads in circles: {url}")
    }
}

/// Returns the value of the attribute `name` after `mark` in a page.
fn attribute(page: &str, mark: &str, name: &str) -> Option<String> {
    let rest = page.split_once(mark)?.1;
    let value = rest.split_once(&format!("{name}=\""))?.1.split_once('"')?.0;
    Some(value.replace("&amp;", "&"))
}
