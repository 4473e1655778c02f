//! The request body that creates the container of a launch.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, DeviceRequest, HostConfig, HostConfigLogConfig, PortBinding, PortMap};
use renga_shared::domain::{PortSpec, Quantity, Resources, Why};

use super::mounts::Mounts;
use crate::engine::{DEPLOYMENT_LABEL, EXECUTION_LABEL, EngineError, EngineSettings, Launch};

/// The label with the ports in the order of the specification, because Docker does not keep that order.
pub(super) const PORTS_LABEL: &str = "io.renga.ports";
/// The process limit: more processes and threads than any sane job has, but too few to starve the machine.
const PIDS: i64 = 4_096;
/// Capabilities dropped from Docker's default set: no job forges packets, creates devices or writes to the audit log.
const DROPPED: [&str; 3] = ["AUDIT_WRITE", "MKNOD", "NET_RAW"];
/// Kubernetes' name for NVIDIA GPUs, for which Docker has its own driver and capability.
pub(super) const GPU: &str = "nvidia.com/gpu";
/// The smallest memory reservation that Docker accepts, in bytes.
const LEAST_RESERVATION: i64 = 6 << 20;

/// Returns the request body for a launch. Fails with `Refused` if Docker cannot provide a resource.
pub(super) fn body(
    launch: &Launch,
    settings: &EngineSettings,
    mounts: &Mounts,
) -> Result<ContainerCreateBody, EngineError> {
    let spec = &launch.spec;
    let ports: Vec<String> = spec.ports.iter().map(key).collect();
    let labels = HashMap::from([
        (EXECUTION_LABEL.to_owned(), launch.id.to_string()),
        (DEPLOYMENT_LABEL.to_owned(), settings.deployment.clone()),
        (PORTS_LABEL.to_owned(), ports.join(",")),
    ]);
    // With an address Docker makes one binding; without, two with different ports, one for IPv4 and one for IPv6.
    let binding = PortBinding { host_ip: Some(settings.container_ip.to_string()), host_port: Some("0".into()) };
    let bindings: PortMap = ports.iter().map(|port| (port.clone(), Some(vec![binding.clone()]))).collect();
    let host = HostConfig {
        mounts: Some(mounts.mounts.clone()),
        port_bindings: Some(bindings),
        log_config: Some(log_config()),
        security_opt: Some(vec!["no-new-privileges".into()]),
        cap_drop: Some(DROPPED.map(str::to_owned).into()),
        pids_limit: Some(PIDS),
        ..limited(&spec.resources)?
    };
    Ok(ContainerCreateBody {
        image: Some(spec.image.canonical()),
        cmd: spec.command.as_ref().map(|command| command.arguments().to_vec()),
        env: Some(launch.names().map(|name| format!("{name}={}", launch.variable(name).unwrap_or_default())).collect()),
        exposed_ports: Some(ports),
        labels: Some(labels),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    })
}

/// Returns a port in Docker's notation: `8080/tcp`.
pub(super) fn key(port: &PortSpec) -> String {
    format!("{}/{}", port.number, port.protocol.as_str())
}

/// The driver `local` keeps the bytes unchanged; `json-file` replaces invalid UTF-8, also where it cuts a long line in
/// the middle of a character. Rotation is off because it would drop output that the collector has not read yet.
/// Docker's own default does not rotate either.
fn log_config() -> HostConfigLogConfig {
    let options = [("max-size", "1t"), ("max-file", "1"), ("compress", "false")];
    HostConfigLogConfig {
        typ: Some("local".into()),
        config: Some(options.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
    }
}

fn limited(resources: &Resources) -> Result<HostConfig, EngineError> {
    let mut host = HostConfig::default();
    for (name, limit) in given(&resources.limits) {
        match name {
            "memory" => {
                host.memory = Some(limit.as_whole());
                // Equal values turn swap off.
                host.memory_swap = Some(limit.as_whole());
            }
            "cpu" => host.nano_cpus = Some(limit.as_nanos()),
            GPU => host.device_requests = Some(gpus(limit)),
            other => return Err(unsupported(other)),
        }
    }
    for (name, request) in given(&resources.requests) {
        match name {
            "memory" => host.memory_reservation = Some(request.as_whole()).filter(|bytes| *bytes >= LEAST_RESERVATION),
            // The kubelet's conversion from CPU to shares.
            "cpu" => host.cpu_shares = Some((request.as_nanos() / 1_000_000 * 1_024 / 1_000).clamp(2, 262_144)),
            GPU => host.device_requests = host.device_requests.or_else(|| Some(gpus(request))),
            other => return Err(unsupported(other)),
        }
    }
    Ok(host)
}

/// Returns the amounts above zero, because zero of a resource requests nothing.
fn given(amounts: &renga_shared::domain::Amounts) -> impl Iterator<Item = (&str, &Quantity)> {
    amounts.iter().filter(|(_, amount)| amount.as_nanos() > 0).map(|(name, amount)| (name.as_str(), amount))
}

fn gpus(count: &Quantity) -> Vec<DeviceRequest> {
    vec![DeviceRequest {
        driver: Some("nvidia".into()),
        count: Some(count.as_whole()),
        capabilities: Some(vec![vec!["gpu".into()]]),
        ..DeviceRequest::default()
    }]
}

fn unsupported(resource: &str) -> EngineError {
    EngineError::Refused(Why::new(
        "ResourceUnsupported",
        format!("Docker cannot give or limit the resource {resource:?}: only cpu, memory and {GPU}."),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn limits(resources: Value) -> Result<HostConfig, String> {
        let spec = json!({"image": "a", "resources": resources});
        let spec = renga_shared::domain::Specification::parse(&spec).unwrap();
        limited(&spec.resources).map_err(|error| error.to_string())
    }

    #[test]
    fn resources_become_limits() {
        let host = limits(json!({
            "limits": {"cpu": "1500m", "memory": "64Mi", "nvidia.com/gpu": 2},
            "requests": {"cpu": "250m", "memory": "32Mi"},
        }))
        .unwrap();
        assert_eq!(
            (host.memory, host.memory_swap, host.memory_reservation),
            (Some(64 << 20), Some(64 << 20), Some(32 << 20))
        );
        assert_eq!((host.nano_cpus, host.cpu_shares), (Some(1_500_000_000), Some(256)));
        assert_eq!(host.device_requests.unwrap()[0].count, Some(2));
        assert_eq!(limits(json!({"requests": {"memory": "1Mi"}})).unwrap().memory_reservation, None);
        assert_eq!(limits(json!({"limits": {"cpu": 0, "nvidia.com/gpu": 0}})).unwrap(), HostConfig::default());
        for unknown in [json!({"limits": {"ephemeral-storage": "1Gi"}}), json!({"requests": {"amd.com/gpu": 1}})] {
            assert!(limits(unknown.clone()).unwrap_err().contains("only cpu, memory"), "{unknown}");
        }
    }
}
