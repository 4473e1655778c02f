//! Volumes: passed on unchanged, except that an operator must allow host paths.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, HostPathVolumeSource, PersistentVolumeClaimVolumeSource,
    SecretVolumeSource, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use renga_shared::domain::{Specification, VolumeSource};

use crate::engine::{EngineError, EngineSettings, host_paths};

/// Returns the volumes of a pod. Fails with `Refused` if a host path is not allowed.
pub(super) fn volumes(spec: &Specification, settings: &EngineSettings) -> Result<Option<Vec<Volume>>, EngineError> {
    let volumes = spec.volumes.iter().map(|volume| {
        let mut made = Volume { name: volume.name.clone(), ..Volume::default() };
        match &volume.source {
            VolumeSource::EmptyDir { memory, size_limit } => {
                made.empty_dir = Some(EmptyDirVolumeSource {
                    medium: memory.then(|| "Memory".into()),
                    size_limit: size_limit.as_ref().map(|size| Quantity(size.to_string())),
                });
            }
            VolumeSource::PersistentVolumeClaim { claim, read_only } => {
                let source = PersistentVolumeClaimVolumeSource {
                    claim_name: claim.clone(),
                    read_only: read_only.then_some(true),
                };
                made.persistent_volume_claim = Some(source);
            }
            VolumeSource::HostPath { path } => {
                // The node's files are not visible here. The kubelet resolves a `subPath`, and lets none lead out.
                let path = host_paths::allow(path, None, &settings.host_paths, false)?.display().to_string();
                made.host_path = Some(HostPathVolumeSource { path, type_: None });
            }
            VolumeSource::ConfigMap { name } => {
                let source = ConfigMapVolumeSource { name: name.clone(), ..ConfigMapVolumeSource::default() };
                made.config_map = Some(source);
            }
            VolumeSource::Secret { name } => {
                let source = SecretVolumeSource { secret_name: Some(name.clone()), ..SecretVolumeSource::default() };
                made.secret = Some(source);
            }
        }
        Ok(made)
    });
    let volumes = volumes.collect::<Result<Vec<_>, EngineError>>()?;
    Ok((!volumes.is_empty()).then_some(volumes))
}

/// Returns the volume mounts of a pod's container.
pub(super) fn mounts(spec: &Specification) -> Vec<VolumeMount> {
    let mount = |mount: &renga_shared::domain::VolumeMount| VolumeMount {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        sub_path: mount.sub_path.clone(),
        read_only: mount.read_only.then_some(true),
        ..VolumeMount::default()
    };
    spec.volume_mounts.iter().map(mount).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(volume: Value, host_paths: &[&str]) -> Result<Value, EngineError> {
        let spec = Specification::parse(&json!({"image": "a", "volumes": [volume]})).unwrap();
        let settings = EngineSettings {
            deployment: "d".into(),
            host_paths: host_paths.iter().map(Into::into).collect(),
            container_ip: std::net::Ipv4Addr::LOCALHOST.into(),
            kubernetes: super::super::KubernetesSettings::default(),
        };
        Ok(serde_json::to_value(&volumes(&spec, &settings)?.unwrap()[0]).unwrap())
    }

    #[test]
    fn every_kind_is_passed_on_unchanged() {
        for volume in [
            json!({"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
            json!({"name": "v", "persistentVolumeClaim": {"claimName": "c", "readOnly": true}}),
            json!({"name": "v", "configMap": {"name": "c"}}),
            json!({"name": "v", "secret": {"secretName": "c"}}),
            json!({"name": "v", "hostPath": {"path": "/srv/data/x"}}),
        ] {
            assert_eq!(read(volume.clone(), &["/srv/data"]).unwrap(), volume);
        }
    }

    #[test]
    fn host_paths_outside_allowed_folders_are_refused() {
        for path in ["/", "/etc", "/srv/database"] {
            let refused = read(json!({"name": "v", "hostPath": {"path": path}}), &["/srv/data"]);
            assert!(matches!(refused, Err(EngineError::Refused(why)) if why.reason == "HostPathNotAllowed"), "{path}");
        }
    }
}
