//! Tokens that wait in the database until their container is launched: sealed with XChaCha20-Poly1305 by a key that the
//! database does not hold.
//!
//! Obligations: a sealed token opens for the execution that it was sealed for and for no other; nothing of a key or a token is
//! in an error or in `Debug`; keys and opened tokens are wiped from memory when they are dropped. The nonce is an argument
//! and must be random: with 24 bytes, no two are ever the same.
//!
//! The bytes: one of the form, eight that name the key, the nonce, and what the cipher made. The cipher also vouches for
//! the form, the key's name and the execution's id, which is not among the bytes.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use secrecy::SecretBox;
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use crate::domain::ExecutionId;

/// A token that was opened. It cannot be shown or copied by accident, and is wiped when it is dropped.
pub type OpenedToken = SecretBox<String>;

/// How many random bytes a seal takes.
pub const NONCE_BYTES: usize = 24;
/// How many random bytes a key is.
pub const KEY_BYTES: usize = 32;
const NAME_BYTES: usize = 8;
/// The form of the bytes that are made now.
const FORM: u8 = 1;
/// Keeps what is made here apart from anything else that might be made with the same key.
const LABEL: &[u8] = b"renga-deployer sealed token";

/// The keys of `DEPLOYER_SEAL_KEY`: the first seals, each opens.
#[derive(Clone)]
pub struct SealKeys {
    seals: SealKey,
    opens_too: Option<SealKey>,
}

#[derive(Clone)]
struct SealKey {
    name: [u8; NAME_BYTES],
    cipher: XChaCha20Poly1305,
}

/// A sealed token.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedToken(Vec<u8>);

/// Why a text is not the keys to seal with. Never holds the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealKeyError {
    /// A part of it is not a key.
    #[error(
        "each key must be 32 random bytes as base64, which is 44 characters: openssl rand -base64 32; two keys are \
         separated by a comma"
    )]
    NoKey,
    /// More than two.
    #[error(
        "it holds more than two keys; the first seals, and the second opens what was sealed before it was replaced"
    )]
    TooMany,
}

/// A token too long for the cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token is too long to be sealed")]
pub struct TooLong;

/// Why a sealed token does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    /// It was sealed with a key that is not configured here.
    #[error("it was sealed with a key that is not configured")]
    UnknownKey,
    /// It is not as it was sealed: cut off, changed, or another execution's.
    #[error("it is damaged, or was sealed for another execution")]
    Damaged,
    /// A version of this program that is newer made it.
    #[error("it is of a form that this version does not know")]
    UnknownForm,
}

impl SealKeys {
    /// Reads one key, or two separated by a comma, each 32 bytes as base64.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(text: &str) -> Result<Self, SealKeyError> {
        let mut parts = text.split(',');
        let seals = SealKey::parse(parts.next().unwrap_or_default())?;
        let opens_too = parts.next().map(SealKey::parse).transpose()?;
        if parts.next().is_some() {
            return Err(SealKeyError::TooMany);
        }
        Ok(Self { seals, opens_too })
    }

    /// A new key as a text that [`Self::parse`] reads. `random` must be random.
    pub fn new_key(random: [u8; KEY_BYTES]) -> String {
        BASE64_STANDARD.encode(random)
    }

    /// How many keys there are.
    pub fn count(&self) -> usize {
        1 + usize::from(self.opens_too.is_some())
    }

    /// Seals `token` for one execution. `nonce` must be random.
    ///
    /// # Errors
    /// When the token is longer than the cipher can take, which is hundreds of gigabytes.
    pub fn seal(&self, token: &str, execution: ExecutionId, nonce: [u8; NONCE_BYTES]) -> Result<SealedToken, TooLong> {
        let SealKey { name, cipher } = &self.seals;
        let aad = vouched_for(name, execution);
        let payload = Payload { msg: token.as_bytes(), aad: &aad };
        let made = cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| TooLong)?;
        Ok(SealedToken([&[FORM], name.as_slice(), &nonce, &made].concat()))
    }

    /// Opens what was sealed for this execution with either key.
    ///
    /// # Errors
    /// When it was sealed with another key or for another execution, or is not as it was sealed.
    pub fn open(&self, sealed: &SealedToken, execution: ExecutionId) -> Result<OpenedToken, Unopened> {
        let (form, rest) = sealed.0.split_first().ok_or(Unopened::Damaged)?;
        if *form != FORM {
            return Err(Unopened::UnknownForm);
        }
        let (name, rest) = rest.split_first_chunk::<NAME_BYTES>().ok_or(Unopened::Damaged)?;
        let (nonce, made) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(Unopened::Damaged)?;
        let keys = std::iter::once(&self.seals).chain(&self.opens_too);
        let key = keys.into_iter().find(|key| key.name == *name).ok_or(Unopened::UnknownKey)?;
        let aad = vouched_for(name, execution);
        let payload = Payload { msg: made, aad: &aad };
        let opened = key.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| Unopened::Damaged)?;
        match String::from_utf8(opened) {
            // The text stays where it was decrypted: a copy would leave the original unwiped.
            Ok(token) => Ok(OpenedToken::new(Box::new(token))),
            Err(error) => {
                error.into_bytes().zeroize();
                Err(Unopened::Damaged)
            }
        }
    }
}

