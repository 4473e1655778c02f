//! Keys that verify tokens.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jwt_simple::prelude::{
    ECDSAP256PublicKeyLike as _, ECDSAP384PublicKeyLike as _, ES256PublicKey, ES384PublicKey, Ed25519PublicKey,
    EdDSAPublicKeyLike as _, NoCustomClaims, PS256PublicKey, PS384PublicKey, PS512PublicKey, RS256PublicKey,
    RS384PublicKey, RS512PublicKey, RSAPublicKeyLike as _, VerificationOptions,
};
use p256::NistP256;
use p384::NistP384;
use sha2::{Digest as _, Sha256, Sha384};

use super::ec_glance::EcGlance;
use super::rsa_glance::RsaGlance;

/// The minimum length of an RSA modulus, in bits (RFC 7518, section 3.3).
const LEAST_RSA_BITS: usize = 2_048;

/// A public key. The key decides which algorithms it accepts.
#[derive(Clone)]
pub struct VerificationKey {
    kind: Kind,
    /// The only algorithm that the publisher of the key allows, if the publisher gave one.
    only: Option<String>,
    fingerprint: String,
}

#[derive(Clone)]
enum Kind {
    Rsa(Box<Rsa>),
    P256(ES256PublicKey, Box<EcGlance<NistP256>>),
    P384(ES384PublicKey, Box<EcGlance<NistP384>>),
    Ed25519(Ed25519PublicKey),
}

/// The same RSA key once for each algorithm, because the library has a type for each.
#[derive(Clone)]
struct Rsa {
    rs256: RS256PublicKey,
    rs384: RS384PublicKey,
    rs512: RS512PublicKey,
    ps256: PS256PublicKey,
    ps384: PS384PublicKey,
    ps512: PS512PublicKey,
    glance: RsaGlance,
}

/// Why a string is not a usable key. Never holds the string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither PEM nor base64.
    #[error("it is neither PEM (-----BEGIN PUBLIC KEY-----) nor the bare base64 of a public key's DER")]
    Encoding,
    /// A private key.
    #[error("it is a private key; give the public one: openssl pkey -in KEY -pubout")]
    Private,
    /// Another kind of key.
    #[error("it is no public key of a supported kind: RSA of 2048 bits or more, EC P-256 or P-384, or Ed25519")]
    Kind,
    /// An RSA key that is too short, with its number of bits.
    #[error("its RSA modulus has {0} bits; at least 2048 are required")]
    TooShort(usize),
}

