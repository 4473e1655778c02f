//! Tokens with a valid signature and invalid claims.

use anyhow::{Context as _, Result, ensure};
use jwt_simple::prelude::Duration;
use renga_tests::deployment::Deployment;
use renga_tests::issuer::Issuer;
use reqwest::Method;
use serde_json::{Value, json};

use crate::forge::{FAR, Forge, HEADER, good_claims};
use crate::{CONTEXTS, Table, is_refused};

const ISSUER: &str = "the token is not from the expected issuer";
const NO_EXPIRY: &str = "the token does not say when it expires";
const EXPIRED: &str = "the token has expired";
const NOT_YET: &str = "the token is not valid yet";
const SUBJECT: &str = "the token has no subject";
const MALFORMED: &str = "the token is malformed";

/// Starts a deployment that trusts the key of the returned forge.
async fn deployment() -> Result<(Deployment, Forge)> {
    let forge = Forge::trusted();
    let deployment = Deployment::without_reconciler(&[("DEPLOYER_JWT_KEY", &forge.public_key_pem())]).await?;
    Ok((deployment, forge))
}

/// Returns good claims in which the claim `name` has another value, or is absent.
fn with(name: &str, value: impl Into<Option<Value>>) -> String {
    let mut claims = good_claims();
    match value.into() {
        Some(value) => claims[name] = value,
        None => {
            claims = claims
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(other, _)| *other != name)
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        }
    }
    claims.to_string()
}

/// Returns good claims in which the claim `name` has this raw JSON value.
fn written(name: &str, value: &str) -> String {
    with(name, json!("here")).replace("\"here\"", value)
}

#[tokio::test]
async fn invalid_claims_are_rejected() -> Result<()> {
    let (deployment, forge) = deployment().await?;
    let name = Issuer::NAME;
    let long = "s".repeat(256);
    let mut cases = vec![
        (with("exp", json!(FAR)), None),
        (with("exp", None), Some(NO_EXPIRY)),
        (with("exp", json!(1_500_000_000)), Some(EXPIRED)),
        (with("exp", json!(0)), Some(EXPIRED)),
        (with("nbf", json!(FAR)), Some(NOT_YET)),
        (with("nbf", json!(0)), None),
        (with("iat", json!(FAR)), None),
    ];
    // Values that are not valid times.
    for value in [
        "-1",
        "-9223372036854775808",
        "18446744073709551615",
        "99999999999999999999",
        "4294967296",
        "1e400",
        "4e9",
        "4000000000.5",
        "4000000000.0",
        "-0.0",
        "\"4000000000\"",
        "\"never\"",
        "null",
        "true",
        "[4000000000]",
        "{}",
    ] {
        let reason = |usual| if value == "1e400" { MALFORMED } else { usual };
        cases.push((written("exp", value), Some(reason(NO_EXPIRY))));
        cases.push((written("nbf", value), Some(reason(NOT_YET))));
        cases.push((written("iat", value), Some(MALFORMED)));
    }
    for issuer in [
        json!(format!("{name}/")),
        json!(name.trim_end_matches('a')),
        json!(name.to_uppercase()),
        json!(name.to_lowercase()),
        json!(format!(" {name}")),
        json!(format!("{name}\u{0}")),
        json!(format!("{name}\n")),
        json!(name.replace("http:", "https:")),
        json!(name.replace("issuer.test", "issuer.test.")),
        json!(""),
        json!(null),
        json!([name]),
        json!({ name: name }),
        json!(1),
    ] {
        cases.push((with("iss", issuer), Some(ISSUER)));
    }
    cases.push((with("iss", None), Some(ISSUER)));
    for subject in [
        json!(""),
        json!(null),
        json!(1),
        json!(true),
        json!(["alice"]),
        json!({"sub": "alice"}),
        json!(long),
        json!("s".repeat(10_000)),
        json!("alice\u{0}"),
        json!("\u{0}"),
    ] {
        cases.push((with("sub", subject), Some(SUBJECT)));
    }
    cases.push((with("sub", None), Some(SUBJECT)));
    for subject in ["s".repeat(255), "älice".into(), "' OR owner <> '".into(), "a%".into(), "\u{1f433}".into()] {
        cases.push((with("sub", json!(subject)), None));
    }
    for purpose in ["ID", "Refresh", "Offline"] {
        cases.push((with("typ", json!(purpose)), Some("the token is not an access token")));
    }
    let mut table = Table::default();
    for (claims, refused) in cases {
        table.case(&claims, check(&deployment, &forge.sign(HEADER, &claims), refused).await);
    }
    deployment.leave().await?;
    table.end()
}

async fn check(deployment: &Deployment, token: &str, refused: Option<&str>) -> Result<()> {
    let answer = deployment.client.with_token(token).ask(Method::GET, CONTEXTS).await?;
    match refused {
        None => {
            let listed = answer.json(200)?;
            ensure!(listed == json!({"contexts": []}), "sees what is not its own: {listed}");
            Ok(())
        }
        Some(reason) => is_refused(&answer, reason, token.as_bytes()),
    }
}