impl SealKey {
    fn parse(text: &str) -> Result<Self, SealKeyError> {
        let bytes = Zeroizing::new(BASE64_STANDARD.decode(text.trim()).map_err(|_| SealKeyError::NoKey)?);
        // The cipher takes the key from here, so that no array of it is left on the stack.
        let cipher = XChaCha20Poly1305::new_from_slice(&bytes).map_err(|_| SealKeyError::NoKey)?;
        let digest = Sha256::new().chain_update(LABEL).chain_update(&*bytes).finalize();
        let mut name = [0; NAME_BYTES];
        name.copy_from_slice(&digest[..NAME_BYTES]);
        Ok(Self { name, cipher })
    }
}

/// What the cipher vouches for beside the token. Each part but the last has one length, so no two are alike.
fn vouched_for(key: &[u8; NAME_BYTES], execution: ExecutionId) -> Vec<u8> {
    [LABEL, &[FORM], key, execution.0.as_bytes()].concat()
}

impl SealedToken {
    /// One as it was stored.
    pub fn from_stored(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// As it is stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SealKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKeys({})", self.count())
    }
}

impl fmt::Debug for SealedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedToken({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;
    use uuid::Uuid;

    use super::*;

    const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmVk";
    const NONCE: [u8; NONCE_BYTES] = [7; NONCE_BYTES];

    fn text(key: u8) -> String {
        SealKeys::new_key([key; KEY_BYTES])
    }

    fn keys(keys: &[u8]) -> SealKeys {
        SealKeys::parse(&keys.iter().map(|key| text(*key)).collect::<Vec<_>>().join(",")).unwrap()
    }

    fn execution(number: u128) -> ExecutionId {
        ExecutionId(Uuid::from_u128(number))
    }

    fn sealed(with: &[u8]) -> SealedToken {
        keys(with).seal(TOKEN, execution(1), NONCE).unwrap()
    }

    #[test]
    fn what_is_sealed_for_an_execution_opens_for_it_and_for_no_other() {
        let sealed = sealed(&[1]);
        assert_eq!(keys(&[1]).open(&sealed, execution(1)).unwrap().expose_secret(), TOKEN);
        assert_eq!(keys(&[1]).open(&sealed, execution(2)).unwrap_err(), Unopened::Damaged);
    }

    #[test]
    fn the_token_is_not_in_what_is_stored_and_another_nonce_makes_other_bytes() {
        let one = sealed(&[1]);
        assert!(!one.as_bytes().windows(8).any(|bytes| TOKEN.as_bytes().windows(8).any(|part| part == bytes)));
        let other = keys(&[1]).seal(TOKEN, execution(1), [8; NONCE_BYTES]).unwrap();
        let made = |sealed: &SealedToken| sealed.as_bytes()[1 + NAME_BYTES + NONCE_BYTES..].to_vec();
        assert_ne!(made(&one), made(&other));
    }

    #[test]
    fn whatever_is_changed_or_cut_off_does_not_open() {
        let whole = sealed(&[1]);
        let open = |bytes: Vec<u8>| keys(&[1]).open(&SealedToken::from_stored(bytes), execution(1)).err();
        for index in 0..whole.as_bytes().len() {
            let mut flipped = whole.as_bytes().to_vec();
            flipped[index] ^= 1;
            let told = match index {
                0 => Unopened::UnknownForm,
                1..=NAME_BYTES => Unopened::UnknownKey,
                _ => Unopened::Damaged,
            };
            assert_eq!(open(flipped), Some(told), "byte {index}");
            assert_eq!(open(whole.as_bytes()[..index].to_vec()), Some(Unopened::Damaged), "the first {index} bytes");
        }
        assert_eq!(open([whole.as_bytes(), &[0]].concat()), Some(Unopened::Damaged));
    }

    #[test]
    fn a_key_is_rotated_in_before_the_old_one_and_out_later() {
        let before = sealed(&[1]);
        assert!(keys(&[2, 1]).open(&before, execution(1)).is_ok(), "the old key still opens");
        let after = sealed(&[2, 1]);
        assert!(keys(&[2]).open(&after, execution(1)).is_ok(), "the new key seals");
        let refused = |key, sealed| keys(&[key]).open(sealed, execution(1)).unwrap_err();
        assert_eq!(refused(1, &after), Unopened::UnknownKey);
        assert_eq!(refused(2, &before), Unopened::UnknownKey, "which is told from damage");
    }

    #[test]
    fn keys_are_one_or_two_of_32_bytes_as_base64() {
        assert_eq!(SealKeys::parse(&format!(" {} ,\n{}\n", text(1), text(2))).unwrap().count(), 2);
        let short = BASE64_STANDARD.encode([1; 31]);
        let long = BASE64_STANDARD.encode([1; 33]);
        let (trailing, leading) = (format!("{},", text(1)), format!(",{}", text(1)));
        for bad in ["", ",", "hunter2", &short, &long, &text(1)[..43], &trailing, &leading, &"0".repeat(64)] {
            assert_eq!(SealKeys::parse(bad).unwrap_err(), SealKeyError::NoKey, "{bad:?}");
        }
        let three = [text(1), text(2), text(3)].join(",");
        assert_eq!(SealKeys::parse(&three).unwrap_err(), SealKeyError::TooMany);
    }

    #[test]
    fn neither_keys_nor_tokens_are_shown() {
        let opened = keys(&[1]).open(&sealed(&[1]), execution(1));
        assert!(!format!("{opened:?}").contains(TOKEN));
        let shown = format!("{:?} {:?}", keys(&[1, 2]), sealed(&[1]));
        assert_eq!(shown, format!("SealKeys(2) SealedToken({} bytes)", 1 + 8 + 24 + TOKEN.len() + 16));
    }
}
