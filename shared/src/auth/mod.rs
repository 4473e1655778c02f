//! Who asks, and what they may do: bearer tokens (RFC 6750, RFC 7519), their keys, scopes and owners.
//!
//! Obligations: there is no way around verification; the algorithm follows from the key and never from the token; nothing of
//! a token, a key or a claim is in an error; a verified token is remembered by a digest, never by itself, and never
//! past its expiry; a token that waits for its container is stored sealed.
//!
//! The seam for keys from an issuer's discovery document is [`Verifier::new`], which takes the keys there are:
//! whoever finds them by `kid` makes the verifier of that key.

mod access;
mod bearer;
mod claims;
mod key;
mod remembered;
mod scopes;
mod seal;
mod verifier;

pub use access::Access;
pub use bearer::bearer_token;
pub use key::{KeyError, VerificationKey};
pub use remembered::Remembered;
pub use scopes::{Scope, ScopeSet};
pub use seal::{KEY_BYTES, NONCE_BYTES, SealKeyError, SealKeys, SealedToken, TooLong, Unopened};
pub use verifier::{Principal, TokenError, Verifier};
