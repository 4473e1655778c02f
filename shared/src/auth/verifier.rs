//! Verifies tokens: form, algorithm, claims, signature.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::claims::{Fields, Header, decode};
use super::{KeySet, ScopeSet, VerificationKey};
use crate::domain::Timestamp;
use crate::placement::Claim;

/// The longest token that is looked at, in bytes.
pub const LONGEST_TOKEN: usize = 16 * 1024;
/// The longest subject, in bytes.
const LONGEST_SUBJECT: usize = 255;
/// How far the issuer's clock and ours may be apart.
pub const LEEWAY: Duration = Duration::from_secs(30);
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
    /// What the token says of its user that an engine may require.
    pub claims: Arc<[Claim]>,
}

impl Principal {
    /// How much room it takes, beside one of whom little is said.
    pub fn weight(&self) -> usize {
        1 + self.claims.len() / 16
    }
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
    /// The issuer has no such key, or none is named and it has several.
    #[error("the token's key is not one of the issuer's")]
    UnknownKey,
    /// Not signed by the key.
    #[error("the token's signature is not valid")]
    Signature,
    /// Another issuer.
    #[error("the token is not from the expected issuer")]
    Issuer,
    /// Not for us.
    #[error("the token is for another audience")]
    Audience,
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

/// What a token says.
pub(super) type Claims = serde_json::Map<String, Value>;

/// What tokens must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// `iss`, to the letter.
    pub issuer: String,
    /// What `aud` must be or hold; `None`: it is not looked at.
    pub audience: Option<String>,
    /// The claim with the scopes; `None`: they are not checked.
    pub scope_claim: Option<String>,
}

impl Expected {
    /// Tokens of `issuer` for any audience, with their scopes in `scope_claim`.
    pub fn of(issuer: impl Into<String>, scope_claim: Option<String>) -> Self {
        Self { issuer: issuer.into(), audience: None, scope_claim }
    }
}

/// A token of which all is known but whether the key has signed it.
struct Read<'a> {
    key: &'a VerificationKey,
    algorithm: String,
    principal: Principal,
    claims: Claims,
}

/// Verifies tokens of one issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    keys: KeySet,
    expected: Expected,
}

impl Verifier {
    /// A verifier of tokens that say what is `expected` and are signed with one of `keys`.
    pub fn new(keys: impl Into<KeySet>, expected: Expected) -> Self {
        Self { keys: keys.into(), expected }
    }

