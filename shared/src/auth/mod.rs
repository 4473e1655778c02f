//! Who asks, and what they may do: bearer tokens (RFC 6750, RFC 7519), their keys, scopes and owners.
//!
//! Obligations: there is no way around verification; the algorithm follows from the key and never from the token; nothing of
//! a token, a key or a claim is in an error; a verified token is remembered by a digest, never by itself, and never
//! past its expiry; a token that waits for its container is stored sealed.
//!
//! Keys come from the configuration, or from the issuer ([`discovery`]): whoever fetches them makes a [`Verifier`] of
//! the [`KeySet`].

mod access;
mod bearer;
mod claims;
pub mod discovery;
mod ec_glance;
mod explain;
pub mod grant;
mod key;
mod key_set;
mod remembered;
mod rsa_glance;
mod scopes;
mod seal;
mod throttle;
mod verifier;

pub use access::Access;
pub use bearer::bearer_token;
pub use explain::{Finding, explain};
pub use key::{KeyError, VerificationKey};
pub use key_set::{KeySet, KeySetError};
pub use remembered::Remembered;
pub use scopes::{Scope, ScopeSet};
pub use seal::{KEY_BYTES, NONCE_BYTES, OpenedToken, SealKeyError, SealKeys, SealedToken, TooLong, Unopened};
pub use throttle::Throttle;
pub use verifier::{Expected, LEEWAY, LONGEST_TOKEN, Principal, TokenError, Verifier};
