//! The body of a request for a new execution.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::field::{FieldError, Problems, child, dns_label, kind};
use super::{EngineName, env};

const FIELDS: [&str; 3] = ["engine", "namespace", "environment"];
/// The maximum number of variables.
const MOST: usize = 1_000;
/// The namespace if the request names none.
const DEFAULT_NAMESPACE: &str = "default";

/// How to run a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewExecution {
    /// The name or kind of the engine. `None`: the deployer chooses the engine.
    pub engine: Option<EngineName>,
    /// The namespace: a DNS label.
    pub namespace: String,
    /// Variables in addition to those of the specification.
    pub environment: BTreeMap<String, String>,
}

impl NewExecution {
    /// Parses the body; null counts as an empty object.
    ///
    /// # Errors
    /// All bad fields.
    pub fn parse(value: &Value) -> Result<Self, Vec<FieldError>> {
        let nothing = Map::new();
        let mut problems = Problems::default();
        let object = if value.is_null() { Some(&nothing) } else { problems.object("", value, &FIELDS) };
        let read = object.map(|object| Self::read(object, &mut problems));
        problems.into_result(read)
    }

    fn read(object: &Map<String, Value>, problems: &mut Problems) -> Self {
        let engine = problems.text(object, "", "engine").filter(|name| !matches!(*name, "" | "auto"));
        let engine = engine.map(|name| EngineName::parse(name).map_err(|error| error.to_string()));
        let namespace = problems.text(object, "", "namespace").unwrap_or(DEFAULT_NAMESPACE);
        Self {
            engine: engine.and_then(|engine| problems.check("/engine", engine)),
            namespace: problems.check("/namespace", dns_label(namespace)).unwrap_or_default(),
            environment: environment(object, problems),
        }
    }
}

fn environment(object: &Map<String, Value>, problems: &mut Problems) -> BTreeMap<String, String> {
    const POINTER: &str = "/environment";
    let mut environment = BTreeMap::new();
    match object.get("environment") {
        None | Some(Value::Null) => {}
        Some(Value::Object(given)) if given.len() > MOST => {
            problems.add(POINTER, format!("has {} variables; at most {MOST} are allowed", given.len()));
        }
        Some(Value::Object(given)) => {
            for (name, value) in given {
                let pointer = child(POINTER, name);
                let value = problems.check(&pointer, env::value(name, value));
                let name = problems.check(&pointer, env::name(name));
                if let (Some(name), Some(value)) = (name, value) {
                    environment.insert(name.to_owned(), value);
                }
            }
        }
        Some(other) => problems.add(POINTER, format!("must be an object, not {}", kind(other))),
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn everything_is_optional() {
        for nothing in [json!(null), json!({}), json!({"engine": null, "environment": null}), json!({"engine": "auto"})]
        {
            let read = NewExecution::parse(&nothing).unwrap();
            assert_eq!((read.engine, read.namespace.as_str(), read.environment.len()), (None, "default", 0));
        }
        let read = NewExecution::parse(&json!({"engine": "k8s", "namespace": "team-a",
            "environment": {"A": "x", "B": 1, "C": true, "D": 1.5}}))
        .unwrap();
        assert_eq!(read.engine.unwrap().as_str(), "k8s");
        assert_eq!(read.environment.into_values().collect::<Vec<_>>(), ["x", "1", "true", "1.5"]);
    }

    #[test]
    fn every_bad_field_is_reported() {
        let bad = json!({"engine": "No Such", "namespace": "Team_A", "environment": {"A": [], "B=C": 1, "D": "\u{0}"}, "x": 1});
        let mut pointers: Vec<String> =
            NewExecution::parse(&bad).unwrap_err().into_iter().map(|error| error.pointer).collect();
        pointers.sort();
        assert_eq!(pointers, ["/engine", "/environment/A", "/environment/B=C", "/environment/D", "/namespace", "/x"]);
        assert!(NewExecution::parse(&json!([])).is_err());
    }
}
