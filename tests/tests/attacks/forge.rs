//! Tokens with any header and claims, including malformed ones.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_compact::{KeyPair, Seed};
use renga_tests::issuer::Issuer;
use serde_json::{Value, json};

/// A time in the far future, in seconds since 1970.
pub(crate) const FAR: i64 = 4_000_000_000;

/// The header of a valid token.
pub(crate) const HEADER: &str = r#"{"alg":"EdDSA","typ":"JWT"}"#;

/// Signs any bytes as header and claims; the JWT library does not allow that.
pub(crate) struct Forge(KeyPair);

impl Forge {
    /// Returns a forge with the key that the deployments of these tests trust.
    pub(crate) fn trusted() -> Self {
        Self(KeyPair::from_seed(Seed::new([7; 32])))
    }

    /// Returns a forge with a key that no deployment trusts.
    pub(crate) fn foreign() -> Self {
        Self(KeyPair::from_seed(Seed::new([8; 32])))
    }

    /// Returns the public key that verifies the tokens of this forge, in PEM.
    pub(crate) fn public_key_pem(&self) -> String {
        self.0.pk.to_pem()
    }

    /// Returns the public key as a JWK. An attacker puts it into the token, for a verifier that takes keys from there.
    pub(crate) fn public_key_jwk(&self) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "x": part(*self.0.pk), "kid": "mine"})
    }

    /// Returns the signed token with this header and these claims.
    pub(crate) fn sign(&self, header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
        let message = format!("{}.{}", part(header), part(claims));
        let signature = self.0.sk.sign(&message, None);
        format!("{message}.{}", part(*signature))
    }
}

/// Returns the base64url encoding of one part of a token.
pub(crate) fn part(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns claims that are accepted if their signature is valid.
pub(crate) fn good_claims() -> Value {
    json!({"iss": Issuer::NAME, "sub": "alice", "exp": FAR, "scope": "deployer:contexts_read"})
}
