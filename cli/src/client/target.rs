//! The service and the token of a command: from flags, then variables, then the files of `login` or `up --dev`.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use renga_shared::domain::Timestamp;
use reqwest::Url;
use secrecy::ExposeSecret as _;

use crate::args::{Global, SCOPES};
use crate::issuer::{Issuer, Request};
use crate::login::Session;
use crate::state::{ClientFile, StateFolder};

const DEFAULT_URL: &str = "http://localhost:5000";
/// The subject of the client commands under the development issuer, which is also the default of `token`.
pub(crate) const DEVELOPER: &str = "developer";
/// The lifetime of a token that is made for one command. It is long because `run` may follow for days.
const TOKEN_TTL: Duration = Duration::from_secs(30 * 86_400);

/// A service, and a token for it. Both have their source, for messages.
pub(crate) struct Target {
    /// The API's address, base path included.
    pub(crate) url: Url,
    /// The source of the address.
    pub(crate) url_from: String,
    /// The token.
    pub(crate) credential: Credential,
    /// The source of the token.
    pub(crate) token_from: String,
}

/// The token that is sent to the service.
pub(crate) struct Credential {
    /// The bearer token.
    pub(crate) token: String,
    /// The login of the token, if it is of one.
    pub(crate) session: Option<(StateFolder, Session)>,
}

impl Credential {
    /// Renews the token of a login if it is about to expire. With `even_if_good`, renews it in any case, because the
    /// service has rejected it.
    pub(crate) async fn renew(&mut self, now: Timestamp, even_if_good: bool) -> Result<()> {
        if let Some((folder, session)) = &mut self.session {
            session.renew(folder, now, even_if_good).await?;
            session.token().clone_into(&mut self.token);
        }
        Ok(())
    }
}

impl Target {
    /// Chooses the service and the token. `get` reads the environment; a token made here is valid from `now`.
    pub(crate) fn choose(global: &Global, get: &dyn Fn(&str) -> Option<String>, now: Timestamp) -> Result<Self> {
        let folder = StateFolder::choose(global.state_dir.as_deref(), get);
        let client = match &folder {
            Ok(folder) => folder.client()?,
            Err(_) => None,
        };
        let (url, url_from) = service(global, get, folder.as_ref().ok(), client.as_ref())?;
        let target = |token: &str, token_from: String, session| Self {
            url: url.clone(),
            url_from: url_from.clone(),
            credential: Credential { token: token.trim().to_owned(), session },
            token_from,
        };
        if let Some(token) = &global.token {
            return Ok(target(token.expose_secret(), "--token".to_owned(), None));
        }
        if let Some(token) = get("RENGA_DEPLOYER_TOKEN") {
            return Ok(target(&token, "RENGA_DEPLOYER_TOKEN".to_owned(), None));
        }
        if let Ok(folder) = &folder
            && let Some(session) = folder.session()?.filter(|session| same_service(&session.service, &url))
        {
            let token_from = format!(
                "the login at {} (again: `renga-deployer login`), kept in {}",
                session.issuer,
                folder.session_path().display()
            );
            let token = session.token().to_owned();
            return Ok(target(&token, token_from, Some((folder.clone(), session))));
        }
        let facts = client.filter(|client| same_service(&client.url, &url)).and_then(|client| client.issuer);
        let (Some(facts), Ok(folder)) = (facts, &folder) else {
            bail!(
                "there is no token for {url}: log in with `renga-deployer login`, set RENGA_DEPLOYER_TOKEN, or give --token \
                 (a service of your own that `renga-deployer up --dev` runs needs none of them)"
            );
        };
        let issuer = Issuer::open(folder, facts)?;
        let request = Request { subject: DEVELOPER, scopes: &SCOPES, ttl: TOKEN_TTL };
        let token = issuer.token(request, now)?;
        Ok(target(&token, format!("the development issuer's key {}", folder.key_path().display()), None))
    }
}

