//! Tokens that were looked at before. Verifying one costs a good part of a millisecond in a component, or several; remembering
//! a microsecond or two.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use super::Principal;
use crate::domain::Timestamp;

/// A digest of a token: whoever reads the memory finds no token in it.
type Key = [u8; 32];

/// What is known of tokens, of a bounded number of them, each until a time.
#[derive(Debug)]
pub struct Remembered<V = Principal> {
    most: usize,
    /// Those that were used since the last turn; what is not used for a whole turn is forgotten.
    recent: HashMap<Key, Known<V>>,
    /// What the recent ones weigh together.
    weight: usize,
    older: HashMap<Key, Known<V>>,
}

#[derive(Debug)]
struct Known<V> {
    value: V,
    until: Timestamp,
    weight: usize,
}

impl<V> Remembered<V> {
    /// Remembers at most `most` tokens.
    pub fn new(most: usize) -> Self {
        Self { most, recent: HashMap::new(), weight: 0, older: HashMap::new() }
    }

    /// What is known of this token, if it is remembered `now`.
    pub fn get(&mut self, token: &str, now: Timestamp) -> Option<&V> {
        let key: Key = Sha256::digest(token).into();
        if !self.recent.contains_key(&key) {
            let known = self.older.remove(&key)?;
            self.put(key, known);
        }
        if self.recent.get(&key).is_some_and(|known| known.until <= now) {
            self.forget(&key);
        }
        self.recent.get(&key).map(|known| &known.value)
    }

    /// Remembers what was found out about a token.
    pub fn insert(&mut self, token: &str, value: V, until: Timestamp) {
        self.insert_weighing(token, value, until, 1);
    }

    /// The same for a value that takes the room of `weight` others.
    pub fn insert_weighing(&mut self, token: &str, value: V, until: Timestamp, weight: usize) {
        self.put(Sha256::digest(token).into(), Known { value, until, weight });
    }

    fn put(&mut self, key: Key, known: Known<V>) {
        if self.weight >= self.most / 2 {
            self.older = std::mem::take(&mut self.recent);
            self.weight = 0;
        }
        self.forget(&key);
        self.weight += known.weight;
        self.recent.insert(key, known);
    }

    fn forget(&mut self, key: &Key) {
        if let Some(known) = self.recent.remove(key) {
            self.weight -= known.weight;
        }
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

    #[test]
    fn tokens_are_remembered_until_their_time() {
        let mut remembered = Remembered::new(10);
        remembered.insert("token", 1, Timestamp(100));
        assert_eq!(remembered.get("token", Timestamp(99)), Some(&1));
        assert!(remembered.get("other", Timestamp(99)).is_none());
        assert!(remembered.get("token", Timestamp(100)).is_none());
        assert!(remembered.is_empty());
    }

    #[test]
    fn their_number_is_bounded_and_what_is_used_stays() {
        let mut remembered = Remembered::new(100);
        remembered.insert("used", (), Timestamp(100));
        for number in 0..10_000 {
            remembered.insert(&number.to_string(), (), Timestamp(100));
            assert!(remembered.get("used", Timestamp(0)).is_some(), "after {number}");
            assert!(remembered.len() <= 100);
        }
    }

    #[test]
    fn what_takes_more_room_leaves_room_for_fewer() {
        let mut remembered = Remembered::new(100);
        for number in 0..1_000 {
            remembered.insert_weighing(&number.to_string(), (), Timestamp(100), 10);
            // The same again takes no more.
            remembered.insert_weighing(&number.to_string(), (), Timestamp(100), 10);
            assert!(remembered.len() <= 10, "{}", remembered.len());
        }
        assert!(remembered.get("999", Timestamp(0)).is_some());
    }
}
