//! The resource manager: exchanges a user's token for one that says what is granted on the thing asked for.
//!
//! Obligations: what was granted is remembered for a minute at most, never past its expiry, and for that token, thing and
//! scope alone; a manager that refuses is 403, one that does not know the user 401, and one that is silent, or says what
//! cannot be believed, 503.

use std::cell::RefCell;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use renga_shared::api::Problem;
use renga_shared::auth::grant::{GrantRequest, is_for, remembered_until};
use renga_shared::auth::{Expected, LONGEST_TOKEN, Principal, Remembered, TokenError, VerificationKey, Verifier};
use renga_shared::domain::Timestamp;
use serde_json::Value;
use spin_sdk::http::FullBody;

use crate::ambient;
use crate::outbound;

/// The longest answer that is read, in bytes: a token and a little around it.
const LONGEST_ANSWER: usize = 4 * LONGEST_TOKEN;
/// How many grants an instance remembers.
const REMEMBERED: usize = 4_096;

/// Where the manager is, what verifies its tokens, and what it has granted.
pub(crate) struct ResourceManager {
    url: String,
    verifier: Verifier,
    granted: RefCell<Remembered>,
}

impl ResourceManager {
    pub(crate) fn new(url: String, key: VerificationKey, expected: Expected) -> Self {
        Self { url, verifier: Verifier::new(key, expected), granted: RefCell::new(Remembered::new(REMEMBERED)) }
    }

    /// Who shows this token, with what the manager grants them of what is asked for.
    pub(crate) async fn exchange(&self, token: &str, asked: &GrantRequest<'_>) -> Result<Principal, Problem> {
        if token.len() > LONGEST_TOKEN {
            return Err(TokenError::TooLong.into());
        }
        let body = serde_json::to_string(asked).map_err(|error| crate::answer::internal(&error))?;
        // A token has no line break, so no other token and request come to the same text.
        let remembered = format!("{token}\n{body}");
        let now = ambient::now();
        if let Some(principal) = self.granted.borrow_mut().get(&remembered, now) {
            return Ok(principal.clone());
        }
        let granted = self.ask(token, body).await?;
        let now = ambient::now();
        let mut principal = self.believed(&granted, asked, now).map_err(|why| away(&why))?;
        principal.expires = remembered_until(now, principal.expires);
        // What is refused is asked for again: a refusal may be mended at any time.
        let wanted = asked.scopes();
        if principal.scopes.is_some_and(|scopes| wanted.missing_from(scopes).is_empty()) {
            let (expires, weight) = (principal.expires, principal.weight());
            self.granted.borrow_mut().insert_weighing(&remembered, principal.clone(), expires, weight);
        }
        Ok(principal)
    }

    /// Asks the manager, and returns the token that it gave.
    async fn ask(&self, token: &str, body: String) -> Result<String, Problem> {
        let request = Request::post(&self.url)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(FullBody::new(Bytes::from(body)));
        let request = request.map_err(|error| away(&error.to_string()))?;
        let reply = outbound::send(request, LONGEST_ANSWER).await.map_err(|why| away(&why))?;
        match reply.status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => {
                return Err(Problem::unauthorized("the resource manager does not accept the token"));
            }
            StatusCode::FORBIDDEN => return Err(Problem::refused("The resource manager does not grant this.")),
            other => return Err(away(&format!("it answers {other}"))),
        }
        let answer: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let granted = answer.get("access_token").and_then(Value::as_str);
        granted.map(str::to_owned).ok_or_else(|| away("its answer has no access_token"))
    }

    /// Who was granted what, if the manager signed it and it is for what was asked.
    fn believed(&self, granted: &str, asked: &GrantRequest<'_>, now: Timestamp) -> Result<Principal, String> {
        let verified = self.verifier.verify_whole(granted, now);
        let (principal, claims) = verified.map_err(|error| format!("of the token that it granted: {error}"))?;
        if is_for(&claims, asked) {
            Ok(principal)
        } else {
            Err("it granted something else than was asked for".to_owned())
        }
    }
}

/// The manager did not decide; the operator finds out why.
fn away(why: &str) -> Problem {
    eprintln!("the resource manager gives no decision: {why}");
    Problem::unavailable("Resource manager unavailable", "Whether this is granted cannot be known now. Try again.", 5)
}
