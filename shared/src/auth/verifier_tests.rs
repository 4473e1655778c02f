//! Tokens that are accepted, and the attacks that are rejected.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ed25519_compact::{KeyPair, Seed};
use jwt_simple::prelude::{
    Claims, Duration, ECDSAP256KeyPairLike as _, ECDSAP384KeyPairLike as _, ES256KeyPair, ES384KeyPair, Ed25519KeyPair,
    EdDSAKeyPairLike as _, HS256Key, MACLike as _, PS256KeyPair, PS384KeyPair, PS512KeyPair, RS256KeyPair,
    RS384KeyPair, RS512KeyPair, RSAKeyPairLike as _,
};
use serde_json::{Value, json};

use super::{Expected, Principal, TokenError, Verifier};
use crate::auth::{KeyError, Scope, ScopeSet, VerificationKey};
use crate::domain::Timestamp;
use crate::placement::Claim;

const ISSUER: &str = "http://localhost:8080/auth/realms/Renga";
const SECOND: i64 = 1_700_000_000;
const NOW: Timestamp = Timestamp(SECOND * 1_000_000);

/// Signs any text; the JWT library would refuse some.
struct Signer(KeyPair);

impl Signer {
    fn new() -> Self {
        Self(KeyPair::from_seed(Seed::new([7; 32])))
    }

    fn verifier(&self) -> Verifier {
        let key = VerificationKey::parse(&self.0.pk.to_pem()).unwrap();
        Verifier::new(key, Expected::of(ISSUER, Some("scope".into())))
    }

    fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(header), BASE64_URL_SAFE_NO_PAD.encode(claims));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.0.sk.sign(&message, None));
        format!("{message}.{signature}")
    }

    fn token(&self, claims: &Value) -> String {
        self.sign(r#"{"alg":"EdDSA","typ":"JWT","kid":"x"}"#, &claims.to_string())
    }
}

