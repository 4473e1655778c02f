//! What `up` says once it listens, and what it leaves for the client commands.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use renga_shared::config::BASE_PATH;
use renga_shared::domain::Timestamp;
use renga_shared::sql::uri::DatabaseUri;

use super::Development;
use crate::args::SCOPES;
use crate::client::DEVELOPER;
use crate::issuer::Request;
use crate::output;
use crate::state::ClientFile;

/// How long the token that is shown is valid.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);

/// What there is to say.
pub(super) struct Welcome<'a> {
    /// The service's own address.
    pub(super) url: String,
    /// The API's base path, if it is not the usual one.
    pub(super) base_path: Option<&'a str>,
    pub(super) database: &'a DatabaseUri,
    pub(super) dev: Option<&'a Development>,
    /// The image of the command to try.
    pub(super) try_image: &'a str,
}

impl Welcome<'_> {
    /// Prints it to standard output, and writes the client file of a development service.
    pub(super) fn print(&self, get: &dyn Fn(&str) -> Option<String>, now: Timestamp) -> Result<()> {
        output::line(&self.text(get, now)?)
    }

    fn text(&self, get: &dyn Fn(&str) -> Option<String>, now: Timestamp) -> Result<String> {
        let api = format!("{}{}", self.url, self.base_path.unwrap_or(BASE_PATH));
        let mut text = format!("Renga Deployer is up.\n\n  address   {api}\n  database  {:?}\n", self.database);
        let Some(Development { folder, issuer }) = self.dev else {
            text.push_str("\nCtrl-C stops it; containers go on and are found again at the next start.");
            return Ok(text);
        };
        let facts = issuer.as_ref().map(|issuer| issuer.facts().clone());
        folder.write_client(&ClientFile { url: api.clone(), issuer: facts })?;
        let program = program(std::env::args_os().next().as_deref());
        // In another terminal a variable of this one is not set.
        let flag = if folder.is_usual(get) { String::new() } else { format!(" --state-dir {}", quoted(folder.path())) };
        match issuer {
            Some(issuer) => {
                let request = Request { subject: DEVELOPER, scopes: &SCOPES, ttl: TOKEN_TTL };
                let token = issuer.token(request, now)?;
                text.push_str(&format!(
                    "  dev key   {} (whoever reads it can act as any user here)\n  token     {token}\n            \
                     (valid for 24 hours; others: {program}{flag} token --help)\n\n\
                     To try it, in another terminal:\n\n  \
                     {program}{flag} run {image} -- echo hello\n  \
                     curl -H \"Authorization: Bearer $({program}{flag} token)\" {api}/executions\n",
                    folder.key_path().display(),
                    image = self.try_image,
                ));
            }
            None => text.push_str(&format!(
                "\nTokens are verified with DEPLOYER_JWT_KEY. To try it with one of its issuer, in another terminal:\n\n  \
                 RENGA_DEPLOYER_TOKEN=... {program}{flag} run {image} -- echo hello\n",
                image = self.try_image,
            )),
        }
        text.push_str("\nCtrl-C stops it; containers go on and are found again at the next start.");
        Ok(text)
    }
}

/// The program as it was called, so that a command as printed works from the same folder.
fn program(called: Option<&OsStr>) -> String {
    match called {
        Some(called) if !called.is_empty() => quoted(Path::new(called)),
        _ => "renga-deployer".to_owned(),
    }
}

/// A path as one word of a shell's.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:~".contains(c);
    if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::Issuer;
    use crate::state::{IssuerFacts, StateFolder};

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

    fn development(folder: &Path, with_issuer: bool) -> Development {
        let folder = StateFolder::choose(Some(folder), &|_| None).unwrap();
        let facts = IssuerFacts { issuer: "i".into(), scope_claim: "scope".into() };
        let issuer = with_issuer.then(|| Issuer::open(&folder, facts).unwrap());
        Development { folder, issuer }
    }

    fn text(dev: Option<&Development>) -> String {
        let database = DatabaseUri::Postgres("postgresql://ada:hunter2@db/deployer".into());
        let url = "http://localhost:5000".to_owned();
        Welcome { url, base_path: None, database: &database, dev, try_image: "alpine" }.text(&|_| None, NOW).unwrap()
    }

    #[test]
    fn a_development_service_tells_all_that_is_needed_to_use_it() {
        let temp = tempfile::tempdir().unwrap();
        let dev = development(temp.path(), true);
        let text = text(Some(&dev));
        let state = format!("--state-dir {}", temp.path().display());
        assert!(text.contains("address   http://localhost:5000/v1\n"), "{text}");
        assert!(text.contains("dev-key.pem") && text.contains("  token     eyJ"), "{text}");
        assert!(text.contains(&format!("{state} run alpine -- echo hello\n")), "{text}");
        assert!(!text.contains("hunter2") && !text.contains("PRIVATE"), "{text}");
        assert_eq!(dev.folder.client().unwrap().unwrap().url, "http://localhost:5000/v1");
    }

    #[test]
    fn without_the_development_issuer_no_token_is_shown() {
        let temp = tempfile::tempdir().unwrap();
        assert!(!text(Some(&development(temp.path(), false))).contains("eyJ"));
        assert!(!text(None).contains("eyJ"));
    }

    #[test]
    fn paths_are_single_words() {
        assert_eq!(quoted(Path::new("target/debug/renga-deployer")), "target/debug/renga-deployer");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
