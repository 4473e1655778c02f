//! Volumes as Docker's mounts.

use std::collections::HashMap;

use bollard::models::{Mount, MountTmpfsOptions, MountType, MountVolumeOptions};
use renga_shared::domain::{Specification, Volume, VolumeMount, VolumeSource, Why};

use crate::engine::host_paths;
use crate::engine::{EngineError, EngineSettings};

/// The mounts of a container, and those that every user in it may write to, as in Kubernetes.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Mounts {
    pub(super) mounts: Vec<Mount>,
    /// The mount points of empty folders on disk, which Docker creates for root only.
    pub(super) open_to_all: Vec<String>,
}

/// Returns the mounts of a specification. `look`: see [`host_paths::allow`].
pub(super) fn mounts(spec: &Specification, settings: &EngineSettings, look: bool) -> Result<Mounts, EngineError> {
    let mut all = Mounts::default();
    for mount in &spec.volume_mounts {
        // The API refuses a specification whose mount names no volume.
        let Some(volume) = spec.volumes.iter().find(|volume| volume.name == mount.name) else { continue };
        let made = one(volume, mount, spec, settings, look)?;
        let on_disk = made.typ == Some(MountType::VOLUME) && made.source.is_none();
        if on_disk && !mount.read_only {
            all.open_to_all.push(mount.mount_path.clone());
        }
        all.mounts.push(made);
    }
    for volume in &spec.volumes {
        supported(volume)?;
    }
    Ok(all)
}

/// The same, on a thread that may wait where paths are looked at: an allowed folder may be a network's, which does not
/// answer.
pub(super) async fn mounts_looked_at(
    spec: &Specification,
    settings: &EngineSettings,
    look: bool,
) -> Result<Mounts, EngineError> {
    if !look {
        return mounts(spec, settings, look);
    }
    let (spec, settings) = (spec.clone(), settings.clone());
    let made = tokio::task::spawn_blocking(move || mounts(&spec, &settings, look)).await;
    made.unwrap_or_else(|_| Err(EngineError::Down("the process is stopping".into())))
}

fn one(
    volume: &Volume,
    mount: &VolumeMount,
    spec: &Specification,
    settings: &EngineSettings,
    look: bool,
) -> Result<Mount, EngineError> {
    let made = Mount { target: Some(mount.mount_path.clone()), read_only: Some(mount.read_only), ..Mount::default() };
    match &volume.source {
        VolumeSource::EmptyDir { memory: true, size_limit } => {
            alone(volume, mount, spec)?;
            let size = size_limit.as_ref().map(renga_shared::domain::Quantity::as_whole);
            let options = MountTmpfsOptions { size_bytes: size, mode: Some(0o777), ..MountTmpfsOptions::default() };
            Ok(Mount { typ: Some(MountType::TMPFS), tmpfs_options: Some(options), ..made })
        }
        VolumeSource::EmptyDir { memory: false, .. } => {
            alone(volume, mount, spec)?;
            // A volume without a source belongs to this container only; Docker removes both together.
            Ok(Mount { typ: Some(MountType::VOLUME), volume_options: Some(no_copy()), ..made })
        }
        VolumeSource::PersistentVolumeClaim { claim, read_only } => {
            if mount.sub_path.is_some() {
                return Err(refused(
                    "SubPathUnsupported",
                    format!("Docker cannot mount a part of the volume {:?}: leave out subPath.", volume.name),
                ));
            }
            Ok(Mount {
                typ: Some(MountType::VOLUME),
                source: Some(claim.clone()),
                read_only: Some(*read_only || mount.read_only),
                volume_options: Some(no_copy()),
                ..made
            })
        }
        VolumeSource::HostPath { path } => {
            let path = host_paths::allow(path, mount.sub_path.as_deref(), &settings.host_paths, look)?;
            Ok(Mount { typ: Some(MountType::BIND), source: Some(path.display().to_string()), ..made })
        }
        VolumeSource::ConfigMap { .. } | VolumeSource::Secret { .. } => {
            supported(volume)?;
            Ok(made)
        }
    }
}

/// Prevents Docker from filling an empty volume with the image's files at its mount point.
fn no_copy() -> MountVolumeOptions {
    MountVolumeOptions { no_copy: Some(true), labels: Some(HashMap::new()), ..MountVolumeOptions::default() }
}

/// Refuses a volume that this engine cannot provide, mounted or not.
fn supported(volume: &Volume) -> Result<(), EngineError> {
    match &volume.source {
        VolumeSource::ConfigMap { .. } | VolumeSource::Secret { .. } => Err(refused(
            "VolumeKindUnsupported",
            format!("The volume {:?} is a configMap or secret, which only Kubernetes has.", volume.name),
        )),
        VolumeSource::EmptyDir { memory: false, size_limit: Some(_) } => Err(refused(
            "VolumeSizeUnsupported",
            format!(
                "Docker cannot limit the size of the emptyDir {:?} on disk: leave out sizeLimit, or set its medium to Memory.",
                volume.name
            ),
        )),
        _ => Ok(()),
    }
}

