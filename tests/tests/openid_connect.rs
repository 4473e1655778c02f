//! Tokens of an OpenID Connect issuer whose keys are discovered: a real Keycloak signs, and a double misbehaves.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use renga_tests::client::Answer;
use renga_tests::deployment::{Deployment, PATIENCE, until};
use renga_tests::issuer_double::{Document, Fault, Fetches, IssuerDouble};
use renga_tests::require;
use renga_tests::servers::Realm;
use renga_tests::signing_key::{ALGORITHMS, SigningKey};
use reqwest::Method;
use serde_json::json;

const CONTEXTS: &str = "/v1/contexts";
const RESOURCE_MANAGER_SCOPE: &str = "https://rm.datascience.ch/scope";

/// Starts an API that has only the name of its issuer, and no key.
async fn discovering(issuer: &str, further: &[(&str, &str)]) -> Result<Deployment> {
    let variables = [&[("DEPLOYER_JWT_KEY", ""), ("DEPLOYER_JWT_ISSUER", issuer)], further].concat();
    Deployment::without_reconciler(&variables).await
}

async fn ask(deployment: &Deployment, token: &str) -> Result<Answer> {
    deployment.client.with_token(token).ask(Method::GET, CONTEXTS).await
}

/// Posts a context.
async fn post(deployment: &Deployment, token: &str) -> Result<Answer> {
    deployment.client.with_token(token).post(CONTEXTS, &json!({"image": "busybox"})).await
}

fn refused(answer: &Answer) -> Result<()> {
    answer.problem(401)?;
    let challenge = answer.header("www-authenticate");
    ensure!(challenge.starts_with("Bearer error=\"invalid_token\""), "the challenge is {challenge:?}");
    Ok(())
}

fn told_to_come_back(answer: &Answer) -> Result<()> {
    answer.problem(503)?;
    let pause = answer.header("retry-after");
    ensure!(pause.parse::<u32>().is_ok_and(|seconds| seconds > 0), "Retry-After is {pause:?}");
    Ok(())
}

/// Sends the token until the response has `status`.
async fn until_answered(deployment: &Deployment, token: &str, status: u16) -> Result<()> {
    until(&format!("an answer with {status}"), async || {
        let answer = ask(deployment, token).await?;
        Ok(if answer.status == status { Ok(()) } else { Err(json!(format!("{answer:?}"))) })
    })
    .await
}

#[tokio::test]
async fn keycloaks_tokens_are_accepted_with_every_algorithm() -> Result<()> {
    let realm = require!(keycloak).realm();
    let deployment = discovering(&realm.issuer(), &[]).await?;
    for algorithm in ALGORITHMS {
        let client = format!("demo-client-{}", algorithm.to_lowercase());
        let tokens = realm.tokens(&client, "alice").await?;
        post(&deployment, &tokens.access).await?.json(201)?;
        for other in [tokens.id, tokens.refresh] {
            refused(&ask(&deployment, &other).await?)?;
        }
    }
    let listed = ask(&deployment, &realm.token("demo-client", "alice").await?).await?.json(200)?;
    assert_eq!(listed["contexts"].as_array().map(Vec::len), Some(ALGORITHMS.len()), "they are all alice's");
    let bobs = ask(&deployment, &realm.token("demo-client", "bob").await?).await?.json(200)?;
    assert_eq!(bobs, json!({"contexts": []}));
    deployment.leave().await
}

#[tokio::test]
async fn keycloaks_scopes_are_read_from_either_claim() -> Result<()> {
    let realm = require!(keycloak).realm();
    for claim in ["scope", RESOURCE_MANAGER_SCOPE] {
        let deployment = discovering(&realm.issuer(), &[("DEPLOYER_TOKEN_SCOPE_KEY", claim)]).await?;
        post(&deployment, &realm.token("demo-client", "alice").await?).await?.json(201)?;
        for reader in [realm.token("demo-client", "bob").await?, realm.service_token().await?] {
            ask(&deployment, &reader).await?.json(200)?;
            let answer = post(&deployment, &reader).await?;
            answer.problem(403)?;
            let expected = "Bearer error=\"insufficient_scope\", scope=\"deployer:contexts_write\"";
            assert_eq!(answer.header("www-authenticate"), expected, "{claim}");
        }
        deployment.leave().await?;
    }
    Ok(())
}

