//! A Keycloak for tests: a real OpenID Connect issuer, with the realm of `tests/keycloak`.
//!
//! `make servers` prepares it (`scripts/keycloak.sh`). Each test process starts its own server, with a copy of the
//! prepared data, when the first test requests it. A test that changes keys creates its own realm.

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::guarded::{Guarded, Recipe, scratch_folder};
use crate::client::http;
use crate::deployment::workspace;

/// A start takes 6 s on an idle machine, and a minute on a busy one.
const READY_WITHIN: Duration = Duration::from_secs(180);

const REALM_FILE: &str = "tests/keycloak/Renga-realm.json";

static SHARED: OnceCell<Keycloak> = OnceCell::const_new();
static REALMS: AtomicU32 = AtomicU32::new(0);

/// Returns the server that all tests of this process share. The first call starts it.
///
/// # Errors
/// Fails if the server is not prepared or does not start. Every later call tries again.
pub async fn keycloak() -> Result<&'static Keycloak> {
    SHARED.get_or_try_init(Keycloak::start).await
}

/// A running Keycloak.
#[derive(Debug)]
pub struct Keycloak {
    port: u16,
    /// Ends the server when it is dropped.
    _process: Guarded,
}

/// A realm of a running Keycloak: an issuer, with its users `alice` and `bob`.
#[derive(Clone, Debug)]
pub struct Realm {
    /// The server's address, including its path.
    base: String,
    name: String,
    http: reqwest::Client,
}

/// The tokens that a user gets by logging in.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// The token for APIs.
    pub access: String,
    /// The token that tells the client who the user is.
    pub id: String,
    /// The token that gets new tokens.
    pub refresh: String,
}

impl Keycloak {
    /// Starts a separate server, for a test that ends it. Most tests share the server of [`keycloak`].
    ///
    /// # Errors
    /// Fails if the server is not prepared or does not start.
    pub async fn start() -> Result<Self> {
        let prepared = std::fs::read(workspace().join(".cache/keycloak/realm.json"))
            .context("there is no Keycloak in .cache/keycloak: run `make servers`")?;
        let realm = std::fs::read(workspace().join(REALM_FILE)).with_context(|| format!("read {REALM_FILE}"))?;
        ensure!(prepared == realm, "{REALM_FILE} is not what Keycloak was prepared with: run `make servers`");
        // Another process may take the free port before the server listens on it. The next try uses another port.
        let mut last_words = String::new();
        for _ in 0..3 {
            let folder = scratch_folder("keycloak")?;
            let port = TcpListener::bind(("127.0.0.1", 0)).context("find a free port")?.local_addr()?.port();
            let recipe = recipe(&folder, port);
            let mut process = tokio::task::spawn_blocking(|| Guarded::start(recipe)).await??;
            if wait_until_ready(&mut process, &Realm::new(port, "Renga")).await? {
                return Ok(Self { port, _process: process });
            }
            last_words = process.last_words();
        }
        bail!("Keycloak did not start: {last_words}")
    }

    /// Returns the port on which the server listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the realm that all tests share. They log in to it, and change nothing.
    #[must_use]
    pub fn realm(&self) -> Realm {
        Realm::new(self.port, "Renga")
    }

    /// Creates a realm with the same description, for a test that changes keys. Its only RSA key is the one for RS256,
    /// because each key takes a second to generate.
    ///
    /// # Errors
    /// Fails if the server refuses.
    pub async fn new_realm(&self) -> Result<Realm> {
        let mut description: Value = serde_json::from_slice(&std::fs::read(workspace().join(REALM_FILE))?)?;
        let realm = Realm::new(self.port, &format!("Renga-{}", REALMS.fetch_add(1, Ordering::Relaxed)));
        description["realm"] = json!(realm.name);
        let providers = description["components"]["org.keycloak.keys.KeyProvider"].as_array_mut();
        providers.with_context(|| format!("{REALM_FILE} has no key providers"))?.retain(|provider| {
            let rsa = provider["providerId"].as_str().is_some_and(|kind| kind.starts_with("rsa-"));
            !rsa || provider["name"] == "RS256"
        });
        let realms = format!("{}/admin/realms", realm.base);
        realm.as_administrator(Method::POST, &realms, |request| request.json(&description)).await?;
        Ok(realm)
    }
}

impl Realm {
    /// One of the audiences of the access tokens of `demo-client`.
    pub const AUDIENCE: &'static str = "https://rm.datascience.ch/deployer";

    fn new(port: u16, name: &str) -> Self {
        Self { base: format!("http://localhost:{port}/auth"), name: name.to_owned(), http: http() }
    }

    /// Returns the realm's name as an issuer. The URL of its discovery document begins with it.
    #[must_use]
    pub fn issuer(&self) -> String {
        format!("{}/realms/{}", self.base, self.name)
    }

    /// Returns an access token of a user, by password grant.
    ///
    /// # Errors
    /// Fails if the server refuses.
    pub async fn token(&self, client: &str, user: &str) -> Result<String> {
        Ok(self.tokens(client, user).await?.access)
    }

    /// Returns all tokens of a user, by password grant.
    ///
    /// # Errors
    /// Fails if the server refuses.
    pub async fn tokens(&self, client: &str, user: &str) -> Result<Tokens> {
        let password = format!("{user}-pw");
        let form = [("grant_type", "password"), ("client_id", client), ("username", user), ("password", &password)];
        let answer = self.granted(&self.issuer(), &[&form[..], &[("scope", "openid")]].concat()).await?;
        let token = |name: &str| answer[name].as_str().map(str::to_owned).with_context(|| format!("no {name}"));
        Ok(Tokens { access: token("access_token")?, id: token("id_token")?, refresh: token("refresh_token")? })
    }

