//! The Kubernetes objects that are created for a launch.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, PodSecurityContext, PodSpec, PodTemplateSpec,
    ResourceRequirements, SeccompProfile, Secret, SecretKeySelector, SecurityContext,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use renga_shared::domain::{Amounts, PortSpec};

use super::volumes::{mounts, volumes};
use crate::engine::{DEPLOYMENT_LABEL, EXECUTION_LABEL, EngineError, EngineSettings, Launch, object_name};
use crate::launch::ACCESS_TOKEN;

/// The annotation with the ports in the order of the specification, because a Service need not keep it.
pub(super) const PORTS: &str = "io.renga.ports";
/// The name of a pod's only container.
pub(super) const CONTAINER: &str = "execution";
/// Dropped capabilities, as with Docker: no job forges packets, creates devices or writes to the audit log.
const DROPPED: [&str; 3] = ["AUDIT_WRITE", "MKNOD", "NET_RAW"];

/// Returns the Job of a launch. It is suspended, so the cluster creates no pod before `Engine::start`.
pub(super) fn job(
    launch: &Launch,
    namespace: &str,
    settings: &EngineSettings,
    restricted: bool,
) -> Result<Job, EngineError> {
    let labels = labels(launch, settings);
    let ports: Vec<String> = launch.spec.ports.iter().map(key).collect();
    let annotations = (!ports.is_empty()).then(|| BTreeMap::from([(PORTS.to_owned(), ports.join(","))]));
    let pod = PodSpec {
        containers: vec![container(launch, restricted)],
        volumes: volumes(&launch.spec, settings)?,
        restart_policy: Some("Never".into()),
        termination_grace_period_seconds: Some(i64::from(seconds(settings.kubernetes.stop_grace).max(1))),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
            run_as_non_root: restricted.then_some(true),
            ..PodSecurityContext::default()
        }),
        ..PodSpec::default()
    };
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels.clone()), ..ObjectMeta::default() }),
        spec: Some(pod),
    };
    Ok(Job {
        metadata: ObjectMeta {
            name: Some(object_name(launch.id)),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels),
            annotations,
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            suspend: Some(true),
            completions: Some(1),
            parallelism: Some(1),
            backoff_limit: Some(0),
            // A pod that is being deleted may still run, so no pod replaces it before it has ended.
            pod_replacement_policy: Some("Failed".into()),
            template,
            ..JobSpec::default()
        }),
        status: None,
    })
}