#[tokio::test]
async fn keycloaks_new_keys_are_found_without_a_restart() -> Result<()> {
    let realm = require!(keycloak).new_realm().await?;
    let deployment = discovering(&realm.issuer(), &[]).await?;
    ask(&deployment, &realm.token("demo-client", "alice").await?).await?.json(200)?;
    realm.add_key(200).await?;
    until_answered(&deployment, &realm.token("demo-client", "alice").await?, 200).await?;
    deployment.leave().await
}

#[tokio::test]
async fn a_token_must_be_for_the_audience_that_is_configured() -> Result<()> {
    let realm = require!(keycloak).realm();
    let issuer = IssuerDouble::start().await?;
    let key = issuer.add_key("ES256", "first")?;
    let token = realm.token("demo-client", "alice").await?;
    for (audience, fits) in [(Realm::AUDIENCE, true), ("https://other.test", false)] {
        let deployment = discovering(&realm.issuer(), &[("DEPLOYER_JWT_AUDIENCE", audience)]).await?;
        let answer = ask(&deployment, &token).await?;
        if fits {
            drop(answer.json(200)?)
        } else {
            refused(&answer)?
        }
        deployment.leave().await?;
    }
    let deployment = discovering(&issuer.issuer(), &[("DEPLOYER_JWT_AUDIENCE", Realm::AUDIENCE)]).await?;
    let claims = || issuer.claims("alice", json!({}));
    for claims in [
        claims().with_audience(Realm::AUDIENCE),
        claims().with_audiences([Realm::AUDIENCE, "https://other.test"].into()),
    ] {
        ask(&deployment, &key.sign(claims)?).await?.json(200)?;
    }
    let longer = format!("{}/", Realm::AUDIENCE);
    for claims in [claims(), claims().with_audience(&longer), claims().with_audiences(["https://other.test"].into())] {
        refused(&ask(&deployment, &key.sign(claims)?).await?)?;
    }
    deployment.leave().await
}

#[tokio::test]
async fn a_withdrawn_key_stops_working_when_the_known_keys_expire() -> Result<()> {
    let issuer = IssuerDouble::start().await?;
    issuer.set_cache_control(Some("public, max-age=1"));
    let first = issuer.add_key("ES256", "first")?;
    let deployment = discovering(&issuer.issuer(), &[]).await?;
    // The token is now in the token cache. It must not outlast its key there.
    let old = issuer.token(&first, "alice")?;
    ask(&deployment, &old).await?.json(200)?;

    let second = issuer.add_key("EdDSA", "second")?;
    let new = issuer.token(&second, "alice")?;
    until_answered(&deployment, &new, 200).await?;
    ask(&deployment, &old).await?.json(200)?;

    issuer.remove_key("first")?;
    until_answered(&deployment, &old, 401).await?;
    refused(&ask(&deployment, &issuer.token(&first, "bob")?).await?)?;
    ask(&deployment, &new).await?.json(200)?;
    deployment.leave().await
}

#[tokio::test]
async fn fresh_keys_are_not_fetched_again() -> Result<()> {
    let issuer = IssuerDouble::start().await?;
    issuer.set_cache_control(Some("max-age=300"));
    let key = issuer.add_key("ES256", "first")?;
    let deployment = discovering(&issuer.issuer(), &[]).await?;
    // Each subject has a different token, so each token is verified.
    for subject in 0..40 {
        ask(&deployment, &issuer.token(&key, &format!("user-{subject}"))?).await?.json(200)?;
    }
    assert_eq!(issuer.fetches(), Fetches { discovery: 1, keys: 1, other: 0 });
    deployment.leave().await
}

