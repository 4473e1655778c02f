//! Logs as records: what was written, with the position to go on at after a connection broke.
//!
//! A text alone cannot say where it is in the log: the middle may have been cut, and times stand before the lines. So a
//! client that sends `Accept: application/x-ndjson` is answered with one JSON object a line.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

/// A part of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// The position after it in all that the container wrote, for `?offset=`. It stays true whatever is cut.
    pub next: i64,
    /// What the text would have here, as base64: a container may write any bytes.
    data: String,
}

impl LogRecord {
    /// The media type of logs as records.
    pub const MEDIA_TYPE: &str = "application/x-ndjson";

    /// A record.
    #[must_use]
    pub fn new(next: i64, text: &[u8]) -> Self {
        Self { next, data: BASE64_STANDARD.encode(text) }
    }

    /// What the text would have here. `None`: it is garbled.
    #[must_use]
    pub fn text(&self) -> Option<Vec<u8>> {
        BASE64_STANDARD.decode(&self.data).ok()
    }

    /// Whether an `Accept` header asks for records. Nobody but who names them gets them.
    #[must_use]
    pub fn are_accepted(header: &str) -> bool {
        header.split(',').any(|kind| {
            let (kind, _) = kind.split_once(';').unwrap_or((kind, ""));
            kind.trim().eq_ignore_ascii_case(Self::MEDIA_TYPE)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_hold_any_bytes_and_are_asked_for_by_name() {
        let line = serde_json::to_string(&LogRecord::new(7, b"a\n\xff")).unwrap();
        assert_eq!(line, r#"{"next":7,"data":"YQr/"}"#);
        let read: LogRecord = serde_json::from_str(&line).unwrap();
        assert_eq!(read.text().unwrap(), b"a\n\xff");
        assert!(LogRecord::are_accepted("text/plain;q=0.5, Application/X-NDJSON;q=1"));
        for other in ["", "*/*", "text/plain", "application/json"] {
            assert!(!LogRecord::are_accepted(other), "{other}");
        }
    }
}
