//! `token check`: explains whether a service with this configuration would accept a token.
//!
//! Obligation: neither the token nor its signature is printed.

use std::io::{IsTerminal as _, Read as _};
use std::time::Duration;

use anstyle::AnsiColor;
use anyhow::{Context as _, Result, bail};
use renga_shared::auth::discovery::{LONGEST_KEYS, keys_url};
use renga_shared::auth::{Finding, KeySet, Verifier, explain};
use renga_shared::config::ApiConfig;
use renga_shared::domain::Timestamp;

use crate::discovery;
use crate::output::{self, Cell};

/// The timeout of a request to the issuer.
const ANSWER: Duration = Duration::from_secs(10);

/// Prints an explanation of `token`. Returns whether the token would be accepted.
pub(crate) async fn check(token: &str, config: ApiConfig, now: Timestamp) -> Result<bool> {
    if config.resource_manager.is_some() {
        bail!(
            "RESOURCE_MANAGER_URL is set: the service has each token exchanged there, and does not look at it itself; \
             ask the resource manager"
        );
    }
    let keys = match config.key {
        Some(key) => KeySet::from(key),
        None => published(&config.expected.issuer).await?,
    };
    let findings = explain(&Verifier::new(keys, config.expected), token, now);
    let accepted = findings.iter().all(|finding| finding.found.is_ok());
    output::table(["PART", "", "FOUND"], findings.iter().map(row).collect())?;
    output::line(if accepted { "the token is accepted" } else { "the token is not accepted" })?;
    Ok(accepted)
}

fn row(finding: &Finding) -> [Cell; 3] {
    match &finding.found {
        Ok(found) => [finding.part.into(), Cell::new("ok").coloured(AnsiColor::Green), found.into()],
        Err(wrong) => [finding.part.into(), Cell::new("wrong").coloured(AnsiColor::Red), wrong.into()],
    }
}

/// Returns the token from standard input, unless that is a terminal or empty.
pub(crate) fn from_input() -> Result<Option<String>> {
    let input = std::io::stdin();
    if input.is_terminal() {
        return Ok(None);
    }
    let mut text = String::new();
    input.lock().take(1 << 20).read_to_string(&mut text).context("cannot read a token from standard input")?;
    Ok(Some(text.trim().to_owned()).filter(|token| !token.is_empty()))
}

/// Fetches the keys that an issuer publishes, as the service does.
async fn published(issuer: &str) -> Result<KeySet> {
    let http = discovery::client(ANSWER)?;
    let (document, url) = discovery::document(&http, issuer)
        .await
        .context("DEPLOYER_JWT_ISSUER says which issuer, and DEPLOYER_JWT_KEY spares the question")?;
    let url = keys_url(&document, issuer).with_context(|| format!("cannot use {url}"))?;
    let keys = discovery::get(&http, &url, LONGEST_KEYS).await?;
    KeySet::parse(&String::from_utf8_lossy(&keys)).with_context(|| format!("cannot use {url}"))
}