#[tokio::test]
async fn malformed_headers_and_claims_are_rejected() -> Result<()> {
    let (deployment, forge) = deployment().await?;
    let good = good_claims().to_string();
    let inside = good.trim_start_matches('{').trim_end_matches('}');
    let mut table = Table::default();
    for (name, header, claims) in [
        ("sub twice", HEADER.as_bytes(), format!(r#"{{{inside},"sub":"bob"}}"#).into_bytes()),
        ("sub twice, once in disguise", HEADER.as_bytes(), format!(r#"{{{inside},"\u0073ub":"bob"}}"#).into_bytes()),
        ("exp twice, both alike", HEADER.as_bytes(), format!(r#"{{{inside},"exp":{FAR}}}"#).into_bytes()),
        ("alg twice", br#"{"alg":"none","alg":"EdDSA"}"#, good.clone().into_bytes()),
        ("a mark of byte order", HEADER.as_bytes(), format!("\u{feff}{good}").into_bytes()),
        ("more after the end", HEADER.as_bytes(), format!("{good}{good}").into_bytes()),
        ("a NUL after the end", HEADER.as_bytes(), format!("{good}\0").into_bytes()),
        (
            "bytes that are no text",
            HEADER.as_bytes(),
            good.replace("alice", "\u{7f}").bytes().map(|byte| if byte == 0x7f { 0xff } else { byte }).collect(),
        ),
        ("half of a pair", HEADER.as_bytes(), good.replace("alice", "\\ud800").into_bytes()),
        ("a list", HEADER.as_bytes(), format!("[{good}]").into_bytes()),
        ("a text", HEADER.as_bytes(), b"\"alice\"".to_vec()),
        ("null", HEADER.as_bytes(), b"null".to_vec()),
        ("nothing", HEADER.as_bytes(), Vec::new()),
        ("no header", b"", good.clone().into_bytes()),
        ("a list as header", br#"["EdDSA"]"#, good.clone().into_bytes()),
        ("lists in lists", HEADER.as_bytes(), "[".repeat(10_000).into_bytes()),
        (
            "objects in objects",
            HEADER.as_bytes(),
            format!(r#"{{{inside},"a":{}"#, r#"{"a":"#.repeat(2_000)).into_bytes(),
        ),
    ] {
        let token = forge.sign(header, claims);
        table.case(name, check(&deployment, &token, Some(MALFORMED)).await);
    }
    let token = forge.sign(HEADER, &good);
    check(&deployment, &token, None).await?;
    deployment.leave().await?;
    table.end()
}

#[tokio::test]
async fn scopes_are_granted_by_their_exact_names() -> Result<()> {
    const READ: &str = "deployer:contexts_read";
    let (deployment, forge) = deployment().await?;
    let many: Vec<String> = (0..500).map(|number| format!("s:{number}")).chain([READ.to_owned()]).collect();
    let mut table = Table::default();
    for (granted, scope) in [
        (true, json!(READ)),
        (true, json!([READ])),
        (true, json!(format!("  openid   {READ} "))),
        (true, json!([null, 1, ["x"], {"a": 1}, READ, READ])),
        (true, json!(many)),
        (true, json!(many.join(" "))),
        (false, json!("")),
        (false, json!([])),
        (false, json!(null)),
        (false, json!(1)),
        (false, json!(true)),
        (false, json!({})),
        (false, json!({ READ: true })),
        (false, json!({"scope": [READ]})),
        (false, json!([[READ]])),
        (false, json!([{"name": READ}])),
        (false, json!([format!("{READ} x")])),
        (false, json!(READ.to_uppercase())),
        (false, json!(format!("{READ}\u{0}"))),
        (false, json!(format!("{READ},openid"))),
        (false, json!(format!("{READ}\topenid"))),
        (false, json!(format!("{READ}\u{a0}openid"))),
        (false, json!("deployer:*")),
        (false, json!("*")),
        (false, json!("deployer:contexts_")),
        (false, json!("deployer:contexts_write")),
    ] {
        let token = forge.sign(HEADER, with("scope", scope.clone()));
        let answer = deployment.client.with_token(&token).ask(Method::GET, CONTEXTS).await?;
        let result = if granted {
            answer.json(200).map(drop)
        } else {
            let expected = format!("Bearer error=\"insufficient_scope\", scope=\"{READ}\"");
            answer.problem(403).and_then(|_| {
                ensure!(answer.header("www-authenticate") == expected, "{answer:?}");
                Ok(())
            })
        };
        table.case(scope.to_string(), result);
    }
    let absent = forge.sign(HEADER, with("scope", None));
    let answer = deployment.client.with_token(&absent).ask(Method::GET, CONTEXTS).await?;
    table.case("absent", answer.problem(403).map(drop));
    deployment.leave().await?;
    table.end()
}

#[tokio::test]
async fn clocks_may_be_half_a_minute_apart() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let claims = || Issuer::claims("alice", json!({"scope": "deployer:contexts_read"}), 3600);
    let now = claims().issued_at.context("a token says when it was made")?;
    let mut table = Table::default();
    for (name, expires, begins, refused) in [
        ("expired 10 s ago", now - Duration::from_secs(10), now, None),
        ("expired 60 s ago", now - Duration::from_secs(60), now, Some(EXPIRED)),
        ("begins in 20 s", now + Duration::from_secs(100), now + Duration::from_secs(20), None),
        ("begins in 90 s", now + Duration::from_secs(100), now + Duration::from_secs(90), Some(NOT_YET)),
    ] {
        let mut claims = claims();
        (claims.expires_at, claims.invalid_before) = (Some(expires), Some(begins));
        table.case(name, check(&deployment, &deployment.issuer.sign(claims), refused).await);
    }
    deployment.leave().await?;
    table.end()
}
