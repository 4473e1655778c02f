//! Attacks on the running system over HTTP: forged tokens, access to another user's data, and requests that violate
//! HTTP or JSON.
//!
//! Obligations of the attacked system: each attack gets the response that its request deserves, never a 500; the
//! response repeats nothing that was sent; the next good request succeeds as if nothing had happened.

mod algorithms;
mod authorization;
mod bodies;
mod claims;
mod floods;
mod forge;
mod framing;
mod heads;
mod paths;
mod tenancy;
mod wire;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use renga_tests::client::Answer;
use renga_tests::deployment::Deployment;
use reqwest::Method;
use tokio::time::timeout;

const CONTEXTS: &str = "/v1/contexts";
/// An id that no context and no execution has.
const NOWHERE: &str = "0190a0b0-c0d0-7000-8000-00000000000a";
/// Maximum response time of a good request, on a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// Test cases. All of them run before a failed one ends the test.
#[derive(Default)]
struct Table {
    seen: usize,
    failed: Vec<String>,
}

impl Table {
    /// Records the result of a case under its name.
    fn case(&mut self, name: impl AsRef<str>, result: Result<()>) {
        self.seen += 1;
        if let Err(error) = result {
            let name: String = name.as_ref().chars().take(160).collect();
            self.failed.push(format!("{name}: {error:#}"));
        }
    }

    /// Fails with the list of all failed cases, or if there was no case.
    fn end(self) -> Result<()> {
        ensure!(self.seen > 0, "there is no case");
        let (failed, seen) = (self.failed.len(), self.seen);
        ensure!(self.failed.is_empty(), "{failed} of {seen} cases failed:\n{}", self.failed.join("\n"));
        Ok(())
    }
}

/// Fails unless a good request succeeds within `SOON`.
async fn is_well(deployment: &Deployment) -> Result<()> {
    let asked = deployment.client.ask(Method::GET, "/v1/contexts?limit=1");
    let answer = timeout(SOON, asked).await.context("a good request is not answered any more")??;
    answer.json(200).map(drop)
}

/// Fails unless the response is a 401 with `reason` in its challenge (RFC 6750, section 3) and without parts of `sent`.
fn is_refused(answer: &Answer, reason: &str, sent: &[u8]) -> Result<()> {
    let problem = answer.problem(401)?;
    ensure!(problem["detail"] == reason, "refused because {:?}, not because {reason:?}", problem["detail"]);
    let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{reason}\"");
    ensure!(answer.header("www-authenticate") == challenge, "{:?}", answer.header("www-authenticate"));
    ensure!(answer.headers.get_all("www-authenticate").iter().count() == 1, "{answer:?}");
    let shown = format!("{answer:?}");
    for part in String::from_utf8_lossy(sent).split(['.', ' ', '\t', '=']).filter(|part| part.len() > 8) {
        ensure!(!shown.contains(part), "the answer repeats what was sent: {shown}");
    }
    Ok(())
}
