//! Signatures with an algorithm that the key does not have, malformed signatures, and keys inside the token.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jwt_simple::prelude::{
    HS256Key, HS384Key, HS512Key, JWTClaims, MACLike as _, PS256KeyPair, PS384KeyPair, PS512KeyPair, RS256KeyPair,
    RS256PublicKey, RS384KeyPair, RS512KeyPair, RSAKeyPairLike as _, RSAPublicKeyComponents,
};
use renga_tests::deployment::Deployment;
use renga_tests::issuer::Issuer;
use reqwest::Method;
use serde_json::{Value, json};

use crate::forge::{Forge, good_claims, part};
use crate::{CONTEXTS, Table, is_refused, is_well};

const ALGORITHM: &str = "the token's algorithm is not accepted";
const MALFORMED: &str = "the token is malformed";
const SIGNATURE: &str = "the token's signature is not valid";

/// Fails unless the token is accepted, or rejected for the reason `refused`.
async fn check(deployment: &Deployment, token: &str, refused: Option<&str>) -> Result<()> {
    let answer = deployment.client.with_token(token).ask(Method::GET, CONTEXTS).await?;
    match refused {
        None => answer.json(200).map(drop),
        Some(reason) => is_refused(&answer, reason, token.as_bytes()),
    }
}

fn claims() -> JWTClaims<Value> {
    Issuer::claims("alice", json!({"scope": "deployer:contexts_read"}), 3600)
}

#[tokio::test]
async fn a_token_cannot_choose_its_algorithm() -> Result<()> {
    let forge = Forge::trusted();
    let deployment = Deployment::without_reconciler(&[("DEPLOYER_JWT_KEY", &forge.public_key_pem())]).await?;
    let mut table = Table::default();
    let others = [
        "none",
        "None",
        "NONE",
        "nOnE",
        "none ",
        "",
        "HS256",
        "HS384",
        "HS512",
        "RS256",
        "PS512",
        "ES256",
        "ES384",
        "ES512",
        "ES256K",
        "eddsa",
        "EDDSA",
        "EdDSA\u{0}",
        " EdDSA",
        "Ed448",
        "dir",
        "A128KW",
        "RSA-OAEP",
    ];
    for algorithm in others {
        let token = forge.sign(json!({"alg": algorithm}).to_string(), good_claims().to_string());
        let (message, _) = token.rsplit_once('.').context("three parts")?;
        table.case(format!("{algorithm:?}, signed"), check(&deployment, &token, Some(ALGORITHM)).await);
        table.case(
            format!("{algorithm:?}, an empty signature"),
            check(&deployment, &format!("{message}."), Some(ALGORITHM)).await,
        );
        table.case(format!("{algorithm:?}, no dot"), check(&deployment, message, Some(MALFORMED)).await);
    }
    for algorithm in [json!(null), json!(0), json!(true), json!(["EdDSA"]), json!({"EdDSA": 1})] {
        let token = forge.sign(json!({"alg": algorithm}).to_string(), good_claims().to_string());
        table.case(format!("{algorithm}"), check(&deployment, &token, Some(MALFORMED)).await);
    }
    is_well_with(&deployment, &forge).await?;
    deployment.leave().await?;
    table.end()
}

/// Fails unless a valid token of the forge is accepted. The client's usual token comes from another issuer here.
async fn is_well_with(deployment: &Deployment, forge: &Forge) -> Result<()> {
    check(deployment, &forge.sign(crate::forge::HEADER, good_claims().to_string()), None).await
}