fn good() -> Value {
    json!({"iss": ISSUER, "sub": "alice", "exp": SECOND + 100, "scope": "deployer:contexts_read"})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = good();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = good();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[test]
fn a_valid_token_gives_its_principal() {
    let signer = Signer::new();
    let principal = signer.verifier().verify(&signer.token(&good()), NOW).unwrap();
    assert_eq!(
        principal,
        Principal {
            subject: "alice".into(),
            scopes: Some(ScopeSet::of(&[Scope::ContextsRead])),
            expires: Timestamp((SECOND + 130) * 1_000_000),
            claims: [Claim::parse("sub:alice").unwrap()].into(),
        }
    );
}

#[test]
fn a_token_is_for_its_audience() {
    let signer = Signer::new();
    let key = VerificationKey::parse(&signer.0.pk.to_pem()).unwrap();
    let expected = Expected { audience: Some("deployer".into()), ..Expected::of(ISSUER, None) };
    let verifier = Verifier::new(key, expected);
    let verify = |claims: &Value| verifier.verify(&signer.token(claims), NOW).map(|principal| principal.subject);
    for ours in [json!("deployer"), json!(["account", "deployer"])] {
        assert_eq!(verify(&with("aud", ours)).as_deref(), Ok("alice"));
    }
    for other in
        [json!("account"), json!("Deployer"), json!([]), json!([["deployer"]]), json!({"deployer": 1}), json!(null)]
    {
        assert_eq!(verify(&with("aud", other.clone())), Err(TokenError::Audience), "{other}");
    }
    assert_eq!(verify(&good()), Err(TokenError::Audience));
}

#[test]
fn claims_must_have_their_form() {
    let signer = Signer::new();
    let verifier = signer.verifier();
    let huge = "s".repeat(256);
    for (claims, expected) in [
        (with("exp", json!(SECOND - 31)), Err(TokenError::Expired)),
        (with("exp", json!(SECOND - 29)), Ok(())),
        (without("exp"), Err(TokenError::NoExpiry)),
        (with("exp", json!("1900000000")), Err(TokenError::NoExpiry)),
        (with("exp", json!(1.9e9)), Err(TokenError::NoExpiry)),
        (with("exp", json!(-1)), Err(TokenError::NoExpiry)),
        (with("exp", json!(u64::MAX)), Err(TokenError::NoExpiry)),
        (with("exp", json!(1_u64 << 32)), Err(TokenError::NoExpiry)),
        (with("iat", json!(u64::MAX)), Err(TokenError::Malformed)),
        (with("iat", json!(SECOND)), Ok(())),
        (with("nbf", json!(SECOND + 29)), Ok(())),
        (with("nbf", json!(SECOND + 31)), Err(TokenError::NotYet)),
        (with("nbf", json!("soon")), Err(TokenError::NotYet)),
        (with("iss", json!(format!("{ISSUER}/"))), Err(TokenError::Issuer)),
        (with("iss", json!(ISSUER.to_lowercase())), Err(TokenError::Issuer)),
        (with("iss", json!([ISSUER])), Err(TokenError::Issuer)),
        (without("iss"), Err(TokenError::Issuer)),
        (without("sub"), Err(TokenError::Subject)),
        (with("sub", json!("")), Err(TokenError::Subject)),
        (with("sub", json!(1)), Err(TokenError::Subject)),
        (with("sub", json!(huge)), Err(TokenError::Subject)),
        (with("typ", json!("ID")), Err(TokenError::Purpose)),
        (with("typ", json!("Refresh")), Err(TokenError::Purpose)),
        (with("typ", json!("Bearer")), Ok(())),
    ] {
        assert_eq!(verifier.verify(&signer.token(&claims), NOW).map(drop), expected, "{claims}");
    }
}

#[test]
fn a_duplicate_claim_is_rejected() {
    let signer = Signer::new();
    let header = r#"{"alg":"EdDSA"}"#;
    let twice = format!(r#"{{"iss":"{ISSUER}","sub":"bob","exp":{},"sub":"alice"}}"#, SECOND + 100);
    assert_eq!(signer.verifier().verify(&signer.sign(header, &twice), NOW), Err(TokenError::Malformed));
    let header = r#"{"alg":"none","alg":"EdDSA"}"#;
    assert_eq!(signer.verifier().verify(&signer.sign(header, &good().to_string()), NOW), Err(TokenError::Malformed));
}

#[test]
fn the_token_does_not_choose_its_algorithm() {
    let signer = Signer::new();
    let verifier = signer.verifier();
    for algorithm in ["none", "None", "NONE", "nOnE", "", "HS256", "RS256", "ES256", "eddsa", "EdDSA ", "PS256"] {
        let header = json!({"alg": algorithm}).to_string();
        let token = signer.sign(&header, &good().to_string());
        assert_eq!(verifier.verify(&token, NOW), Err(TokenError::Algorithm), "{algorithm:?}");
        let unsigned = token.rsplit_once('.').unwrap().0.to_owned() + ".";
        assert_eq!(verifier.verify(&unsigned, NOW), Err(TokenError::Algorithm), "{algorithm:?}");
    }
    for header in [r#"{"alg":"EdDSA","crit":["exp"]}"#, r#"{"alg":"EdDSA","b64":false}"#] {
        assert_eq!(verifier.verify(&signer.sign(header, &good().to_string()), NOW), Err(TokenError::Algorithm));
    }
    // A key in the token's header, or a URL to fetch one from, is ignored.
    for header in [
        r#"{"alg":"EdDSA","jku":"http://evil/keys","x5u":"http://evil/cert"}"#,
        r#"{"alg":"EdDSA","kid":"../../../etc/passwd"}"#,
        r#"{"alg":"EdDSA","kid":"' OR 1=1 --"}"#,
    ] {
        assert!(verifier.verify(&signer.sign(header, &good().to_string()), NOW).is_ok(), "{header}");
    }
}

#[test]
fn a_public_key_signs_nothing() {
    let pair = RS256KeyPair::generate(2048).unwrap();
    let pem = pair.public_key().to_pem().unwrap();
    let der = pair.public_key().to_der().unwrap();
    let verifier = Verifier::new(VerificationKey::parse(&pem).unwrap(), Expected::of(ISSUER, None));
    for secret in [pem.as_bytes(), pem.trim().as_bytes(), &der, BASE64_STANDARD.encode(&der).as_bytes()] {
        let claims = Claims::create(Duration::from_days(3_650)).with_issuer(ISSUER).with_subject("alice");
        let token = HS256Key::from_bytes(secret).authenticate(claims).unwrap();
        assert_eq!(verifier.verify(&token, NOW), Err(TokenError::Algorithm));
    }
}

#[test]
fn malformed_tokens_are_rejected() {
    let signer = Signer::new();
    let verifier = signer.verifier();
    let token = signer.token(&good());
    let (message, signature) = token.rsplit_once('.').unwrap();
    let zeros = |length| format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(vec![0; length]));
    for (bad, expected) in [
        (String::new(), TokenError::Malformed),
        ("a".into(), TokenError::Malformed),
        ("...".into(), TokenError::Malformed),
        (format!("{token}.a.b"), TokenError::Malformed),
        (format!("={token}"), TokenError::Malformed),
        (format!("ä{token}"), TokenError::Malformed),
        ("a".repeat(100_000), TokenError::TooLong),
        (format!("{message}."), TokenError::Signature),
        (format!("{message}.{signature}=="), TokenError::Signature),
        (zeros(64), TokenError::Signature),
        (zeros(63), TokenError::Signature),
        (zeros(4_096), TokenError::Signature),
        (signer.sign("[]", &good().to_string()), TokenError::Malformed),
        (signer.sign(r#"{"alg":1}"#, &good().to_string()), TokenError::Malformed),
        (signer.sign(r#"{"alg":"EdDSA"}"#, "[]"), TokenError::Malformed),
        (signer.sign(r#"{"alg":"EdDSA"}"#, &"[".repeat(10_000)), TokenError::Malformed),
    ] {
        assert_eq!(verifier.verify(&bad, NOW), Err(expected), "{}", bad.chars().take(80).collect::<String>());
    }
    for index in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        // The last character of a part has bits that encode nothing. Changing only those bits does not change the
        // token.
        let same = changed.split('.').map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok()).collect::<Vec<_>>()
            == token.split('.').map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok()).collect::<Vec<_>>();
        assert!(same || verifier.verify(&changed, NOW).is_err(), "byte {index}");
    }
}

/// Signs the same claims by every algorithm. Each item has the PEM of the key that verifies it.
fn by_every_algorithm() -> Vec<(&'static str, String, String)> {
    let claims = || {
        let mut claims = Claims::create(Duration::from_secs(100)).with_issuer(ISSUER).with_subject("alice");
        claims.issued_at = None;
        claims.invalid_before = None;
        claims.expires_at = Some(Duration::from_secs(u64::try_from(SECOND).unwrap() + 100));
        claims
    };
    let rsa = RS256KeyPair::generate(2048).unwrap();
    let (private, public) = (rsa.to_pem().unwrap(), rsa.public_key().to_pem().unwrap());
    let p256 = ES256KeyPair::generate();
    let p384 = ES384KeyPair::generate();
    let ed25519 = Ed25519KeyPair::generate();
    vec![
        ("RS256", public.clone(), rsa.sign(claims()).unwrap()),
        ("RS384", public.clone(), RS384KeyPair::from_pem(&private).unwrap().sign(claims()).unwrap()),
        ("RS512", public.clone(), RS512KeyPair::from_pem(&private).unwrap().sign(claims()).unwrap()),
        ("PS256", public.clone(), PS256KeyPair::from_pem(&private).unwrap().sign(claims()).unwrap()),
        ("PS384", public.clone(), PS384KeyPair::from_pem(&private).unwrap().sign(claims()).unwrap()),
        ("PS512", public, PS512KeyPair::from_pem(&private).unwrap().sign(claims()).unwrap()),
        ("ES256", p256.public_key().to_pem().unwrap(), p256.sign(claims()).unwrap()),
        ("ES384", p384.public_key().to_pem().unwrap(), p384.sign(claims()).unwrap()),
        ("EdDSA", ed25519.public_key().to_pem(), ed25519.sign(claims()).unwrap()),
    ]
}

#[test]
fn every_algorithm_is_verified_by_its_key_alone() {
    let signed = by_every_algorithm();
    for (algorithm, pem, _) in &signed {
        let verifier = Verifier::new(VerificationKey::parse(pem).unwrap(), Expected::of(ISSUER, None));
        for (other, other_pem, token) in &signed {
            let verified = verifier.verify(token, NOW);
            if pem == other_pem {
                assert_eq!(verified.map(|principal| principal.subject).as_deref(), Ok("alice"), "{algorithm}/{other}");
            } else {
                assert_eq!(verified, Err(TokenError::Algorithm), "{algorithm}/{other}");
            }
        }
    }
}

#[test]
fn keys_are_read_in_many_encodings() {
    for (algorithm, pem, token) in by_every_algorithm() {
        let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let on_one_line = pem.replace('\n', "\\n");
        let wrapped = base64.as_bytes().chunks(20).map(|part| String::from_utf8_lossy(part).into_owned());
        for wrapping in [format!("\n {pem} \n"), base64.clone(), on_one_line, wrapped.collect::<Vec<_>>().join("\n ")] {
            let key = VerificationKey::parse(&wrapping).unwrap_or_else(|error| panic!("{algorithm}: {error}"));
            assert!(Verifier::new(key, Expected::of(ISSUER, None)).verify(&token, NOW).is_ok(), "{algorithm}");
        }
    }
}

#[test]
fn invalid_keys_fail_with_distinct_errors() {
    let private = RS256KeyPair::generate(2048).unwrap().to_pem().unwrap();
    assert_eq!(VerificationKey::parse(&private), Err(KeyError::Private));
    // An RSA key of 1024 bits.
    let short = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCqGKukO1De7zhZj6+H0qtjTkVxwTCpvKe4eCZ0FPqri0cb2JZfXJ/DgYSF6vUpwmJG8wVQZKjeGcjDOL5UlsuusFncCzWBQ7RKNUSesmQRMSGkVb1/3j+skZ6UtW+5u09lHNsj6tQ51s1SPrCBkedbNf0Tp0GbMJDyR4e9T04ZZwIDAQAB";
    assert!(matches!(VerificationKey::parse(short), Err(KeyError::TooShort(1024) | KeyError::Kind)));
    for (bad, expected) in [("", KeyError::Kind), ("secret", KeyError::Encoding), ("c2VjcmV0", KeyError::Kind)] {
        assert_eq!(VerificationKey::parse(bad), Err(expected), "{bad:?}");
    }
}
