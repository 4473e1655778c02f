//! Tokens of any form, signed or not.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_compact::{KeyPair, Seed};
use renga_tests::issuer::Issuer;
use serde_json::{Value, json};

/// An instant that is far away, in seconds.
pub(crate) const FAR: i64 = 4_000_000_000;

/// The header of an ordinary token.
pub(crate) const HEADER: &str = r#"{"alg":"EdDSA","typ":"JWT"}"#;

/// Signs any bytes as header and claims, which the JWT library would not.
pub(crate) struct Forge(KeyPair);

impl Forge {
    /// With the key that deployments here are given.
    pub(crate) fn trusted() -> Self {
        Self(KeyPair::from_seed(Seed::new([7; 32])))
    }

    /// With a key that nobody trusts.
    pub(crate) fn foreign() -> Self {
        Self(KeyPair::from_seed(Seed::new([8; 32])))
    }

    /// What verifies its tokens.
    pub(crate) fn public_key_pem(&self) -> String {
        self.0.pk.to_pem()
    }

    /// What an attacker would put into a token, for whoever takes keys from there.
    pub(crate) fn public_key_jwk(&self) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "x": part(*self.0.pk), "kid": "mine"})
    }

    /// A token of these two parts.
    pub(crate) fn sign(&self, header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
        let message = format!("{}.{}", part(header), part(claims));
        let signature = self.0.sk.sign(&message, None);
        format!("{message}.{}", part(*signature))
    }
}

/// A part of a token.
pub(crate) fn part(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Claims that are believed when they are signed.
pub(crate) fn good_claims() -> Value {
    json!({"iss": Issuer::NAME, "sub": "alice", "exp": FAR, "scope": "deployer:contexts_read"})
}
