//! Failed calls, and their meaning for an execution.

use bollard::errors::Error;
use renga_shared::domain::Why;

use crate::engine::EngineError;
use crate::engine::words::{innermost, shown};

/// The failure of a call to a Docker Engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The engine answered with an error.
    Answered {
        /// The HTTP status.
        status: u16,
        /// The engine's own message.
        message: String,
    },
    /// There was no answer, or an unreadable one.
    Down(String),
    /// There was no connection, so no request was sent.
    Unreached(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                Self::Answered { status: status_code, message }
            }
            // The error came inside a stream whose HTTP status was a success.
            Error::DockerStreamError { error } => Self::Answered { status: 500, message: error },
            other => {
                let unreached = matches!(&other, Error::HyperLegacyError { err } if err.is_connect());
                let cause = innermost(&other);
                if unreached { Self::Unreached(cause) } else { Self::Down(cause) }
            }
        }
    }
}

impl Failure {
    /// Maps `Down` to `Unreached`, because the failed call came before the actual request.
    pub(super) fn before_asking(self) -> Self {
        match self {
            Self::Down(reason) => Self::Unreached(reason),
            other => other,
        }
    }
}

impl From<Failure> for EngineError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Down(reason) => Self::Down(reason),
            Failure::Unreached(reason) => Self::Unreached(reason),
            Failure::Answered { message, .. } if is_disk_full(&message) => Self::Retry(Why::new(
                "EngineDiskFull",
                "The engine's disk is full. It is tried again; its operator has to make room.",
            )),
            Failure::Answered { status: 408 | 409 | 429 | 500.., message } => {
                Self::Retry(Why::new("EngineError", format!("The engine could not do it: {}", shown(&message))))
            }
            Failure::Answered { message, .. } => {
                Self::Refused(Why::new("EngineRefused", format!("The engine refused it: {}", shown(&message))))
            }
        }
    }
}

fn is_disk_full(message: &str) -> bool {
    message.contains("no space left on device") || message.contains("disk quota exceeded")
}

/// Maps the failure of a pull of `image`.
pub(super) fn of_pull(failure: Failure, image: &str) -> EngineError {
    let Failure::Answered { message, .. } = &failure else { return failure.into() };
    if is_disk_full(message) {
        return failure.into();
    }
    let said = |any: &[&str]| any.iter().any(|words| message.to_ascii_lowercase().contains(words));
    let shown = shown(message);
    if said(&["toomanyrequests", "too many requests", "rate limit", "timeout", "connection refused", "no such host"]) {
        EngineError::Retry(Why::new("ImagePullFailed", format!("The image {image} could not be pulled: {shown}")))
    } else if said(&["not found", "manifest unknown", "name unknown", "does not exist", "no matching manifest"]) {
        EngineError::Refused(Why::new("ImageNotFound", format!("There is no image {image}: {shown}")))
    } else if said(&["denied", "unauthorized", "authentication required", "no basic auth credentials", "forbidden"]) {
        EngineError::Refused(Why::new("ImagePullDenied", format!("The image {image} may not be pulled: {shown}")))
    } else if said(&["invalid reference format", "unsupported manifest", "does not match the specified platform"]) {
        EngineError::Refused(Why::new("ImageUnusable", format!("The image {image} cannot be used: {shown}")))
    } else {
        EngineError::Retry(Why::new("ImagePullFailed", format!("The image {image} could not be pulled: {shown}")))
    }
}

/// Maps the failure to create a container of `image`.
pub(super) fn of_create(failure: Failure, image: &str) -> EngineError {
    match &failure {
        Failure::Answered { status: 404, message } if message.to_ascii_lowercase().contains("no such image") => {
            EngineError::Retry(Why::new(
                "ImageGone",
                format!("The image {image} was removed from the engine. It is pulled again."),
            ))
        }
        Failure::Answered { status: 400..500, message } if message.contains("bind source path does not exist") => {
            EngineError::Refused(Why::new(
                "HostPathNotFound",
                format!("A volume's path is not there: {}", shown(message)),
            ))
        }
        _ => failure.into(),
    }
}

