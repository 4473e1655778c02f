//! A precheck of an RSA signature. It can only reject a signature.
//!
//! The library's arithmetic is also safe for private keys, so a component needs milliseconds to detect a forged token,
//! and clients that send forged tokens could use up the processor. This precheck does only the work that a public key
//! needs, in a seventh of the time. The library verifies each signature that passes, so a fault in this file cannot let
//! a forged token in.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// The public exponent 65537, as the number of squarings before one multiplication. The library accepts no other
/// exponent.
const SQUARINGS: u32 = 16;

/// A modulus, prepared for multiplication.
#[derive(Clone)]
pub(super) struct RsaGlance {
    modulus: BoxedMontyParams,
    bytes: usize,
}

impl RsaGlance {
    /// Returns the precheck for the key with this modulus (big-endian), or `None` if it is not a valid modulus.
    pub(super) fn new(modulus: &[u8]) -> Option<Self> {
        let leading = modulus.iter().take_while(|byte| **byte == 0).count();
        let modulus = &modulus[leading..];
        let odd: Option<Odd<BoxedUint>> = Odd::new(BoxedUint::from_be_slice_vartime(modulus)).into();
        // Variable time is safe because nothing of a public key is secret.
        Some(Self { modulus: BoxedMontyParams::new_vartime(odd?), bytes: modulus.len() })
    }

    /// Returns the length in bytes of the modulus, which is also that of each signature.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the key may have signed the token by `algorithm`. `false` is certain.
    pub(super) fn may_have_signed(&self, token: &str, algorithm: &str) -> bool {
        let Some((message, signature)) = token.rsplit_once('.') else { return false };
        let Ok(signature) = BASE64_URL_SAFE_NO_PAD.decode(signature) else { return false };
        let Some(encoded) = self.opened(&signature) else { return false };
        // RFC 8017, section 9.2: the digest is at the end. Section 9.1 (PSS): the last byte is 0xbc, as in one of 256
        // forgeries.
        match algorithm {
            "RS256" => encoded.ends_with(&Sha256::digest(message)),
            "RS384" => encoded.ends_with(&Sha384::digest(message)),
            "RS512" => encoded.ends_with(&Sha512::digest(message)),
            _ => encoded.ends_with(&[0xbc]),
        }
    }

    /// Returns the signed bytes: the signature to the power of the public exponent (RFC 8017, section 5.2.2). Returns
    /// `None` if the signature has the wrong length or is not below the modulus.
    fn opened(&self, signature: &[u8]) -> Option<Box<[u8]>> {
        if signature.len() != self.bytes {
            return None;
        }
        let number = BoxedUint::from_be_slice(signature, self.modulus.bits_precision()).ok()?;
        if number >= *self.modulus.modulus().as_ref() {
            return None;
        }
        let number = BoxedMontyForm::new(number, &self.modulus);
        let power = (0..SQUARINGS).fold(number.clone(), |power, _| power.square()).mul(&number);
        Some(power.retrieve().to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use jwt_simple::prelude::{
        Claims, Duration, PS256KeyPair, PS384KeyPair, PS512KeyPair, RS256KeyPair, RS384KeyPair, RS512KeyPair,
        RSAKeyPairLike as _,
    };

    use super::*;

    fn claims() -> jwt_simple::prelude::JWTClaims<jwt_simple::prelude::NoCustomClaims> {
        Claims::create(Duration::from_secs(100)).with_subject("alice")
    }

    #[test]
    fn signatures_of_the_key_pass_the_precheck() {
        for bits in [2048, 3072] {
            let pair = RS256KeyPair::generate(bits).unwrap();
            let pem = pair.to_pem().unwrap();
            let glance = RsaGlance::new(&pair.public_key().to_components().n).unwrap();
            for (algorithm, token) in [
                ("RS256", pair.sign(claims())),
                ("RS384", RS384KeyPair::from_pem(&pem).unwrap().sign(claims())),
                ("RS512", RS512KeyPair::from_pem(&pem).unwrap().sign(claims())),
                ("PS256", PS256KeyPair::from_pem(&pem).unwrap().sign(claims())),
                ("PS384", PS384KeyPair::from_pem(&pem).unwrap().sign(claims())),
                ("PS512", PS512KeyPair::from_pem(&pem).unwrap().sign(claims())),
            ] {
                assert!(glance.may_have_signed(&token.unwrap(), algorithm), "{algorithm}, {bits} bits");
            }
        }
    }

    #[test]
    fn signatures_not_of_the_key_are_rejected() {
        let pair = RS256KeyPair::generate(2048).unwrap();
        let modulus = pair.public_key().to_components().n;
        let glance = RsaGlance::new(&modulus).unwrap();
        let token = pair.sign(claims()).unwrap();
        let (message, signature) = token.rsplit_once('.').unwrap();
        let with = |signature: &[u8]| format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert!(glance.may_have_signed(&with(&signature), "RS256"));
        for index in 0..signature.len() {
            let mut changed = signature.clone();
            changed[index] ^= 1;
            assert!(!glance.may_have_signed(&with(&changed), "RS256"), "byte {index}");
        }
        // The same number modulo the modulus, but not below it.
        let modulus = &modulus[modulus.len() - 256..];
        let (mut beyond, mut carry) = ([0; 256], 0);
        for index in (0..256).rev() {
            let sum = u16::from(signature[index]) + u16::from(modulus[index]) + carry;
            beyond[index] = sum.to_be_bytes()[1];
            carry = sum >> 8;
        }
        let (longer, shorter) = ([&[0], &signature[..]].concat(), &signature[..255]);
        for other in [&beyond[..], &[0; 256], &[0xff; 256], modulus, &longer, shorter, &[], &[1]] {
            assert!(!glance.may_have_signed(&with(other), "RS256"), "{other:?}");
        }
        let other = RS256KeyPair::generate(2048).unwrap().sign(claims()).unwrap();
        assert!(!glance.may_have_signed(&other, "RS256"));
        assert!(!glance.may_have_signed(&token, "RS384") && !glance.may_have_signed(&token, "PS256"));
        for form in ["", ".", "a", &with(b"a")[..message.len()]] {
            assert!(!glance.may_have_signed(form, "RS256"), "{form:?}");
        }
    }

    #[test]
    fn a_modulus_is_odd() {
        assert!(RsaGlance::new(&[]).is_none() && RsaGlance::new(&[0, 0]).is_none() && RsaGlance::new(&[4]).is_none());
    }
}