fn container(launch: &Launch, restricted: bool) -> Container {
    let spec = &launch.spec;
    let dropped: Vec<String> =
        if restricted { vec!["ALL".into()] } else { DROPPED.iter().map(|name| (*name).to_owned()).collect() };
    let port = |port: &PortSpec| ContainerPort {
        container_port: i32::from(port.number),
        protocol: Some(port.protocol.as_str().to_ascii_uppercase()),
        ..ContainerPort::default()
    };
    let environment = launch.names().map(|name| variable(launch, name));
    Container {
        name: CONTAINER.into(),
        image: Some(spec.image.canonical()),
        image_pull_policy: Some("IfNotPresent".into()),
        args: spec.command.as_ref().map(|command| command.arguments().iter().map(|text| literal(text)).collect()),
        env: some(environment.collect()),
        ports: some(spec.ports.iter().map(port).collect()),
        volume_mounts: some(mounts(spec)),
        resources: Some(ResourceRequirements {
            limits: amounts(&spec.resources.limits),
            requests: amounts(&spec.resources.requests),
            ..ResourceRequirements::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(dropped), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// Returns an environment variable. The user's token comes from a Secret, because readers of pods must not see it.
fn variable(launch: &Launch, name: &str) -> EnvVar {
    if name != ACCESS_TOKEN {
        return EnvVar { name: name.to_owned(), value: launch.variable(name).map(literal), value_from: None };
    }
    let key = SecretKeySelector { name: object_name(launch.id), key: ACCESS_TOKEN.into(), optional: None };
    let from = EnvVarSource { secret_key_ref: Some(key), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value: None, value_from: Some(from) }
}

/// Escapes a string so that Kubernetes' expansion of `$(NAME)` leaves it unchanged.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

fn amounts(given: &Amounts) -> Option<BTreeMap<String, Quantity>> {
    let amounts: BTreeMap<_, _> =
        given.iter().map(|(name, amount)| (name.clone(), Quantity(amount.to_string()))).collect();
    (!amounts.is_empty()).then_some(amounts)
}

/// Returns the Secret with the user's token, if the execution has one.
pub(super) fn secret(launch: &Launch, job: &Job, settings: &EngineSettings) -> Option<Secret> {
    let token = launch.variable(ACCESS_TOKEN)?;
    let data = BTreeMap::from([(ACCESS_TOKEN.to_owned(), ByteString(token.into()))]);
    Some(Secret { metadata: owned(launch, job, settings), data: Some(data), ..Secret::default() })
}

/// Returns the metadata of an object that the Job owns and that is deleted with it.
pub(super) fn owned(launch: &Launch, job: &Job, settings: &EngineSettings) -> ObjectMeta {
    let owner = OwnerReference {
        api_version: "batch/v1".into(),
        kind: "Job".into(),
        name: object_name(launch.id),
        uid: job.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    ObjectMeta {
        name: Some(object_name(launch.id)),
        namespace: job.metadata.namespace.clone(),
        labels: Some(labels(launch, settings)),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
}

fn labels(launch: &Launch, settings: &EngineSettings) -> BTreeMap<String, String> {
    BTreeMap::from([
        (EXECUTION_LABEL.to_owned(), launch.id.to_string()),
        (DEPLOYMENT_LABEL.to_owned(), settings.deployment.clone()),
    ])
}

/// Returns a port in the annotation's notation: `8080/tcp`.
pub(super) fn key(port: &PortSpec) -> String {
    format!("{}/{}", port.number, port.protocol.as_str())
}

/// Rounds up to whole seconds, because a fraction of a second must not become zero.
pub(super) fn seconds(duration: Duration) -> u32 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(i32::MAX.unsigned_abs())
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
mod tests {
    use renga_shared::auth::OpenedToken;
    use renga_shared::domain::{ExecutionId, Specification, Timestamp};
    use serde_json::{Value, json};

    use super::*;

    fn launch(spec: &Value) -> Launch {
        Launch {
            id: ExecutionId::new(Timestamp(1), [7; 8]),
            spec: Specification::parse(spec).unwrap(),
            namespace: "default".into(),
            environment: [("A".into(), "$(B) $$ $HOME".into())].into(),
            access_token: Some(OpenedToken::new(Box::new("the-token".into()))),
        }
    }

    fn settings() -> EngineSettings {
        EngineSettings {
            deployment: "d".into(),
            host_paths: vec![],
            container_ip: std::net::Ipv4Addr::LOCALHOST.into(),
            kubernetes: super::super::KubernetesSettings::default(),
        }
    }

    fn made(spec: &Value, restricted: bool) -> Value {
        serde_json::to_value(job(&launch(spec), "jobs", &settings(), restricted).unwrap()).unwrap()
    }

    #[test]
    fn a_specification_becomes_a_suspended_job_without_retries() {
        let spec = json!({
            "image": "busybox", "command": ["echo", "$(A)"], "ports": ["8080", "53/udp"],
            "resources": {"limits": {"cpu": "500m", "nvidia.com/gpu": 1}, "requests": {"memory": "1Gi"}},
        });
        let job = made(&spec, false);
        assert_eq!(job["metadata"]["annotations"][PORTS], "8080/tcp,53/udp");
        assert_eq!(job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]);
        assert_eq!(job["spec"]["suspend"], true);
        assert_eq!(job["spec"]["backoffLimit"], 0);
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!((&pod["restartPolicy"], &pod["automountServiceAccountToken"]), (&json!("Never"), &json!(false)));
        assert_eq!(pod["securityContext"], json!({"seccompProfile": {"type": "RuntimeDefault"}}));
        let container = &pod["containers"][0];
        assert_eq!(container["image"], "busybox:latest");
        assert_eq!((&container["args"], &container["command"]), (&json!(["echo", "$$(A)"]), &Value::Null));
        assert_eq!(container["env"][0]["value"], "$$(B) $$$$ $$HOME", "it is not expanded");
        assert_eq!(container["resources"]["limits"], json!({"cpu": "500m", "nvidia.com/gpu": "1"}));
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    }

    #[test]
    fn the_token_is_only_in_the_secret() {
        let spec = json!({"image": "busybox"});
        let made = job(&launch(&spec), "jobs", &settings(), false).unwrap();
        let text = serde_json::to_string(&made).unwrap();
        assert!(!text.contains("the-token"), "{text}");
        let secret = secret(&launch(&spec), &made, &settings()).unwrap();
        assert_eq!(secret.data.unwrap()[ACCESS_TOKEN].0, b"the-token");
        assert_eq!(secret.metadata.owner_references.unwrap()[0].kind, "Job");
    }

    #[test]
    fn restricted_meets_pod_security() {
        let pod = &made(&json!({"image": "busybox"}), true)["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["containers"][0]["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
    }

    #[test]
    fn grace_is_rounded_up() {
        for (millis, expected) in [(0, 0), (300, 1), (2_000, 2), (2_001, 3)] {
            assert_eq!(seconds(Duration::from_millis(millis)), expected);
        }
    }
}