#[tokio::test]
async fn a_header_that_names_a_key_changes_nothing() -> Result<()> {
    let (forge, foreign) = (Forge::trusted(), Forge::foreign());
    let deployment = Deployment::without_reconciler(&[("DEPLOYER_JWT_KEY", &forge.public_key_pem())]).await?;
    let evil = "http://127.0.0.1:1/keys";
    let mut table = Table::default();
    for (name, value, refused) in [
        ("kid", json!("unknown"), None),
        ("kid", json!(""), None),
        ("kid", json!("k".repeat(5_000)), None),
        ("kid", json!("../../../../dev/null"), None),
        ("kid", json!("' OR 1=1; DROP TABLE contexts; --"), None),
        ("kid", json!(evil), None),
        ("kid", json!("\u{0}"), None),
        ("jku", json!(evil), None),
        ("x5u", json!(evil), None),
        ("x5c", json!(["MIIB"]), None),
        // The JWT library accepts only a string here; a rejection is as safe.
        ("jwk", foreign.public_key_jwk(), Some(SIGNATURE)),
        ("typ", json!("at+jwt"), None),
        ("crit", json!(["exp"]), Some(ALGORITHM)),
        ("crit", json!(["b64"]), Some(ALGORITHM)),
        ("crit", json!([]), Some(ALGORITHM)),
        ("crit", json!(null), Some(ALGORITHM)),
        ("b64", json!(false), Some(ALGORITHM)),
        ("b64", json!(true), Some(ALGORITHM)),
    ] {
        let mut header = json!({"alg": "EdDSA"});
        header[name] = value;
        let (header, claims) = (header.to_string(), good_claims().to_string());
        table.case(&header, check(&deployment, &forge.sign(&header, &claims), refused).await);
        // The header never bypasses the signature check.
        let forged = foreign.sign(&header, &claims);
        table.case(format!("{header}, forged"), check(&deployment, &forged, refused.or(Some(SIGNATURE))).await);
    }
    is_well_with(&deployment, &forge).await?;
    deployment.leave().await?;
    table.end()
}

/// Returns the public key in every form in which an attacker may have it.
fn forms(issuer: &Issuer, jwk: &Value) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let (pem, base64) = (issuer.public_key_pem(), issuer.public_key_base64());
    let mut forms = vec![("DER", BASE64_STANDARD.decode(&base64)?)];
    for (name, text) in
        [("PEM", pem.clone()), ("PEM, CRLF", pem.replace('\n', "\r\n")), ("base64", base64), ("JWK", jwk.to_string())]
    {
        let trimmed = text.trim_end();
        forms.push((name, trimmed.as_bytes().to_vec()));
        forms.push((name, format!("{trimmed}\n").into_bytes()));
    }
    Ok(forms)
}

#[tokio::test]
async fn a_public_key_is_not_accepted_as_a_shared_secret() -> Result<()> {
    let (p256, rsa) = (Issuer::new(), Issuer::rsa());
    let der = BASE64_STANDARD.decode(p256.public_key_base64())?;
    // The DER ends with the point, 64 bytes.
    let (x, y) = der[der.len() - 64..].split_at(32);
    let p256_jwk = json!({"kty": "EC", "crv": "P-256", "x": part(x), "y": part(y)});
    let RSAPublicKeyComponents { n, e } = RS256PublicKey::from_pem(&rsa.public_key_pem())?.to_components();
    let rsa_jwk = json!({"kty": "RSA", "n": part(n), "e": part(e)});
    let mut table = Table::default();
    for (algorithm, issuer, jwk) in [("ES256", p256, p256_jwk), ("RS256", rsa, rsa_jwk)] {
        let key = issuer.public_key_pem();
        let deployment = Deployment::without_reconciler(&[("DEPLOYER_JWT_KEY", &key)]).await?;
        for (name, secret) in forms(&issuer, &jwk)? {
            let by = [
                ("HS256", HS256Key::from_bytes(&secret).authenticate(claims())?),
                ("HS384", HS384Key::from_bytes(&secret).authenticate(claims())?),
                ("HS512", HS512Key::from_bytes(&secret).authenticate(claims())?),
            ];
            for (mac, token) in by {
                table.case(format!("{mac} by {name}"), check(&deployment, &token, Some(ALGORITHM)).await);
                // The same token, with a header that names the key's own algorithm.
                let (_, rest) = token.split_once('.').context("three parts")?;
                let renamed = format!("{}.{rest}", part(json!({ "alg": algorithm }).to_string()));
                let refused = check(&deployment, &renamed, Some(SIGNATURE)).await;
                table.case(format!("{mac} by {name}, as {algorithm}"), refused);
            }
        }
        check(&deployment, &issuer.sign(claims()), None).await?;
        deployment.leave().await?;
    }
    table.end()
}

