//! Reads answers of other programs. Obligation: no more of an answer is kept than may be, however long it is.

use reqwest::Response;

/// Why an answer cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// It is longer than any answer of its kind should be.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// There is none, or it ended early.
    #[error(transparent)]
    Broken(#[from] reqwest::Error),
}

impl ReadError {
    /// The same without the address: what was asked for may stand in it.
    pub(crate) fn without_url(self) -> Self {
        match self {
            Self::Broken(error) => Self::Broken(error.without_url()),
            other => other,
        }
    }
}

/// The whole body of `answer`, of `longest` bytes at most.
pub(crate) async fn read(mut answer: Response, longest: usize) -> Result<Vec<u8>, ReadError> {
    let mut whole = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if whole.len() + chunk.len() > longest {
            return Err(ReadError::TooLong(longest));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole)
}
