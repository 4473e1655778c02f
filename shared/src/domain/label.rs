//! Labels of contexts.

use serde_json::Value;

use super::field::{kind, without_nul};

/// The longest label, in bytes. The limit of PostgreSQL's index is 2,704 bytes for label, owner and id together.
const LONGEST: usize = 2_000;

/// The prefix of the label that names the vertex of a context in the knowledge graph.
const VERTEX_ID: &str = "renga.execution_context.vertex_id=";

/// Returns the vertex id in the labels of a stored specification, if exactly one label names it.
pub fn vertex_id(spec: &str) -> Option<i64> {
    let spec: Value = serde_json::from_str(spec).ok()?;
    let labels = spec.get("labels")?.as_array()?.iter().filter_map(Value::as_str);
    let mut ids = labels.filter_map(|label| label.strip_prefix(VERTEX_ID));
    let id = ids.next()?.parse().ok()?;
    ids.next().is_none().then_some(id)
}

/// A label: `key=value`, or `key` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label(String);

impl Label {
    /// Reads a label.
    ///
    /// # Errors
    /// A message for the user that says what is wrong.
    pub fn read(value: &Value) -> Result<Self, String> {
        let Value::String(text) = value else {
            return Err(format!("must be a text, not {}", kind(value)));
        };
        without_nul(text)?;
        if text.is_empty() || text.starts_with('=') || text.len() > LONGEST {
            return Err(format!("must be \"key=value\" or \"key\", of at most {LONGEST} bytes"));
        }
        Ok(Self(text.clone()))
    }

    /// Returns the label as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_label_names_the_vertex() {
        let of = |labels: Value| vertex_id(&json!({ "image": "x", "labels": labels }).to_string());
        assert_eq!(of(json!(["a", "renga.execution_context.vertex_id=1234"])), Some(1_234));
        for none in [
            json!(null),
            json!([]),
            json!(["renga.execution_context.vertex_id"]),
            json!(["renga.execution_context.vertex_id=x"]),
            json!(["renga.execution_context.vertex_id=1", "renga.execution_context.vertex_id=2"]),
        ] {
            assert_eq!(of(none.clone()), None, "{none}");
        }
    }

    #[test]
    fn labels_have_a_key() {
        let longest = "a".repeat(LONGEST);
        for good in ["a", "a=", "a=b", "a=b=c", "ä=🐋", " ", "renga.context.inputs.data=7", longest.as_str()] {
            assert_eq!(Label::read(&json!(good)).unwrap().as_str(), good);
        }
        for bad in [
            json!(""),
            json!("="),
            json!("=b"),
            json!("a\u{0}"),
            json!(longest + "a"),
            json!(1),
            json!(null),
            json!({"a": "b"}),
        ] {
            assert!(Label::read(&bad).is_err(), "{bad}");
        }
    }
}
