//! The development issuer: signs tokens that a service started with `up --dev` accepts. No other service accepts them.
//!
//! Obligations: the private key never leaves the state folder; only tokens are printed.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jwt_simple::prelude::{Ed25519KeyPair, EdDSAKeyPairLike as _, JWTClaims};
use renga_shared::domain::Timestamp;
use serde_json::{Value, json};

use crate::state::{IssuerFacts, StateFolder};

/// The default of `DEPLOYER_JWT_ISSUER` for `up --dev`. The service's own default is the platform's Keycloak.
pub(crate) const DEFAULT_ISSUER: &str = "renga-deployer-development";
/// The default of `DEPLOYER_TOKEN_SCOPE_KEY`: the claim that Keycloak uses for scopes.
pub(crate) const DEFAULT_SCOPE_CLAIM: &str = "scope";
/// The maximum lifetime of a token, so that a mistyped unit does not make a token that lasts for a century.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// A key pair and the claims of its tokens.
pub(crate) struct Issuer {
    key: Ed25519KeyPair,
    facts: IssuerFacts,
}

/// The claims of a new token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// The subject, `sub`.
    pub(crate) subject: &'a str,
    /// The scopes.
    pub(crate) scopes: &'a [&'a str],
    /// How long the token is valid.
    pub(crate) ttl: Duration,
}

impl Issuer {
    /// Opens the issuer whose key is in `folder`. Creates the key on first use.
    pub(crate) fn open(folder: &StateFolder, facts: IssuerFacts) -> anyhow::Result<Self> {
        let pem = match folder.key()? {
            Some(pem) => pem,
            None => folder.keep_key(&Ed25519KeyPair::generate().to_pem())?,
        };
        // The library's message could quote its input, which is the key.
        let Ok(key) = Ed25519KeyPair::from_pem(&pem) else {
            bail!("{} holds no Ed25519 private key; remove it, and a new one is made", folder.key_path().display());
        };
        Ok(Self { key, facts })
    }

    /// Returns the public key, the value of `DEPLOYER_JWT_KEY` for a service that accepts the tokens.
    pub(crate) fn public_key(&self) -> String {
        self.key.public_key().to_pem()
    }

    /// Returns the claims that all tokens of the issuer share.
    pub(crate) fn facts(&self) -> &IssuerFacts {
        &self.facts
    }

    /// Returns a signed token, valid from `now`. Fails if its lifetime is not from 1 second to 366 days.
    pub(crate) fn token(&self, request: Request<'_>, now: Timestamp) -> anyhow::Result<String> {
        if request.ttl < Duration::from_secs(1) || request.ttl > LONGEST {
            bail!(
                "a token is valid for at least 1s and at most 366days, not for {}",
                humantime::format_duration(request.ttl)
            );
        }
        let seconds = |at: Timestamp| u64::try_from(at.0 / 1_000_000).unwrap_or(0);
        let custom = BTreeMap::from([
            ("typ", json!("Bearer")),
            (self.facts.scope_claim.as_str(), json!(request.scopes.join(" "))),
        ]);
        let claims: JWTClaims<BTreeMap<&str, Value>> = JWTClaims {
            issued_at: Some(jwt_simple::prelude::Duration::from_secs(seconds(now))),
            expires_at: Some(jwt_simple::prelude::Duration::from_secs(seconds(now.plus(request.ttl)))),
            invalid_before: None,
            issuer: Some(self.facts.issuer.clone()),
            subject: Some(request.subject.to_owned()),
            audiences: None,
            jwt_id: None,
            nonce: None,
            custom,
        };
        self.key.sign(claims).context("cannot sign a token")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use renga_shared::auth::{Expected, Scope, ScopeSet, TokenError, VerificationKey, Verifier};

    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn issuer(folder: &Path) -> Issuer {
        let folder = StateFolder::choose(Some(folder), &|_| None).unwrap();
        let facts = IssuerFacts { issuer: "http://issuer".into(), scope_claim: "scope".into() };
        Issuer::open(&folder, facts).unwrap()
    }

    fn verifier(issuer: &Issuer) -> Verifier {
        let key = VerificationKey::parse(&issuer.public_key()).unwrap();
        Verifier::new(key, Expected::of("http://issuer", Some("scope".into())))
    }

    #[test]
    fn the_service_accepts_the_tokens_until_they_expire() {
        let temp = tempfile::tempdir().unwrap();
        let issuer = issuer(temp.path());
        let scopes = ["deployer:contexts_read", "deployer:executions_write"];
        let token = issuer.token(Request { subject: "ada", scopes: &scopes, ttl: HOUR }, NOW).unwrap();
        let principal = verifier(&issuer).verify(&token, NOW).unwrap();
        assert_eq!(principal.subject, "ada");
        let granted = principal.scopes.unwrap();
        let missing = |scope| !ScopeSet::of(&[scope]).missing_from(granted).is_empty();
        assert!(!missing(Scope::ContextsRead) && missing(Scope::ContextsWrite));
        let late = NOW.plus(HOUR * 2);
        assert_eq!(verifier(&issuer).verify(&token, late), Err(TokenError::Expired));
    }

    #[test]
    fn the_key_is_created_once() {
        let temp = tempfile::tempdir().unwrap();
        let token = issuer(temp.path()).token(Request { subject: "ada", scopes: &[], ttl: HOUR }, NOW).unwrap();
        assert!(verifier(&issuer(temp.path())).verify(&token, NOW).is_ok(), "the second start has the same key");
    }

    #[test]
    fn a_damaged_key_is_named_and_not_shown() {
        let temp = tempfile::tempdir().unwrap();
        let folder = StateFolder::choose(Some(temp.path()), &|_| None).unwrap();
        folder.keep_key("not a key").unwrap();
        let facts = IssuerFacts { issuer: "i".into(), scope_claim: "s".into() };
        let told = format!("{:#}", Issuer::open(&folder, facts).err().unwrap());
        assert!(told.contains("dev-key.pem") && !told.contains("not a key"), "{told}");
    }

    #[test]
    fn lifetimes_out_of_range_are_rejected() {
        let temp = tempfile::tempdir().unwrap();
        for ttl in [Duration::ZERO, Duration::from_secs(400 * 86_400)] {
            let refused = issuer(temp.path()).token(Request { subject: "ada", scopes: &[], ttl }, NOW);
            assert!(refused.unwrap_err().to_string().contains("at most 366days"));
        }
    }
}
