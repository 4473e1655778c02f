//! Attacks on the running system over HTTP: tokens that are forged, users who reach for what is somebody else's, requests
//! that are not as HTTP or JSON has them.
//!
//! Obligations of what is attacked: the answer is the one that the same request deserves, never a 500, nothing of what was
//! sent comes back in it, and the next good request is answered as if nothing had happened.

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
/// An id that nothing has.
const NOWHERE: &str = "0190a0b0-c0d0-7000-8000-00000000000a";
/// How soon a good request is answered, on a machine that does much else.
const SOON: Duration = Duration::from_secs(5);

/// Cases that are all looked at before one that failed ends the test.
#[derive(Default)]
struct Table {
    seen: usize,
    failed: Vec<String>,
}

impl Table {
    /// Notes how a case went, under its name.
    fn case(&mut self, name: impl AsRef<str>, result: Result<()>) {
        self.seen += 1;
        if let Err(error) = result {
            let name: String = name.as_ref().chars().take(160).collect();
            self.failed.push(format!("{name}: {error:#}"));
        }
    }

    /// Fails with every case that did.
    fn end(self) -> Result<()> {
        ensure!(self.seen > 0, "there is no case");
        let (failed, seen) = (self.failed.len(), self.seen);
        ensure!(self.failed.is_empty(), "{failed} of {seen} cases failed:\n{}", self.failed.join("\n"));
        Ok(())
    }
}

/// The system is as it should be: a good request is answered, and soon.
async fn is_well(deployment: &Deployment) -> Result<()> {
    let asked = deployment.client.ask(Method::GET, "/v1/contexts?limit=1");
    let answer = timeout(SOON, asked).await.context("a good request is not answered any more")??;
    answer.json(200).map(drop)
}

/// The answer is a 401 whose challenge (RFC 6750, section 3) gives `reason`, with nothing in it of what was sent.
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
