//! Which objects a valid token gives access to: `DEPLOYER_ACCESS`.

use crate::sql::Visible;

/// Which objects a valid token gives access to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Only objects of the token's subject.
    #[default]
    Owned,
    /// All objects, as in the 2018 service.
    Shared,
}

impl Access {
    /// Parses `owned` or `shared`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "owned" => Some(Self::Owned),
            "shared" => Some(Self::Shared),
            _ => None,
        }
    }

    /// Returns the filter for objects that `subject` may see.
    pub fn of(self, subject: &str) -> Visible<'_> {
        match self {
            Self::Owned => Visible::To(subject),
            Self::Shared => Visible::All,
        }
    }
}
