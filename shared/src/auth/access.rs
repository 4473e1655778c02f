//! Whose things a valid token reaches: `DEPLOYER_ACCESS`.

use crate::sql::Visible;

/// Whose things a valid token reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Its subject's own.
    #[default]
    Owned,
    /// Everybody's, as with the 2018 service.
    Shared,
}

impl Access {
    /// Reads `owned` or `shared`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "owned" => Some(Self::Owned),
            "shared" => Some(Self::Shared),
            _ => None,
        }
    }

    /// What `subject` may see.
    pub fn of(self, subject: &str) -> Visible<'_> {
        match self {
            Self::Owned => Visible::To(subject),
            Self::Shared => Visible::All,
        }
    }
}
