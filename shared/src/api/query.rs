//! Query strings and headers that select the response.
//!
//! An unknown parameter is ignored, because proxies and clients of the 2018 service add their own. An invalid value of
//! a known parameter is an error.

use std::borrow::Cow;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use uuid::Uuid;

use super::parse_rfc3339;
use crate::domain::{ClientState, FieldError, Timestamp};

/// The maximum number of rows per page, and of a list without a limit.
const MOST_ROWS: u32 = 1_000;
/// The maximum wait that a client may request, in seconds. It is less than the minute after which proxies give up.
const LONGEST_WAIT: u32 = 50;

/// The parameters of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListQuery {
    /// The maximum number of rows, if the client gave one.
    pub limit: Option<u32>,
    /// Only rows older than this one.
    pub before: Option<Uuid>,
    /// Only rows with this label; a key alone matches every label with that key.
    pub label: Option<String>,
}

/// The parameters of a list of executions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutionQuery {
    /// The parameters that all lists have.
    pub list: ListQuery,
    /// Only executions in this state.
    pub state: Option<ClientState>,
}

/// The parameters of a request for logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogsQuery {
    /// Continue until the execution ends.
    pub follow: bool,
    /// Only the last lines, this many.
    pub tail: Option<usize>,
    /// Only lines written at or after this time.
    pub since: Option<Timestamp>,
    /// Begin each line with its time.
    pub timestamps: bool,
    /// Only what comes after this position in all that was written, as a [`LogRecord`](super::LogRecord) tells it.
    pub offset: Option<i64>,
}

impl ListQuery {
    /// Parses a query string.
    ///
    /// # Errors
    /// All invalid parameters.
    pub fn parse(query: &str) -> Result<Self, Vec<FieldError>> {
        let mut parameters = Parameters::of(query);
        let list = Self::read(&mut parameters);
        parameters.finish(list)
    }

    fn read(parameters: &mut Parameters<'_>) -> Self {
        let limit = |text: &str| {
            whole_number(text)
                .and_then(|limit| u32::try_from(limit).ok())
                .filter(|limit| (1..=MOST_ROWS).contains(limit))
        };
        Self {
            limit: parameters.read("limit", "must be a number from 1 to 1000", limit),
            before: parameters.read("cursor", "is not a cursor that a list gave", cursor_id),
            label: parameters.read("label", "must be \"key=value\" or \"key\"", |text| {
                (!text.is_empty() && !text.contains('\0')).then(|| text.to_owned())
            }),
        }
    }

    /// Returns the maximum number of rows for the response.
    pub fn rows(&self) -> u32 {
        self.limit.unwrap_or(MOST_ROWS)
    }

    /// Returns the cursor that continues after the row `last`.
    pub fn cursor(last: Uuid) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(last.as_bytes())
    }

    /// Returns the query string of the page after the row `last`.
    pub fn next_page(&self, last: Uuid, state: Option<ClientState>) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", &self.rows().to_string());
        if let Some(label) = &self.label {
            query.append_pair("label", label);
        }
        if let Some(state) = state {
            query.append_pair("state", state.as_str());
        }
        query.append_pair("cursor", &Self::cursor(last));
        query.finish()
    }
}

fn cursor_id(text: &str) -> Option<Uuid> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| Uuid::from_slice(&bytes).ok())
}

impl ExecutionQuery {
    /// Parses a query string.
    ///
    /// # Errors
    /// All invalid parameters.
    pub fn parse(query: &str) -> Result<Self, Vec<FieldError>> {
        let mut parameters = Parameters::of(query);
        let list = ListQuery::read(&mut parameters);
        let state = parameters
            .read("state", "must be pending, running, exited or unavailable", |text| ClientState::from_str(text).ok());
        parameters.finish(Self { list, state })
    }
}