impl VerificationKey {
    /// Parses PEM (also on one line, with `\n` written out) or the bare base64 of a public key's DER.
    ///
    /// # Errors
    /// Fails if it is not a public key that may be used.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim().replace("\\n", "\n");
        if text.contains("PRIVATE KEY") {
            return Err(KeyError::Private);
        }
        let base64 = match text.strip_prefix("-----BEGIN ") {
            None => text.as_str(),
            Some(rest) => {
                let (_, rest) = rest.split_once("-----").ok_or(KeyError::Encoding)?;
                rest.split_once("-----END").ok_or(KeyError::Encoding)?.0
            }
        };
        let base64: String = base64.split_whitespace().collect();
        let der = BASE64_STANDARD.decode(base64).map_err(|_| KeyError::Encoding)?;
        Self::from_der(&der)
    }

    fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let kind = if let Ok(rs256) = RS256PublicKey::from_der(der) {
            let modulus = rs256.to_components().n;
            let leading = modulus.iter().take_while(|byte| **byte == 0).count();
            let zeros = modulus.get(leading).map_or(0, |byte| byte.leading_zeros() as usize);
            let bits = (modulus.len() - leading) * 8 - zeros;
            if bits < LEAST_RSA_BITS {
                return Err(KeyError::TooShort(bits));
            }
            let kind = |_| KeyError::Kind;
            Kind::Rsa(Box::new(Rsa {
                rs256,
                rs384: RS384PublicKey::from_der(der).map_err(kind)?,
                rs512: RS512PublicKey::from_der(der).map_err(kind)?,
                ps256: PS256PublicKey::from_der(der).map_err(kind)?,
                ps384: PS384PublicKey::from_der(der).map_err(kind)?,
                ps512: PS512PublicKey::from_der(der).map_err(kind)?,
                glance: RsaGlance::new(&modulus).ok_or(KeyError::Kind)?,
            }))
        } else if let Ok(key) = ES256PublicKey::from_der(der) {
            let glance = EcGlance::new(&key.to_bytes()).ok_or(KeyError::Kind)?;
            Kind::P256(key, Box::new(glance))
        } else if let Ok(key) = ES384PublicKey::from_der(der) {
            let glance = EcGlance::new(&key.to_bytes()).ok_or(KeyError::Kind)?;
            Kind::P384(key, Box::new(glance))
        } else if let Ok(key) = Ed25519PublicKey::from_der(der) {
            Kind::Ed25519(key)
        } else {
            return Err(KeyError::Kind);
        };
        let digest = Sha256::digest(der);
        let fingerprint = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { kind, only: None, fingerprint })
    }

    /// Returns an RSA key from its modulus and exponent, both big-endian (RFC 7518, section 6.3.1).
    pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        let key = RS256PublicKey::from_components(modulus, exponent).map_err(|_| KeyError::Kind)?;
        Self::from_der(&key.to_der().map_err(|_| KeyError::Kind)?)
    }

    /// Returns a key on the curve P-256 or P-384 from its point (RFC 7518, section 6.2.1).
    pub(super) fn elliptic(curve: &str, x: &[u8], y: &[u8]) -> Result<Self, KeyError> {
        // SEC 1, section 2.3.3: an uncompressed point.
        let point = [&[4], x, y].concat();
        let der = match (curve, x.len(), y.len()) {
            ("P-256", 32, 32) => ES256PublicKey::from_bytes(&point).and_then(|key| key.to_der()),
            ("P-384", 48, 48) => ES384PublicKey::from_bytes(&point).and_then(|key| key.to_der()),
            _ => return Err(KeyError::Kind),
        };
        Self::from_der(&der.map_err(|_| KeyError::Kind)?)
    }

    /// Returns an Ed25519 key (RFC 8037, section 2).
    pub(super) fn ed25519(x: &[u8]) -> Result<Self, KeyError> {
        let key = Ed25519PublicKey::from_bytes(x).map_err(|_| KeyError::Kind)?;
        Self::from_der(&key.to_der())
    }

    /// Returns the key restricted to one algorithm, or `None` if the key does not allow this algorithm.
    pub(super) fn only(mut self, algorithm: &str) -> Option<Self> {
        let allowed = self.allows(algorithm);
        self.only = Some(algorithm.to_owned());
        allowed.then_some(self)
    }

    /// Returns a short name of the key for people: the first 8 bytes of the SHA-256 of its DER, in hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether the key allows `algorithm`, as named in the token's header.
    pub(super) fn allows(&self, algorithm: &str) -> bool {
        let allowed: &[&str] = match self.kind {
            Kind::Rsa(_) => &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
            Kind::P256(..) => &["ES256"],
            Kind::P384(..) => &["ES384"],
            Kind::Ed25519(_) => &["EdDSA", "Ed25519"],
        };
        allowed.contains(&algorithm) && self.only.as_deref().is_none_or(|only| only == algorithm)
    }

    /// Returns the length of its signatures in bytes (RFC 7518, sections 3.3 to 3.5; RFC 8032, section 5.1.6).
    pub(super) fn signature_bytes(&self) -> usize {
        match &self.kind {
            Kind::Rsa(key) => key.glance.bytes(),
            Kind::P256(..) | Kind::Ed25519(_) => 64,
            Kind::P384(..) => 96,
        }
    }

    /// Whether this key signed the token by `algorithm`, which the key must allow. Claims are not checked, because the
    /// library would use a clock of its own.
    pub(super) fn signed(&self, token: &str, algorithm: &str) -> bool {
        let verify = || self.verifies(token, algorithm);
        match &self.kind {
            Kind::Rsa(key) => key.glance.may_have_signed(token, algorithm) && verify(),
            Kind::P256(_, glance) => glance.has_signed::<Sha256>(token, verify),
            Kind::P384(_, glance) => glance.has_signed::<Sha384>(token, verify),
            Kind::Ed25519(_) => verify(),
        }
    }

    /// Whether the library accepts the signature, without the precheck.
    fn verifies(&self, token: &str, algorithm: &str) -> bool {
        let options = VerificationOptions {
            artificial_time: Some(jwt_simple::prelude::Duration::from_secs(0)),
            time_tolerance: Some(jwt_simple::prelude::Duration::from_secs(0)),
            accept_future: true,
            ..VerificationOptions::default()
        };
        let options = Some(options);
        let verified = match (&self.kind, algorithm) {
            (Kind::Rsa(key), "RS256") => key.rs256.verify_token::<NoCustomClaims>(token, options),
            (Kind::Rsa(key), "RS384") => key.rs384.verify_token::<NoCustomClaims>(token, options),
            (Kind::Rsa(key), "RS512") => key.rs512.verify_token::<NoCustomClaims>(token, options),
            (Kind::Rsa(key), "PS256") => key.ps256.verify_token::<NoCustomClaims>(token, options),
            (Kind::Rsa(key), "PS384") => key.ps384.verify_token::<NoCustomClaims>(token, options),
            (Kind::Rsa(key), "PS512") => key.ps512.verify_token::<NoCustomClaims>(token, options),
            (Kind::P256(key, _), "ES256") => key.verify_token::<NoCustomClaims>(token, options),
            (Kind::P384(key, _), "ES384") => key.verify_token::<NoCustomClaims>(token, options),
            (Kind::Ed25519(key), "EdDSA" | "Ed25519") => key.verify_token::<NoCustomClaims>(token, options),
            _ => return false,
        };
        verified.is_ok()
    }
}

impl Eq for VerificationKey {}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerificationKey({})", self.fingerprint)
    }
}

impl PartialEq for VerificationKey {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && self.only == other.only
    }
}
