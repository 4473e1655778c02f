//! Volumes and where they are mounted, in Kubernetes' form.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::Quantity;
use super::field::{Problems, beginning, child, dns_label, dns_subdomain, not_reserved, without_nul};

/// A volume of a specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// What mounts call it.
    pub name: String,
    /// What it is.
    pub source: VolumeSource,
}

/// What a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// Empty at the start, gone with the container.
    EmptyDir {
        /// In memory instead of on disk.
        memory: bool,
        /// The most that it holds.
        size_limit: Option<Quantity>,
    },
    /// Storage that outlives the container, by name.
    PersistentVolumeClaim {
        /// Its name.
        claim: String,
        /// Whether it may only be read.
        read_only: bool,
    },
    /// A path of the engine's host, which its operator must have allowed.
    HostPath {
        /// Absolute and normalised: single slashes, no `.` or `..`, none at its end.
        path: String,
    },
    /// A ConfigMap, by name.
    ConfigMap {
        /// Its name.
        name: String,
    },
    /// A Secret, by name.
    Secret {
        /// Its name.
        name: String,
    },
}

/// Where a volume is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeMount {
    /// The volume's name.
    pub name: String,
    /// Where in the container: absolute and normalised.
    pub mount_path: String,
    /// A path inside the volume: relative, without `..`.
    pub sub_path: Option<String>,
    /// Whether it may only be read.
    pub read_only: bool,
}

/// The longest path that Linux takes.
const LONGEST_PATH: usize = 4_096;

const SOURCES: [&str; 5] = ["emptyDir", "persistentVolumeClaim", "hostPath", "configMap", "secret"];

impl Volume {
    pub(super) fn read(pointer: &str, value: &Value, problems: &mut Problems) -> Option<Self> {
        let object =
            problems.object(pointer, value, &["name", SOURCES[0], SOURCES[1], SOURCES[2], SOURCES[3], SOURCES[4]])?;
        let name = required_label(object, pointer, "name", problems);
        let given: Vec<&str> =
            SOURCES.into_iter().filter(|source| object.get(*source).is_some_and(|v| !v.is_null())).collect();
        let &[source] = given.as_slice() else {
            problems.add(pointer, format!("must be exactly one of {}", SOURCES.join(", ")));
            return None;
        };
        let source = VolumeSource::read(source, &child(pointer, source), &object[source], problems);
        Some(Self { name: name?, source: source? })
    }
}

impl VolumeSource {
    fn read(source: &str, pointer: &str, value: &Value, problems: &mut Problems) -> Option<Self> {
        match source {
            "emptyDir" => {
                let object = problems.object(pointer, value, &["medium", "sizeLimit"])?;
                let memory = match problems.text(object, pointer, "medium") {
                    None | Some("") => false,
                    Some("Memory") => true,
                    Some(_) => {
                        problems.add(child(pointer, "medium"), "must be \"\" or \"Memory\"");
                        false
                    }
                };
                let limit = problems.text(object, pointer, "sizeLimit").map(Quantity::parse);
                let size_limit = limit.and_then(|limit| problems.check(&child(pointer, "sizeLimit"), limit));
                Some(Self::EmptyDir { memory, size_limit })
            }
            "persistentVolumeClaim" => {
                let object = problems.object(pointer, value, &["claimName", "readOnly"])?;
                let read_only = problems.boolean(object, pointer, "readOnly");
                let claim = required_name(object, pointer, "claimName", problems)?;
                Some(Self::PersistentVolumeClaim { claim, read_only })
            }
            "hostPath" => {
                let object = problems.object(pointer, value, &["path", "type"])?;
                if problems.text(object, pointer, "type").is_some_and(|kind| !kind.is_empty()) {
                    // Every other one asks the engine to check or to make what is at the path.
                    problems.add(child(pointer, "type"), "must be \"\": paths are mounted as they are");
                }
                let path = problems.required_text(object, pointer, "path")?;
                let path = problems.check(&child(pointer, "path"), absolute(path))?;
                Some(Self::HostPath { path })
            }
            "configMap" => {
                let object = problems.object(pointer, value, &["name"])?;
                required_name(object, pointer, "name", problems).map(|name| Self::ConfigMap { name })
            }
            _ => {
                let object = problems.object(pointer, value, &["secretName"])?;
                required_name(object, pointer, "secretName", problems).map(|name| Self::Secret { name })
            }
        }
    }
}

