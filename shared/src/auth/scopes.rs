//! Scopes: the permissions of a token.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

/// One permission of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Read contexts.
    ContextsRead,
    /// Create contexts.
    ContextsWrite,
    /// Read executions, their logs and ports.
    ExecutionsRead,
    /// Create, stop and delete executions.
    ExecutionsWrite,
}

impl Scope {
    const ALL: [Self; 4] = [Self::ContextsRead, Self::ContextsWrite, Self::ExecutionsRead, Self::ExecutionsWrite];

    /// Returns the name in a token.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ContextsRead => "deployer:contexts_read",
            Self::ContextsWrite => "deployer:contexts_write",
            Self::ExecutionsRead => "deployer:executions_read",
            Self::ExecutionsWrite => "deployer:executions_write",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ScopeSet(u8);

impl ScopeSet {
    /// Returns the set of these scopes.
    pub const fn of(scopes: &[Scope]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < scopes.len() {
            bits |= scopes[index].bit();
            index += 1;
        }
        Self(bits)
    }

    /// Returns the scopes of a claim: a list of names, or names separated by spaces. Any other value has none.
    pub(super) fn of_claim(claim: Option<&Value>) -> Self {
        let mut bits = 0;
        let mut add = |name: &str| {
            bits |= Scope::ALL.into_iter().filter(|scope| scope.name() == name).map(Scope::bit).sum::<u8>();
        };
        match claim {
            Some(Value::String(names)) => names.split(' ').for_each(&mut add),
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).for_each(&mut add),
            _ => {}
        }
        Self(bits)
    }

    /// Returns the scopes of `self` that are not in `given`.
    pub const fn missing_from(self, given: Self) -> Self {
        Self(self.0 & !given.0)
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for ScopeSet {
    /// Writes the names, separated by spaces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Scope::ALL.into_iter().filter(|scope| self.0 & scope.bit() != 0).map(Scope::name).collect();
        f.write_str(&names.join(" "))
    }
}

impl fmt::Debug for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScopeSet({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scopes_are_a_list_or_a_string() {
        let both = ScopeSet::of(&[Scope::ContextsRead, Scope::ExecutionsWrite]);
        for claim in [
            json!("deployer:contexts_read other deployer:executions_write deployer:contexts_read"),
            json!(["deployer:executions_write", 1, null, ["deployer:contexts_write"], "deployer:contexts_read"]),
        ] {
            assert_eq!(ScopeSet::of_claim(Some(&claim)), both, "{claim}");
        }
        for nothing in [json!(null), json!(1), json!({}), json!(""), json!("deployer:CONTEXTS_READ"), json!([[]])] {
            assert!(ScopeSet::of_claim(Some(&nothing)).is_empty(), "{nothing}");
        }
        let missing = both.missing_from(ScopeSet::of(&[Scope::ContextsRead]));
        assert_eq!(missing.to_string(), "deployer:executions_write");
    }
}
