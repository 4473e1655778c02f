//! Authentication and authorization: bearer tokens (RFC 6750, RFC 7519), their keys, scopes and owners.
//!
//! Obligations: nothing bypasses verification; the algorithm follows from the key and never from the token; errors have
//! nothing of a token, a key or a claim; the token cache holds digests, never tokens, and no entry outlives its token's
//! expiry; a token that waits for its container is stored sealed.
//!
//! Keys come from the configuration, or from the issuer ([`discovery`]): the code that fetches them builds a
//! [`Verifier`] from the [`KeySet`].

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