/// The group order of P-256.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7,
    0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// Returns an ECDSA signature as DER, the encoding of other protocols.
fn as_der(r: &[u8], s: &[u8]) -> Vec<u8> {
    let integer = |number: &[u8]| {
        let zero: &[u8] = if number[0] >= 0x80 { &[0] } else { &[] };
        let length = u8::try_from(zero.len() + number.len()).unwrap_or_default();
        [&[2, length], zero, number].concat()
    };
    let body = [integer(r), integer(s)].concat();
    [vec![0x30, u8::try_from(body.len()).unwrap_or_default()], body].concat()
}

#[tokio::test]
async fn malformed_signatures_are_rejected() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let issuer = &deployment.issuer;
    let token = issuer.sign(claims());
    let other = issuer.sign(Issuer::claims("bob", json!({"scope": "deployer:contexts_read"}), 3600));
    check(&deployment, &token, None).await?;
    check(&deployment, &other, None).await?;
    let (message, signature) = token.rsplit_once('.').context("three parts")?;
    let (_, others) = other.rsplit_once('.').context("three parts")?;
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(signature)?;
    let (r, s) = bytes.split_at(32);
    let (none, one, order) = ([0; 32], [[0; 31].as_slice(), &[1]].concat(), ORDER);
    let mut table = Table::default();
    for (name, signature) in [
        ("r = s = 0", [none, none].concat()),
        ("r = 0", [&none, s].concat()),
        ("s = 0", [r, &none].concat()),
        ("r = s = 1", [one.clone(), one].concat()),
        ("r = n", [&order, s].concat()),
        ("s = n", [r, &order].concat()),
        ("r = s = n", [order, order].concat()),
        ("r = s = 2^256 - 1", vec![0xff; 64]),
        ("r and s swapped", [s, r].concat()),
        ("no byte", vec![]),
        ("one byte", vec![0]),
        ("half", r.to_vec()),
        ("63 bytes", bytes[..63].to_vec()),
        ("65 bytes", [&bytes, [0].as_slice()].concat()),
        ("96 bytes", [&bytes, r].concat()),
        ("8,000 bytes", vec![1; 8_000]),
        ("DER", as_der(r, s)),
        ("DER of zeros", as_der(&[0], &[0])),
    ] {
        let token = format!("{message}.{}", part(signature));
        table.case(name, check(&deployment, &token, Some(SIGNATURE)).await);
    }
    for (name, token, reason) in [
        ("another token's", format!("{message}.{others}"), SIGNATURE),
        ("stripped", message.to_owned(), MALFORMED),
        ("padded", format!("{message}.{signature}=="), SIGNATURE),
        ("with + and /", format!("{message}.+/{}", &signature[2..]), SIGNATURE),
        ("with ~", format!("{message}.~{}", &signature[1..]), SIGNATURE),
        ("the message twice", format!("{message}.{message}"), MALFORMED),
        ("four parts", format!("{token}.{signature}"), MALFORMED),
        ("five parts", format!("{token}.{signature}.{signature}"), MALFORMED),
        ("five parts, three empty", format!("{message}...."), MALFORMED),
        ("dots", "..".into(), MALFORMED),
        ("a padded header", token.replacen('.', "=.", 1), MALFORMED),
        ("one byte", "a".into(), MALFORMED),
    ] {
        table.case(name, check(&deployment, &token, Some(reason)).await);
    }
    is_well(&deployment).await?;
    deployment.leave().await?;
    table.end()
}

