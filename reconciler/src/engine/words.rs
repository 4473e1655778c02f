//! What engines say, as an execution's user gets to see it.

use std::error::Error;

/// The longest text of an engine that is passed on.
const LONGEST: usize = 400;

/// An engine's words: their first line, and not more of it than a status can bear.
pub(crate) fn shown(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default().trim();
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// The innermost cause: the outer layers say "client error", that one says "connection refused".
pub(super) fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
