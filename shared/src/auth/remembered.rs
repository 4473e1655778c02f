//! Tokens that were verified before. Verifying costs milliseconds in a component, remembering a microsecond or two.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use super::Principal;
use crate::domain::Timestamp;

/// A digest of a token: whoever reads the memory finds no token in it.
type Key = [u8; 32];

/// Verified tokens, a bounded number of them, each until it expires.
#[derive(Debug)]
pub struct Remembered {
    most: usize,
    /// Those that were used since the last turn; what is not used for a whole turn is forgotten.
    recent: HashMap<Key, Principal>,
    older: HashMap<Key, Principal>,
}

impl Remembered {
    /// Remembers at most `most` tokens.
    pub fn new(most: usize) -> Self {
        Self { most, recent: HashMap::new(), older: HashMap::new() }
    }

    /// Who showed this token, if it is remembered and has not expired `now`.
    pub fn get(&mut self, token: &str, now: Timestamp) -> Option<&Principal> {
        let key: Key = Sha256::digest(token).into();
        if !self.recent.contains_key(&key) {
            let principal = self.older.remove(&key)?;
            self.put(key, principal);
        }
        if self.recent.get(&key).is_some_and(|principal| principal.expires <= now) {
            self.recent.remove(&key);
        }
        self.recent.get(&key)
    }

    /// Remembers who showed a token that was verified.
    pub fn insert(&mut self, token: &str, principal: Principal) {
        self.put(Sha256::digest(token).into(), principal);
    }

    fn put(&mut self, key: Key, principal: Principal) {
        if self.recent.len() >= self.most / 2 {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(key, principal);
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.recent.len() + self.older.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(expires: i64) -> Principal {
        Principal { subject: "alice".into(), scopes: None, expires: Timestamp(expires), claims: vec![] }
    }

    #[test]
    fn tokens_are_remembered_until_they_expire() {
        let mut remembered = Remembered::new(10);
        remembered.insert("token", principal(100));
        assert!(remembered.get("token", Timestamp(99)).is_some());
        assert!(remembered.get("other", Timestamp(99)).is_none());
        assert!(remembered.get("token", Timestamp(100)).is_none());
        assert!(remembered.is_empty());
    }

    #[test]
    fn their_number_is_bounded_and_what_is_used_stays() {
        let mut remembered = Remembered::new(100);
        remembered.insert("used", principal(100));
        for number in 0..10_000 {
            remembered.insert(&number.to_string(), principal(100));
            assert!(remembered.get("used", Timestamp(0)).is_some(), "after {number}");
            assert!(remembered.len() <= 100);
        }
    }
}