/// Returns the service's address and its source.
pub(crate) fn service(
    global: &Global,
    get: &dyn Fn(&str) -> Option<String>,
    folder: Option<&StateFolder>,
    client: Option<&ClientFile>,
) -> Result<(Url, String)> {
    let (given, from) = if let Some(url) = &global.url {
        (url.clone(), "--url".to_owned())
    } else if let Some(url) = get("RENGA_DEPLOYER_URL") {
        (url, "RENGA_DEPLOYER_URL".to_owned())
    } else if let (Some(client), Some(folder)) = (client, folder) {
        (client.url.clone(), format!("{}, written by the last `up --dev` or `login`", folder.client_path().display()))
    } else {
        (DEFAULT_URL.to_owned(), "the default".to_owned())
    };
    let url = base_url(&given).with_context(|| format!("{given:?} (from {from}) is not a service's URL"))?;
    Ok((url, from))
}

/// Whether a token stored for the service at `written` may be sent to `url`. Only its own service accepts it, and
/// another must not see it.
fn same_service(written: &str, url: &Url) -> bool {
    Url::parse(written).is_ok_and(|written| written.origin() == url.origin())
}

/// Parses the API's address: adds `/v1` if the URL has no path, and removes a slash at the end.
fn base_url(text: &str) -> Result<Url> {
    let mut url =
        Url::parse(text.trim()).context("write it like http://localhost:5000 or https://example.org/api/deployer")?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        bail!("it must begin with http:// or https://");
    }
    let path = match url.path().trim_end_matches('/') {
        "" => "/v1".to_owned(),
        path => path.to_owned(),
    };
    url.set_path(&path);
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::args::Output;
    use crate::state::IssuerFacts;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

    fn global(state: &Path) -> Global {
        Global { output: Output::Table, url: None, token: None, state_dir: Some(state.to_owned()) }
    }

    fn written(url: &str) -> tempfile::TempDir {
        let temp = tempfile::tempdir().unwrap();
        let folder = StateFolder::choose(Some(temp.path()), &|_| None).unwrap();
        let issuer = IssuerFacts { issuer: "http://issuer".into(), scope_claim: "scope".into() };
        folder.write_client(&ClientFile { url: url.into(), issuer: Some(issuer) }).unwrap();
        temp
    }

    #[test]
    fn a_url_without_a_path_means_v1() {
        for (given, meant) in [
            ("http://localhost:5000", "http://localhost:5000/v1"),
            ("http://localhost:5000/", "http://localhost:5000/v1"),
            ("https://example.org/api/deployer/", "https://example.org/api/deployer"),
        ] {
            assert_eq!(base_url(given).unwrap().as_str(), meant);
        }
        for wrong in ["localhost:5000", "ftp://localhost", "", "http://"] {
            assert!(base_url(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn flags_precede_variables_and_these_precede_written_files() {
        let state = written("http://127.0.0.1:1/v1");
        let get = |name: &str| match name {
            "RENGA_DEPLOYER_URL" => Some("http://variable:2".to_owned()),
            "RENGA_DEPLOYER_TOKEN" => Some("from-variable\n".to_owned()),
            _ => None,
        };
        let mut flags = global(state.path());
        let target = Target::choose(&flags, &|_| None, NOW).unwrap();
        assert_eq!(target.url.as_str(), "http://127.0.0.1:1/v1");
        assert!(target.token_from.contains("dev-key.pem"), "{}", target.token_from);
        let target = Target::choose(&flags, &get, NOW).unwrap();
        assert_eq!((target.url.as_str(), target.credential.token.as_str()), ("http://variable:2/v1", "from-variable"));
        flags.url = Some("http://flag:3/api/deployer".into());
        flags.token = Some("from-flag".into());
        let target = Target::choose(&flags, &get, NOW).unwrap();
        assert_eq!(
            (target.url.as_str(), target.credential.token.as_str()),
            ("http://flag:3/api/deployer", "from-flag")
        );
    }

    #[test]
    fn the_development_issuers_tokens_are_sent_to_its_own_service_only() {
        let state = written("http://127.0.0.1:1/v1");
        let mut flags = global(state.path());
        flags.url = Some("https://elsewhere.example".into());
        let refused = Target::choose(&flags, &|_| None, NOW).err().unwrap().to_string();
        assert!(refused.contains("RENGA_DEPLOYER_TOKEN"), "{refused}");
    }
}
