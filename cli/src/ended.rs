//! The outcome of a command. `main` turns it into an exit code.

use std::io;

/// An outcome without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The command has succeeded.
    Done,
    /// `run` followed a container to its end; the container's exit code.
    Container(i64),
    /// The user left before the container ended.
    Left,
    /// `token check` explained a token that would not be accepted.
    Refused,
}

/// An outcome with an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line or the configuration is wrong.
    #[error("{0}")]
    Usage(String),
    /// The command has failed.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
    /// `run` could not run the container or could not observe its end, so there is no exit code of the container.
    #[error(transparent)]
    Run(anyhow::Error),
}

impl Failure {
    /// Whether the only error is that the reader of the output has closed it, as in `… | head`.
    pub(crate) fn is_closed_output(&self) -> bool {
        let (Self::Failed(error) | Self::Run(error)) = self else {
            return false;
        };
        error.chain().any(|cause| cause.is::<OutputClosed>())
    }
}

/// The reader of standard output has closed it.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub(crate) struct OutputClosed;

/// Converts an error from writing to standard output.
pub(crate) fn output_error(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        OutputClosed.into()
    } else {
        anyhow::Error::new(error).context("cannot write the output")
    }
}
