//! What a token says of its user that an engine may require.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The longest claim in bytes. An engine cannot require a longer one, because its configuration is read by the same
/// rule.
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

    /// What a verified token says, in this order: its subject, client (`azp`), roles (`roles`, Keycloak's
    /// `realm_access` and `resource_access`) and groups (`groups`).
    ///
    /// Everything that an engine can require is kept, however much it is: a claim that was left out would shut its
    /// user out of an engine. What bounds it is the token, which is at most
    /// [`LONGEST_TOKEN`](crate::auth::LONGEST_TOKEN) bytes: each claim stands in it.
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
        let of_kind = |(kind, mut values): (&str, Vec<String>)| {
            values.sort();
            values.dedup();
            values.into_iter().filter_map(|value| Self::parse(&format!("{kind}:{value}")).ok()).collect::<Vec<_>>()
        };
        said.into_iter().flat_map(of_kind).collect()
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
        assert_eq!(said, ["sub:alice", "client:notebooks", "role:a", "role:b", "role:gpu-users", "group:/physics"]);
    }

    #[test]
    fn nobody_loses_a_role_by_having_many_groups() {
        let groups: Vec<String> = (0..1_000).map(|number| format!("/g{number}")).collect();
        let token = json!({"sub": "alice", "azp": "notebooks", "groups": groups, "roles": ["gpu-users"]});
        let Value::Object(token) = token else { panic!() };
        let claims = Claim::of(&token);
        for said in ["sub:alice", "client:notebooks", "role:gpu-users", "group:/g0", "group:/g999"] {
            assert!(claims.contains(&Claim::parse(said).unwrap()), "{said} is lost");
        }
        assert_eq!(claims.len(), 1_003);
    }

    #[test]
    fn other_texts_are_no_claims() {
        for bad in ["", "role", "role:", "email:a@example.org", &format!("role:{}", "a".repeat(300))] {
            assert!(Claim::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Claim::parse("group:a:b").unwrap().as_str(), "group:a:b");
    }
}
