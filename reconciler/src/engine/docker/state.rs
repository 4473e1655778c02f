//! Converts Docker's container state into the port's types.

use std::collections::HashMap;

use bollard::models::{ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Docker, PortMap};
use chrono::DateTime;
use renga_shared::api::PortBody;
use renga_shared::domain::Timestamp;

use super::body::PORTS_LABEL;
use crate::engine::{DEPLOYMENT_LABEL, EXECUTION_LABEL, EngineSettings, Exit, Object, ObjectState};

/// The exit code of a process that was killed by SIGKILL, as in a shell.
const KILLED: i64 = 128 + 9;

/// Whether the labels belong to an object of this deployment and this execution (any execution if `None`).
pub(super) fn is_ours(labels: &HashMap<String, String>, settings: &EngineSettings, execution: Option<&str>) -> bool {
    labels.get(DEPLOYMENT_LABEL) == Some(&settings.deployment)
        && execution.is_none_or(|id| labels.get(EXECUTION_LABEL).is_some_and(|label| label == id))
}

/// Returns the labels of a container.
pub(super) fn labels(container: &ContainerInspectResponse) -> HashMap<String, String> {
    container.config.as_ref().and_then(|config| config.labels.clone()).unwrap_or_default()
}

/// Whether the container runs or has ever run. Docker would run an ended container again if asked to start it.
pub(super) fn was_started(container: &ContainerInspectResponse) -> bool {
    container.state.as_ref().is_some_and(|state| instant(state.started_at.as_deref()).is_some())
}

/// Whether the container may have run out of memory: it was killed, had a memory limit, and its state gives no cause.
pub(super) fn may_have_run_out_of_memory(container: &ContainerInspectResponse) -> bool {
    let limited = container.host_config.as_ref().is_some_and(|config| config.memory.is_some_and(|memory| memory > 0));
    let killed = |state: &ContainerState| state.exit_code == Some(KILLED) && state.oom_killed != Some(true);
    limited && container.state.as_ref().is_some_and(killed)
}

/// Converts a container into an object.
pub(super) fn object(container: &ContainerInspectResponse, settings: &EngineSettings) -> Object {
    let state = state(container);
    let ports = match &state {
        ObjectState::Running { .. } => ports(container, settings),
        _ => Vec::new(),
    };
    Object { id: container.id.clone().unwrap_or_default(), state, ports }
}

fn state(container: &ContainerInspectResponse) -> ObjectState {
    let Some(state) = &container.state else { return ObjectState::Created };
    let started = instant(state.started_at.as_deref());
    match (state.status, started) {
        // A container whose start failed stays like this, with an exit code and an error: it never ran.
        (_, None) => ObjectState::Created,
        (Some(Docker::RUNNING | Docker::PAUSED | Docker::STOPPING), Some(started)) => ObjectState::Running { started },
        (Some(Docker::RESTARTING), _) => ObjectState::Starting(None),
        // Includes a container that is being removed: it ran and has stopped.
        (_, Some(started)) => ObjectState::Exited(exit(state, started)),
    }
}

fn exit(state: &ContainerState, started: Timestamp) -> Exit {
    let code = state.exit_code.unwrap_or_default();
    Exit {
        code,
        // Docker sets the flag if it killed any process of the container, even if the main process went on.
        out_of_memory: state.oom_killed == Some(true) && code != 0,
        started: Some(started),
        // A daemon that was killed itself records the time when it came back, or nothing.
        finished: instant(state.finished_at.as_deref()).unwrap_or(started).max(started),
        error: state.error.clone().filter(|error| !error.is_empty()),
    }
}

/// Parses a time in Docker's notation. The year 1 means never.
pub(super) fn instant(text: Option<&str>) -> Option<Timestamp> {
    let at = DateTime::parse_from_rfc3339(text?).ok()?;
    Some(Timestamp(at.timestamp_micros())).filter(|at| at.0 > 0)
}

fn ports(container: &ContainerInspectResponse, settings: &EngineSettings) -> Vec<PortBody> {
    let published: PortMap =
        container.network_settings.as_ref().and_then(|network| network.ports.clone()).unwrap_or_default();
    let order = labels(container).remove(PORTS_LABEL).unwrap_or_default();
    let port = |key: &str| {
        let binding = published.get(key)?.as_ref()?.first()?;
        let (number, protocol) = key.split_once('/')?;
        Some(PortBody {
            specified: number.to_owned(),
            host: settings.container_ip.to_string(),
            exposed: binding.host_port.clone().filter(|port| !port.is_empty())?,
            protocol: protocol.to_ascii_uppercase(),
            path: None,
        })
    };
    order.split(',').filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(status: Docker, started_at: &str, finished_at: &str, exit_code: i64) -> ObjectState {
        let (started_at, finished_at) = (Some(started_at.to_owned()), Some(finished_at.to_owned()));
        let state = ContainerState {
            status: Some(status),
            started_at,
            finished_at,
            exit_code: Some(exit_code),
            oom_killed: Some(true),
            ..ContainerState::default()
        };
        super::state(&ContainerInspectResponse { state: Some(state), ..ContainerInspectResponse::default() })
    }

    #[test]
    fn states_are_read() {
        const NEVER: &str = "0001-01-01T00:00:00Z";
        const ONE: &str = "2017-07-14T02:40:00.000001999Z";
        const TWO: &str = "2017-07-14T02:40:02.5Z";
        let one = Timestamp(1_500_000_000_000_001);
        assert_eq!(seen(Docker::CREATED, NEVER, NEVER, 0), ObjectState::Created);
        assert_eq!(seen(Docker::CREATED, NEVER, NEVER, 127), ObjectState::Created);
        assert_eq!(seen(Docker::REMOVING, NEVER, NEVER, 0), ObjectState::Created);
        assert_eq!(seen(Docker::RUNNING, ONE, NEVER, 0), ObjectState::Running { started: one });
        assert_eq!(seen(Docker::PAUSED, ONE, NEVER, 0), ObjectState::Running { started: one });
        assert_eq!(seen(Docker::RESTARTING, ONE, TWO, 0), ObjectState::Starting(None));
        for status in [Docker::EXITED, Docker::DEAD, Docker::REMOVING] {
            let ObjectState::Exited(exit) = seen(status, ONE, TWO, 137) else { panic!("{status}") };
            assert_eq!((exit.code, exit.out_of_memory), (137, true));
            assert_eq!((exit.started, exit.finished), (Some(one), Timestamp(1_500_000_002_500_000)));
        }
        let ObjectState::Exited(exit) = seen(Docker::EXITED, ONE, NEVER, 0) else { panic!() };
        assert_eq!((exit.out_of_memory, exit.finished), (false, one));
    }
}
