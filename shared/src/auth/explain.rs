//! Explains part by part whether a token would be accepted, and why not. The checks are those of the verifier.

use serde_json::Value;

use super::claims::{Fields, Header, decode};
use super::verifier::{check_begin, check_expiry, check_purpose, subject};
use super::{LONGEST_TOKEN, ScopeSet, TokenError, Verifier};
use crate::domain::Timestamp;

/// The result of checking one part of a token. It has nothing of the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The name of the part.
    pub part: &'static str,
    /// The value that was found, or the fault and the expected value.
    pub found: Result<String, String>,
}

/// Explains a token, part by part. The verifier accepts the token at `now` if no part is wrong.
pub fn explain(verifier: &Verifier, token: &str, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut tell = |part, found: Result<String, String>| findings.push(Finding { part, found });
    let parts: Vec<&str> = token.split('.').collect();
    let header = parts.first().and_then(|part| Header::decode(part));
    let claims = parts.get(1).and_then(|part| decode::<Fields>(part));
    let (Some(header), Some(Fields(claims)), 3) = (header, claims, parts.len()) else {
        let why = match parts.len() {
            3 => "its first two parts are not base64url with a JSON object in each, no name twice",
            5 => "it is encrypted (JWE); a signed one is needed",
            _ => "it is not three parts separated by dots",
        };
        tell("form", Err(format!("{}: {why}", TokenError::Malformed)));
        return findings;
    };
    let long = token.len() > LONGEST_TOKEN;
    let size = format!("{} bytes of at most {LONGEST_TOKEN}", token.len());
    tell("form", if long { Err(format!("{}: {size}", TokenError::TooLong)) } else { Ok(size) });

    let said = |name: &str| claims.get(name).map_or_else(|| "none".to_owned(), shown);
    let found = |name: &str, checked: Result<(), TokenError>, wanted: String| match checked {
        Ok(()) => Ok(said(name)),
        Err(error) => Err(format!("{error}: {name} is {}{wanted}", said(name))),
    };
    let expected = verifier.expected();
    let wanted = format!(", expected {:?}", expected.issuer);
    tell("issuer", found("iss", verifier.check_issuer(&claims), wanted));
    tell("purpose", found("typ", check_purpose(&claims), String::new()));
    match &expected.audience {
        None => tell("audience", Ok(format!("{} (not checked)", said("aud")))),
        Some(ours) => tell("audience", found("aud", verifier.check_audience(&claims), format!(", expected {ours:?}"))),
    }
    tell(
        "expiry",
        match check_expiry(&claims, now) {
            Ok(expires) => Ok(format!("in {} s, leeway included", expires.since(now).as_secs())),
            Err(error) => Err(format!("{error}: exp is {}, now is {}", said("exp"), now.0 / 1_000_000)),
        },
    );
    tell("begin", found("nbf", check_begin(&claims, now), format!(", now is {}", now.0 / 1_000_000)));
    tell("subject", subject(&claims).map(|_| said("sub")).map_err(|error| error.to_string()));
    tell(
        "scopes",
        Ok(match &expected.scope_claim {
            None => "not checked".to_owned(),
            Some(name) => match ScopeSet::of_claim(claims.get(name)).to_string() {
                none if none.is_empty() => format!("none of ours in {name:?}: every request is refused with 403"),
                some => some,
            },
        }),
    );

    let named = header.key_id.as_deref().map_or_else(|| "no kid".to_owned(), |id| format!("kid {}", shown(&id.into())));
    let with = format!("{} with {named}", shown(&header.algorithm.as_str().into()));
    tell(
        "signature",
        match verifier.key_of(&header) {
            Ok(key) if key.signed(token, &header.algorithm) => Ok(format!("{with}, by the key {}", key.fingerprint())),
            other => {
                let error = other.err().unwrap_or(TokenError::Signature);
                Err(format!("{error}: {with}; the keys are {}", verifier.keys().names().join(", ")))
            }
        },
    );
    findings
}

/// Returns a claim, cut to 200 characters because the sender may have made it long.
fn shown(value: &Value) -> String {
    const MOST: usize = 200;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use jwt_simple::prelude::{Claims, Duration, Ed25519KeyPair, EdDSAKeyPairLike as _, JWTClaims, NoCustomClaims};

    use super::*;
    use crate::auth::{Expected, VerificationKey};

    const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

    fn claims() -> JWTClaims<NoCustomClaims> {
        let at = Duration::from_secs(1_700_000_000);
        let mut claims = Claims::create(Duration::from_secs(60)).with_issuer("https://issuer").with_subject("alice");
        (claims.issued_at, claims.expires_at, claims.invalid_before) =
            (Some(at), Some(at + Duration::from_secs(60)), None);
        claims
    }

    fn wrong(verifier: &Verifier, token: &str) -> Vec<&'static str> {
        let findings = explain(verifier, token, NOW);
        let wrong: Vec<_> =
            findings.iter().filter(|finding| finding.found.is_err()).map(|finding| finding.part).collect();
        assert_eq!(wrong.is_empty(), verifier.verify(token, NOW).is_ok(), "{findings:?}");
        let signature = token.rsplit('.').next().unwrap_or_default();
        assert!(signature.len() < 8 || !format!("{findings:?}").contains(signature), "the token is shown");
        wrong
    }

    #[test]
    fn each_wrong_part_is_reported_and_no_other() {
        let key = Ed25519KeyPair::generate();
        let verification = VerificationKey::parse(&key.public_key().to_pem()).unwrap();
        let verifier = Verifier::new(verification, Expected::of("https://issuer", None));
        let good = key.sign(claims()).unwrap();
        assert_eq!(wrong(&verifier, &good), Vec::<&str>::new());

        let mut late = claims().with_issuer("https://other");
        late.expires_at = late.issued_at.map(|at| at - Duration::from_hours(1));
        assert_eq!(
            wrong(&verifier, &Ed25519KeyPair::generate().sign(late).unwrap()),
            ["issuer", "expiry", "signature"]
        );
        for malformed in ["", "a.b", "a.b.c", "a.b.c.d.e", "hunter2"] {
            assert_eq!(wrong(&verifier, malformed), ["form"]);
        }
        let for_us = Expected { audience: Some("us".into()), ..Expected::of("https://issuer", None) };
        let verification = VerificationKey::parse(&key.public_key().to_pem()).unwrap();
        assert_eq!(wrong(&Verifier::new(verification, for_us), &good), ["audience"]);
    }
}