impl VolumeMount {
    pub(super) fn read(pointer: &str, value: &Value, problems: &mut Problems) -> Option<Self> {
        let object = problems.object(pointer, value, &["name", "mountPath", "subPath", "readOnly"])?;
        let name = required_label(object, pointer, "name", problems);
        let mount_path = problems.required_text(object, pointer, "mountPath");
        let mount_path = mount_path.and_then(|path| problems.check(&child(pointer, "mountPath"), mount_point(path)));
        let sub_path = problems.text(object, pointer, "subPath").filter(|path| !path.is_empty());
        let sub_path = sub_path.and_then(|path| problems.check(&child(pointer, "subPath"), relative(path)));
        let read_only = problems.boolean(object, pointer, "readOnly");
        Some(Self { name: name?, mount_path: mount_path?, sub_path, read_only })
    }
}

/// Reads `volumes` and `volumeMounts`, with what can only be seen of all together: doubled names and paths, and mounts of
/// nothing. A volume that is bad otherwise still counts, so that one mistake is told once.
pub(super) fn read_all(object: &Map<String, Value>, problems: &mut Problems) -> (Vec<Volume>, Vec<VolumeMount>) {
    let mut names = HashSet::new();
    let mut volumes = Vec::new();
    for (pointer, value) in problems.list(object, "", "volumes") {
        volumes.extend(Volume::read(&pointer, value, problems));
        if let Some(name) = text_at(value, "name")
            && !names.insert(name)
        {
            problems.add(child(&pointer, "name"), format!("is the second volume named {:?}", beginning(name)));
        }
    }
    let mut paths = HashSet::new();
    let mut mounts = Vec::new();
    for (pointer, value) in problems.list(object, "", "volumeMounts") {
        mounts.extend(VolumeMount::read(&pointer, value, problems));
        if let Some(name) = text_at(value, "name")
            && !names.contains(name)
        {
            problems
                .add(child(&pointer, "name"), format!("names no volume: there is none named {:?}", beginning(name)));
        }
        if let Some(Ok(path)) = text_at(value, "mountPath").map(mount_point)
            && let Some(path) = paths.replace(path)
        {
            problems.add(child(&pointer, "mountPath"), format!("is the second mount at {:?}", beginning(&path)));
        }
    }
    (volumes, mounts)
}

fn text_at<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name)?.as_str()
}

fn required_label(object: &Map<String, Value>, pointer: &str, name: &str, problems: &mut Problems) -> Option<String> {
    let text = problems.required_text(object, pointer, name)?;
    problems.check(&child(pointer, name), dns_label(text))
}

/// A name of an object that is on the engine already. It is a name of a Kubernetes object, which Docker's volumes take too.
fn required_name(object: &Map<String, Value>, pointer: &str, name: &str, problems: &mut Problems) -> Option<String> {
    let text = problems.required_text(object, pointer, name)?;
    problems.check(&child(pointer, name), dns_subdomain(text).and_then(not_reserved))
}

/// The parts of a path between its slashes, however many there are.
fn parts(path: &str) -> Option<Vec<&str>> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let normal = parts.iter().all(|part| !matches!(*part, "." | ".."));
    (normal && path.len() <= LONGEST_PATH).then_some(parts)
}

/// An absolute path, with single slashes and none at its end: one place has one form.
fn absolute(path: &str) -> Result<String, String> {
    without_nul(path)?;
    match parts(path) {
        Some(parts) if path.starts_with('/') => Ok(format!("/{}", parts.join("/"))),
        _ => Err("must be an absolute path without . and ..".into()),
    }
}

fn mount_point(path: &str) -> Result<String, String> {
    let path = absolute(path)?;
    if path.contains(':') || path == "/" {
        return Err("must be an absolute path other than / and without a colon".into());
    }
    Ok(path)
}

