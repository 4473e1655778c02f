//! Keys that sign tokens, of every kind that the deployer accepts.

use anyhow::{Result, bail};
use jwt_simple::prelude::{
    ECDSAP256KeyPairLike as _, ECDSAP384KeyPairLike as _, ES256KeyPair, ES384KeyPair, Ed25519KeyPair,
    EdDSAKeyPairLike as _, JWTClaims, PS256KeyPair, PS384KeyPair, PS512KeyPair, RS256KeyPair, RS384KeyPair,
    RS512KeyPair, RSAKeyPairLike as _,
};
use serde_json::Value;

/// The algorithms of the tokens that the deployer accepts, as a token's header names them.
pub const ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// A key for one algorithm.
pub struct SigningKey {
    kid: Option<String>,
    jwk: Value,
    pem: String,
    sign: Box<dyn Fn(JWTClaims<Value>) -> Result<String> + Send + Sync>,
}

/// Builds a key. This is a macro because no trait has all the methods of jwt-simple's keys that are needed.
macro_rules! signing_key {
    ($kid:ident, $key:expr, $public:ident => $pem:expr) => {{
        let key = $key;
        let key = if let Some(kid) = $kid { key.with_key_id(kid) } else { key };
        let $public = key.public_key();
        let (jwk, pem) = (serde_json::from_str(&$public.to_jwk())?, $pem);
        Self { kid: $kid.map(str::to_owned), jwk, pem, sign: Box::new(move |claims| key.sign(claims)) }
    }};
    ($kid:ident, $key:expr) => {
        signing_key!($kid, $key, public => public.to_pem()?)
    };
}

impl SigningKey {
    /// Generates a key for one of [`ALGORITHMS`]. The key's tokens name `kid`, if it is given.
    ///
    /// # Errors
    /// Fails if the algorithm is not one of them.
    pub fn new(algorithm: &str, kid: Option<&str>) -> Result<Self> {
        const BITS: usize = 2_048;
        Ok(match algorithm {
            "RS256" => signing_key!(kid, RS256KeyPair::generate(BITS)?),
            "RS384" => signing_key!(kid, RS384KeyPair::generate(BITS)?),
            "RS512" => signing_key!(kid, RS512KeyPair::generate(BITS)?),
            "PS256" => signing_key!(kid, PS256KeyPair::generate(BITS)?),
            "PS384" => signing_key!(kid, PS384KeyPair::generate(BITS)?),
            "PS512" => signing_key!(kid, PS512KeyPair::generate(BITS)?),
            "ES256" => signing_key!(kid, ES256KeyPair::generate()),
            "ES384" => signing_key!(kid, ES384KeyPair::generate()),
            "EdDSA" => signing_key!(kid, Ed25519KeyPair::generate(), public => public.to_pem()),
            other => bail!("{other} is not one of {ALGORITHMS:?}"),
        })
    }

    /// Returns the key id that the tokens name.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Returns the public key as a JSON web key.
    pub fn jwk(&self) -> &Value {
        &self.jwk
    }

    /// Returns the public key as PEM.
    pub fn public_key_pem(&self) -> &str {
        &self.pem
    }

    /// Signs claims.
    ///
    /// # Errors
    /// Fails if the claims cannot be serialized.
    pub fn sign(&self, claims: JWTClaims<Value>) -> Result<String> {
        (self.sign)(claims)
    }
}
