//! Authorization decisions of the resource manager.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use renga_tests::client::{Answer, Client};
use renga_tests::deployment::Deployment;
use renga_tests::resource_manager_double::{Fault, ResourceManager};
use reqwest::Method;
use serde_json::{Value, json};

const READ_CONTEXTS: &str = "deployer:contexts_read";
const WRITE_CONTEXTS: &str = "deployer:contexts_write";
const READ_EXECUTIONS: &str = "deployer:executions_read";
const WRITE_EXECUTIONS: &str = "deployer:executions_write";
/// Maximum time until a client is answered, whatever the manager does. It includes an allowance for a busy machine.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

struct Setting {
    manager: ResourceManager,
    deployment: Deployment,
}

impl Setting {
    async fn new() -> Result<Self> {
        let manager = ResourceManager::start().await?;
        let deployment = Deployment::without_reconciler(&[
            ("RESOURCE_MANAGER_URL", &manager.url()),
            ("DEPLOYER_JWT_KEY", &manager.public_key()),
            ("DEPLOYER_JWT_ISSUER", ResourceManager::NAME),
            // Empty for the default: the claim that contains the manager's scopes.
            ("DEPLOYER_TOKEN_SCOPE_KEY", ""),
        ])
        .await?;
        Ok(Self { manager, deployment })
    }

    fn client(&self, user: &str) -> Client {
        self.deployment.client.with_token(&ResourceManager::token(user))
    }
}

#[tokio::test]
async fn every_endpoint_requests_its_scopes_for_the_ids_in_its_path() -> Result<()> {
    let setting = Setting::new().await?;
    let alice = setting.client("alice");
    let context = alice.context(json!({ "image": "busybox" })).await?;
    let asked = setting.manager.asked();
    let expected = json!({ "scope": [READ_CONTEXTS, WRITE_CONTEXTS], "service_claims": { "claims": {} } });
    ensure!(asked == [expected], "{asked:?}");
    let execution = alice.execute(&context, json!({})).await?;
    let of_context = json!({ "context_id": context });
    let of_execution = json!({ "context_id": context, "execution_id": execution.id });
    let asked = setting.manager.asked();
    let expected = json!({ "scope": [READ_CONTEXTS, WRITE_EXECUTIONS], "service_claims": { "claims": of_context } });
    ensure!(asked == [expected], "{asked:?}");

    let (one, all) = (format!("/v1/contexts/{context}"), format!("/v1/contexts/{context}/executions"));
    for (method, path, scopes, claims) in [
        (Method::GET, "/v1/contexts", &[READ_CONTEXTS][..], json!({})),
        (Method::GET, "/v1/executions", &[READ_EXECUTIONS], json!({})),
        (Method::GET, &one, &[READ_CONTEXTS], of_context.clone()),
        (Method::GET, &all, &[READ_CONTEXTS, READ_EXECUTIONS], of_context),
        (Method::GET, &execution.path, &[READ_CONTEXTS, READ_EXECUTIONS], of_execution.clone()),
        (Method::GET, &format!("{}/logs", execution.path), &[READ_EXECUTIONS], of_execution.clone()),
        (Method::POST, &format!("{}/stop", execution.path), &[READ_EXECUTIONS, WRITE_EXECUTIONS], of_execution.clone()),
    ] {
        alice.ask(method.clone(), path).await?.status.is_success().then_some(()).context(path.to_owned())?;
        let asked = setting.manager.asked();
        let expected = json!({ "scope": scopes, "service_claims": { "claims": claims } });
        ensure!(asked == [expected.clone()], "{method} {path}: {asked:?} is not {expected}");
    }
    // A grant for a stop also covers a deletion, and a grant for the logs also covers the ports.
    alice.ask(Method::DELETE, &execution.path).await?.json(200)?;
    alice.ask(Method::GET, &format!("{}/ports", execution.path)).await?.json(200)?;
    ensure!(setting.manager.asked().is_empty(), "asked again for what was granted");
    for path in ["/healthz", "/version"] {
        alice.ask(Method::GET, path).await?.json(200)?;
    }
    ensure!(setting.manager.asked().is_empty(), "nobody needs to be granted what everybody may see");
    setting.deployment.leave().await
}

#[tokio::test]
async fn grants_decide_in_place_of_ownership() -> Result<()> {
    let setting = Setting::new().await?;
    let context = setting.client("alice").context(json!({ "image": "busybox" })).await?;
    let path = format!("/v1/contexts/{context}");
    setting.client("bob").ask(Method::GET, &path).await?.json(200)?;
    setting.manager.let_hold("carol", &[READ_EXECUTIONS]);
    let refused = setting.client("carol").ask(Method::GET, &path).await?;
    refused.problem(403)?;
    ensure!(refused.header("www-authenticate").contains(READ_CONTEXTS), "{refused:?}");
    // A refusal is not cached, because the user may get the missing scope at any time.
    setting.manager.let_hold("carol", &[READ_CONTEXTS]);
    setting.client("carol").ask(Method::GET, &path).await?.json(200)?;
    let post = setting.client("carol").post("/v1/contexts", &json!({ "image": "busybox" })).await?;
    post.problem(403)?;
    for token in ["", "not-hers", "token-of-alice extra"] {
        setting.deployment.client.with_token(token).ask(Method::GET, &path).await?.problem(401)?;
    }
    setting.deployment.leave().await
}

