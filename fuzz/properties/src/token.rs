//! Tokens: a token without the key's signature is rejected, and an accepted token has the required claims.
//!
//! The key is constant, so that a crash can be replayed. It protects nothing.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_compact::{KeyPair, Seed, Signature};
use renga_shared::auth::{Expected, Principal, TokenError, VerificationKey, Verifier, bearer_token};
use renga_shared::domain::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use self::claims::Chosen;

mod claims;

const ISSUER: &str = "http://issuer.test/realms/Renga";
/// The current time, in seconds since the Unix epoch.
const NOW: i64 = 1_700_000_000;
/// The allowed difference between clocks, in seconds.
const LEEWAY: i64 = 30;
/// The claim with the scopes.
const SCOPES: &str = "scope";

static KEYS: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::from_seed(Seed::new([7; 32])));
static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "it is the same key each time")]
    let key = VerificationKey::parse(&KEYS.pk.to_pem()).expect("a public key that was just written can be read");
    Verifier::new(key, Expected::of(ISSUER, Some(SCOPES.into())))
});

/// Checks the properties in the module's doc. The first byte selects the meaning of the rest: an `Authorization`
/// header; the three parts of a token, a line each, not yet encoded; the first two parts, to be signed; or the choice
/// of claims, to be signed.
pub fn hold(input: &[u8]) {
    let Some((form, rest)) = input.split_first() else { return };
    match form % 4 {
        0 => sent(rest),
        1 => forged(rest),
        2 => signed_texts(rest),
        _ => signed_claims(rest),
    }
}

fn sent(header: &[u8]) {
    let Ok(token) = bearer_token([header]) else { return };
    assert_eq!(bearer_token([header, header]), Err(TokenError::Several));
    assert!(token.bytes().all(|byte| byte.is_ascii_graphic()), "{token:?}");
    drop(compare(token));
}

fn forged(input: &[u8]) {
    let mut parts = input.splitn(3, |byte| *byte == b'\n').map(encode);
    let mut part = || parts.next().unwrap_or_default();
    let (header, claims, signature) = (part(), part(), part());
    drop(compare(&format!("{header}.{claims}.{signature}")));
}

fn signed_texts(input: &[u8]) {
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let mut part = || parts.next().unwrap_or_default();
    let message = message(part(), part());
    let Err(error) = compare(&format!("{message}.")) else { return };
    let error = if error == TokenError::Signature { compare(&sign(&message)).err() } else { Some(error) };
    // A token may also be malformed in other ways, or fail a further check of the library.
    if let (Some(error), Some(_)) = (error, plainly(&message)) {
        assert!(matches!(error, TokenError::Malformed | TokenError::Signature), "{message} is refused: {error}");
    }
}

fn signed_claims(input: &[u8]) {
    let chosen = Chosen::of(input);
    let message = message(chosen.header.as_bytes(), chosen.claims.to_string().as_bytes());
    // Signatures cost a hundred times the rest, so an invalid token is checked without one, and only seldom with one as
    // well.
    let digest = input.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    if chosen.expected.is_none() && digest % 16 > 0 {
        let refused = compare(&format!("{message}.")).err();
        return assert!(refused.is_some_and(|error| error != TokenError::Signature), "{} {refused:?}", chosen.claims);
    }
    let token = sign(&message);
    let believed = compare(&token);
    assert_eq!(believed.as_ref().ok(), chosen.expected.as_ref(), "{} {}", chosen.header, chosen.claims);
    // A changed token must be rejected, whatever byte was changed.
    let at = digest % token.len();
    let mut changed = token.into_bytes();
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8_lossy(&changed);
    assert_eq!(compare(&changed).ok(), None, "{changed}");
}

fn encode(part: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(part)
}

fn message(header: &[u8], claims: &[u8]) -> String {
    format!("{}.{}", encode(header), encode(claims))
}

fn sign(message: &str) -> String {
    format!("{message}.{}", encode(KEYS.sk.sign(message, None).as_ref()))
}

/// Verifies a token. An accepted token must pass the plain checks of claims and signature, and have the same subject.
fn compare(token: &str) -> Result<Principal, TokenError> {
    let believed = VERIFIER.verify(token, Timestamp(NOW * 1_000_000));
    if let Ok(principal) = &believed {
        let (message, signature) = token.rsplit_once('.').unwrap_or_default();
        assert_eq!(plainly(message).as_ref(), Some(&principal.subject), "{token} is believed");
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
        let signed = Signature::from_slice(&signature).and_then(|signature| KEYS.pk.verify(message, &signature));
        assert!(signed.is_ok(), "{token} is believed without a signature");
    }
    believed
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    crit: Option<IgnoredAny>,
    b64: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    exp: i64,
    nbf: Option<i64>,
    iat: Option<i64>,
    typ: Option<Value>,
}

/// Returns the subject of a token that must be accepted if it is signed. Uses only the standards' rules, and of this
/// project only the last allowed second.
fn plainly(message: &str) -> Option<String> {
    let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
    let (header, claims) = message.split_once('.')?;
    let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
    let claims: Claims = serde_json::from_slice(&decode(claims)?).ok()?;
    let algorithm = matches!(header.alg.as_str(), "EdDSA" | "Ed25519") && header.crit.is_none() && header.b64.is_none();
    let instants = 0..=i64::from(u32::MAX);
    let times = instants.contains(&claims.exp)
        && claims.exp + LEEWAY > NOW
        && claims.nbf.is_none_or(|from| (0..=NOW + LEEWAY).contains(&from))
        && claims.iat.is_none_or(|at| instants.contains(&at));
    let purpose = !matches!(claims.typ.as_ref().and_then(Value::as_str), Some("ID" | "Refresh" | "Offline"));
    let named = claims.iss == ISSUER && (1..=255).contains(&claims.sub.len()) && !claims.sub.contains('\0');
    (algorithm && times && purpose && named).then_some(claims.sub)
}
