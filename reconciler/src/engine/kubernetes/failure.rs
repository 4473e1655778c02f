//! Failed calls to the API server, and their meaning for an execution.

use kube::core::Status;
use renga_shared::domain::Why;

use crate::engine::EngineError;
use crate::engine::words::{innermost, shown};

/// The failure of a call to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The API server answered with an error.
    Answered {
        /// The HTTP status.
        code: u16,
        /// The API server's own message.
        message: String,
    },
    /// There was no answer, or an unreadable one.
    Down(String),
    /// There was no connection, so no request was sent.
    Unreached(String),
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => status.into(),
            // The client loads its credentials before it sends the request.
            kube::Error::Auth(error) => Self::Unreached(format!("no credentials: {}", innermost(&error))),
            other if is_connect(&other) => Self::Unreached(innermost(&other)),
            other => Self::Down(innermost(&other)),
        }
    }
}

impl From<Box<Status>> for Failure {
    fn from(status: Box<Status>) -> Self {
        match status.code {
            401 => Self::Unreached(
                "the API server does not accept the deployer's credentials: see the user of its kubeconfig context"
                    .into(),
            ),
            // The answers of a proxy, or of a server that is shutting down.
            502..=504 => Self::Down(format!("the API server is not available: {}", shown(&status.message))),
            code => Self::Answered { code, message: status.message },
        }
    }
}

/// Whether the connection failed, so that no request was sent.
fn is_connect(error: &(dyn std::error::Error + 'static)) -> bool {
    let connect = error.downcast_ref::<hyper_util::client::legacy::Error>();
    connect.is_some_and(hyper_util::client::legacy::Error::is_connect) || error.source().is_some_and(is_connect)
}

impl Failure {
    pub(super) fn is(&self, wanted: u16) -> bool {
        matches!(self, Self::Answered { code, .. } if *code == wanted)
    }

    /// Whether the failure says that no object with the requested uid exists.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Answered { code: 404, message } => !message.starts_with("namespaces "),
            Self::Answered { code: 409 | 422, message } => message.to_ascii_lowercase().contains("uid"),
            _ => false,
        }
    }
}

impl From<Failure> for EngineError {
    fn from(failure: Failure) -> Self {
        let (code, message) = match failure {
            Failure::Down(reason) => return Self::Down(reason),
            Failure::Unreached(reason) => return Self::Unreached(reason),
            Failure::Answered { code, message } => (code, message),
        };
        let said = |words: &str| message.contains(words);
        let shown = shown(&message);
        let retry = |reason: &str, text: String| Self::Retry(Why::new(reason, text));
        match code {
            404 if message.starts_with("namespaces ") => {
                retry("NamespaceMissing", format!("Its namespace is not there: {shown}"))
            }
            403 if said("because it is being terminated") => {
                retry("NamespaceTerminating", format!("Its namespace is being deleted: {shown}"))
            }
            403 if said("exceeded quota") || said("failed quota") => {
                retry("QuotaExceeded", format!("Its namespace's quota does not allow it now: {shown}"))
            }
            // The API server's message if no role allows the call.
            403 if said(" cannot ") => retry(
                "NotPermitted",
                format!(
                    "The deployer's service account may not do this: {shown}. Its operator has to apply deploy/rbac."
                ),
            ),
            408 | 409 | 429 | 500.. => retry("EngineError", format!("The cluster could not do it: {shown}")),
            _ => Self::Refused(Why::new("EngineRefused", format!("The cluster refused it: {shown}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_failures_are_mapped_to_reasons() {
        for (code, message, expected) in [
            (404, r#"namespaces "b" not found"#, "NamespaceMissing"),
            (404, r#"jobs.batch "renga-x" not found"#, "EngineRefused"),
            (403, r#"jobs.batch "x" is forbidden: exceeded quota: q, requested: count/jobs.batch=1"#, "QuotaExceeded"),
            (
                403,
                r#"jobs.batch is forbidden: User "x" cannot create resource "jobs" in API group "batch" in the namespace "b""#,
                "NotPermitted",
            ),
            (
                403,
                r#"jobs.batch "x" is forbidden: unable to create new content in namespace b because it is being terminated"#,
                "NamespaceTerminating",
            ),
            (403, r#"admission webhook "policy" denied the request: no"#, "EngineRefused"),
            (422, "Job is invalid: spec.template: x", "EngineRefused"),
            (429, "too many requests", "EngineError"),
            (500, "etcdserver: request timed out", "EngineError"),
        ] {
            let error = EngineError::from(Failure::Answered { code, message: message.into() });
            let (EngineError::Retry(why) | EngineError::Refused(why)) = error else { panic!("{message}: {error:?}") };
            assert_eq!(why.reason, expected, "{message}");
        }
        let refused = Failure::from(Box::new(Status { code: 401, ..Status::default() }));
        assert!(matches!(refused.into(), EngineError::Unreached(reason) if reason.contains("credentials")));
    }

    #[test]
    fn a_missing_object_is_distinguished_from_a_missing_namespace() {
        let answered = |code, message: &str| Failure::Answered { code, message: message.into() };
        assert!(answered(404, r#"jobs.batch "a" not found"#).is_gone());
        assert!(!answered(404, r#"namespaces "a" not found"#).is_gone());
        let conflict = "Precondition failed: UID in precondition: a, UID in object meta: b";
        assert!(answered(409, conflict).is_gone());
        assert!(!answered(409, "the object has been modified").is_gone());
    }
}
