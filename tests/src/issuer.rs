//! An issuer of tokens for tests, with its own key.

use jwt_simple::prelude::{Claims, Duration, JWTClaims};
use serde_json::{Value, json};

use crate::signing_key::SigningKey;

/// Signs tokens.
pub struct Issuer(SigningKey);

impl Default for Issuer {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(clippy::expect_used, reason = "a key can be made, and signs")]
impl Issuer {
    /// The `iss` claim of the tokens.
    pub const NAME: &'static str = "http://issuer.test/realms/Renga";

    /// All scopes, as a token contains them.
    pub const EVERY_SCOPE: &'static str =
        "deployer:contexts_read deployer:contexts_write deployer:executions_read deployer:executions_write";

    /// Creates an issuer with a new key of the kind that is generated fastest.
    pub fn new() -> Self {
        Self::with("ES256")
    }

    /// Creates an issuer with a new RSA key of 2048 bits.
    pub fn rsa() -> Self {
        Self::with("RS256")
    }

    /// Creates an issuer with a new EC key on the curve P-384.
    pub fn p384() -> Self {
        Self::with("ES384")
    }

    /// Creates an issuer with a new Ed25519 key.
    pub fn ed25519() -> Self {
        Self::with("EdDSA")
    }

    fn with(algorithm: &str) -> Self {
        Self(SigningKey::new(algorithm, None).expect("a key can be made"))
    }

    /// Returns the public key that verifies the tokens, in PEM.
    pub fn public_key_pem(&self) -> String {
        self.0.public_key_pem().to_owned()
    }

    /// Returns the public key as bare base64 on one line.
    pub fn public_key_base64(&self) -> String {
        self.public_key_pem().lines().filter(|line| !line.starts_with('-')).collect()
    }

    /// Returns a token of `subject` with every scope, valid for an hour.
    pub fn token(&self, subject: &str) -> String {
        self.token_with(subject, Self::EVERY_SCOPE, 3600)
    }

    /// Returns a token of `subject` with these scopes, valid for so many seconds.
    pub fn token_with(&self, subject: &str, scopes: &str, seconds: u64) -> String {
        self.sign(Self::claims(subject, json!({ "scope": scopes }), seconds))
    }

    /// Returns the claims of a token of `subject`, with further claims, valid for so many seconds.
    pub fn claims(subject: &str, further: Value, seconds: u64) -> JWTClaims<Value> {
        Claims::with_custom_claims(further, Duration::from_secs(seconds)).with_issuer(Self::NAME).with_subject(subject)
    }

    /// Signs claims.
    pub fn sign(&self, claims: JWTClaims<Value>) -> String {
        self.0.sign(claims).expect("signing with a key in memory works")
    }
}
