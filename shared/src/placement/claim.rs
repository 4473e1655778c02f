//! What a token says of its user that an engine may require.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The most claims that are kept of a token, and the longest one in bytes. More is a mistake in the issuer, or worse.
pub const MOST_CLAIMS: usize = 256;
const LONGEST: usize = 256;

/// `role:gpu-users`, `group:/physics`, `client:notebooks` or `sub:…`: one thing that a token says of its user.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Claim(String);

/// A text that is no claim.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no claim: it must be role:NAME, group:NAME, client:NAME or sub:SUBJECT")]
pub struct BadClaim(String);

impl Claim {
    /// The claim that `text` is.
    pub fn parse(text: &str) -> Result<Self, BadClaim> {
        let known = |kind| matches!(kind, "role" | "group" | "client" | "sub");
        match text.split_once(':') {
            Some((kind, value)) if known(kind) && !value.is_empty() && text.len() <= LONGEST => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(BadClaim(text.chars().take(100).collect())),
        }
    }

    /// The claim.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What a verified token says: its subject, client (`azp`), roles (`roles`, Keycloak's `realm_access` and
    /// `resource_access`) and groups (`groups`).
    pub fn of(token: &Map<String, Value>) -> Vec<Self> {
        let texts = |value: Option<&Value>| match value {
            Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Some(Value::String(text)) => vec![text.clone()],
            _ => Vec::new(),
        };
        let mut roles = texts(token.get("roles"));
        roles.extend(texts(token.get("realm_access").and_then(|access| access.get("roles"))));
        let clients = token.get("resource_access").and_then(Value::as_object).into_iter().flatten();
        roles.extend(clients.flat_map(|(_, access)| texts(access.get("roles"))));
        let said = [
            ("sub", texts(token.get("sub"))),
            ("client", texts(token.get("azp"))),
            ("role", roles),
            ("group", texts(token.get("groups"))),
        ];
        let mut claims: Vec<Self> = said
            .into_iter()
            .flat_map(|(kind, values)| values.into_iter().map(move |value| format!("{kind}:{value}")))
            .filter_map(|text| Self::parse(&text).ok())
            .collect();
        claims.sort();
        claims.dedup();
        claims.truncate(MOST_CLAIMS);
        claims
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_says_who_its_user_is() {
        let token = json!({
            "sub": "alice", "azp": "notebooks", "groups": ["/physics"], "roles": ["a"], "email": "a@example.org",
            "realm_access": {"roles": ["gpu-users", "a"]}, "resource_access": {"x": {"roles": ["b"]}, "y": 1},
        });
        let Value::Object(token) = token else { panic!() };
        let said: Vec<String> = Claim::of(&token).iter().map(Claim::to_string).collect();
        assert_eq!(said, ["client:notebooks", "group:/physics", "role:a", "role:b", "role:gpu-users", "sub:alice"]);
    }

    #[test]
    fn other_texts_are_no_claims() {
        for bad in ["", "role", "role:", "email:a@example.org", &format!("role:{}", "a".repeat(300))] {
            assert!(Claim::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Claim::parse("group:a:b").unwrap().as_str(), "group:a:b");
    }
}
