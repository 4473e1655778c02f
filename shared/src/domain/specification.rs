//! What a context runs: parsed once, when it is posted, with every bad field told at once.

use serde_json::{Map, Value};

use super::field::{FieldError, Problems, child};
use super::{Command, EnvVar, ImageRef, Label, PortSpec, Resources, Volume, VolumeMount, volume};

const FIELDS: [&str; 8] = ["image", "command", "ports", "labels", "env", "volumes", "volumeMounts", "resources"];

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Specification {
    /// The image.
    pub image: ImageRef,
    /// The arguments; the image's own when absent.
    pub command: Option<Command>,
    /// The ports that it listens on.
    pub ports: Vec<PortSpec>,
    /// Labels.
    pub labels: Vec<Label>,
    /// Environment variables.
    pub env: Vec<EnvVar>,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// Where they are mounted, each one of `volumes`.
    pub volume_mounts: Vec<VolumeMount>,
    /// What it needs and may use.
    pub resources: Resources,
}

/// A stored specification that cannot be launched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredSpecificationError {
    /// It is not JSON.
    #[error("it is not JSON: {0}")]
    Unreadable(String),
    /// These fields are not accepted.
    #[error("{}", .0.iter().map(|field| format!("{} {}", field.pointer, field.detail)).collect::<Vec<_>>().join("; "))]
    NotAccepted(Vec<FieldError>),
}

impl Specification {
    /// Reads what was posted.
    ///
    /// # Errors
    /// Every bad field.
    pub fn parse(value: &Value) -> Result<Self, Vec<FieldError>> {
        let mut problems = Problems::default();
        let read = problems.object("", value, &FIELDS).map(|object| Self::read(object, &mut problems));
        problems.into_result(read.flatten())
    }

    /// Reads what was stored.
    ///
    /// # Errors
    /// What somebody made of the row by hand, what a newer version wrote, or what an older one accepted and this one does
    /// not.
    pub fn from_stored(text: &str) -> Result<Self, StoredSpecificationError> {
        let value =
            serde_json::from_str(text).map_err(|error| StoredSpecificationError::Unreadable(error.to_string()))?;
        Self::parse(&value).map_err(StoredSpecificationError::NotAccepted)
    }

    /// The form that is stored and shown: what was posted, less what says nothing. The command is always there, since
    /// clients of the 2018 service look for it.
    pub fn to_stored(posted: &Value) -> String {
        let mut stored = Map::new();
        for name in FIELDS {
            let value = posted.get(name).unwrap_or(&Value::Null);
            let value = match value {
                Value::Array(ports) if name == "ports" => Value::Array(
                    ports
                        .iter()
                        .filter(|port| port.as_str().is_none_or(|port| !port.trim().is_empty()))
                        .cloned()
                        .collect(),
                ),
                other => other.clone(),
            };
            let says_nothing = match &value {
                Value::Null => true,
                Value::Array(elements) => elements.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                _ => false,
            };
            if name == "command" || !says_nothing {
                stored.insert(name.to_owned(), value);
            }
        }
        Value::Object(stored).to_string()
    }

