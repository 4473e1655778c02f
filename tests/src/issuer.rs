//! Tokens for tests, signed with a key of their own.

use jwt_simple::prelude::{
    Claims, Duration, ECDSAP256KeyPairLike as _, ECDSAP384KeyPairLike as _, ES256KeyPair, ES384KeyPair, Ed25519KeyPair,
    EdDSAKeyPairLike as _, JWTClaims, RS256KeyPair, RSAKeyPairLike as _,
};
use serde_json::{Value, json};

/// Signs tokens.
pub struct Issuer(Key);

enum Key {
    Rsa(Box<RS256KeyPair>),
    P256(ES256KeyPair),
    P384(ES384KeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Default for Issuer {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(clippy::expect_used, reason = "a key that was just made can be written down and signs")]
impl Issuer {
    /// The `iss` of its tokens.
    pub const NAME: &'static str = "http://issuer.test/realms/Renga";

    /// An issuer with a new key of the kind that is made fastest.
    pub fn new() -> Self {
        Self(Key::P256(ES256KeyPair::generate()))
    }

    /// One with a new RSA key of 2048 bits.
    pub fn rsa() -> Self {
        Self(Key::Rsa(Box::new(RS256KeyPair::generate(2_048).expect("an RSA key can be made"))))
    }

    /// One with a new EC key on the curve P-384.
    pub fn p384() -> Self {
        Self(Key::P384(ES384KeyPair::generate()))
    }

    /// One with a new Ed25519 key.
    pub fn ed25519() -> Self {
        Self(Key::Ed25519(Ed25519KeyPair::generate()))
    }

    /// What verifies its tokens.
    pub fn public_key_pem(&self) -> String {
        let pem = match &self.0 {
            Key::Rsa(key) => key.public_key().to_pem(),
            Key::P256(key) => key.public_key().to_pem(),
            Key::P384(key) => key.public_key().to_pem(),
            Key::Ed25519(key) => Ok(key.public_key().to_pem()),
        };
        pem.expect("a generated key has a PEM form")
    }

    /// The same as bare base64 on one line.
    pub fn public_key_base64(&self) -> String {
        self.public_key_pem().lines().filter(|line| !line.starts_with('-')).collect()
    }

    /// A token of `subject` with every scope, for an hour.
    pub fn token(&self, subject: &str) -> String {
        let every = "deployer:contexts_read deployer:contexts_write deployer:executions_read deployer:executions_write";
        self.token_with(subject, every, 3600)
    }

    /// A token of `subject` with these scopes, for so many seconds.
    pub fn token_with(&self, subject: &str, scopes: &str, seconds: u64) -> String {
        self.sign(Self::claims(subject, json!({ "scope": scopes }), seconds))
    }

    /// What a token of `subject` says, with further claims, for so many seconds.
    pub fn claims(subject: &str, further: Value, seconds: u64) -> JWTClaims<Value> {
        Claims::with_custom_claims(further, Duration::from_secs(seconds)).with_issuer(Self::NAME).with_subject(subject)
    }

    /// Signs claims.
    pub fn sign(&self, claims: JWTClaims<Value>) -> String {
        let token = match &self.0 {
            Key::Rsa(key) => key.sign(claims),
            Key::P256(key) => key.sign(claims),
            Key::P384(key) => key.sign(claims),
            Key::Ed25519(key) => key.sign(claims),
        };
        token.expect("signing with a key in memory works")
    }
}
