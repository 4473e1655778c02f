//! Engines by name and kind, as rows and requests speak of them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of a configured engine: lower case letters, digits and hyphens, as a DNS label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EngineName(String);

/// A text that cannot name an engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot name an engine: 1 to 63 lower case letters, digits and hyphens, beginning with a letter")]
pub struct BadEngineName(String);

impl EngineName {
    /// The longest name.
    pub const MAX_LENGTH: usize = 63;

    /// The name that `text` is.
    pub fn parse(text: &str) -> Result<Self, BadEngineName> {
        let fits = (1..=Self::MAX_LENGTH).contains(&text.len())
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if fits { Ok(Self(text.to_owned())) } else { Err(BadEngineName(text.chars().take(100).collect())) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EngineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_names_are_dns_labels() {
        for good in ["docker", "k8s", "gpu-2"] {
            assert_eq!(EngineName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "2gpu", "Docker", "a_b", "a b", &"a".repeat(64)] {
            assert!(EngineName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
