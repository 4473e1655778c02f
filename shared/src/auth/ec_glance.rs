//! A precheck of a signature on an elliptic curve. It can only reject a signature.
//!
//! The library doubles a point for each bit of the number, because it precomputes nothing for a key. This precheck
//! keeps multiples of the key and adds them, in a third of the time. Computing the multiples takes as long as verifying
//! a few signatures. They are computed when the first forged signature was found, because more forged ones are likely
//! to follow. The library verifies each signature that passes, so a fault in this file cannot let a forged token in.

use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use primeorder::elliptic_curve::array::typenum::Unsigned as _;
use primeorder::elliptic_curve::ops::{MulByGeneratorVartime as _, Reduce};
use primeorder::elliptic_curve::point::AffineCoordinates as _;
use primeorder::elliptic_curve::{FieldBytes, FieldBytesSize, PublicKey};
use primeorder::{
    Double as _, Field as _, LookupTable, PrimeCurveParams, PrimeField as _, ProjectivePoint, Radix16Decomposition,
    Radix16Digits, Scalar,
};
use sha2::Digest;

/// A public key, and the multiples of it once they are computed.
#[derive(Clone)]
pub(super) struct EcGlance<C: PrimeCurveParams> {
    key: ProjectivePoint<C>,
    /// Table 0 has one to eight times the key; each next table has 256 times the values of the one before.
    multiples: OnceLock<Arc<[LookupTable<ProjectivePoint<C>>]>>,
}

impl<C: PrimeCurveParams> EcGlance<C>
where
    Scalar<C>: Reduce<FieldBytes<C>>,
{
    /// Returns the precheck for the key with this point (SEC 1, section 2.3.3), or `None` if the point is not on the
    /// curve.
    pub(super) fn new(point: &[u8]) -> Option<Self> {
        let key = PublicKey::<C>::from_sec1_bytes(point).ok()?.to_projective();
        Some(Self { key, multiples: OnceLock::new() })
    }

    /// Whether the key has signed the token, whose algorithm uses the digest `D`. The result is that of `verify`, which
    /// is not called if the precheck rejects the token.
    pub(super) fn has_signed<D: Digest>(&self, token: &str, verify: impl FnOnce() -> bool) -> bool {
        let has = self.may_have_signed::<D>(token) && verify();
        if !has {
            self.prepare();
        }
        has
    }

    /// Computes the multiples of the key.
    fn prepare(&self) {
        self.multiples.get_or_init(|| {
            let mut point = self.key;
            // One more than the number of bytes of a scalar, because its digits are signed and carry.
            let tables = (0..=FieldBytesSize::<C>::USIZE).map(|_| {
                let table = LookupTable::new(point);
                for _ in 0..8 {
                    point = point.double();
                }
                table
            });
            tables.collect()
        });
    }

    /// Whether the key may have signed the token. `false` is certain. Before `prepare`, always `true`.
    fn may_have_signed<D: Digest>(&self, token: &str) -> bool {
        let Some(multiples) = self.multiples.get() else { return true };
        opens::<C, D>(multiples, token).unwrap_or_default()
    }
}

/// Verifies as in FIPS 186-5, section 6.4.2. Returns `None` if the signature is not a pair of scalars of the curve.
fn opens<C: PrimeCurveParams, D: Digest>(multiples: &[LookupTable<ProjectivePoint<C>>], token: &str) -> Option<bool>
where
    Scalar<C>: Reduce<FieldBytes<C>>,
{
    let (message, signature) = token.rsplit_once('.')?;
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?;
    let (r, s) = signature.split_at_checked(FieldBytesSize::<C>::USIZE)?;
    let number = |bytes: &[u8]| Scalar::<C>::from_repr(FieldBytes::<C>::try_from(bytes).ok()?).into_option();
    let (r, s) = (number(r)?, number(s)?);
    // The digest has the same length as the curve's scalars.
    let digest = FieldBytes::<C>::try_from(&D::digest(message)[..]).ok()?;
    // Zero has no inverse.
    let inverse = s.invert().into_option()?;
    let (ours, theirs) = (Scalar::<C>::reduce(&digest) * inverse, r * inverse);
    let point = ProjectivePoint::<C>::mul_by_generator_vartime(&ours) + multiply(multiples, &theirs);
    Some(!bool::from(r.is_zero()) && Scalar::<C>::reduce(&point.to_affine().x()) == r)
}

/// Returns the key times `number`. Its digits to the base 16 select the multiples that are added. Odd places are added
/// up separately and then multiplied by 16, because the tables have only powers of 256. Variable time is safe because
/// nothing here is secret.
fn multiply<C: PrimeCurveParams>(
    multiples: &[LookupTable<ProjectivePoint<C>>],
    number: &Scalar<C>,
) -> ProjectivePoint<C> {
    let digits = Radix16Decomposition::<Radix16Digits<C>>::new(number);
    let last = multiples.len() - 1;
    let (mut even, mut odd) = (multiples[last].select_vartime(digits[2 * last]), ProjectivePoint::<C>::IDENTITY);
    for (index, table) in multiples[..last].iter().enumerate() {
        even += &table.select_vartime(digits[2 * index]);
        odd += &table.select_vartime(digits[2 * index + 1]);
    }
    for _ in 0..4 {
        odd = odd.double();
    }
    even + odd
}

