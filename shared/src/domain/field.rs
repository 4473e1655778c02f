//! Reads JSON from clients. Reports every bad field, with its place and what would be right.

use serde_json::{Map, Value};

/// One bad field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Where: a JSON pointer (RFC 6901) into the body.
    pub pointer: String,
    /// The fault, and the expected form.
    pub detail: String,
}

/// The maximum number of bad fields that are listed, because a body with a hundred thousand small mistakes would
/// otherwise get a response many times its size.
const MOST_TOLD: usize = 1_000;

/// The maximum number of elements in a list.
const MOST_ELEMENTS: usize = 1_000;

/// Collects the bad fields while a body is read.
#[derive(Debug, Default)]
pub(super) struct Problems {
    told: Vec<FieldError>,
    untold: usize,
}

impl Problems {
    pub(super) fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        if self.told.len() == MOST_TOLD {
            self.untold += 1;
            return;
        }
        self.told.push(FieldError { pointer: pointer.into(), detail: detail.into() });
    }

    /// Returns the value, or records its error at `pointer`.
    pub(super) fn check<T>(&mut self, pointer: &str, value: Result<T, String>) -> Option<T> {
        value.map_err(|detail| self.add(pointer, detail)).ok()
    }

    pub(super) fn into_result<T>(mut self, value: Option<T>) -> Result<T, Vec<FieldError>> {
        match value {
            Some(value) if self.told.is_empty() => Ok(value),
            _ => {
                if self.untold > 0 {
                    self.told.push(FieldError {
                        pointer: String::new(),
                        detail: format!("has {} more bad fields, not listed here", self.untold),
                    });
                }
                Err(self.told)
            }
        }
    }

    /// Returns the object at `pointer`. Its fields must be among `known`.
    pub(super) fn object<'a>(
        &mut self,
        pointer: &str,
        value: &'a Value,
        known: &[&str],
    ) -> Option<&'a Map<String, Value>> {
        let Some(object) = value.as_object() else {
            self.add(pointer, format!("must be an object, not {}", kind(value)));
            return None;
        };
        for name in object.keys().filter(|name| !known.contains(&name.as_str())) {
            self.add(child(pointer, name), format!("is not known here; known are {}", known.join(", ")));
        }
        Some(object)
    }

    /// Returns the elements of an optional list, each with its pointer. Absent and null give an empty list.
    pub(super) fn list<'a>(
        &mut self,
        object: &'a Map<String, Value>,
        pointer: &str,
        name: &str,
    ) -> Vec<(String, &'a Value)> {
        let pointer = child(pointer, name);
        match object.get(name) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(elements)) if elements.len() > MOST_ELEMENTS => {
                self.add(pointer, format!("has {} elements; at most {MOST_ELEMENTS} are allowed", elements.len()));
                Vec::new()
            }
            Some(Value::Array(elements)) => {
                elements.iter().enumerate().map(|(index, value)| (format!("{pointer}/{index}"), value)).collect()
            }
            Some(other) => {
                self.add(pointer, format!("must be a list, not {}", kind(other)));
                Vec::new()
            }
        }
    }

    /// Returns an optional string. Absent and null give `None`.
    pub(super) fn text<'a>(&mut self, object: &'a Map<String, Value>, pointer: &str, name: &str) -> Option<&'a str> {
        match object.get(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(other) => {
                self.add(child(pointer, name), format!("must be a text, not {}", kind(other)));
                None
            }
        }
    }

    /// Returns a string that must be present.
    pub(super) fn required_text<'a>(
        &mut self,
        object: &'a Map<String, Value>,
        pointer: &str,
        name: &str,
    ) -> Option<&'a str> {
        if matches!(object.get(name), None | Some(Value::Null)) {
            self.add(child(pointer, name), "is required");
            return None;
        }
        self.text(object, pointer, name)
    }

    /// Returns an optional boolean. Absent and null are `false`.
    pub(super) fn boolean(&mut self, object: &Map<String, Value>, pointer: &str, name: &str) -> bool {
        match object.get(name) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(value)) => *value,
            Some(other) => {
                self.add(child(pointer, name), format!("must be true or false, not {}", kind(other)));
                false
            }
        }
    }
}