/// Returns one token for each algorithm, with the algorithm's name.
fn by_every_algorithm(rsa: &RS256KeyPair, issuers: &[(&'static str, Issuer)]) -> Result<Vec<(&'static str, String)>> {
    let pem = rsa.to_pem()?;
    let mut tokens = vec![
        ("RS256", rsa.sign(claims())?),
        ("RS384", RS384KeyPair::from_pem(&pem)?.sign(claims())?),
        ("RS512", RS512KeyPair::from_pem(&pem)?.sign(claims())?),
        ("PS256", PS256KeyPair::from_pem(&pem)?.sign(claims())?),
        ("PS384", PS384KeyPair::from_pem(&pem)?.sign(claims())?),
        ("PS512", PS512KeyPair::from_pem(&pem)?.sign(claims())?),
    ];
    tokens.extend(issuers.iter().map(|(algorithm, issuer)| (*algorithm, issuer.sign(claims()))));
    Ok(tokens)
}

#[tokio::test]
async fn a_key_verifies_only_its_own_algorithms() -> Result<()> {
    let rsa = RS256KeyPair::generate(2_048)?;
    let issuers = [("ES256", Issuer::new()), ("ES384", Issuer::p384()), ("EdDSA", Issuer::ed25519())];
    let tokens = by_every_algorithm(&rsa, &issuers)?;
    let rsas: &[&str] = &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
    let mut keys = vec![(rsas, rsa.public_key().to_pem()?)];
    for (algorithm, issuer) in &issuers {
        keys.push((std::slice::from_ref(algorithm), issuer.public_key_pem()));
    }
    let mut table = Table::default();
    for (algorithms, key) in keys {
        let deployment = Deployment::without_reconciler(&[("DEPLOYER_JWT_KEY", &key)]).await?;
        for (algorithm, token) in &tokens {
            let own = algorithms.contains(algorithm);
            let refused = (!own).then_some(ALGORITHM);
            table.case(format!("{algorithm} to {}", algorithms[0]), check(&deployment, token, refused).await);
            let (_, rest) = token.split_once('.').context("three parts")?;
            for pretended in algorithms.iter().filter(|pretended| *pretended != algorithm) {
                let renamed = format!("{}.{rest}", part(json!({"alg": pretended}).to_string()));
                table.case(format!("{algorithm} as {pretended}"), check(&deployment, &renamed, Some(SIGNATURE)).await);
            }
        }
        deployment.leave().await?;
    }
    table.end()
}

/// Values that an operator may configure as the key by mistake.
const NO_KEYS: [(&str, &str); 5] = [
    (
        "RSA of 1024 bits",
        "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCqGKukO1De7zhZj6+H0qtjTkVxwTCpvKe4eCZ0FPqri0cb2JZfXJ/DgYSF6vUpwmJG8wVQZKjeGcjDOL5UlsuusFncCzWBQ7RKNUSesmQRMSGkVb1/3j+skZ6UtW+5u09lHNsj6tQ51s1SPrCBkedbNf0Tp0GbMJDyR4e9T04ZZwIDAQAB",
    ),
    ("a shared secret", "c2VjcmV0LXRoYXQtaXMtbG9uZy1lbm91Z2gtZm9yLWFueWJvZHk="),
    ("an address", "https://issuer.test/realms/Renga/protocol/openid-connect/certs"),
    ("nothing in its lines", "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----"),
    ("two keys", "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\nMCowBQYDK2VwAyEA"),
];

#[tokio::test]
async fn an_invalid_key_rejects_every_token() -> Result<()> {
    let private = RS256KeyPair::generate(2_048)?.to_pem()?;
    let mut table = Table::default();
    for (name, key) in NO_KEYS.into_iter().chain([("a private key", private.as_str())]) {
        let deployment = Deployment::without_reconciler(&[("DEPLOYER_JWT_KEY", key)]).await?;
        for token in [deployment.issuer.token("alice"), HS256Key::from_bytes(key.as_bytes()).authenticate(claims())?] {
            let answer = deployment.client.with_token(&token).ask(Method::GET, CONTEXTS).await?;
            let refused = answer.problem(503).and_then(|problem| {
                anyhow::ensure!(problem["title"] == "Service misconfigured", "{problem}");
                anyhow::ensure!(!answer.body.contains(&key[..key.len().min(16)]), "{problem}");
                Ok(())
            });
            table.case(name, refused);
        }
        deployment.leave().await?;
    }
    table.end()
}