#[cfg(test)]
mod tests {
    use jwt_simple::prelude::{
        Claims, Duration, ECDSAP256KeyPairLike as _, ECDSAP256PublicKeyLike as _, ECDSAP384KeyPairLike as _,
        ES256KeyPair, ES384KeyPair, JWTClaims, NoCustomClaims,
    };
    use p256::NistP256;
    use p384::NistP384;
    use sha2::{Sha256, Sha384};

    use super::*;

    fn claims(subject: &str) -> JWTClaims<NoCustomClaims> {
        Claims::create(Duration::from_secs(100)).with_subject(subject)
    }

    fn p256(pair: &ES256KeyPair) -> EcGlance<NistP256> {
        EcGlance::new(&pair.public_key().to_bytes()).unwrap()
    }

    #[test]
    fn signatures_of_the_key_pass_the_precheck() {
        for number in 0..50 {
            let pair = ES256KeyPair::generate();
            let token = pair.sign(claims(&format!("user-{number}"))).unwrap();
            let glance = p256(&pair);
            assert!(glance.may_have_signed::<Sha256>(&token) && glance.may_have_signed::<Sha256>("anything"));
            glance.prepare();
            assert!(glance.may_have_signed::<Sha256>(&token) && !glance.may_have_signed::<Sha256>("anything"));

            let pair = ES384KeyPair::generate();
            let token = pair.sign(claims(&format!("user-{number}"))).unwrap();
            let glance = EcGlance::<NistP384>::new(&pair.public_key().to_bytes()).unwrap();
            glance.prepare();
            assert!(glance.may_have_signed::<Sha384>(&token), "{number}");
        }
    }

    #[test]
    fn signatures_not_of_the_key_are_rejected() {
        let pair = ES256KeyPair::generate();
        let glance = p256(&pair);
        glance.prepare();
        let token = pair.sign(claims("alice")).unwrap();
        let (message, signature) = token.rsplit_once('.').unwrap();
        let with = |signature: &[u8]| format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
        for index in 0..signature.len() {
            let mut changed = signature.clone();
            changed[index] ^= 1;
            assert!(!glance.may_have_signed::<Sha256>(&with(&changed)), "byte {index}");
        }
        let (no_r, no_s) = ([&[0; 32], &signature[32..]].concat(), [&signature[..32], &[0; 32]].concat());
        let longer = [&signature[..], &[0]].concat();
        for other in [&[0; 64][..], &[0xff; 64], &no_r, &no_s, &longer, &signature[..63], &[], &[1]] {
            assert!(!glance.may_have_signed::<Sha256>(&with(other)), "{other:?}");
        }
        let other = ES256KeyPair::generate().sign(claims("alice")).unwrap();
        assert!(!glance.may_have_signed::<Sha256>(&other));
        assert!(!glance.may_have_signed::<Sha384>(&token), "a digest of another length");
    }

    #[test]
    fn the_precheck_starts_after_a_forged_signature_and_accepts_nothing_by_itself() {
        let pair = ES256KeyPair::generate();
        let (glance, token) = (p256(&pair), pair.sign(claims("alice")).unwrap());
        assert!(glance.has_signed::<Sha256>(&token, || true) && glance.multiples.get().is_none());
        assert!(!glance.has_signed::<Sha256>("forged", || false) && glance.multiples.get().is_some());
        assert!(!glance.has_signed::<Sha256>("forged", || unreachable!("it is known already")));
        assert!(glance.has_signed::<Sha256>(&token, || true) && !glance.has_signed::<Sha256>(&token, || false));
    }

    #[test]
    fn multiplication_agrees_with_the_library() {
        let pair = ES256KeyPair::generate();
        let glance = p256(&pair);
        glance.prepare();
        let multiples = glance.multiples.get().unwrap();
        let small = (0..300_u64).map(Scalar::<NistP256>::from);
        for number in small.clone().chain(small.map(|number| -number)) {
            assert_eq!(multiply(multiples, &number), glance.key * number, "{number:?}");
        }
    }

    #[test]
    fn a_key_is_a_point_on_the_curve() {
        let mut point = ES256KeyPair::generate().public_key().public_key().to_bytes_uncompressed();
        assert!(EcGlance::<NistP256>::new(&point).is_some() && EcGlance::<NistP384>::new(&point).is_none());
        point[40] ^= 1;
        assert!(EcGlance::<NistP256>::new(&point).is_none() && EcGlance::<NistP256>::new(&[0]).is_none());
    }
}
