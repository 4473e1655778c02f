//! Reads a body as JSON.
//!
//! If an object has a field twice, `serde_json` keeps the last one and silently drops the first. Here this is an error,
//! as is every other field that is not understood.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::Problem;

/// Reads a body; an empty one is null.
///
/// # Errors
/// Fails if the body is not JSON, or has a field twice.
pub fn parse_json(body: &[u8]) -> Result<Value, Problem> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    let read: Result<Unique, _> = serde_json::from_slice(body);
    read.map(|Unique(value)| value)
        .map_err(|error| Problem::bad_json(format!("The body cannot be read as JSON: {error}.")))
}

/// A JSON value in which no object has a field twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut read = Vec::new();
        while let Some(Unique(element)) = elements.next_element()? {
            read.push(element);
        }
        Ok(Value::Array(read))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if read.contains_key(&name) {
                let name: String = name.chars().take(100).collect();
                return Err(A::Error::custom(format_args!("the field {name:?} is there twice")));
            }
            let Unique(value) = fields.next_value()?;
            read.insert(name, value);
        }
        Ok(Value::Object(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_as_by_serde_json() {
        for text in [
            "null",
            "true",
            "-0",
            "1",
            "-9223372036854775808",
            "18446744073709551615",
            "1e3",
            "0.1",
            "99999999999999999999",
            r#""\u00e4\ud83d\udc0b\u0000""#,
            " [1, [2], {}] ",
            r#"{"a": {"b": [null, {"a": 1}]}, "": "", "A": 0}"#,
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(parse_json(text.as_bytes()), Ok(expected), "{text}");
        }
        assert_eq!(parse_json(b""), Ok(Value::Null));
    }

    #[test]
    fn invalid_json_is_rejected() {
        let deep = "[".repeat(1 << 19);
        for bad in [
            &b" "[..],
            b"{",
            b"{}{}",
            b"nul",
            b"{'a': 1}",
            b"[1,]",
            b"NaN",
            b"1e999",
            b"\"\xff\"",
            b"\"\\ud800\"",
            b"\xef\xbb\xbf{}",
            deep.as_bytes(),
        ] {
            let problem = parse_json(bad).unwrap_err();
            assert_eq!((problem.status, problem.title), (400, "Malformed JSON"));
        }
    }

    #[test]
    fn a_duplicate_field_is_named() {
        for (bad, name) in [(r#"{"a":1,"a":1}"#, "a"), (r#"{"b":[{"x":1,"c":2,"\u0063":3}]}"#, "c")] {
            let detail = parse_json(bad.as_bytes()).unwrap_err().detail.unwrap();
            assert!(detail.contains(&format!("{name:?} is there twice at line 1")), "{detail}");
        }
    }
}