    /// Who shows this token, if it is to be believed at `now`.
    ///
    /// # Errors
    /// Why it is not.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Principal, TokenError> {
        self.verify_whole(token, now).map(|(principal, _)| principal)
    }

    /// The same, with all that the token says.
    ///
    /// # Errors
    /// Why it is not to be believed.
    pub fn verify_whole(&self, token: &str, now: Timestamp) -> Result<(Principal, Claims), TokenError> {
        let read = self.read(token, now)?;
        if !read.key.signed(token, &read.algorithm) {
            return Err(TokenError::Signature);
        }
        Ok((read.principal, read.claims))
    }

    /// Refuses what can be refused without the arithmetic of the signature, which costs a thousand times the rest. Nothing is
    /// believed yet.
    ///
    /// # Errors
    /// Why it is not to be believed, as [`Verifier::verify`] would say it.
    pub fn glance(&self, token: &str, now: Timestamp) -> Result<(), TokenError> {
        self.read(token, now).map(drop)
    }

    /// All that a token says, if only the arithmetic of its signature is left to do. Who may not ask learns nothing from which
    /// reason comes first, since each is about what was sent.
    fn read(&self, token: &str, now: Timestamp) -> Result<Read<'_>, TokenError> {
        if token.len() > LONGEST_TOKEN {
            return Err(TokenError::TooLong);
        }
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed);
        };
        let header = Header::decode(header).ok_or(TokenError::Malformed)?;
        let key = self.key_of(&header)?;
        let Fields(claims) = decode(claims).ok_or(TokenError::Malformed)?;
        let principal = self.claimed(&claims, now)?;
        // RFC 4648, section 5, without padding: four characters for three bytes, and what is left over.
        if signature.len() != (key.signature_bytes() * 4).div_ceil(3) {
            return Err(TokenError::Signature);
        }
        Ok(Read { key, algorithm: header.algorithm, principal, claims })
    }

    /// The key that a token with this header must be signed with.
    pub(super) fn key_of(&self, header: &Header) -> Result<&VerificationKey, TokenError> {
        if header.critical {
            return Err(TokenError::Algorithm);
        }
        self.keys.find(header.key_id.as_deref(), &header.algorithm)
    }

    fn claimed(&self, claims: &Claims, now: Timestamp) -> Result<Principal, TokenError> {
        self.check_issuer(claims)?;
        check_purpose(claims)?;
        self.check_audience(claims)?;
        let expires = check_expiry(claims, now)?;
        check_begin(claims, now)?;
        let subject = subject(claims)?.to_owned();
        let scopes = self.expected.scope_claim.as_ref().map(|name| ScopeSet::of_claim(claims.get(name)));
        Ok(Principal { subject, scopes, expires, claims: Claim::of(claims).into() })
    }

    pub(super) fn check_issuer(&self, claims: &Claims) -> Result<(), TokenError> {
        let ours = claims.get("iss").and_then(Value::as_str) == Some(&self.expected.issuer);
        if ours { Ok(()) } else { Err(TokenError::Issuer) }
    }

    pub(super) fn check_audience(&self, claims: &Claims) -> Result<(), TokenError> {
        let ours = self.expected.audience.as_deref().is_none_or(|ours| is_for(claims.get("aud"), ours));
        if ours { Ok(()) } else { Err(TokenError::Audience) }
    }

    pub(super) fn expected(&self) -> &Expected {
        &self.expected
    }

    pub(super) fn keys(&self) -> &KeySet {
        &self.keys
    }
}

/// Keycloak says in `typ` what a token is for.
pub(super) fn check_purpose(claims: &Claims) -> Result<(), TokenError> {
    let other = matches!(claims.get("typ").and_then(Value::as_str), Some("ID" | "Refresh" | "Offline"));
    if other { Err(TokenError::Purpose) } else { Ok(()) }
}

/// When the token is no longer believed, leeway included.
pub(super) fn check_expiry(claims: &Claims, now: Timestamp) -> Result<Timestamp, TokenError> {
    let expires = instant(claims.get("exp")).ok_or(TokenError::NoExpiry)?.plus(LEEWAY);
    if expires <= now { Err(TokenError::Expired) } else { Ok(expires) }
}

/// `nbf`, and whether `iat` is an instant.
pub(super) fn check_begin(claims: &Claims, now: Timestamp) -> Result<(), TokenError> {
    if let Some(not_before) = claims.get("nbf") {
        let not_before = instant(Some(not_before)).ok_or(TokenError::NotYet)?;
        if now.plus(LEEWAY) < not_before {
            return Err(TokenError::NotYet);
        }
    }
    if claims.get("iat").is_some_and(|issued| instant(Some(issued)).is_none()) {
        return Err(TokenError::Malformed);
    }
    Ok(())
}

pub(super) fn subject(claims: &Claims) -> Result<&str, TokenError> {
    let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
    if subject.is_empty() || subject.len() > LONGEST_SUBJECT || subject.contains('\0') {
        return Err(TokenError::Subject);
    }
    Ok(subject)
}

/// Whether an `aud` (RFC 7519, section 4.1.3), a text or a list of texts, names `ours`.
fn is_for(audience: Option<&Value>, ours: &str) -> bool {
    match audience {
        Some(Value::String(one)) => one == ours,
        Some(Value::Array(several)) => several.iter().any(|one| one == ours),
        _ => false,
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
