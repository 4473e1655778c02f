//! Verifies tokens: form, algorithm, claims, signature.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::claims::{Fields, Header, decode};
use super::{KeySet, ScopeSet, VerificationKey};
use crate::domain::Timestamp;
use crate::placement::Claim;

/// The maximum length of a token, in bytes.
pub const LONGEST_TOKEN: usize = 16 * 1024;
/// The maximum length of a subject, in bytes.
const LONGEST_SUBJECT: usize = 255;
/// The maximum difference between the issuer's clock and ours.
pub const LEEWAY: Duration = Duration::from_secs(30);
/// The last second that a claim may have, in 2106, because the signature library counts seconds in 32 bits.
const LAST_SECOND: i64 = u32::MAX as i64;

/// The authenticated user of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The token's subject.
    pub subject: String,
    /// The scopes of the token; `None` if scopes are not checked.
    pub scopes: Option<ScopeSet>,
    /// The time when the token expires, leeway included.
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

/// Why a token is rejected. The messages are for its sender, and have nothing of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No `Authorization` header.
    #[error("a bearer token is required")]
    Missing,
    /// More than one `Authorization` header.
    #[error("there is more than one Authorization header")]
    Several,
    /// Not three parts of base64 with JSON in them.
    #[error("the token is malformed")]
    Malformed,
    /// Longer than [`LONGEST_TOKEN`].
    #[error("the token is too long")]
    TooLong,
    /// The algorithm is not one of the key's.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// The issuer has no such key, or the token names none and the issuer has several.
    #[error("the token's key is not one of the issuer's")]
    UnknownKey,
    /// The signature is not the key's.
    #[error("the token's signature is not valid")]
    Signature,
    /// The token is from another issuer.
    #[error("the token is not from the expected issuer")]
    Issuer,
    /// The token is for another audience.
    #[error("the token is for another audience")]
    Audience,
    /// `exp` is absent or not a valid time.
    #[error("the token does not say when it expires")]
    NoExpiry,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` has not been reached.
    #[error("the token is not valid yet")]
    NotYet,
    /// `sub` is absent or too long.
    #[error("the token has no subject")]
    Subject,
    /// The token is for another purpose: an ID or a refresh token.
    #[error("the token is not an access token")]
    Purpose,
}

/// The claims of a token.
pub(super) type Claims = serde_json::Map<String, Value>;

/// The claims that tokens must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The exact value of `iss`.
    pub issuer: String,
    /// The value that `aud` must be or contain; `None`: not checked.
    pub audience: Option<String>,
    /// The name of the claim with the scopes; `None`: not checked.
    pub scope_claim: Option<String>,
}

impl Expected {
    /// Returns the claims for tokens of `issuer` for any audience, with their scopes in `scope_claim`.
    pub fn of(issuer: impl Into<String>, scope_claim: Option<String>) -> Self {
        Self { issuer: issuer.into(), audience: None, scope_claim }
    }
}

/// A token after all checks except that of the signature.
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
    /// Returns a verifier of tokens that have the claims `expected` and are signed with one of `keys`.
    pub fn new(keys: impl Into<KeySet>, expected: Expected) -> Self {
        Self { keys: keys.into(), expected }
    }

    /// Returns the principal of this token, if the token is valid at `now`.
    ///
    /// # Errors
    /// Why the token is rejected.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Principal, TokenError> {
        self.verify_whole(token, now).map(|(principal, _)| principal)
    }

    /// Like [`Verifier::verify`], and also returns all claims.
    ///
    /// # Errors
    /// Why the token is rejected.
    pub fn verify_whole(&self, token: &str, now: Timestamp) -> Result<(Principal, Claims), TokenError> {
        let read = self.read(token, now)?;
        if !read.key.signed(token, &read.algorithm) {
            return Err(TokenError::Signature);
        }
        Ok((read.principal, read.claims))
    }

    /// Makes all checks except the arithmetic of the signature, which costs a thousand times the rest. It can only
    /// reject a token.
    ///
    /// # Errors
    /// Why the token is rejected; the same error as [`Verifier::verify`] gives.
    pub fn glance(&self, token: &str, now: Timestamp) -> Result<(), TokenError> {
        self.read(token, now).map(drop)
    }

    /// Makes all checks except the arithmetic of the signature. The order of the checks reveals nothing to an attacker,
    /// because each error is only about the token that was sent.
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
        // RFC 4648, section 5, without padding: four characters for every three bytes, rounded up.
        if signature.len() != (key.signature_bytes() * 4).div_ceil(3) {
            return Err(TokenError::Signature);
        }
        Ok(Read { key, algorithm: header.algorithm, principal, claims })
    }

    /// Returns the key that must have signed a token with this header.
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

/// Rejects ID and refresh tokens. Keycloak puts the purpose of a token into `typ`.
pub(super) fn check_purpose(claims: &Claims) -> Result<(), TokenError> {
    let other = matches!(claims.get("typ").and_then(Value::as_str), Some("ID" | "Refresh" | "Offline"));
    if other { Err(TokenError::Purpose) } else { Ok(()) }
}

/// Returns the time when the token expires, leeway included.
pub(super) fn check_expiry(claims: &Claims, now: Timestamp) -> Result<Timestamp, TokenError> {
    let expires = instant(claims.get("exp")).ok_or(TokenError::NoExpiry)?.plus(LEEWAY);
    if expires <= now { Err(TokenError::Expired) } else { Ok(expires) }
}

/// Checks `nbf`, and that `iat` is a valid time.
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

/// Whether an `aud` (RFC 7519, section 4.1.3), a string or a list of strings, contains `ours`.
fn is_for(audience: Option<&Value>, ours: &str) -> bool {
    match audience {
        Some(Value::String(one)) => one == ours,
        Some(Value::Array(several)) => several.iter().any(|one| one == ours),
        _ => false,
    }
}

/// Parses a NumericDate (RFC 7519, section 2), in whole seconds.
fn instant(claim: Option<&Value>) -> Option<Timestamp> {
    let seconds = claim?.as_i64().filter(|seconds| (0..=LAST_SECOND).contains(seconds))?;
    Some(Timestamp(seconds * 1_000_000))
}

#[cfg(test)]
#[path = "verifier_tests.rs"]
mod tests;