#[tokio::test]
async fn a_grant_covers_only_its_user_resource_and_scope() -> Result<()> {
    let setting = Setting::new().await?;
    let alice = setting.client("alice");
    let mut paths = Vec::new();
    for _ in 0..2 {
        paths.push(format!("/v1/contexts/{}", alice.context(json!({ "image": "busybox" })).await?));
    }
    setting.manager.asked();
    for _ in 0..3 {
        alice.ask(Method::GET, &paths[0]).await?.json(200)?;
    }
    // Each instance of the API has its own cache. The same instance answers requests that follow each other.
    ensure!(setting.manager.asked().len() == 1, "a grant is not remembered");
    alice.ask(Method::GET, &paths[1]).await?.json(200)?;
    ensure!(setting.manager.asked().len() == 1, "what was granted on one thing served another");
    alice.ask(Method::GET, &format!("{}/executions", paths[0])).await?.json(200)?;
    ensure!(setting.manager.asked().len() == 1, "what was granted for one scope served another");
    setting.manager.let_hold("bob", &[]);
    setting.client("bob").ask(Method::GET, &paths[0]).await?.problem(403)?;
    ensure!(setting.manager.asked().len() == 1, "what was granted to one user served another");
    setting.deployment.leave().await
}

#[tokio::test]
async fn an_expired_grant_is_not_accepted() -> Result<()> {
    let setting = Setting::new().await?;
    let alice = setting.client("alice");
    setting.manager.set_lifetime(2);
    let begin = Instant::now();
    alice.ask(Method::GET, "/v1/contexts").await?.json(200)?;
    setting.manager.set_fault(Some(Fault::Refusing));
    let mut served = Vec::new();
    loop {
        let answer = alice.ask(Method::GET, "/v1/contexts").await?;
        if answer.status == 403 {
            break;
        }
        answer.json(200)?;
        served.push(begin.elapsed());
        ensure!(begin.elapsed() < Duration::from_secs(10), "it is believed for ever");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(served.iter().all(|at| *at < Duration::from_secs(3)), "{served:?}");
    setting.deployment.leave().await
}

#[tokio::test]
async fn resources_are_named_by_their_vertices() -> Result<()> {
    let setting = Setting::new().await?;
    let alice = setting.client("alice");
    let spec = json!({ "image": "busybox", "labels": ["renga.execution_context.vertex_id=1234"] });
    let post = alice.request(Method::POST, "/v1/contexts").header("Renga-Projects-Project", "77").json(&spec);
    let created = alice.send(post).await?.json(201)?;
    let ids = |asked: Vec<Value>| asked.iter().map(|asked| asked["resource_id"].clone()).collect::<Vec<_>>();
    ensure!(ids(setting.manager.asked()) == [json!(77)], "what is made in a project is the project's to allow");
    let path = format!("/v1/contexts/{}", created["identifier"].as_str().unwrap_or_default());
    for path in [path.clone(), format!("{path}/executions")] {
        alice.ask(Method::GET, &path).await?.json(200)?;
        ensure!(ids(setting.manager.asked()) == [json!(1234)], "{path}");
    }
    setting.manager.set_fault(Some(Fault::OtherResource));
    alice.post(&format!("{path}/executions"), &json!({})).await?.problem(503)?;
    setting.deployment.leave().await
}

#[tokio::test]
async fn without_a_valid_decision_access_is_refused() -> Result<()> {
    let setting = Setting::new().await?;
    let context = setting.client("alice").context(json!({ "image": "busybox" })).await?;
    let path = format!("/v1/contexts/{context}");
    for (number, (fault, status)) in [
        (Fault::Slow, 503),
        (Fault::Trickling, 503),
        (Fault::WrongSignature, 503),
        (Fault::OtherClaims, 503),
        (Fault::OtherResource, 503),
        (Fault::Expired, 503),
        (Fault::OtherIssuer, 503),
        (Fault::Broken, 503),
        (Fault::Huge, 503),
        (Fault::Redirecting, 503),
        (Fault::NotJson, 503),
        (Fault::NoToken, 503),
        (Fault::Refusing, 403),
        (Fault::Unauthenticated, 401),
    ]
    .into_iter()
    .enumerate()
    {
        setting.manager.set_fault(Some(fault));
        let begin = Instant::now();
        let answer = setting.client(&format!("user-{number}")).ask(Method::GET, &path).await?;
        ensure!(begin.elapsed() < ANSWERED_WITHIN, "{fault:?}: answered after {:?}", begin.elapsed());
        checked(&answer, status).with_context(|| format!("{fault:?}"))?;
    }
    setting.manager.set_fault(None);
    setting.client("alice").ask(Method::GET, &path).await?.json(200)?;
    setting.deployment.leave().await
}

#[tokio::test]
async fn an_unreachable_manager_is_answered_with_503() -> Result<()> {
    let Setting { manager, deployment } = Setting::new().await?;
    drop(manager);
    let begin = Instant::now();
    let answer =
        deployment.client.with_token(&ResourceManager::token("alice")).ask(Method::GET, "/v1/contexts").await?;
    ensure!(begin.elapsed() < ANSWERED_WITHIN, "answered after {:?}", begin.elapsed());
    checked(&answer, 503)?;
    deployment.leave().await
}

/// Fails unless the response is a problem without internal details, and says when to retry if it is a 503.
fn checked(answer: &Answer, status: u16) -> Result<()> {
    let problem = answer.problem(status)?.to_string();
    ensure!(!problem.contains("secret") && !problem.contains("127.0.0.1"), "{problem}");
    match status {
        503 => ensure!(answer.header("retry-after").parse::<u32>().is_ok(), "{answer:?}"),
        401 => ensure!(answer.header("www-authenticate").contains("invalid_token"), "{answer:?}"),
        _ => {}
    }
    Ok(())
}
