//! Specifications and requests for executions: an accepted one is stored and read back the same, and becomes a Docker
//! request within the allowed bounds; the errors of a rejected one point to existing places.

use std::collections::BTreeMap;

use renga_reconciler::engine::docker::create_request;
use renga_reconciler::engine::{EngineError, EngineSettings, Launch};
use renga_shared::api::parse_json;
use renga_shared::domain::{
    Command, ContextId, ExecutionId, FieldError, NewExecution, Specification, additions, launch_environment,
};
use serde_json::Value;
use uuid::Uuid;

/// The folder of the host that volumes may use.
const ALLOWED: &str = "/srv/allowed";
/// The maximum number of errors: the listed ones, and a last one that counts the others.
const MOST_TOLD: usize = 1_001;

/// Checks the properties in the module's doc. The input has two bodies, separated by a NUL, which no JSON contains: the
/// specification and the request for an execution.
pub fn hold(input: &[u8]) {
    let mut bodies = input.splitn(2, |byte| *byte == 0);
    let (spec, execution) = (bodies.next().unwrap_or_default(), bodies.next().unwrap_or_default());
    let execution = body(execution).and_then(|posted| execution_of(&posted));
    let Some(posted) = body(spec) else { return };
    match Specification::parse(&posted) {
        Ok(spec) => {
            stored(&posted, &spec);
            requested(spec, &execution.unwrap_or_default());
        }
        Err(errors) => told(&posted, &errors),
    }
}

/// Parses a body, and checks that it is printed and parsed again the same.
fn body(bytes: &[u8]) -> Option<Value> {
    let posted = parse_json(bytes).ok()?;
    assert_eq!(parse_json(posted.to_string().as_bytes()).ok().as_ref(), Some(&posted));
    Some(posted)
}

/// Returns the environment in a request for an execution, after it was stored and read back.
fn execution_of(posted: &Value) -> Option<BTreeMap<String, String>> {
    let execution = match NewExecution::parse(posted) {
        Ok(execution) => execution,
        Err(errors) => {
            told(posted, &errors);
            return None;
        }
    };
    assert!((1..=63).contains(&execution.namespace.len()), "{:?}", execution.namespace);
    let stored = serde_json::to_string(&execution.environment).ok()?;
    let again = serde_json::from_str(&stored).ok();
    assert_eq!(again.as_ref(), Some(&execution.environment));
    again
}

fn stored(posted: &Value, spec: &Specification) {
    let text = Specification::to_stored(posted);
    assert_eq!(Specification::from_stored(&text).as_ref(), Ok(spec), "{text}");
    let shown = parse_json(text.as_bytes()).unwrap_or_default();
    assert!(shown.as_object().is_some_and(|fields| fields.contains_key("command")), "{text}");
    assert_eq!(Specification::to_stored(&shown), text, "stored twice it is the same");
}

/// Checks that every pointer leads to a place in the body, or to a missing field of an existing object.
fn told(posted: &Value, errors: &[FieldError]) {
    assert!((1..=MOST_TOLD).contains(&errors.len()), "{errors:?}");
    for FieldError { pointer, detail } in errors {
        let missing = || {
            let (parent, _) = pointer.rsplit_once('/')?;
            Some(detail == "is required" && posted.pointer(parent)?.is_object())
        };
        assert!(posted.pointer(pointer).is_some() || missing() == Some(true), "{pointer} {detail}: {posted}");
    }
}

fn requested(spec: Specification, execution: &BTreeMap<String, String>) {
    let id = Uuid::from_u128(7);
    let ours = additions(ContextId(id), "/");
    let environment = launch_environment(&spec.env, execution, &ours);
    let launch = Launch { id: ExecutionId(id), spec, namespace: "default".into(), environment, access_token: None };
    let settings = EngineSettings {
        deployment: "fuzz".into(),
        host_paths: vec![ALLOWED.into()],
        container_ip: std::net::Ipv4Addr::LOCALHOST.into(),
        kubernetes: Default::default(),
    };
    let request = match create_request(&launch, &settings, false) {
        Ok((request, _)) => request,
        Err(EngineError::Refused(why)) => return assert!(!why.reason.is_empty() && !why.message.is_empty()),
        Err(other) => panic!("a request is made or refused: {other:?}"),
    };
    let arguments = launch.spec.command.as_ref().map(Command::arguments);
    assert_eq!(request.cmd.as_deref(), arguments);
    assert_eq!(request.image, Some(launch.spec.image.canonical()));
    assert_eq!(request.entrypoint, None);
    let variables = request.env.as_deref().unwrap_or_default();
    assert_eq!(variables.len(), launch.environment.len());
    assert!(ours.iter().all(|(name, value)| variables.contains(&format!("{name}={value}"))), "{variables:?}");
    assert!(variables.iter().all(|variable| variable.find('=') > Some(0)), "{variables:?}");
    let sent = serde_json::to_value(&request).unwrap_or_default();
    within_bounds(&sent["HostConfig"]);
    let labels = sent["Labels"].as_object().map(|labels| labels.keys().all(|name| name.starts_with("io.renga.")));
    assert_eq!(labels, Some(true), "{sent}");
    assert!(!has_nul(&sent), "no engine takes a NUL: {sent}");
}

/// Checks that no field of the request widens the container's permissions.
fn within_bounds(host: &Value) {
    let known = [
        "CapDrop",
        "CpuShares",
        "DeviceRequests",
        "LogConfig",
        "Memory",
        "MemoryReservation",
        "MemorySwap",
        "Mounts",
        "NanoCpus",
        "PidsLimit",
        "PortBindings",
        "SecurityOpt",
    ];
    let fields = host.as_object().into_iter().flatten();
    for (name, value) in fields.filter(|(_, value)| !value.is_null()) {
        assert!(known.contains(&name.as_str()), "{name} is asked for: {value}");
        assert!(value.as_i64().is_none_or(|amount| amount >= 0), "{name} is negative: {value}");
    }
    assert_eq!(host["SecurityOpt"][0], "no-new-privileges");
    for mount in host["Mounts"].as_array().into_iter().flatten() {
        let (source, target) = (mount["Source"].as_str(), mount["Target"].as_str().unwrap_or_default());
        assert!(target.len() > 1 && target.starts_with('/') && !upwards(target), "{mount}");
        match (mount["Type"].as_str(), source) {
            (Some("bind"), Some(path)) => {
                let inside = path.strip_prefix(ALLOWED).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                assert!(inside && !upwards(path), "{mount}");
            }
            (Some("volume"), Some(name)) => assert!(!name.contains('/'), "{mount}"),
            (Some("volume" | "tmpfs"), None) => {}
            _ => panic!("{mount}"),
        }
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(elements) => elements.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        _ => false,
    }
}

fn upwards(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}