    fn read(object: &Map<String, Value>, problems: &mut Problems) -> Option<Self> {
        let image = problems.required_text(object, "", "image").map(ImageRef::parse);
        let image = image.and_then(|image| problems.check("/image", image));
        let command = Command::read("/command", object.get("command"), problems);
        let mut ports = Vec::new();
        for (pointer, value) in problems.list(object, "", "ports") {
            if let Some(Some(port)) = problems.check(&pointer, PortSpec::read(value)) {
                if ports.contains(&port) {
                    problems.add(pointer, format!("is the second port {port}"));
                } else {
                    ports.push(port);
                }
            }
        }
        let mut labels = Vec::new();
        for (pointer, value) in problems.list(object, "", "labels") {
            labels.extend(problems.check(&pointer, Label::read(value)));
        }
        let mut env = Vec::new();
        for (pointer, value) in problems.list(object, "", "env") {
            env.extend(EnvVar::read(&pointer, value, problems));
        }
        let (volumes, volume_mounts) = volume::read_all(object, problems);
        let resources = Resources::read(&child("", "resources"), object.get("resources"), problems);
        Some(Self { image: image?, command, ports, labels, env, volumes, volume_mounts, resources })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn pointers(value: &Value) -> Vec<String> {
        let mut pointers: Vec<String> =
            Specification::parse(value).unwrap_err().into_iter().map(|error| error.pointer).collect();
        pointers.sort();
        pointers
    }

    #[test]
    fn a_full_specification_is_read() {
        let spec = json!({
            "image": "busybox:1", "command": "sh -c 'exit 3'", "ports": ["8888", "", "53/udp", 9000],
            "labels": ["a=b", "c"], "env": [{"name": "A", "value": 1}, {"name": "B"}],
            "volumes": [
                {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
                {"name": "data", "persistentVolumeClaim": {"claimName": "my-data", "readOnly": true}},
                {"name": "host", "hostPath": {"path": "/srv/data"}}
            ],
            "volumeMounts": [{"name": "scratch", "mountPath": "/tmp/x", "subPath": "a/b", "readOnly": true}],
            "resources": {"limits": {"cpu": "500m", "memory": "64Mi", "nvidia.com/gpu": 1}, "requests": {"cpu": 0.25}}
        });
        let read = Specification::parse(&spec).unwrap();
        assert_eq!(read.ports.len(), 3);
        assert_eq!(read.command.as_ref().unwrap().arguments(), ["sh", "-c", "exit 3"]);
        assert_eq!(read.env[0].value, "1");
        assert_eq!(read.resources.limits["memory"].as_whole(), 64 << 20);
        let stored = Specification::to_stored(&spec);
        assert_eq!(Specification::from_stored(&stored).unwrap(), read);
        assert_eq!(serde_json::from_str::<Value>(&stored).unwrap()["ports"], json!(["8888", "53/udp", 9000]));
    }

    #[test]
    fn what_says_nothing_is_left_out_but_the_command() {
        let posted = json!({"image": "a", "command": null, "ports": [""], "labels": [], "resources": {}, "env": null});
        assert_eq!(Specification::to_stored(&posted), r#"{"command":null,"image":"a"}"#);
        assert_eq!(Specification::to_stored(&json!({"image": "a"})), r#"{"command":null,"image":"a"}"#);
    }

    #[test]
    fn every_bad_field_is_told_at_once() {
        let bad = json!({
            "image": "Not An Image", "command": ["a", 1], "ports": [80, "80/tcp", 0, {}], "labels": ["", 1],
            "env": [{"name": "A=B"}, {"nam": "A"}, {"name": "A", "value": []}],
            "volumes": [{"name": "v"}, {"name": "v", "emptyDir": {}, "secret": {}}, {"name": "x", "hostPath": {"path": "a/../b"}},
                        {"name": "d", "emptyDir": {}}, {"name": "d", "emptyDir": {"medium": "Disk", "size": 1}}],
            "volumeMounts": [{"name": "none", "mountPath": "relative"}, {"name": "none", "mountPath": "/a", "subPath": "../b"}],
            "resources": {"limits": {"cpu": "1", "memory": "lots", "gpu": 1}, "requests": {"cpu": 2}, "claims": []},
            "a/b~c": 1
        });
        assert_eq!(
            pointers(&bad),
            [
                "/a~1b~0c",
                "/command/1",
                "/env/0/name",
                "/env/1/nam",
                "/env/1/name",
                "/env/2/value",
                "/image",
                "/labels/0",
                "/labels/1",
                "/ports/1",
                "/ports/2",
                "/ports/3",
                "/resources/claims",
                "/resources/limits/gpu",
                "/resources/limits/memory",
                "/resources/requests/cpu",
                "/volumeMounts/0/mountPath",
                "/volumeMounts/0/name",
                "/volumeMounts/1/name",
                "/volumeMounts/1/subPath",
                "/volumes/0",
                "/volumes/1",
                "/volumes/1/name",
                "/volumes/2/hostPath/path",
                "/volumes/4/emptyDir/medium",
                "/volumes/4/emptyDir/size",
                "/volumes/4/name"
            ]
        );
        assert_eq!(pointers(&json!({})), ["/image"]);
        for not_an_object in [json!(null), json!([]), json!("busybox")] {
            assert_eq!(pointers(&not_an_object), [""]);
        }
    }
    #[test]
    fn nothing_that_is_stored_is_refused_by_the_databases() {
        // PostgreSQL's jsonb takes no NUL, wherever it stands.
        let nul = "a\0b";
        for (given, pointer) in [
            (json!({"image": nul}), "/image"),
            (json!({"image": "a", "command": nul}), "/command"),
            (json!({"image": "a", "command": [nul]}), "/command/0"),
            (json!({"image": "a", "ports": [nul]}), "/ports/0"),
            (json!({"image": "a", "ports": ["\0"]}), "/ports/0"),
            (json!({"image": "a", "labels": [nul]}), "/labels/0"),
            (json!({"image": "a", "env": [{"name": "A", "value": nul}]}), "/env/0/value"),
            (
                json!({"image": "a", "volumes": [{"name": "v", "emptyDir": {"medium": "\0"}}]}),
                "/volumes/0/emptyDir/medium",
            ),
            (
                json!({"image": "a", "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1\0"}}]}),
                "/volumes/0/emptyDir/sizeLimit",
            ),
            (json!({"image": "a", "resources": {"limits": {"cpu": "1\0"}}}), "/resources/limits/cpu"),
            (json!({"image": "a", "\0": 1}), "/\0"),
        ] {
            assert_eq!(pointers(&given), [pointer], "{given}");
        }
    }

    #[test]
    fn lists_are_bounded() {
        let many = vec!["a"; 1_001];
        assert_eq!(
            pointers(&json!({"image": "a", "labels": many, "ports": {}, "env": "A=b"})),
            ["/env", "/labels", "/ports"]
        );
        let flood: Vec<Value> = (0..1_000).map(|_| json!({"x": 1, "y": 1})).collect();
        assert!(pointers(&json!({"env": flood})).len() <= 1_001);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
            "(a|b=c|80/udp|1Gi|/m|v)".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let name = "(name|value|image|limits|requests|cpu|emptyDir|hostPath|path|mountPath|[a-z]{1,3})";
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(name, inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// Fields that are mostly right.
    fn likely() -> impl Strategy<Value = Value> {
        let field = |right: Vec<Value>| prop_oneof![8 => proptest::sample::select(right), 1 => any_json()];
        (
            field(vec![json!("busybox"), json!("a/b:c")]),
            field(vec![json!(null), json!("sh -c 'exit 3'"), json!(["a", "b c"])]),
            field(vec![json!([]), json!([80, "", "53/udp"])]),
            field(vec![json!(null), json!(["a=b", "c"])]),
            field(vec![json!([]), json!([{"name": "A", "value": 1.5}, {"name": "B"}])]),
            field(vec![json!([{"name": "v", "emptyDir": {}}]), json!([{"name": "v", "hostPath": {"path": "/a//b"}}])]),
            field(vec![json!([]), json!([{"name": "v", "mountPath": "/m/", "subPath": "x"}])]),
            field(vec![json!({}), json!({"limits": {"cpu": 1, "memory": "1Gi"}})]),
        )
            .prop_map(|(image, command, ports, labels, env, volumes, mounts, resources)| {
                json!({"image": image, "command": command, "ports": ports, "labels": labels, "env": env,
                    "volumes": volumes, "volumeMounts": mounts, "resources": resources})
            })
    }

    proptest! {
        #[test]
        fn what_is_refused_says_where(value in any_json()) {
            if let Err(errors) = Specification::parse(&value) {
                prop_assert!(!errors.is_empty());
                for error in errors {
                    prop_assert!(error.pointer.is_empty() || error.pointer.starts_with('/'));
                    prop_assert!(!error.detail.is_empty());
                }
            }
        }

        #[test]
        fn what_is_stored_is_what_was_posted(value in likely()) {
            if let Ok(posted) = Specification::parse(&value) {
                let stored = Specification::to_stored(&value);
                prop_assert_eq!(Specification::from_stored(&stored), Ok(posted));
                let again = Specification::to_stored(&serde_json::from_str(&stored).unwrap());
                prop_assert_eq!(again, stored);
            }
        }
    }
}
