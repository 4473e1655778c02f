//! The one place where the component takes the time and randomness from its surroundings.

use renga_shared::auth::NONCE_BYTES;
use renga_shared::domain::Timestamp;
use spin_sdk::wasip3::random::random::get_random_u64;

/// The time now.
#[allow(clippy::disallowed_methods, reason = "the one place where the clock is read")]
pub(crate) fn now() -> Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::from_epoch(since_epoch.unwrap_or_default())
}

/// Eight random bytes, for an id.
pub(crate) fn random() -> [u8; 8] {
    get_random_u64().to_be_bytes()
}

/// Random bytes to seal a token with.
pub(crate) fn nonce() -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    for part in nonce.chunks_exact_mut(8) {
        part.copy_from_slice(&get_random_u64().to_be_bytes());
    }
    nonce
}
