//! Environment variables of containers.

use std::collections::BTreeMap;

use serde_json::Value;

use super::ContextId;
use super::field::{Problems, child, handed, kind};

/// An environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvVar {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

/// 2^53: from this magnitude on, an `f64` cannot hold every whole number exactly.
const MOST_EXACT: f64 = 9_007_199_254_740_992.0;

/// Checks the name of a variable: printable ASCII without `=`, which is Kubernetes' rule, and at most 255 characters.
/// Every engine accepts such names.
pub(super) fn name(text: &str) -> Result<&str, String> {
    let fits = |c: char| matches!(c, ' '..='~') && c != '=';
    if (1..=255).contains(&text.len()) && text.chars().all(fits) {
        Ok(text)
    } else {
        Err("must be the name of a variable: 1 to 255 printable ASCII characters without '='".into())
    }
}

impl EnvVar {
    /// Reads `{"name": …, "value": …}`. An absent value is the empty string.
    pub(super) fn read(pointer: &str, value: &Value, problems: &mut Problems) -> Option<Self> {
        let object = problems.object(pointer, value, &["name", "value"])?;
        let name = problems.required_text(object, pointer, "name");
        let name = name.and_then(|text| problems.check(&child(pointer, "name"), self::name(text)));
        let value = match object.get("value") {
            None | Some(Value::Null) => Some(String::new()),
            Some(value) => problems.check(&child(pointer, "value"), self::value(name.unwrap_or_default(), value)),
        };
        Some(Self { name: name?.to_owned(), value: value? })
    }
}

/// Returns the value of the variable `name`, given as a string, a number or a boolean. Numbers and booleans are written
/// as in JSON: `true`, not Python's `True`.
pub(super) fn value(name: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => handed(name.len() + 1, text).map(str::to_owned),
        // A number beyond 64 bits is rounded when it is read, so the container would get another number than the client
        // sent.
        Value::Number(number) if number.is_f64() && number.as_f64().is_none_or(|n| n.abs() >= MOST_EXACT) => {
            Err("is too large to be kept exactly as a number; send it as a text".into())
        }
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        other => Err(format!("must be a text, a number or a boolean, not {}", kind(other))),
    }
}

/// Returns the variables that the deployer adds to the environment of an execution. The API shows them, and the
/// container gets them.
pub fn additions(context: ContextId, default_base_url: &str) -> Vec<(String, String)> {
    vec![
        ("RENGA_CONTEXT_ID".to_owned(), context.to_string()),
        ("DEPLOYER_BASE_URL".to_owned(), default_base_url.to_owned()),
    ]
}

/// Returns the whole environment of a container: the specification's variables, then the execution's, then the
/// deployer's. A later one replaces an earlier one of the same name.
pub fn launch_environment(
    spec: &[EnvVar],
    execution: &BTreeMap<String, String>,
    ours: &[(String, String)],
) -> BTreeMap<String, String> {
    let spec = spec.iter().map(|variable| (variable.name.clone(), variable.value.clone()));
    let execution = execution.iter().map(|(name, value)| (name.clone(), value.clone()));
    spec.chain(execution).chain(ours.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::field::LONGEST_HANDED;
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_valid_on_every_engine() {
        let longest = "N".repeat(255);
        for good in ["A", "a.b-c_d", "1", " ", "PATH", "~", longest.as_str()] {
            assert_eq!(name(good), Ok(good));
        }
        let long = "N".repeat(256);
        for bad in ["", "=", "A=B", "A\0", "A\n", "\u{7f}", "Ä", "\u{200b}", long.as_str()] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn values_are_kept_exactly_or_rejected() {
        let read = |json: &str| value("A", &serde_json::from_str(json).unwrap());
        for (json, value) in [
            (r#""""#, ""),
            (r#""ä\n\u00e4""#, "ä\nä"),
            ("true", "true"),
            ("false", "false"),
            ("0", "0"),
            ("-1", "-1"),
            ("1.5", "1.5"),
            ("1.0", "1.0"),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            (r#""99999999999999999999""#, "99999999999999999999"),
        ] {
            assert_eq!(read(json).as_deref(), Ok(value), "{json}");
        }
        for bad in ["99999999999999999999", "-99999999999999999999", "1e300", "null", "[]", "{}", r#""a\u0000""#] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let long = |bytes: usize| value("NAME", &json!("x".repeat(bytes)));
        assert!(long(LONGEST_HANDED - 5).is_ok());
        assert!(long(LONGEST_HANDED - 4).unwrap_err().contains("131066 at most"));
    }

    /// `serde_json` rounds some numbers to a neighbour unless its feature `float_roundtrip` is on.
    #[test]
    fn a_number_with_a_fraction_survives_storage() {
        for part in 1..10_000_u32 {
            let sent = json!(f64::from(part) / 7_919.0).to_string();
            let read: Value = serde_json::from_str(&sent).unwrap();
            assert_eq!(value("A", &read).as_ref(), Ok(&sent));
        }
    }

    #[test]
    fn a_variable_is_a_name_and_an_optional_value() {
        let read = |value: Value| {
            let mut problems = Problems::default();
            let variable = EnvVar::read("/env/0", &value, &mut problems);
            problems
                .into_result(variable)
                .map_err(|errors| errors.into_iter().map(|error| error.pointer).collect::<Vec<_>>())
        };
        let variable = |name: &str, value: &str| Ok(EnvVar { name: name.into(), value: value.into() });
        assert_eq!(read(json!({"name": "A", "value": "b=c"})), variable("A", "b=c"));
        assert_eq!(read(json!({"name": "A"})), variable("A", ""));
        assert_eq!(read(json!({"name": "A", "value": null})), variable("A", ""));
        for (bad, pointers) in [
            (json!({}), vec!["/env/0/name"]),
            (json!({"name": null, "value": 1}), vec!["/env/0/name"]),
            (json!({"name": 1, "value": []}), vec!["/env/0/name", "/env/0/value"]),
            (json!({"name": "A", "valueFrom": {"secretKeyRef": {}}}), vec!["/env/0/valueFrom"]),
            (json!("A=b"), vec!["/env/0"]),
        ] {
            assert_eq!(read(bad.clone()), Err(pointers.into_iter().map(str::to_owned).collect()), "{bad}");
        }
    }

    #[test]
    fn later_variables_override_earlier_ones() {
        let variable = |name: &str, value: &str| EnvVar { name: name.into(), value: value.into() };
        let spec = [
            variable("A", "spec"),
            variable("B", "spec"),
            variable("A", "spec, again"),
            variable("RENGA_CONTEXT_ID", "mine"),
        ];
        let execution = BTreeMap::from([("B".to_owned(), "execution".to_owned())]);
        let context = ContextId(uuid::Uuid::from_u128(7));
        let all = launch_environment(&spec, &execution, &additions(context, "/"));
        let expected = [
            ("A", "spec, again"),
            ("B", "execution"),
            ("DEPLOYER_BASE_URL", "/"),
            ("RENGA_CONTEXT_ID", "00000000-0000-0000-0000-000000000007"),
        ];
        assert_eq!(all, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }
}
