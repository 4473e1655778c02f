//! The keys of an issuer: JSON Web Key Sets (RFC 7517), and the choice of the key for a token.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{KeyError, TokenError, VerificationKey};

/// The maximum number of keys in a set. An issuer has a handful.
const MOST_KEYS: usize = 100;

/// The keys with which an issuer signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet(Keys);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Keys {
    /// The configured key. It is used for every token, whatever its `kid`.
    Configured(VerificationKey),
    /// The keys that the issuer published, with their ids.
    Published(Vec<(Option<String>, VerificationKey)>),
}

/// Why a string is not a usable key set. Never holds the string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Not JSON, or without a list `keys`.
    #[error("it is no JSON Web Key Set: an object with a list of keys")]
    Form,
    /// Too many keys.
    #[error("it has more than {MOST_KEYS} keys")]
    TooMany,
    /// No key in the set verifies signatures in an accepted way.
    #[error(
        "none of its keys can verify a token: RSA of 2048 bits or more, EC P-256 or P-384, or Ed25519, for signatures"
    )]
    NoneUsable,
}

impl From<VerificationKey> for KeySet {
    fn from(key: VerificationKey) -> Self {
        Self(Keys::Configured(key))
    }
}

impl KeySet {
    /// Parses a JSON Web Key Set. Skips keys that are not for signatures, are of other kinds, or are too weak, as the
    /// standard requires (RFC 7517, section 5).
    ///
    /// # Errors
    /// Fails if no key in the set can verify tokens.
    pub fn parse(text: &str) -> Result<Self, KeySetError> {
        let set: Value = serde_json::from_str(text).map_err(|_| KeySetError::Form)?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or(KeySetError::Form)?;
        if keys.len() > MOST_KEYS {
            return Err(KeySetError::TooMany);
        }
        let keys: Vec<_> = keys.iter().filter_map(Value::as_object).filter_map(read).collect();
        if keys.is_empty() { Err(KeySetError::NoneUsable) } else { Ok(Self(Keys::Published(keys))) }
    }

    /// Returns the key that must have signed a token with this `kid` and `alg`.
    ///
    /// # Errors
    /// [`TokenError::UnknownKey`] if there is no such key; [`TokenError::Algorithm`] if the key does not allow the
    /// algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: &str) -> Result<&VerificationKey, TokenError> {
        let keys = match &self.0 {
            Keys::Configured(key) if key.allows(algorithm) => return Ok(key),
            Keys::Configured(_) => return Err(TokenError::Algorithm),
            Keys::Published(keys) => keys,
        };
        let mut candidates = keys.iter().filter(|(known, _)| id.is_none() || known.as_deref() == id).peekable();
        candidates.peek().ok_or(TokenError::UnknownKey)?;
        let mut fitting = candidates.map(|(_, key)| key).filter(|key| key.allows(algorithm));
        let key = fitting.next().ok_or(TokenError::Algorithm)?;
        // OpenID Connect Core, section 10.1: if there are several keys, a token must name its key.
        if id.is_none() && fitting.next().is_some() { Err(TokenError::UnknownKey) } else { Ok(key) }
    }

    /// Returns the ids of the keys, or their short names, for people.
    pub fn names(&self) -> Vec<String> {
        match &self.0 {
            Keys::Configured(key) => vec![key.fingerprint().to_owned()],
            Keys::Published(keys) => {
                keys.iter().map(|(id, key)| id.clone().unwrap_or_else(|| key.fingerprint().to_owned())).collect()
            }
        }
    }
}

/// Returns a key with its id, or `None` if the key cannot verify tokens.
fn read(key: &Map<String, Value>) -> Option<(Option<String>, VerificationKey)> {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    let bytes = |name: &str| text(name).and_then(|text| BASE64_URL_SAFE_NO_PAD.decode(text).ok());
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    if let Some(operations) = key.get("key_ops")
        && !operations.as_array().is_some_and(|operations| operations.iter().any(|one| one == "verify"))
    {
        return None;
    }
    let read: Result<VerificationKey, KeyError> = match text("kty")? {
        "RSA" => VerificationKey::rsa(&bytes("n")?, &bytes("e")?),
        "EC" => VerificationKey::elliptic(text("crv")?, &bytes("x")?, &bytes("y")?),
        "OKP" if text("crv") == Some("Ed25519") => VerificationKey::ed25519(&bytes("x")?),
        _ => return None,
    };
    let verifier = read.ok()?;
    let verifier = match text("alg") {
        Some(algorithm) => verifier.only(algorithm)?,
        None => verifier,
    };
    Some((text("kid").map(str::to_owned), verifier))
}

#[cfg(test)]
#[path = "key_set_tests.rs"]
mod tests;