#[tokio::test]
async fn a_burst_of_first_requests_fetches_the_keys_once() -> Result<()> {
    let issuer = IssuerDouble::start().await?;
    let key = issuer.add_key("ES256", "first")?;
    // Long enough that all requests arrive before the keys do.
    issuer.set_fault(Document::Keys, Some(Fault::Slow(Duration::from_millis(500))));
    let deployment = discovering(&issuer.issuer(), &[]).await?;
    let tokens: Vec<String> =
        (0..100).map(|user| issuer.token(&key, &format!("user-{user}"))).collect::<Result<_>>()?;
    for answer in try_join_all(tokens.iter().map(|token| ask(&deployment, token))).await? {
        answer.json(200)?;
    }
    assert_eq!(issuer.fetches(), Fetches { discovery: 1, keys: 1, other: 0 });
    deployment.leave().await
}

#[tokio::test]
async fn unknown_keys_cost_the_issuer_one_request_a_minute() -> Result<()> {
    let issuer = IssuerDouble::start().await?;
    issuer.set_cache_control(Some("max-age=300"));
    let key = issuer.add_key("ES256", "first")?;
    let deployment = discovering(&issuer.issuer(), &[]).await?;
    ask(&deployment, &issuer.token(&key, "alice")?).await?.json(200)?;
    let before = issuer.fetches().keys;

    let start = std::time::Instant::now();
    let forged: Vec<String> = (0..200)
        .map(|number| {
            let key = SigningKey::new("ES256", Some(&format!("unknown-{number}")))?;
            issuer.token(&key, "alice")
        })
        .collect::<Result<_>>()?;
    for _ in 0..2 {
        for answer in try_join_all(forged.iter().map(|token| ask(&deployment, token))).await? {
            refused(&answer)?;
        }
    }
    let further = issuer.fetches().keys - before;
    let minutes = usize::try_from(start.elapsed().as_secs() / 60)?;
    assert!(further <= 1 + minutes, "{further} requests in {:?}", start.elapsed());
    ask(&deployment, &issuer.token(&key, "bob")?).await?.json(200)?;
    deployment.leave().await
}

#[tokio::test]
async fn a_known_key_verifies_only_its_own_signatures() -> Result<()> {
    let issuer = IssuerDouble::start().await?;
    for (algorithm, other) in [("ES256", "ES256"), ("EdDSA", "ES256"), ("RS256", "PS256")] {
        let key = issuer.add_key(algorithm, algorithm)?;
        let deployment = discovering(&issuer.issuer(), &[]).await?;
        let forged = SigningKey::new(other, Some(algorithm))?;
        refused(&ask(&deployment, &issuer.token(&forged, "alice")?).await?)?;
        ask(&deployment, &issuer.token(&key, "alice")?).await?.json(200)?;
        let foreign = issuer.claims("alice", json!({})).with_issuer(format!("{}/", issuer.issuer()));
        refused(&ask(&deployment, &key.sign(foreign)?).await?)?;
        deployment.leave().await?;
    }
    Ok(())
}

#[tokio::test]
async fn known_keys_still_verify_while_the_issuer_is_down() -> Result<()> {
    let mut issuer = IssuerDouble::start().await?;
    issuer.set_cache_control(Some("max-age=300"));
    let key = issuer.add_key("ES256", "first")?;
    let deployment = discovering(&issuer.issuer(), &[]).await?;
    ask(&deployment, &issuer.token(&key, "alice")?).await?.json(200)?;
    issuer.go_down().await?;
    for subject in 0..20 {
        ask(&deployment, &issuer.token(&key, &format!("user-{subject}"))?).await?.json(200)?;
    }
    deployment.leave().await
}

