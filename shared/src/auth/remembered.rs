//! A cache of checked tokens. In a component, verifying a token takes most of a millisecond or several; a look-up takes
//! one or two microseconds.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use super::Principal;
use crate::domain::Timestamp;

/// The digest of a token. The cache holds no token, so reading its memory reveals none.
type Key = [u8; 32];

/// A cache with a bounded number of tokens. Each entry is valid until a given time.
#[derive(Debug)]
pub struct Remembered<V = Principal> {
    most: usize,
    /// Entries used since `recent` last became `older`. An entry that is not used until the next time is dropped.
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
    /// Returns an empty cache for at most `most` tokens.
    pub fn new(most: usize) -> Self {
        Self { most, recent: HashMap::new(), weight: 0, older: HashMap::new() }
    }

    /// Returns the entry of this token, if it is still valid at `now`.
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

    /// Adds an entry for a token.
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

    /// Whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_kept_until_they_expire() {
        let mut remembered = Remembered::new(10);
        remembered.insert("token", 1, Timestamp(100));
        assert_eq!(remembered.get("token", Timestamp(99)), Some(&1));
        assert!(remembered.get("other", Timestamp(99)).is_none());
        assert!(remembered.get("token", Timestamp(100)).is_none());
        assert!(remembered.is_empty());
    }

    #[test]
    fn the_number_of_entries_is_bounded_and_used_ones_stay() {
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
