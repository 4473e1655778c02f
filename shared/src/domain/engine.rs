//! Names of engines, as they appear in rows and requests.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of a configured engine: lower case letters, digits and hyphens, as a DNS label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EngineName(String);

/// The error for a string that is not a valid engine name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot name an engine: 1 to 63 lower case letters, digits and hyphens, beginning with a letter")]
pub struct BadEngineName(String);

impl EngineName {
    /// The maximum length, in bytes.
    pub const MAX_LENGTH: usize = 63;

    /// Parses a name: 1 to 63 lower case letters, digits and hyphens, beginning with a letter.
    ///
    /// # Errors
    /// Fails with [`BadEngineName`] if `text` has another form.
    pub fn parse(text: &str) -> Result<Self, BadEngineName> {
        let fits = (1..=Self::MAX_LENGTH).contains(&text.len())
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if fits { Ok(Self(text.to_owned())) } else { Err(BadEngineName(text.chars().take(100).collect())) }
    }

    /// Returns the name.
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