fn relative(path: &str) -> Result<String, String> {
    without_nul(path)?;
    match parts(path) {
        Some(parts) if !path.starts_with('/') => Ok(parts.join("/")),
        _ => Err("must be a relative path without . and ..".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    type Read = (Vec<Volume>, Vec<VolumeMount>);

    fn read(value: Value) -> Result<Read, Vec<String>> {
        let mut problems = Problems::default();
        let read = read_all(value.as_object().unwrap(), &mut problems);
        problems.into_result(Some(read)).map_err(|errors| {
            let mut pointers: Vec<String> = errors.into_iter().map(|error| error.pointer).collect();
            pointers.sort();
            pointers
        })
    }

    fn volume(source: Value) -> Result<VolumeSource, Vec<String>> {
        let mut volume = json!({"name": "v"});
        volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        read(json!({"volumes": [volume]})).map(|(mut volumes, _)| volumes.remove(0).source)
    }

    fn mount(mount: Value) -> Result<VolumeMount, Vec<String>> {
        let mut named = json!({"name": "v"});
        named.as_object_mut().unwrap().extend(mount.as_object().unwrap().clone());
        read(json!({"volumes": [{"name": "v", "emptyDir": {}}], "volumeMounts": [named]}))
            .map(|(_, mut mounts)| mounts.remove(0))
    }

    #[test]
    fn volumes_are_read() {
        let name = || "a.b-c".to_owned();
        for (given, source) in [
            (json!({"emptyDir": {}}), VolumeSource::EmptyDir { memory: false, size_limit: None }),
            (
                json!({"emptyDir": {"medium": "", "sizeLimit": null}, "hostPath": null}),
                VolumeSource::EmptyDir { memory: false, size_limit: None },
            ),
            (
                json!({"emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}),
                VolumeSource::EmptyDir { memory: true, size_limit: Some(Quantity::parse("64Mi").unwrap()) },
            ),
            (
                json!({"persistentVolumeClaim": {"claimName": "a.b-c"}}),
                VolumeSource::PersistentVolumeClaim { claim: name(), read_only: false },
            ),
            (
                json!({"persistentVolumeClaim": {"claimName": "a.b-c", "readOnly": true}}),
                VolumeSource::PersistentVolumeClaim { claim: name(), read_only: true },
            ),
            (
                json!({"hostPath": {"path": "/srv//a b/", "type": ""}}),
                VolumeSource::HostPath { path: "/srv/a b".into() },
            ),
            (json!({"hostPath": {"path": "/"}}), VolumeSource::HostPath { path: "/".into() }),
            (json!({"configMap": {"name": "a.b-c"}}), VolumeSource::ConfigMap { name: name() }),
            (json!({"secret": {"secretName": "a.b-c"}}), VolumeSource::Secret { name: name() }),
        ] {
            assert_eq!(volume(given.clone()), Ok(source), "{given}");
        }
    }

    #[test]
    fn every_bad_volume_is_told() {
        for (bad, pointers) in [
            (json!({}), vec!["/volumes/0"]),
            (json!({"emptyDir": null}), vec!["/volumes/0"]),
            (json!({"emptyDir": {}, "secret": {"secretName": "a"}}), vec!["/volumes/0"]),
            (json!({"nfs": {"server": "a"}}), vec!["/volumes/0", "/volumes/0/nfs"]),
            (json!({"name": "A", "emptyDir": {}}), vec!["/volumes/0/name"]),
            (json!({"name": 1, "emptyDir": true}), vec!["/volumes/0/emptyDir", "/volumes/0/name"]),
            (
                json!({"emptyDir": {"medium": "HugePages", "sizeLimit": "lots", "x": 1}}),
                vec!["/volumes/0/emptyDir/medium", "/volumes/0/emptyDir/sizeLimit", "/volumes/0/emptyDir/x"],
            ),
            (
                json!({"persistentVolumeClaim": {"claimName": "../x", "readOnly": "yes"}}),
                vec!["/volumes/0/persistentVolumeClaim/claimName", "/volumes/0/persistentVolumeClaim/readOnly"],
            ),
            (json!({"hostPath": {}}), vec!["/volumes/0/hostPath/path"]),
            (json!({"hostPath": {"path": "/a", "type": "DirectoryOrCreate"}}), vec!["/volumes/0/hostPath/type"]),
            (json!({"configMap": {"name": "a", "defaultMode": 256}}), vec!["/volumes/0/configMap/defaultMode"]),
            (json!({"secret": {"name": "a"}}), vec!["/volumes/0/secret/name", "/volumes/0/secret/secretName"]),
        ] {
            assert_eq!(volume(bad.clone()), Err(pointers.into_iter().map(str::to_owned).collect()), "{bad}");
        }
    }

    #[test]
    fn names_of_the_deployers_own_objects_cannot_be_mounted() {
        let of_an_execution = "renga-0191b8c0-0000-7000-8000-000000000001";
        for (kind, field) in [("persistentVolumeClaim", "claimName"), ("configMap", "name"), ("secret", "secretName")] {
            for name in [of_an_execution, "renga-", "renga-seal-key", "renga-.a"] {
                let told = volume(json!({(kind): {(field): name}}));
                assert_eq!(told, Err(vec![format!("/volumes/0/{kind}/{field}")]), "{name}");
            }
            for name in ["renga", "rengas", "my-renga-data"] {
                assert!(volume(json!({(kind): {(field): name}})).is_ok(), "{name}");
            }
        }
    }

    #[test]
    fn paths_stay_where_they_point() {
        let long = format!("/{}", "a".repeat(LONGEST_PATH));
        for bad in ["", "a", "./a", "../a", "/..", "/a/..", "/a/../b", "/a/./b", "/a\0", "~", "C:\\a", long.as_str()] {
            assert_eq!(
                volume(json!({"hostPath": {"path": bad}})),
                Err(vec!["/volumes/0/hostPath/path".into()]),
                "{bad:?}"
            );
            assert_eq!(mount(json!({"mountPath": bad})), Err(vec!["/volumeMounts/0/mountPath".into()]), "{bad:?}");
        }
        for bad in ["/", "//", "/a:b", "/a:ro"] {
            assert_eq!(mount(json!({"mountPath": bad})), Err(vec!["/volumeMounts/0/mountPath".into()]), "{bad:?}");
        }
        for bad in
            ["/a", "..", "../a", "a/..", "a/../../b", ".", "a/.", "a\0", long[1..].to_owned().as_str(), long.as_str()]
        {
            let given = mount(json!({"mountPath": "/m", "subPath": bad}));
            if bad.len() == LONGEST_PATH {
                assert_eq!(given.unwrap().sub_path.as_deref(), Some(bad));
            } else {
                assert_eq!(given, Err(vec!["/volumeMounts/0/subPath".into()]), "{bad:?}");
            }
        }
    }

    #[test]
    fn mounts_are_read() {
        let all = json!({"mountPath": "/a//b/", "subPath": "c//d/", "readOnly": true});
        let expected =
            VolumeMount { name: "v".into(), mount_path: "/a/b".into(), sub_path: Some("c/d".into()), read_only: true };
        assert_eq!(mount(all), Ok(expected));
        let least = mount(json!({"mountPath": "/...", "subPath": ""})).unwrap();
        assert_eq!((least.mount_path.as_str(), least.sub_path, least.read_only), ("/...", None, false));
    }

    #[test]
    fn what_belongs_together_is_checked_together() {
        let both = json!({
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}, {"name": "bad", "hostPath": {"path": "x"}}],
            "volumeMounts": [
                {"name": "a", "mountPath": "/m"},
                {"name": "a", "mountPath": "//m/"},
                {"name": "bad", "mountPath": "/m/inside"},
                {"name": "gone", "mountPath": "relative", "propagation": 1}
            ]
        });
        assert_eq!(
            read(both).unwrap_err(),
            [
                "/volumeMounts/1/mountPath",
                "/volumeMounts/3/mountPath",
                "/volumeMounts/3/name",
                "/volumeMounts/3/propagation",
                "/volumes/1/name",
                "/volumes/2/hostPath/path"
            ]
        );
    }
}
