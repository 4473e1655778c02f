//! Query strings and cursors: a page leads to the next with the same parameters; an error names its parameter.

use renga_shared::api::{
    ExecutionQuery, ListQuery, LogsQuery, idempotency_key, parse_rfc3339, rfc3339, wait_preference,
};
use renga_shared::domain::{FieldError, Timestamp};
use uuid::Uuid;

/// The years that RFC 3339 can write, in microseconds since the Unix epoch.
const WRITABLE: std::ops::Range<i64> = -62_167_219_200_000_000..253_402_300_800_000_000;

/// Checks the properties in the module's doc. The first sixteen bytes are the id of a page's last row, the rest a query
/// string or a header.
pub fn hold(input: &[u8]) {
    let Some((id, rest)) = input.split_first_chunk() else { return };
    let last = Uuid::from_bytes(*id);
    if let Ok(key) = idempotency_key(rest) {
        assert_eq!(key.as_bytes(), rest);
    }
    let Ok(text) = std::str::from_utf8(rest) else { return };
    if let Some(seconds) = wait_preference([text]) {
        assert!(seconds <= 50, "{seconds}");
    }
    lists(text, last);
    logs(text);
}

fn lists(text: &str, last: Uuid) {
    let query = match ExecutionQuery::parse(text) {
        Ok(query) => query,
        Err(errors) => return told(text, &errors, &["limit", "cursor", "label", "state"]),
    };
    assert_eq!(ListQuery::parse(text).as_ref(), Ok(&query.list), "one list is asked for like the other");
    assert!((1..=1_000).contains(&query.list.rows()));
    let next = query.list.next_page(last, query.state);
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"%&*+-._=".contains(&byte);
    assert!(next.bytes().all(safe), "{next:?} could break out of the header that it is sent in");
    let expected = ListQuery { limit: Some(query.list.rows()), before: Some(last), label: query.list.label.clone() };
    assert_eq!(ExecutionQuery::parse(&next), Ok(ExecutionQuery { list: expected, state: query.state }), "{next}");
    if let Some(before) = query.list.before {
        let cursor = ListQuery::cursor(before);
        // Percent encoding allows other spellings of the same cursor.
        assert!(text.contains('%') || text.contains(&cursor), "{text:?} has another cursor of {before} than {cursor}");
    }
}

fn logs(text: &str) {
    let query = match LogsQuery::parse(text) {
        Ok(query) => query,
        Err(errors) => return told(text, &errors, &["follow", "tail", "since", "timestamps"]),
    };
    if let Some(since) = query.since.filter(|Timestamp(micros)| WRITABLE.contains(micros)) {
        assert_eq!(parse_rfc3339(&rfc3339(since)), Some(since));
    }
}

fn told(text: &str, errors: &[FieldError], known: &[&str]) {
    assert!(!errors.is_empty() && errors.len() <= known.len(), "{text:?}: {errors:?}");
    for error in errors {
        let name = error.pointer.strip_prefix('?');
        assert!(name.is_some_and(|name| known.contains(&name)), "{error:?}");
        // The name may be percent-encoded.
        assert!(name.is_some_and(|name| text.contains(name)) || text.contains('%'), "{text:?}: {error:?}");
    }
}
