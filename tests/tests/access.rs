//! Access: tokens, scopes and owners. Attempts to get more access are in `attacks`.

use anyhow::Result;
use renga_tests::client::{Answer, Client};
use renga_tests::deployment::Deployment;
use renga_tests::issuer::Issuer;
use renga_tests::on_each_database;
use reqwest::Method;
use serde_json::{Value, json};

on_each_database! {
    scopes_decide_what_a_token_does,
}

const CONTEXTS: &str = "/v1/contexts";

/// Returns the reason in the challenge of a response. Fails unless the response is a 401 with such a challenge.
fn challenge(answer: &Answer) -> Result<String> {
    answer.problem(401)?;
    let header = answer.header("www-authenticate");
    let reason = header
        .strip_prefix("Bearer error=\"invalid_token\", error_description=\"")
        .and_then(|rest| rest.strip_suffix('"'));
    reason.map(str::to_owned).ok_or_else(|| anyhow::anyhow!("the challenge is {header:?}"))
}

async fn with_token(client: &Client, token: &str) -> Result<Answer> {
    client.with_token(token).ask(Method::GET, CONTEXTS).await
}

#[tokio::test]
async fn keys_of_every_kind_verify() -> Result<()> {
    for issuer in [Issuer::rsa(), Issuer::new(), Issuer::p384(), Issuer::ed25519()] {
        let wrapped = issuer.public_key_pem().replace('\n', "\\n");
        for key in [issuer.public_key_pem(), issuer.public_key_base64(), wrapped] {
            let deployment = Deployment::without_reconciler(&[("DEPLOYER_JWT_KEY", &key)]).await?;
            let token = issuer.token("alice");
            // The second request finds the token in the token cache.
            for _ in 0..2 {
                with_token(&deployment.client, &token).await?.json(200)?;
            }
            let forged = Issuer::new().token("alice");
            challenge(&with_token(&deployment.client, &forged).await?)?;
            let (rest, signature) = token.rsplit_once('.').unwrap_or_default();
            let other = if signature.starts_with('A') { "B" } else { "A" };
            let changed = format!("{rest}.{other}{}", &signature[1..]);
            assert_eq!(
                challenge(&with_token(&deployment.client, &changed).await?)?,
                "the token's signature is not valid"
            );
            deployment.leave().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_endpoint_requires_exactly_one_token() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let token = deployment.issuer.token("alice");
    let http = reqwest::Client::new();
    let client = &deployment.client;
    let id = "0190a0b0-c0d0-7000-8000-00000000000a";
    let execution = format!("{CONTEXTS}/{id}/executions/{id}");
    for (method, path) in [
        (Method::GET, CONTEXTS.to_owned()),
        (Method::POST, CONTEXTS.to_owned()),
        (Method::GET, format!("{CONTEXTS}/{id}")),
        (Method::GET, format!("{CONTEXTS}/{id}/executions")),
        (Method::POST, format!("{CONTEXTS}/{id}/executions")),
        (Method::GET, execution.clone()),
        (Method::DELETE, execution.clone()),
        (Method::POST, format!("{execution}/stop")),
        (Method::GET, format!("{execution}/logs")),
        (Method::GET, format!("{execution}/ports")),
        (Method::GET, "/v1/executions".to_owned()),
        (Method::GET, "/v1/engines".to_owned()),
    ] {
        for path in [path.clone(), path.replace("/v1/", "/api/deployer/")] {
            let request = || http.request(method.clone(), format!("{}{path}", client.base()));
            let none = client.send(request()).await?;
            assert_eq!(challenge(&none)?, "a bearer token is required", "{method} {path}");
            let two = request().header("authorization", format!("Bearer {token}"));
            let two = client.send(two.header("authorization", format!("Bearer {token}"))).await?;
            assert_eq!(challenge(&two)?, "there is more than one Authorization header", "{method} {path}");
            let basic = client.send(request().header("authorization", "Basic YTpi")).await?;
            assert_eq!(challenge(&basic)?, "the token is malformed", "{method} {path}");
        }
    }
    Ok(())
}

/// Sends every request for one execution and its context.
async fn ask_everything(client: &Client, context: &str, execution: &str) -> Result<Vec<(String, Answer)>> {
    let context = format!("{CONTEXTS}/{context}");
    let executions = format!("{context}/executions");
    let execution = format!("{executions}/{execution}");
    let mut answers = Vec::new();
    for (method, path) in [
        (Method::GET, context),
        (Method::GET, executions.clone()),
        (Method::POST, executions),
        (Method::GET, execution.clone()),
        (Method::GET, format!("{execution}/logs")),
        (Method::POST, format!("{execution}/stop")),
        (Method::DELETE, execution.clone()),
        (Method::GET, format!("{execution}/ports")),
    ] {
        answers.push((format!("{method} {path}"), client.ask(method, &path).await?));
    }
    Ok(answers)
}

#[tokio::test]
async fn shared_access_lets_every_user_access_everything() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[("DEPLOYER_ACCESS", "shared")]).await?;
    let (alice, bob) = (&deployment.client, deployment.client_of("bob"));
    let execution = alice.run(json!({"image": "busybox"})).await?;
    for (what, answer) in ask_everything(&bob, &execution.context, &execution.id).await? {
        assert!(answer.status.is_success(), "{what}: {answer:?}");
    }
    for path in [CONTEXTS, "/v1/executions"] {
        assert_eq!(bob.get(path).await?, alice.get(path).await?);
    }
    Ok(())
}