impl LogsQuery {
    /// Parses a query string.
    ///
    /// # Errors
    /// All invalid parameters.
    pub fn parse(query: &str) -> Result<Self, Vec<FieldError>> {
        let mut parameters = Parameters::of(query);
        let truth = |text: &str| match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        };
        let logs = Self {
            follow: parameters.read("follow", "must be true or false", truth).unwrap_or(false),
            tail: parameters.read("tail", "must be a number of lines", |text| {
                whole_number(text).map(|lines| usize::try_from(lines).unwrap_or(usize::MAX))
            }),
            since: parameters.read("since", "must be a time as RFC 3339 writes it", |text| {
                // In a query string a plus sign means a space. Many clients do not escape it as %2B.
                parse_rfc3339(&text.replace(' ', "+"))
            }),
            timestamps: parameters.read("timestamps", "must be true or false", truth).unwrap_or(false),
            offset: parameters.read("offset", "must be a position that a record of the logs told", |text| {
                whole_number(text).and_then(|offset| i64::try_from(offset).ok())
            }),
        };
        if logs.tail.is_some() && logs.offset.is_some() {
            let detail = "cannot stand beside tail: both say where to begin".to_owned();
            parameters.problems.push(FieldError { pointer: "?offset".to_owned(), detail });
        }
        parameters.finish(logs)
    }
}

/// The parameters of a query string. If one is given twice, the last one counts.
struct Parameters<'a> {
    given: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    problems: Vec<FieldError>,
}

impl<'a> Parameters<'a> {
    fn of(query: &'a str) -> Self {
        Self { given: form_urlencoded::parse(query.as_bytes()).collect(), problems: Vec::new() }
    }

    fn read<T>(&mut self, name: &str, expected: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let (_, text) = self.given.iter().rev().find(|(given, _)| given == name)?;
        let value = read(text);
        if value.is_none() {
            self.problems.push(FieldError { pointer: format!("?{name}"), detail: expected.to_owned() });
        }
        value
    }

    fn finish<T>(self, value: T) -> Result<T, Vec<FieldError>> {
        if self.problems.is_empty() { Ok(value) } else { Err(self.problems) }
    }
}

/// Returns the seconds of `Prefer: wait=N` (RFC 7240, section 4.3), at most fifty. As in the RFC, the first of several
/// values counts, and an invalid one is ignored.
pub fn wait_preference<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<u32> {
    let preferences = headers.into_iter().flat_map(|header| split_outside_quotes(header, ','));
    let mut values = preferences.filter_map(|preference| {
        let word = split_outside_quotes(preference, ';').next()?;
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim())
    });
    let value = values.next()?;
    let digits = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    whole_number(digits).map(|seconds| u32::try_from(seconds).map_or(LONGEST_WAIT, |s| s.min(LONGEST_WAIT)))
}

/// Splits a header's value at `separator`, except inside quoted strings.
fn split_outside_quotes(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        if escaped {
            escaped = false;
        } else if quoted && c == '\\' {
            escaped = true;
        } else if c == '"' {
            quoted = !quoted;
        } else {
            return c == separator && !quoted;
        }
        false
    })
}

