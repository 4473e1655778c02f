//! Messages of engines, as an execution's user sees them.

use std::error::Error;

/// The maximum length of an engine's message that is passed on, in characters.
const LONGEST: usize = 400;

/// An engine's words: their first line, and not more of it than a status can bear.
pub(crate) fn shown(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default().trim();
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// Returns the innermost cause, because outer layers only say "client error", and the innermost "connection refused".
pub(super) fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
