//! Requests for grants to the resource manager, and the check that a grant matches its request.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{LEEWAY, Scope, ScopeSet};
use crate::domain::Timestamp;

/// The maximum time that a grant is cached, so that a grant that the manager revokes soon stops working.
const LONGEST_MEMORY: Duration = Duration::from_secs(60);
const SERVICE_CLAIMS: &str = "https://rm.datascience.ch/service_claims";
const RESOURCE_ID: &str = "https://rm.datascience.ch/resource_id";

/// The access that an endpoint needs to the object in its path. It serialises as the body of the token exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GrantRequest<'a> {
    #[serde(rename = "scope")]
    needed: &'a [Scope],
    service_claims: Value,
    /// The vertex of the object in the knowledge graph, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_id: Option<i64>,
}

impl<'a> GrantRequest<'a> {
    /// Returns a request for the scopes `needed` on the object that the path parameters name, and on its vertex.
    pub fn new(needed: &'a [Scope], parameters: &[(&'static str, &str)], resource_id: Option<i64>) -> Self {
        let claims: Map<String, Value> =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
        Self { needed, service_claims: json!({ "claims": claims }), resource_id }
    }

    /// Returns the needed scopes.
    pub fn scopes(&self) -> ScopeSet {
        ScopeSet::of(self.needed)
    }
}

/// Whether the claims of a granted token match the request. The scopes are not checked here.
pub fn is_for(granted: &Map<String, Value>, asked: &GrantRequest<'_>) -> bool {
    // The claim is a string with JSON in it: the request's `service_claims`, or only their `claims`.
    let about = granted.get(SERVICE_CLAIMS).and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
    let about = about.is_some_and(|about: Value| {
        about == asked.service_claims || Some(&about) == asked.service_claims.get("claims")
    });
    let on = match (granted.get(RESOURCE_ID), asked.resource_id) {
        (None | Some(Value::Null), None) => true,
        (Some(granted), Some(asked)) => granted.as_i64() == Some(asked),
        _ => false,
    };
    about && on
}

/// Returns the time until which a grant made at `now` may be reused, for a principal that is valid until `expires`: its
/// own expiry without leeway, at most one minute from now.
pub fn remembered_until(now: Timestamp, expires: Timestamp) -> Timestamp {
    now.plus(LONGEST_MEMORY).min(expires.minus(LEEWAY))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: &[Scope] = &[Scope::ContextsRead, Scope::ExecutionsRead];

    #[test]
    fn the_request_has_the_form_that_the_manager_reads() {
        let asked = GrantRequest::new(NEEDED, &[("context_id", "c"), ("execution_id", "e")], Some(1_234));
        assert_eq!(
            serde_json::to_value(&asked).unwrap(),
            json!({
                "scope": ["deployer:contexts_read", "deployer:executions_read"],
                "service_claims": {"claims": {"context_id": "c", "execution_id": "e"}},
                "resource_id": 1_234,
            })
        );
        assert!(serde_json::to_value(GrantRequest::new(NEEDED, &[], None)).unwrap().get("resource_id").is_none());
    }

    #[test]
    fn a_grant_is_cached_for_at_most_a_minute_and_never_past_its_expiry() {
        let at = |seconds: i64| Timestamp(seconds * 1_000_000);
        assert_eq!(remembered_until(at(1_000), at(1_000 + 3_600 + 30)), at(1_060));
        assert_eq!(remembered_until(at(1_000), at(1_010 + 30)), at(1_010));
        assert!(remembered_until(at(1_000), at(990 + 30)) < at(1_000), "believed for its leeway alone");
    }

    #[test]
    fn a_grant_matches_only_its_request() {
        let asked = GrantRequest::new(NEEDED, &[("context_id", "c")], Some(7));
        let claims = |about: Value, on: Value| json!({ SERVICE_CLAIMS: about, RESOURCE_ID: on });
        let is_for = |granted: &Value| is_for(granted.as_object().unwrap(), &asked);
        assert!(is_for(&claims(r#"{"claims": {"context_id": "c"}}"#.into(), 7.into())));
        assert!(is_for(&claims(r#"{"context_id":"c"}"#.into(), 7.into())));
        for (about, on) in [
            (json!(r#"{"claims": {"context_id": "d"}}"#), json!(7)),
            (json!(r#"{"claims": {"context_id": "c", "execution_id": "e"}}"#), json!(7)),
            (json!("{}"), json!(7)),
            (json!("c"), json!(7)),
            (json!({"claims": {"context_id": "c"}}), json!(7)),
            (Value::Null, json!(7)),
            (json!(r#"{"context_id":"c"}"#), json!(8)),
            (json!(r#"{"context_id":"c"}"#), json!("7")),
            (json!(r#"{"context_id":"c"}"#), Value::Null),
        ] {
            assert!(!is_for(&claims(about.clone(), on.clone())), "{about} {on}");
        }
        let everywhere = GrantRequest::new(NEEDED, &[], None);
        let granted = json!({ SERVICE_CLAIMS: r#"{"claims":{}}"#, RESOURCE_ID: 7 });
        assert!(!super::is_for(granted.as_object().unwrap(), &everywhere), "one thing is not all");
    }
}
