//! How a command ended. `main` makes exit codes of it.

use std::io;

/// An end without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// What was asked for is done.
    Done,
    /// `run` followed a container to its end; its exit code.
    Container(i64),
    /// Its user left it before its end.
    Left,
    /// `token check` explained a token that would not be accepted.
    Refused,
}

/// An end with an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// What was typed, or the configuration, is wrong.
    #[error("{0}")]
    Usage(String),
    /// It did not work.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
    /// `run` could not have the container run or could not see its end: no code of the container's.
    #[error(transparent)]
    Run(anyhow::Error),
}

impl Failure {
    /// Whether all that went wrong is that nobody reads the output any more, as in `… | head`.
    pub(crate) fn is_closed_output(&self) -> bool {
        let (Self::Failed(error) | Self::Run(error)) = self else {
            return false;
        };
        error.chain().any(|cause| cause.is::<OutputClosed>())
    }
}

/// Nobody reads standard output any more.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub(crate) struct OutputClosed;

/// Sorts what writing to standard output failed with.
pub(crate) fn output_error(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        OutputClosed.into()
    } else {
        anyhow::Error::new(error).context("cannot write the output")
    }
}
