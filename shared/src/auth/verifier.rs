//! Verifies tokens: form, algorithm, claims, signature.

use std::time::Duration;

use serde_json::Value;

use super::claims::{Fields, Header, decode};
use super::{ScopeSet, VerificationKey};
use crate::domain::Timestamp;

/// The longest token that is looked at, in bytes.
const LONGEST: usize = 16 * 1024;
/// The longest subject, in bytes.
const LONGEST_SUBJECT: usize = 255;
/// How far the issuer's clock and ours may be apart.
const LEEWAY: Duration = Duration::from_secs(30);
/// The last instant that a claim may name, in 2106: the signature library counts in 32 bits of seconds.
const LAST_SECOND: i64 = u32::MAX as i64;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The token's subject.
    pub subject: String,
    /// What the token may be used for; `None` when scopes are not checked.
    pub scopes: Option<ScopeSet>,
    /// When the token is no longer believed, leeway included.
    pub expires: Timestamp,
}

/// Why a token is not believed. The texts are for whoever sent it, and hold nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No `Authorization` header.
    #[error("a bearer token is required")]
    Missing,
    /// More than one.
    #[error("there is more than one Authorization header")]
    Several,
    /// Not three parts of base64 with JSON in them.
    #[error("the token is malformed")]
    Malformed,
    /// Longer than any token.
    #[error("the token is too long")]
    TooLong,
    /// Not one of the key's algorithms.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// Not signed by the key.
    #[error("the token's signature is not valid")]
    Signature,
    /// Another issuer.
    #[error("the token is not from the expected issuer")]
    Issuer,
    /// No `exp`, or one that is no instant.
    #[error("the token does not say when it expires")]
    NoExpiry,
    /// `exp` is over.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is yet to come.
    #[error("the token is not valid yet")]
    NotYet,
    /// No `sub`, or one that is too long.
    #[error("the token has no subject")]
    Subject,
    /// A token for something else: an ID or a refresh token.
    #[error("the token is not an access token")]
    Purpose,
}

/// Verifies tokens of one issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    key: VerificationKey,
    issuer: String,
    scope_claim: Option<String>,
}

impl Eq for VerificationKey {}

impl Verifier {
    /// A verifier of tokens that `issuer` signed with `key`. Scopes are read from `scope_claim`; without one they are not
    /// checked.
    pub fn new(key: VerificationKey, issuer: impl Into<String>, scope_claim: Option<String>) -> Self {
        Self { key, issuer: issuer.into(), scope_claim }
    }

    /// Who shows this token, if it is to be believed at `now`.
    ///
    /// # Errors
    /// Why it is not.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Principal, TokenError> {
        if token.len() > LONGEST {
            return Err(TokenError::TooLong);
        }
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed);
        };
        let header = Header::decode(header).ok_or(TokenError::Malformed)?;
        if header.critical || !self.key.allows(&header.algorithm) {
            return Err(TokenError::Algorithm);
        }
        let Fields(claims) = decode(claims).ok_or(TokenError::Malformed)?;
        // The signature costs a thousand times the rest. What would be refused anyway is refused before it; who may
        // not ask learns nothing from which reason comes first, since each is about what was sent.
        let principal = self.claimed(&claims, now)?;
        if self.key.signed(token, &header.algorithm) { Ok(principal) } else { Err(TokenError::Signature) }
    }

    fn claimed(&self, claims: &serde_json::Map<String, Value>, now: Timestamp) -> Result<Principal, TokenError> {
        if claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(TokenError::Issuer);
        }
        // Keycloak says in `typ` what a token is for.
        if matches!(claims.get("typ").and_then(Value::as_str), Some("ID" | "Refresh" | "Offline")) {
            return Err(TokenError::Purpose);
        }
        let expires = instant(claims.get("exp")).ok_or(TokenError::NoExpiry)?.plus(LEEWAY);
        if expires <= now {
            return Err(TokenError::Expired);
        }
        if let Some(not_before) = claims.get("nbf") {
            let not_before = instant(Some(not_before)).ok_or(TokenError::NotYet)?;
            if now.plus(LEEWAY) < not_before {
                return Err(TokenError::NotYet);
            }
        }
        if claims.get("iat").is_some_and(|issued| instant(Some(issued)).is_none()) {
            return Err(TokenError::Malformed);
        }
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        if subject.is_empty() || subject.len() > LONGEST_SUBJECT || subject.contains('\0') {
            return Err(TokenError::Subject);
        }
        let scopes = self.scope_claim.as_ref().map(|name| ScopeSet::of_claim(claims.get(name)));
        Ok(Principal { subject: subject.to_owned(), scopes, expires })
    }
}

/// A NumericDate (RFC 7519, section 2), in whole seconds.
fn instant(claim: Option<&Value>) -> Option<Timestamp> {
    let seconds = claim?.as_i64().filter(|seconds| (0..=LAST_SECOND).contains(seconds))?;
    Some(Timestamp(seconds * 1_000_000))
}

#[cfg(test)]
#[path = "verifier_tests.rs"]
mod tests;