#[tokio::test]
async fn without_keys_an_unreachable_issuer_is_reported_and_asked_again() -> Result<()> {
    let mut issuer = IssuerDouble::start().await?;
    let key = issuer.add_key("ES256", "first")?;
    let deployment = discovering(&issuer.issuer(), &[]).await?;
    issuer.go_down().await?;
    let token = issuer.token(&key, "alice")?;
    let forged = issuer.token(&SigningKey::new("ES256", Some("first"))?, "alice")?;
    for token in [&token, &forged] {
        told_to_come_back(&ask(&deployment, token).await?)?;
    }
    issuer.come_up().await?;
    until_answered(&deployment, &token, 200).await?;
    refused(&ask(&deployment, &forged).await?)?;
    deployment.leave().await
}

#[tokio::test]
async fn invalid_responses_of_an_issuer_are_rejected() -> Result<()> {
    use Document::{Discovery, Keys};
    // The stranger has a key with the same id. Its tokens must not pass.
    let stranger = IssuerDouble::start().await?;
    let strange = stranger.add_key("ES256", "first")?;
    let elsewhere = |path: &str| Fault::Redirect(format!("{}{path}", stranger.issuer()));
    let name = |issuer: &IssuerDouble, more: &str| Fault::Issuer(format!("{}{more}", issuer.issuer()));
    for case in 0..10 {
        let issuer = IssuerDouble::start().await?;
        let key = issuer.add_key("ES256", "first")?;
        let (document, fault) = match case {
            0 => (Discovery, name(&stranger, "")),
            1 => (Discovery, name(&issuer, "/")),
            2 => (Discovery, Fault::Status(500)),
            3 => (Discovery, Fault::NotJson),
            4 => (Discovery, elsewhere("/.well-known/openid-configuration")),
            5 => (Keys, Fault::Status(500)),
            6 => (Keys, Fault::NotJson),
            7 => (Keys, elsewhere("/certs")),
            8 => (Keys, Fault::Huge(64 << 20)),
            _ => (Keys, Fault::Slow(2 * PATIENCE)),
        };
        let what = format!("{document:?}: {fault:?}");
        issuer.set_fault(document, Some(fault));
        let deployment = discovering(&issuer.issuer(), &[]).await?;
        for key in [&key, &strange] {
            let token = issuer.token(key, "alice")?;
            let answer = tokio::time::timeout(PATIENCE, ask(&deployment, &token)).await;
            let answer = answer.map_err(|_| anyhow::anyhow!("{what}: no answer within {PATIENCE:?}"))??;
            told_to_come_back(&answer).map_err(|error| error.context(what.clone()))?;
        }
        issuer.set_fault(document, None);
        until_answered(&deployment, &issuer.token(&key, "alice")?, 200).await.map_err(|error| error.context(what))?;
        deployment.leave().await?;
    }
    Ok(())
}

/// Fails unless a host finds the keys that another host has fetched in the database.
async fn hosts_share_keys(database: &str) -> Result<()> {
    let issuer = IssuerDouble::start().await?;
    issuer.set_cache_control(Some("max-age=300"));
    let key = issuer.add_key("ES256", "first")?;
    let database = [("SQLALCHEMY_DATABASE_URI", database)];
    let (first, second) =
        (discovering(&issuer.issuer(), &database).await?, discovering(&issuer.issuer(), &database).await?);
    for (deployment, subject) in [(&first, "alice"), (&second, "alice"), (&second, "bob")] {
        ask(deployment, &issuer.token(&key, subject)?).await?.json(200)?;
        assert_eq!(issuer.fetches(), Fetches { discovery: 1, keys: 1, other: 0 });
    }
    first.leave().await?;
    second.leave().await
}

#[tokio::test]
async fn hosts_share_keys_in_sqlite() -> Result<()> {
    let folder = tempfile::tempdir()?;
    hosts_share_keys(&format!("sqlite:///{}", folder.path().join("deployer.db").display())).await
}

#[tokio::test]
async fn hosts_share_keys_in_postgres() -> Result<()> {
    hosts_share_keys(&require!(postgres).create_database().await?).await
}