/// Maps the failure of a start. The container stays as it was created, and would fail again in the same way.
pub(super) fn of_start(failure: Failure) -> EngineError {
    let Failure::Answered { status, message } = &failure else { return failure.into() };
    let said = |words: &str| message.contains(words);
    let refused = |reason: &str, text: String| EngineError::Refused(Why::new(reason, text));
    // The runtime's messages about commands begin like this; its messages about mounts and devices do not.
    let executing = said("exec: ") || said("exec user process");
    if *status == 404 {
        EngineError::Retry(Why::new("ObjectGone", "Its container is no longer there."))
    } else if executing && (said("executable file not found") || said("no such file or directory")) {
        refused("CommandNotFound", format!("Its command is not in the image: {}", cause(message)))
    } else if executing
        && (said("permission denied") || said("exec format error") || said("is a directory") || said("not a directory"))
    {
        refused("CommandNotExecutable", format!("Its command cannot be executed: {}", cause(message)))
    } else if said("could not select device driver") {
        refused("NoGpu", "It asks for a GPU, and the engine has none.".into())
    } else if said("port is already allocated") || said("address already in use") || said("external connectivity") {
        EngineError::Retry(Why::new("PortUnavailable", format!("A port could not be published: {}", shown(message))))
    } else if said("memory limit too low") || said("OOM-killed") {
        refused("MemoryLimitTooLow", "Its memory limit is too low to start anything in.".into())
    } else if said("bind source path does not exist") {
        refused("HostPathNotFound", format!("A volume's path is not there: {}", shown(message)))
    } else if said("mountpoint") || said("error mounting") || said("to rootfs") {
        refused("MountFailed", format!("A volume could not be mounted: {}", cause(message)))
    } else {
        failure.into()
    }
}

/// Returns the part of a runtime's message that names the cause, without the layers around it.
fn cause(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let inner = line.find("exec: ").or_else(|| line.find("error mounting")).map_or(line, |at| &line[at..]);
    shown(inner.strip_suffix(": unknown").unwrap_or(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, message: &str) -> Failure {
        Failure::Answered { status, message: message.to_owned() }
    }

    fn told(error: &EngineError) -> (&'static str, &str) {
        match error {
            EngineError::Down(_) | EngineError::Unreached(_) => ("away", ""),
            EngineError::Retry(why) => ("retry", &why.reason),
            EngineError::Refused(why) => ("refused", &why.reason),
        }
    }

    #[test]
    fn pull_failures_are_temporary_or_permanent() {
        for (message, expected) in [
            (
                "manifest for 127.0.0.1:1/a:b not found: manifest unknown: manifest unknown",
                ("refused", "ImageNotFound"),
            ),
            (
                "pull access denied for x, repository does not exist or may require 'docker login'",
                ("refused", "ImageNotFound"),
            ),
            ("no matching manifest for linux/arm64/v8 in the manifest list entries", ("refused", "ImageNotFound")),
            ("unauthorized: authentication required", ("refused", "ImagePullDenied")),
            ("Get \"http://r/v2/\": dial tcp: lookup r on 10.0.0.1:53: no such host", ("retry", "ImagePullFailed")),
            (
                "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
                ("retry", "ImagePullFailed"),
            ),
            ("toomanyrequests: You have reached your pull rate limit", ("retry", "ImagePullFailed")),
            ("write /var/lib/docker/tmp/x: no space left on device", ("retry", "EngineDiskFull")),
            ("something new", ("retry", "ImagePullFailed")),
        ] {
            assert_eq!(told(&of_pull(answered(500, message), "x")), expected, "{message}");
        }
    }

    #[test]
    fn start_failures_are_temporary_or_permanent() {
        let runc = |inner: &str| {
            format!("failed to create shim task: OCI runtime create failed: runc create failed: {inner}: unknown")
        };
        for (status, message, expected) in [
            (400, runc(r#"exec: "nosuch": executable file not found in $PATH"#), ("refused", "CommandNotFound")),
            (
                400,
                runc(r#"exec: "/no/such": stat /no/such: no such file or directory"#),
                ("refused", "CommandNotFound"),
            ),
            (400, runc(r#"exec: "/etc/passwd": permission denied"#), ("refused", "CommandNotExecutable")),
            (
                500,
                "driver failed programming external connectivity: port is already allocated".into(),
                ("retry", "PortUnavailable"),
            ),
            (500, "could not select device driver \"nvidia\" with capabilities: [[gpu]]".into(), ("refused", "NoGpu")),
            (500, runc("error mounting \"/a\" to rootfs at \"/b\": not a directory"), ("refused", "MountFailed")),
            (404, "No such container: x".into(), ("retry", "ObjectGone")),
            (409, "container is marked for removal and cannot be started".into(), ("retry", "EngineError")),
            (500, "something new".into(), ("retry", "EngineError")),
        ] {
            assert_eq!(told(&of_start(answered(status, &message))), expected, "{message}");
        }
    }

    #[test]
    fn other_failures_are_classified_by_status() {
        for (status, expected) in [(500, "retry"), (503, "retry"), (409, "retry"), (400, "refused"), (404, "refused")] {
            assert_eq!(told(&answered(status, "x").into()).0, expected, "{status}");
        }
        let EngineError::Refused(why) = answered(400, &format!("{}\nsecond", "ä".repeat(1_000))).into() else {
            panic!()
        };
        assert!(why.message.len() < 1_000 && why.message.ends_with('…'), "{}", why.message);
    }
}