/// Parses digits as a number; returns the greatest number if there are too many digits.
fn whole_number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Checks an `Idempotency-Key`.
///
/// # Errors
/// Fails if it is not 1 to 255 visible ASCII characters.
pub fn idempotency_key(header: &[u8]) -> Result<&str, FieldError> {
    let visible = (1..=255).contains(&header.len()) && header.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(header).ok().filter(|_| visible).ok_or_else(|| FieldError {
        pointer: "Idempotency-Key".into(),
        detail: "must be 1 to 255 visible ASCII characters".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn list_queries_are_parsed() {
        let query = ExecutionQuery::parse("limit=5&label=a%3Db%20c&state=running&other=1").unwrap();
        assert_eq!(query.list.limit, Some(5));
        assert_eq!(query.list.label.as_deref(), Some("a=b c"));
        assert_eq!(query.state, Some(ClientState::Running));
        let last = Uuid::from_u128(7);
        let next = query.list.next_page(last, query.state);
        let again = ExecutionQuery::parse(&next).unwrap();
        assert_eq!((again.list.before, again.list.label, again.state), (Some(last), query.list.label, query.state));
        let errors = ExecutionQuery::parse("limit=0&cursor=%00&state=gone&label=").unwrap_err();
        assert_eq!(errors.len(), 4);
        for bad in [
            "limit=1001",
            "limit=-1",
            "limit=",
            "limit=%2B5",
            "limit=99999999999",
            "limit=1&limit=x",
            "cursor=",
            "cursor=AAAA",
            "cursor=====",
            "label=a%00b",
            "state=Running",
            "state=",
        ] {
            assert_eq!(ExecutionQuery::parse(bad).map_err(|errors| errors.len()), Err(1), "{bad}");
        }
        for good in ["", "&&", "=&=", "%", "%zz=%", "Limit=0", "unknown=%00"] {
            assert!(ExecutionQuery::parse(good).is_ok(), "{good}");
        }
        assert_eq!(ListQuery::parse("").unwrap().rows(), MOST_ROWS);
    }

    #[test]
    fn log_queries_are_parsed() {
        let query = LogsQuery::parse("follow=true&tail=10&since=2017-07-14T02:40:00+00:00&timestamps=1").unwrap();
        assert!(query.follow && query.timestamps);
        assert_eq!((query.tail, query.since), (Some(10), Some(Timestamp(1_500_000_000_000_000))));
        for (query, tail) in [("tail=0", 0), ("tail=007", 7), ("tail=99999999999999999999", usize::MAX)] {
            assert_eq!(LogsQuery::parse(query).unwrap().tail, Some(tail), "{query}");
        }
        for bad in ["tail=", "tail=1.5", "tail=%2B1", "tail=ten", "tail=%D9%A1"] {
            assert_eq!(LogsQuery::parse(bad).unwrap_err()[0].pointer, "?tail", "{bad}");
        }
        assert_eq!(LogsQuery::parse("follow=maybe&tail=-1&since=now&timestamps=2").unwrap_err().len(), 4);
    }

    #[test]
    fn wait_preferences_are_parsed() {
        for (headers, expected) in [
            (vec!["wait=5"], Some(5)),
            (vec!["respond-async, wait=\"10\"; x=y"], Some(10)),
            (vec!["return=minimal", "Wait = 3"], Some(3)),
            (vec!["wait=100000"], Some(LONGEST_WAIT)),
            (vec!["wait=-1"], None),
            (vec!["wait"], None),
            (vec!["wait="], None),
            (vec!["wait=+5"], None),
            (vec!["wait=5\""], None),
            (vec!["wait=0"], Some(0)),
            (vec!["wait=99999999999999999999999"], Some(LONGEST_WAIT)),
            (vec!["wait=5, wait=7"], Some(5)),
            (vec!["wait=soon", "wait=7"], None),
            (vec![r#"foo="a, wait=5", wait=10"#], Some(10)),
            (vec![r#"foo="a\", wait=5; ", bar="b;c", wait=10"#], Some(10)),
            (vec![r#"foo="never closed, wait=5"#], None),
            (vec!["respond-async; wait=5"], None),
            (vec![",,;=,wait=5"], Some(5)),
            (vec![], None),
        ] {
            assert_eq!(wait_preference(headers.clone()), expected, "{headers:?}");
        }
    }

    #[test]
    fn idempotency_keys_are_visible_ascii() {
        assert_eq!(idempotency_key(b"a-1"), Ok("a-1"));
        for bad in [&b""[..], b"a b", b"\xff", &[b'a'; 256]] {
            assert!(idempotency_key(bad).is_err());
        }
    }
    proptest! {
        #[test]
        fn a_page_leads_to_the_next(limit in 1..=MOST_ROWS, label in "[^\0]{1,12}", last in any::<u128>()) {
            let query = ListQuery { limit: Some(limit), before: None, label: Some(label) };
            let last = Uuid::from_u128(last);
            let again = ListQuery::parse(&query.next_page(last, None)).unwrap();
            prop_assert_eq!(again, ListQuery { before: Some(last), ..query });
        }

        #[test]
        fn any_query_and_header_is_parsed_or_rejected(text in r#"((limit|tail|wait|since|cursor|label|follow)=)?[%&=,;"\\0-9a-z ]{0,16}"#) {
            for errors in [ExecutionQuery::parse(&text).err(), LogsQuery::parse(&text).err()].into_iter().flatten() {
                prop_assert!(!errors.is_empty());
            }
            prop_assert!(wait_preference([text.as_str()]).is_none_or(|seconds| seconds <= LONGEST_WAIT));
        }
    }
}
