//! Key sets as issuers publish them, and the choice among their keys.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jwt_simple::prelude::{
    Claims, Duration, ECDSAP256KeyPairLike as _, ECDSAP384KeyPairLike as _, ES256KeyPair, ES384KeyPair, Ed25519KeyPair,
    EdDSAKeyPairLike as _, RS256KeyPair, RS256PublicKey, RSAKeyPairLike as _,
};
use serde_json::{Value, json};

use super::{KeySet, KeySetError};
use crate::auth::{Expected, TokenError, Verifier};
use crate::domain::Timestamp;

const ISSUER: &str = "https://issuer.test";

fn encoded(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn rsa(key: &RS256PublicKey, id: &str) -> Value {
    let parts = key.to_components();
    json!({ "kty": "RSA", "kid": id, "use": "sig", "alg": "RS256", "n": encoded(&parts.n), "e": encoded(&parts.e) })
}

fn p256(key: &ES256KeyPair, id: &str) -> Value {
    let der = key.public_key().to_der().unwrap();
    let (x, y) = der[der.len() - 64..].split_at(32);
    json!({ "kty": "EC", "crv": "P-256", "kid": id, "use": "sig", "x": encoded(x), "y": encoded(y) })
}

fn p384(key: &ES384KeyPair, id: &str) -> Value {
    let der = key.public_key().to_der().unwrap();
    let (x, y) = der[der.len() - 96..].split_at(48);
    json!({ "kty": "EC", "crv": "P-384", "kid": id, "x": encoded(x), "y": encoded(y) })
}

fn ed25519(key: &Ed25519KeyPair, id: &str) -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "kid": id, "alg": "EdDSA", "x": encoded(&key.public_key().to_bytes()) })
}

fn set(keys: &[Value]) -> Result<KeySet, KeySetError> {
    KeySet::parse(&json!({ "keys": keys }).to_string())
}

fn verify(keys: &[Value], token: &str) -> Result<String, TokenError> {
    let expected = Expected { issuer: ISSUER.into(), audience: None, scope_claim: None };
    let verifier = Verifier::new(set(keys).unwrap(), expected);
    verifier.verify(token, Timestamp(1_700_000_000_000_000)).map(|principal| principal.subject)
}

fn claims() -> jwt_simple::prelude::JWTClaims<jwt_simple::prelude::NoCustomClaims> {
    let at = Duration::from_secs(1_700_000_000);
    let mut claims = Claims::create(Duration::from_secs(60)).with_issuer(ISSUER).with_subject("alice");
    // The library takes these times from a clock.
    (claims.issued_at, claims.expires_at, claims.invalid_before) = (Some(at), Some(at + Duration::from_secs(60)), None);
    claims
}

#[test]
fn each_kind_of_key_is_found_by_its_id() {
    let rsa_key = RS256KeyPair::generate(2_048).unwrap().with_key_id("r");
    let p256_key = ES256KeyPair::generate().with_key_id("e");
    let p384_key = ES384KeyPair::generate().with_key_id("f");
    let ed_key = Ed25519KeyPair::generate().with_key_id("d");
    let keys = [rsa(&rsa_key.public_key(), "r"), p256(&p256_key, "e"), p384(&p384_key, "f"), ed25519(&ed_key, "d")];
    for token in [
        rsa_key.sign(claims()).unwrap(),
        p256_key.sign(claims()).unwrap(),
        p384_key.sign(claims()).unwrap(),
        ed_key.sign(claims()).unwrap(),
    ] {
        assert_eq!(verify(&keys, &token).as_deref(), Ok("alice"));
    }
    assert_eq!(set(&keys).unwrap().names(), ["r", "e", "f", "d"]);
}

