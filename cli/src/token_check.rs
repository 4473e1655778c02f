//! `token check`: explains whether the service that is configured here would accept a token.
//!
//! Obligation: neither the token nor its signature is shown.

use std::io::{IsTerminal as _, Read as _};
use std::time::Duration;

use anstyle::AnsiColor;
use anyhow::{Context as _, Result, bail};
use renga_shared::auth::discovery::{LONGEST_DOCUMENT, LONGEST_KEYS, document_url, keys_url};
use renga_shared::auth::{Finding, KeySet, Verifier, explain};
use renga_shared::config::ApiConfig;
use renga_shared::domain::Timestamp;
use renga_shared::environment::Environment;

use crate::output::{self, Cell};

/// How long an issuer may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Explains `token` to standard output. True: it would be accepted.
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

/// The token on standard input, if that is not a terminal and holds one.
pub(crate) fn from_input() -> Result<Option<String>> {
    let input = std::io::stdin();
    if input.is_terminal() {
        return Ok(None);
    }
    let mut text = String::new();
    input.lock().take(1 << 20).read_to_string(&mut text).context("cannot read a token from standard input")?;
    Ok(Some(text.trim().to_owned()).filter(|token| !token.is_empty()))
}

/// What the service expects, by the variables here; as the service itself reads them.
pub(crate) fn expected(environment: &Environment) -> Result<ApiConfig, String> {
    ApiConfig::read(environment).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(|problem| format!("\n  {problem}")).collect();
        format!("what the service expects cannot be told from the variables here:{}", lines.concat())
    })
}

/// The keys that an issuer publishes, as the service would fetch them.
async fn published(issuer: &str) -> Result<KeySet> {
    let builder = reqwest::Client::builder().timeout(ANSWER).redirect(reqwest::redirect::Policy::none());
    let http = builder.build().context("cannot set up HTTP")?;
    let get = async |url: &str, longest: usize| -> Result<Vec<u8>> {
        let answer = http.get(url).send().await.and_then(reqwest::Response::error_for_status);
        let whole = answer.map_err(reqwest::Error::without_url)?.bytes().await?;
        anyhow::ensure!(whole.len() <= longest, "its answer is longer than {longest} bytes");
        Ok(whole.to_vec())
    };
    let url = document_url(issuer);
    let document = get(&url, LONGEST_DOCUMENT).await.with_context(|| {
        format!("cannot read {url}; DEPLOYER_JWT_ISSUER says which issuer, and DEPLOYER_JWT_KEY spares the question")
    })?;
    let url = keys_url(&document, issuer).with_context(|| format!("cannot use {url}"))?;
    let keys = get(&url, LONGEST_KEYS).await.with_context(|| format!("cannot read {url}"))?;
    KeySet::parse(&String::from_utf8_lossy(&keys)).with_context(|| format!("cannot use {url}"))
}