/// Returns the pointer of the field `name` of the object at `pointer`.
pub(super) fn child(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// Returns the JSON type of a value, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Rejects NUL characters, because neither a container nor PostgreSQL can hold them.
pub(super) fn without_nul(text: &str) -> Result<&str, String> {
    if text.contains('\0') { Err("must not contain a NUL character".into()) } else { Ok(text) }
}

/// The longest string, in bytes, that Linux passes to a program as an argument or as `NAME=value`: `MAX_ARG_STRLEN` of
/// execve(2) without the NUL.
pub(super) const LONGEST_HANDED: usize = 131_071;

/// Rejects a string that, after `before` other bytes, is too long to be passed to a program. Otherwise the engine would
/// fail only when it starts the program, and Docker gives no reason then.
pub(super) fn handed(before: usize, text: &str) -> Result<&str, String> {
    let most = LONGEST_HANDED.saturating_sub(before);
    if text.len() > most {
        return Err(format!("has {} bytes; a program can be given {most} at most", text.len()));
    }
    without_nul(text)
}

/// Checks a DNS label (RFC 1123): lower case letters, digits and hyphens, at most 63.
pub(super) fn dns_label(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits =
        (1..=63).contains(&text.len()) && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-');
    if fits {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 63 lower case letters, digits and hyphens, with no hyphen at either end".into())
    }
}

/// Checks the name of a Kubernetes object (DNS subdomain, RFC 1123): DNS labels joined by dots, at most 253 characters.
pub(super) fn dns_subdomain(text: &str) -> Result<String, String> {
    if text.len() <= 253 && text.split('.').all(|label| dns_label(label).is_ok()) {
        Ok(text.to_owned())
    } else {
        Err("must be lower case letters, digits and hyphens, joined by dots, at most 253".into())
    }
}

/// The beginning of the names of the deployer's own objects on engines.
pub const RESERVED_PREFIX: &str = "renga-";

/// Refuses the names of the deployer's own objects: the Secret of an execution holds its user's token.
pub(super) fn not_reserved(name: String) -> Result<String, String> {
    if name.starts_with(RESERVED_PREFIX) {
        return Err(format!("must not begin with {RESERVED_PREFIX:?}: such names are the deployer's own"));
    }
    Ok(name)
}

/// As much of a text as belongs into a message about it.
pub(super) fn beginning(text: &str) -> &str {
    text.char_indices().nth(100).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pointers_are_escaped_as_in_the_rfc() {
        assert_eq!(child("/env", "a/b~c"), "/env/a~1b~0c");
        assert_eq!(child("", "~1"), "/~01");
        assert_eq!(child("", ""), "/");
    }

    #[test]
    fn errors_beyond_the_limit_are_only_counted() {
        let mut problems = Problems::default();
        let flood: Map<String, Value> = (0..50_000).map(|index| (index.to_string(), json!(1))).collect();
        problems.object("", &Value::Object(flood), &["image"]);
        let errors = problems.into_result(Some(())).unwrap_err();
        assert_eq!(errors.len(), MOST_TOLD + 1);
        assert_eq!(errors[MOST_TOLD].pointer, "");
        assert!(errors[MOST_TOLD].detail.contains("49000 more"));
    }

    #[test]
    fn names_follow_the_rules_of_kubernetes() {
        let (longest_label, longest_name) = ("a".repeat(63), ["a".repeat(63).as_str(); 3].join("."));
        for good in ["a", "0", "a-b", "a--b", longest_label.as_str()] {
            assert_eq!(dns_label(good).as_deref(), Ok(good));
        }
        for good in ["a", "a.b-c.0", longest_name.as_str()] {
            assert_eq!(dns_subdomain(good).as_deref(), Ok(good));
        }
        let (long_label, long_name) = (format!("{longest_label}a"), "a.".repeat(126) + "aa");
        for bad in ["", "-a", "a-", "A", "a_b", "ä", "a\0", "a b", "a\n", long_label.as_str()] {
            assert!(dns_label(bad).is_err(), "{bad:?}");
            assert!(dns_subdomain(bad).is_err(), "{bad:?}");
        }
        for bad in [".", "a.", ".a", "a..b", long_name.as_str()] {
            assert!(dns_subdomain(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_string_is_cut_between_characters() {
        assert_eq!(beginning("short"), "short");
        assert_eq!(beginning(&"ä".repeat(200)), "ä".repeat(100));
    }
}