#[test]
fn a_key_is_used_only_as_it_was_published() {
    let key = RS256KeyPair::generate(2_048).unwrap().with_key_id("r");
    let token = key.sign(claims()).unwrap();
    let published = |change: fn(&mut Value)| {
        let mut jwk = rsa(&key.public_key(), "r");
        change(&mut jwk);
        jwk
    };
    let other = p256(&ES256KeyPair::generate(), "other");
    let with = |jwk: Value| verify(&[jwk, other.clone()], &token);
    assert_eq!(with(published(|_| {})).as_deref(), Ok("alice"));
    assert_eq!(with(published(|jwk| jwk["alg"] = "PS256".into())), Err(TokenError::Algorithm));
    assert_eq!(with(published(|jwk| jwk["alg"] = "RSA-OAEP".into())), Err(TokenError::UnknownKey));
    assert_eq!(with(published(|jwk| jwk["alg"] = "HS256".into())), Err(TokenError::UnknownKey));
    assert_eq!(with(published(|jwk| jwk["use"] = "enc".into())), Err(TokenError::UnknownKey));
    assert_eq!(with(published(|jwk| jwk["key_ops"] = json!(["encrypt"]))), Err(TokenError::UnknownKey));
    assert_eq!(with(published(|jwk| jwk["key_ops"] = json!(["verify"]))).as_deref(), Ok("alice"));
    assert_eq!(with(published(|jwk| jwk["kty"] = "oct".into())), Err(TokenError::UnknownKey));
    assert_eq!(with(published(|jwk| jwk["kid"] = "q".into())), Err(TokenError::UnknownKey));
}

#[test]
fn a_key_of_the_same_id_for_another_algorithm_is_skipped() {
    let key = RS256KeyPair::generate(2_048).unwrap().with_key_id("same");
    let mut encrypts = rsa(&RS256KeyPair::generate(2_048).unwrap().public_key(), "same");
    encrypts["alg"] = "PS512".into();
    assert_eq!(
        verify(&[encrypts, rsa(&key.public_key(), "same")], &key.sign(claims()).unwrap()).as_deref(),
        Ok("alice")
    );
}

#[test]
fn a_token_without_kid_is_accepted_if_only_one_key_fits() {
    let key = ES256KeyPair::generate();
    let token = key.sign(claims()).unwrap();
    let rsa_key = rsa(&RS256KeyPair::generate(2_048).unwrap().public_key(), "r");
    assert_eq!(verify(&[p256(&key, "e"), rsa_key.clone()], &token).as_deref(), Ok("alice"));
    let second = p256(&ES256KeyPair::generate(), "e2");
    assert_eq!(verify(&[p256(&key, "e"), second], &token), Err(TokenError::UnknownKey));
    assert_eq!(verify(&[rsa_key], &token), Err(TokenError::Algorithm));
}

#[test]
fn points_off_the_curve_and_weak_keys_are_skipped() {
    let good = p256(&ES256KeyPair::generate(), "good");
    let mut off = good.clone();
    off["x"] = encoded(&[1; 32]).into();
    let mut short = good.clone();
    short["x"] = encoded(&[1; 31]).into();
    let mut padded = good.clone();
    padded["x"] = format!("{}=", good["x"].as_str().unwrap()).into();
    let mut other_curve = good.clone();
    other_curve["crv"] = "secp256k1".into();
    let weak = json!({ "kty": "RSA", "kid": "weak", "n": encoded(&[0xff; 128]), "e": "AQAB" });
    let empty = json!({ "kty": "RSA", "kid": "empty", "n": "", "e": "" });
    let low_order = json!({ "kty": "OKP", "crv": "Ed25519", "x": encoded(&[0; 31]) });
    for bad in [off, short, padded, other_curve, weak, empty, low_order, json!({ "kid": "x" }), json!({})] {
        assert_eq!(set(std::slice::from_ref(&bad)), Err(KeySetError::NoneUsable), "{bad}");
        assert_eq!(set(&[bad, good.clone()]).unwrap().names(), ["good"]);
    }
}

#[test]
fn invalid_key_sets_fail_with_distinct_errors() {
    for form in ["", "null", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":"x"}"#] {
        assert_eq!(KeySet::parse(form), Err(KeySetError::Form), "{form:?}");
    }
    for none in [r#"{"keys":[]}"#, r#"{"keys":[null,1,"x",[]]}"#] {
        assert_eq!(KeySet::parse(none), Err(KeySetError::NoneUsable), "{none:?}");
    }
    assert_eq!(set(&vec![Value::Null; 101]), Err(KeySetError::TooMany));
}
