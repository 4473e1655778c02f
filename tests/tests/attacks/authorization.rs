//! The `Authorization` header: its valid and invalid forms, and other places for a token.

use anyhow::{Context as _, Result, ensure};
use renga_tests::deployment::Deployment;
use renga_tests::issuer::Issuer;
use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::json;

use crate::wire::Wire;
use crate::{CONTEXTS, Table, is_refused, is_well};

const MISSING: &str = "a bearer token is required";
const MALFORMED: &str = "the token is malformed";
const TOO_LONG: &str = "the token is too long";

#[tokio::test]
async fn a_bearer_token_has_one_form() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let token = deployment.issuer.sign(Issuer::claims("alice", json!({"scope": "deployer:contexts_read"}), 3600));
    let base = deployment.client.base();
    let http = reqwest::Client::new();
    let mut table = Table::default();
    for (header, refused) in [
        (format!("Bearer {token}"), None),
        (format!("bearer {token}"), None),
        (format!("BEARER {token}"), None),
        (format!("bEaReR {token}"), None),
        (format!("Bearer  {token}"), None),
        (format!("  Bearer {token}  "), None),
        (String::new(), Some(MALFORMED)),
        ("Bearer".into(), Some(MALFORMED)),
        ("Bearer ".into(), Some(MALFORMED)),
        ("Bearer a".into(), Some(MALFORMED)),
        (token.clone(), Some(MALFORMED)),
        (format!("Bearer\t{token}"), Some(MALFORMED)),
        (format!("Bearer \t{token}"), Some(MALFORMED)),
        (format!("Bearer:{token}"), Some(MALFORMED)),
        (format!("Bearer={token}"), Some(MALFORMED)),
        (format!("Bearer \"{token}\""), Some(MALFORMED)),
        (format!("Bearer {token},"), Some(MALFORMED)),
        (format!("Bearer {token}, Bearer {token}"), Some(MALFORMED)),
        (format!("Bearer {token} {token}"), Some(MALFORMED)),
        (format!("Bearer {token}%20"), Some(MALFORMED)),
        (format!("Bearer ä{token}"), Some(MALFORMED)),
        (format!("Bearerr {token}"), Some(MALFORMED)),
        (format!("Basic {token}"), Some(MALFORMED)),
        (format!("Token {token}"), Some(MALFORMED)),
        (format!("DPoP {token}"), Some(MALFORMED)),
        (format!("Bearer {}", "a".repeat(16 * 1024 + 1)), Some(TOO_LONG)),
        (format!("Bearer {token}.{}", "a".repeat(50_000)), Some(TOO_LONG)),
    ] {
        let value = HeaderValue::from_bytes(header.as_bytes())?;
        let request = http.get(format!("{base}{CONTEXTS}")).header("authorization", value);
        let answer = deployment.client.send(request).await?;
        let result = match refused {
            None => answer.json(200).map(drop),
            Some(reason) => is_refused(&answer, reason, header.as_bytes()),
        };
        table.case(&header, result);
    }
    // Other headers do not count as an Authorization header.
    for (name, value) in [
        ("proxy-authorization", format!("Bearer {token}")),
        ("x-authorization", format!("Bearer {token}")),
        ("x-forwarded-user", "alice".into()),
        ("cookie", format!("Authorization=Bearer {token}; access_token={token}")),
        ("spin-authorization", format!("Bearer {token}")),
    ] {
        let answer = deployment.client.send(http.get(format!("{base}{CONTEXTS}")).header(name, &value)).await?;
        table.case(name, is_refused(&answer, MISSING, value.as_bytes()));
    }
    let query = format!("{base}{CONTEXTS}?access_token={token}");
    let answer = deployment.client.send(http.get(query)).await?;
    table.case("a token in the query", is_refused(&answer, MISSING, token.as_bytes()));
    let form = http.post(format!("{base}{CONTEXTS}")).body(format!("access_token={token}"));
    let answer = deployment.client.send(form.header("content-type", "application/x-www-form-urlencoded")).await?;
    table.case("a token in a form", is_refused(&answer, MISSING, token.as_bytes()));
    is_well(&deployment).await?;
    deployment.leave().await?;
    table.end()
}

#[tokio::test]
async fn an_authorization_header_that_violates_http_ends_the_connection() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let token = deployment.issuer.token("alice");
    let (first, rest) = token.split_at(20);
    let mut table = Table::default();
    for (name, header, status) in [
        ("a line break", format!("Authorization: Bearer {first}\r\n{rest}"), 400),
        ("a folded line", format!("Authorization: Bearer {first}\r\n {rest}"), 400),
        ("a NUL", format!("Authorization: Bearer {first}\0{rest}"), 400),
        ("a carriage return", format!("Authorization: Bearer {first}\r{rest}"), 400),
        ("a space before the colon", format!("Authorization : Bearer {token}"), 400),
        ("200,000 bytes", format!("Authorization: Bearer {}", "a".repeat(200_000)), 431),
    ] {
        let request = format!("GET {CONTEXTS} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n");
        let result = async {
            let (replies, closed) = Wire::connect(&deployment).await?.exchange(request.as_bytes()).await?;
            let reply = replies.first().context("no answer")?;
            ensure!(reply.status == status && replies.len() == 1 && closed, "{replies:?}, closed: {closed}");
            ensure!(!String::from_utf8_lossy(&reply.body).contains(first), "{reply:?}");
            Ok(())
        };
        table.case(name, result.await);
    }
    let answer = deployment.client.with_token(&token).ask(Method::GET, CONTEXTS).await?;
    answer.json(200)?;
    is_well(&deployment).await?;
    deployment.leave().await?;
    table.end()
}