    /// Returns the deployer's own token, by client credentials.
    ///
    /// # Errors
    /// Fails if the server refuses.
    pub async fn service_token(&self) -> Result<String> {
        let form =
            [("grant_type", "client_credentials"), ("client_id", "deployer"), ("client_secret", "deployer-secret")];
        let answer = self.granted(&self.issuer(), &form).await?;
        Ok(answer["access_token"].as_str().context("no access_token")?.to_owned())
    }

    /// Returns the keys that the realm publishes.
    ///
    /// # Errors
    /// Fails if the server does not respond.
    pub async fn keys(&self) -> Result<Vec<Value>> {
        let discovery = self.discovery().await?;
        let place = discovery["jwks_uri"].as_str().context("no jwks_uri")?;
        let keys: Value = self.http.get(place).send().await?.error_for_status()?.json().await?;
        Ok(keys["keys"].as_array().context("no keys")?.clone())
    }

    /// Adds a key for RS256 that is preferred to keys of lower priority. Returns the id of its provider.
    ///
    /// # Errors
    /// Fails if the server refuses.
    pub async fn add_key(&self, priority: u32) -> Result<String> {
        let realm = format!("{}/admin/realms/{}", self.base, self.name);
        let found = self.as_administrator(Method::GET, &realm, |request| request).await?.json::<Value>().await?;
        let provider = json!({
            "name": format!("RS256-{priority}"),
            "providerId": "rsa-generated",
            "providerType": "org.keycloak.keys.KeyProvider",
            "parentId": found["id"],
            "config": { "algorithm": ["RS256"], "priority": [priority.to_string()] },
        });
        let components = format!("{realm}/components");
        let made = self.as_administrator(Method::POST, &components, |request| request.json(&provider));
        let place = made.await?.headers().get("location").cloned().context("the server says not where the key is")?;
        Ok(place.to_str()?.rsplit('/').next().unwrap_or_default().to_owned())
    }

    /// Returns the id of the provider of the realm's first key for RS256.
    ///
    /// # Errors
    /// Fails if the server does not respond, or if the key has been deleted.
    pub async fn first_key(&self) -> Result<String> {
        let place = format!("{}/admin/realms/{}/components?name=RS256", self.base, self.name);
        let found = self.as_administrator(Method::GET, &place, |request| request).await?.json::<Value>().await?;
        Ok(found[0]["id"].as_str().context("no provider is called RS256")?.to_owned())
    }

    /// Deletes a key with its provider.
    ///
    /// # Errors
    /// Fails if there is no provider with this id.
    pub async fn delete_key(&self, provider: &str) -> Result<()> {
        let place = format!("{}/admin/realms/{}/components/{provider}", self.base, self.name);
        self.as_administrator(Method::DELETE, &place, |request| request).await.map(drop)
    }

    async fn discovery(&self) -> Result<Value> {
        let place = format!("{}/.well-known/openid-configuration", self.issuer());
        Ok(self.http.get(place).send().await?.error_for_status()?.json().await?)
    }

    /// Returns the response of the token endpoint of an issuer on this server.
    async fn granted(&self, issuer: &str, form: &[(&str, &str)]) -> Result<Value> {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = self.http.post(format!("{issuer}/protocol/openid-connect/token"));
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
        Ok(accepted(request).await?.json().await?)
    }

    async fn as_administrator(
        &self,
        method: Method,
        place: &str,
        further: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        let form =
            [("grant_type", "password"), ("client_id", "admin-cli"), ("username", "admin"), ("password", "admin")];
        // The token is valid for a minute, so each request gets a new one.
        let granted = self.granted(&format!("{}/realms/master", self.base), &form).await?;
        let token = granted["access_token"].as_str().context("no access_token")?;
        accepted(further(self.http.request(method, place).bearer_auth(token))).await
    }
}

/// Sends a request and returns the response. Fails if the server refuses.
async fn accepted(request: RequestBuilder) -> Result<Response> {
    let answer = request.send().await.context("ask Keycloak")?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    let (place, status) = (answer.url().clone(), answer.status());
    bail!("Keycloak refused {place}: {status} {}", answer.text().await.unwrap_or_default())
}

fn recipe(folder: &Path, port: u16) -> Recipe {
    let home = folder.join("home").display().to_string();
    let script = workspace().join("scripts/keycloak.sh").display().to_string();
    Recipe {
        inside: Vec::new(),
        command: vec![script, "serve".to_owned(), home, port.to_string()],
        log: folder.join("log"),
        // The server's data is not needed again.
        last_signal: "KILL",
        cleanup: format!("rm -rf '{}'", folder.display()),
    }
}

/// Waits until the realm's discovery document is there. Returns false if the server ended instead.
async fn wait_until_ready(process: &mut Guarded, realm: &Realm) -> Result<bool> {
    let start = Instant::now();
    while start.elapsed() < READY_WITHIN {
        if realm.discovery().await.is_ok_and(|found| found["issuer"] == realm.issuer()) {
            return Ok(true);
        }
        if !process.is_alive()? {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("Keycloak was not ready within {READY_WITHIN:?}: {}", process.last_words())
}