async fn scopes_decide_what_a_token_does(deployment: &Deployment) -> Result<()> {
    const READ: [&str; 2] = ["deployer:contexts_read", "deployer:executions_read"];
    const ALL: [&str; 4] =
        ["deployer:contexts_read", "deployer:contexts_write", "deployer:executions_read", "deployer:executions_write"];
    let execution = deployment.client.run(json!({"image": "busybox"})).await?;
    let context = format!("{CONTEXTS}/{}", execution.context);
    let needed: [(Method, String, &[&str]); 12] = [
        (Method::GET, CONTEXTS.to_owned(), &ALL[..1]),
        (Method::POST, CONTEXTS.to_owned(), &ALL[..2]),
        (Method::GET, context.clone(), &ALL[..1]),
        (Method::GET, format!("{context}/executions"), &READ),
        (Method::POST, format!("{context}/executions"), &["deployer:contexts_read", "deployer:executions_write"]),
        (Method::GET, execution.path.clone(), &READ),
        (Method::POST, format!("{}/stop", execution.path), &ALL[2..]),
        (Method::GET, format!("{}/logs", execution.path), &READ[1..]),
        (Method::DELETE, execution.path.clone(), &ALL[2..]),
        (Method::GET, format!("{}/ports", execution.path), &READ[1..]),
        (Method::GET, "/v1/executions".to_owned(), &READ[1..]),
        (Method::GET, "/v1/engines".to_owned(), &[]),
    ];
    let client = |scope: Value| {
        let claims = Issuer::claims("alice", json!({ "scope": scope }), 3600);
        deployment.client.with_token(&deployment.issuer.sign(claims))
    };
    for (method, path, needed) in needed {
        let ask = async |scope: Value| {
            let client = client(scope);
            let request = client.request(method.clone(), &path);
            let request = if method == Method::POST && path == CONTEXTS {
                request.json(&json!({"image": "busybox"}))
            } else {
                request
            };
            client.send(request).await
        };
        for enough in [json!(needed), json!(needed.join(" ")), json!(ALL), json!(format!("openid {}", ALL.join(" ")))] {
            let answer = ask(enough.clone()).await?;
            assert!(answer.status.is_success(), "{method} {path} with {enough}: {answer:?}");
        }
        for (index, missing) in needed.iter().enumerate() {
            let others: Vec<&str> = ALL.into_iter().filter(|scope| scope != missing).collect();
            for scope in [json!(others), json!(others.join(" "))] {
                let answer = ask(scope.clone()).await?;
                answer.problem(403)?;
                let expected = format!("Bearer error=\"insufficient_scope\", scope=\"{missing}\"");
                assert_eq!(answer.header("www-authenticate"), expected, "{method} {path} with {scope}");
            }
            if index == 0 {
                let answer = ask(json!(7)).await?;
                let expected = format!("Bearer error=\"insufficient_scope\", scope=\"{}\"", needed.join(" "));
                assert_eq!(answer.header("www-authenticate"), expected, "{method} {path} without any");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn without_a_scope_claim_scopes_are_not_checked() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[("DEPLOYER_TOKEN_SCOPE_KEY", "")]).await?;
    let token = deployment.issuer.token_with("alice", "", 3600);
    deployment.client.with_token(&token).run(json!({"image": "busybox"})).await?;
    Ok(())
}