/// Refuses mounts of an emptyDir that share files, because each mount of it is a separate volume here.
fn alone(volume: &Volume, mount: &VolumeMount, spec: &Specification) -> Result<(), EngineError> {
    let path = |mount: &VolumeMount| {
        format!("{}/", mount.sub_path.as_deref().unwrap_or_default()).trim_start_matches('/').to_owned()
    };
    let shares = spec.volume_mounts.iter().any(|other| {
        other.name == mount.name
            && other.mount_path != mount.mount_path
            && (path(other).starts_with(&path(mount)) || path(mount).starts_with(&path(other)))
    });
    if shares {
        return Err(refused(
            "VolumeMountUnsupported",
            format!("The emptyDir {:?} is mounted twice, which Docker cannot do: use two volumes.", volume.name),
        ));
    }
    Ok(())
}

fn refused(reason: &str, text: String) -> EngineError {
    EngineError::Refused(Why::new(reason, text))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(volumes: Value, mounts: Value) -> Result<Mounts, String> {
        let spec = Specification::parse(&json!({"image": "a", "volumes": volumes, "volumeMounts": mounts})).unwrap();
        let settings = EngineSettings {
            deployment: "d".into(),
            host_paths: vec!["/srv".into()],
            container_ip: std::net::Ipv4Addr::LOCALHOST.into(),
            kubernetes: Default::default(),
        };
        super::mounts(&spec, &settings, false).map_err(|error| match error {
            EngineError::Refused(why) => why.reason,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn every_kind_is_mounted_or_refused() {
        let all = read(
            json!([
                {"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {"name": "kept", "persistentVolumeClaim": {"claimName": "data", "readOnly": true}},
                {"name": "host", "hostPath": {"path": "/srv/a"}},
            ]),
            json!([
                {"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"},
                {"name": "kept", "mountPath": "/kept"}, {"name": "host", "mountPath": "/host", "subPath": "b", "readOnly": true},
            ]),
        )
        .unwrap();
        let kinds: Vec<_> =
            all.mounts.iter().map(|mount| (mount.typ.unwrap(), mount.source.as_deref(), mount.read_only)).collect();
        assert_eq!(
            kinds,
            [
                (MountType::VOLUME, None, Some(false)),
                (MountType::TMPFS, None, Some(false)),
                (MountType::VOLUME, Some("data"), Some(true)),
                (MountType::BIND, Some("/srv/a/b"), Some(true)),
            ]
        );
        assert_eq!(all.mounts[1].tmpfs_options.as_ref().unwrap().size_bytes, Some(1 << 20));
        assert_eq!(all.open_to_all, ["/disk"]);

        let at = |name: &str| json!([{"name": name, "mountPath": "/x"}]);
        for (volume, mounts, reason) in [
            (json!({"name": "v", "configMap": {"name": "c"}}), json!([]), "VolumeKindUnsupported"),
            (json!({"name": "v", "secret": {"secretName": "c"}}), at("v"), "VolumeKindUnsupported"),
            (json!({"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}), at("v"), "VolumeSizeUnsupported"),
            (json!({"name": "v", "hostPath": {"path": "/etc"}}), at("v"), "HostPathNotAllowed"),
            (
                json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}),
                json!([{"name": "v", "mountPath": "/x", "subPath": "a"}]),
                "SubPathUnsupported",
            ),
        ] {
            assert_eq!(read(json!([volume]), mounts), Err(reason.to_owned()), "{volume}");
        }
    }

    #[test]
    fn an_empty_dir_is_mounted_twice_only_without_shared_files() {
        let twice = |first: Option<&str>, second: Option<&str>| {
            read(
                json!([{"name": "v", "emptyDir": {}}]),
                json!([{"name": "v", "mountPath": "/a", "subPath": first}, {"name": "v", "mountPath": "/b", "subPath": second}]),
            )
        };
        assert_eq!(twice(Some("x"), Some("y")).unwrap().mounts.len(), 2);
        assert_eq!(twice(Some("x"), Some("xy")).unwrap().mounts.len(), 2);
        for (first, second) in [(None, None), (Some("x"), None), (Some("x"), Some("x")), (Some("x"), Some("x/y"))] {
            assert_eq!(twice(first, second), Err("VolumeMountUnsupported".to_owned()), "{first:?} {second:?}");
        }
    }
}
