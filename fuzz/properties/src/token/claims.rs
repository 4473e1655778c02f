//! Claims selected by the input, each with whether it is valid.

use renga_shared::auth::{Principal, Scope, ScopeSet};
use renga_shared::domain::Timestamp;
use renga_shared::placement::Claim;
use serde_json::{Map, Value, json};

use super::{ISSUER, LEEWAY, NOW, SCOPES};

/// The last second that a claim may have.
const LAST: i64 = u32::MAX as i64;

/// A header and claims selected by the input.
pub(super) struct Chosen {
    pub(super) header: &'static str,
    pub(super) claims: Value,
    /// The principal, if the token must be accepted.
    pub(super) expected: Option<Principal>,
}

/// A claim's value, or its absence; and whether that is valid.
type Choice = (Option<Value>, bool);

/// The bytes of the input; zeros after its end.
struct Bytes<'a>(std::slice::Iter<'a, u8>);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or_default()
    }

    fn number(&mut self) -> i64 {
        i64::from(i16::from_be_bytes([self.next(), self.next()]))
    }
}

impl Chosen {
    pub(super) fn of(input: &[u8]) -> Self {
        let mut bytes = Bytes(input.iter());
        let (header, algorithm) = header(bytes.next());
        let choices: [(&str, Choice); 7] = [
            ("iss", issuer(bytes.next())),
            ("exp", expiry(&mut bytes)),
            ("nbf", not_before(&mut bytes)),
            ("iat", issued(&mut bytes)),
            ("typ", purpose(bytes.next())),
            ("sub", subject(&mut bytes)),
            ("jti", (Some(json!("0")), true)),
        ];
        let good = algorithm && choices.iter().all(|(_, (_, good))| *good);
        let mut claims: Map<String, Value> =
            choices.into_iter().filter_map(|(name, (value, _))| Some((name.to_owned(), value?))).collect();
        let (value, scopes) = scopes(bytes.next());
        claims.extend(value.map(|value| (SCOPES.to_owned(), value)));
        let claims = Value::Object(claims);
        let expected = good.then(|| Principal {
            subject: claims["sub"].as_str().unwrap_or_default().to_owned(),
            scopes: Some(scopes),
            expires: Timestamp((claims["exp"].as_i64().unwrap_or_default() + LEEWAY) * 1_000_000),
            claims: Claim::of(claims.as_object().unwrap_or(&Map::new())).into(),
        });
        Self { header, claims, expected }
    }
}

fn header(choice: u8) -> (&'static str, bool) {
    match choice % 16 {
        0..=6 => (r#"{"alg":"EdDSA"}"#, true),
        7 => (r#"{"alg":"EdDSA","typ":"JWT","kid":"a","jku":"http://issuer.test/keys"}"#, true),
        8 => (r#"{"alg":"EdDSA","typ":"at+jwt"}"#, true),
        9 => (r#"{"alg":"Ed25519"}"#, true),
        10 => (r#"{"alg":"none"}"#, false),
        11 => (r#"{"alg":"HS256"}"#, false),
        12 => (r#"{"alg":"RS256"}"#, false),
        13 => (r#"{"alg":"EdDSA","crit":["exp"]}"#, false),
        14 => (r#"{"alg":"EdDSA","b64":true}"#, false),
        _ => ("{}", false),
    }
}

fn issuer(choice: u8) -> Choice {
    match choice % 8 {
        0..=3 => (Some(json!(ISSUER)), true),
        4 => (None, false),
        5 => (Some(json!(format!("{ISSUER}/"))), false),
        6 => (Some(json!([ISSUER])), false),
        _ => (Some(json!(ISSUER.to_uppercase())), false),
    }
}

/// Returns a whole number of seconds, or an invalid value.
fn instant(bytes: &mut Bytes<'_>, good: impl Fn(i64) -> bool) -> Choice {
    match bytes.next() % 8 {
        0..=3 => {
            let at = NOW + bytes.number();
            (Some(json!(at)), good(at))
        }
        4 => (Some(json!(LAST)), good(LAST)),
        5 => (Some(json!(LAST + 1)), false),
        6 => (Some(json!(-bytes.number().abs() - 1)), false),
        _ => match bytes.next() % 5 {
            0 => (Some(json!(NOW.to_string())), false),
            1 => (Some(json!(1.7e9)), false),
            2 => (Some(json!(u64::MAX)), false),
            3 => (Some(json!([NOW])), false),
            _ => (Some(Value::Null), false),
        },
    }
}

fn expiry(bytes: &mut Bytes<'_>) -> Choice {
    match bytes.next() % 8 {
        0 => (None, false),
        1 => instant(bytes, |at| at + LEEWAY > NOW),
        offset => (Some(json!(NOW - LEEWAY - 1 + i64::from(offset))), offset > 1),
    }
}

fn not_before(bytes: &mut Bytes<'_>) -> Choice {
    match bytes.next() % 8 {
        0 => (None, true),
        1 => instant(bytes, |at| at <= NOW + LEEWAY),
        offset => (Some(json!(NOW + LEEWAY - 6 + i64::from(offset))), offset <= 6),
    }
}

fn issued(bytes: &mut Bytes<'_>) -> Choice {
    if bytes.next().is_multiple_of(4) { instant(bytes, |_| true) } else { (None, true) }
}

fn purpose(choice: u8) -> Choice {
    match choice % 8 {
        0..=2 => (None, true),
        3 => (Some(json!("Bearer")), true),
        4 => (Some(json!("ID")), false),
        5 => (Some(json!("Refresh")), false),
        6 => (Some(json!("Offline")), false),
        _ => (Some(json!(7)), true),
    }
}

/// Returns a string from the input, or an invalid value.
fn subject(bytes: &mut Bytes<'_>) -> Choice {
    match bytes.next() % 8 {
        0 => (None, false),
        1 => (Some(json!(["alice"])), false),
        2 => {
            let length = usize::from(bytes.next()) + 100;
            (Some(json!("s".repeat(length))), length <= 255)
        }
        _ => {
            let length = usize::from(bytes.next() % 16);
            let text: Vec<u8> = (0..length).map(|_| bytes.next()).collect();
            let text = String::from_utf8_lossy(&text).into_owned();
            let good = !text.is_empty() && !text.contains('\0');
            (Some(json!(text)), good)
        }
    }
}

fn scopes(choice: u8) -> (Option<Value>, ScopeSet) {
    let all = [Scope::ContextsRead, Scope::ContextsWrite, Scope::ExecutionsRead, Scope::ExecutionsWrite];
    let given: Vec<Scope> =
        all.into_iter().enumerate().filter(|(bit, _)| choice & (1 << bit) != 0).map(|(_, scope)| scope).collect();
    let names: Vec<&str> = given.iter().map(|scope| scope.name()).chain(["openid"]).collect();
    match choice >> 4 {
        0..=5 => (Some(json!(names)), ScopeSet::of(&given)),
        6..=11 => (Some(json!(names.join(" "))), ScopeSet::of(&given)),
        12 => (None, ScopeSet::of(&[])),
        13 => (Some(json!(names.join(","))), ScopeSet::of(&[])),
        14 => (Some(json!({ "scope": names })), ScopeSet::of(&[])),
        _ => (Some(json!(7)), ScopeSet::of(&[])),
    }
}
