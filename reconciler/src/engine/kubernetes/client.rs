//! The connection to a cluster: opened on first use, dropped when the API server does not answer.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::Resource;
use kube::{Api, Client};
use renga_shared::domain::Why;

use super::failure::Failure;
use super::url::{Further, KubernetesUrl};
use crate::engine::EngineError;

/// Time limit for an answer of the API server.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// The namespace of executions that request none.
const DEFAULT: &str = "default";

/// The connection to one cluster.
pub(super) struct Connection {
    pub(super) url: KubernetesUrl,
    client: Mutex<Option<Client>>,
}

impl Connection {
    pub(super) fn new(url: KubernetesUrl) -> Self {
        Self { url, client: Mutex::new(None) }
    }

    /// Returns the present client, or opens a new one with freshly read credentials.
    pub(super) async fn client(&self) -> Result<Client, Failure> {
        let known = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(client) = known {
            return Ok(client);
        }
        let config = self.url.config().await.map_err(Failure::Unreached)?;
        let client = Client::try_from(config).map_err(|error| match Failure::from(error) {
            Failure::Down(reason) => Failure::Unreached(reason),
            other => other,
        })?;
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    /// Returns the API for one kind of object in a namespace.
    pub(super) async fn api<K>(&self, namespace: &str) -> Result<Api<K>, Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Ok(Api::namespaced(self.client().await?, namespace))
    }

    /// Whether a call failed because its namespace does not exist, so that nothing can be in it. An account whose role
    /// is in the namespace then gets `403 Forbidden`.
    pub(super) async fn lacks_namespace(&self, failure: &Failure, namespace: Option<&str>) -> bool {
        let (Some(name), true) = (namespace, failure.is(403)) else { return false };
        let Ok(client) = self.client().await else { return false };
        let namespaces: Api<Namespace> = Api::all(client);
        matches!(self.answer(ANSWER_WITHIN, namespaces.get_metadata_opt(name)).await, Ok(None))
    }

    /// Waits for the result of a call. Fails with `Down` if none comes within `within`.
    pub(super) async fn answer<T>(
        &self,
        within: Duration,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Failure> {
        let answer = match tokio::time::timeout(within, call).await {
            Ok(answer) => answer.map_err(Failure::from),
            Err(_) => Err(Failure::Down(format!("no answer within {} s", within.as_secs()))),
        };
        answer.map_err(|failure| self.heard(failure))
    }

    /// Drops the connection if the API server did not answer, and adds the cluster's URL to the failure.
    pub(super) fn heard(&self, failure: Failure) -> Failure {
        let named = |reason: String| {
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
            format!("{}: {reason}", self.url)
        };
        match failure {
            Failure::Down(reason) => Failure::Down(named(reason)),
            Failure::Unreached(reason) => Failure::Unreached(named(reason)),
            answered => answered,
        }
    }
}

/// The namespaces in which executions may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Namespaces {
    own: String,
    further: Further,
}

impl Namespaces {
    /// Returns the namespaces of a cluster whose context has the namespace `context`.
    pub(super) fn new(url: &KubernetesUrl, context: &str) -> Self {
        Self { own: url.namespace.clone().unwrap_or_else(|| context.to_owned()), further: url.further.clone() }
    }

    /// Returns the namespace for an execution that asks for `wanted`. Fails with `Refused` if it is not allowed.
    pub(super) fn allow(&self, wanted: &str) -> Result<String, EngineError> {
        match &self.further {
            _ if wanted == self.own => Ok(wanted.to_owned()),
            Further::Only(names) if names.contains(wanted) => Ok(wanted.to_owned()),
            Further::All if wanted != DEFAULT => Ok(wanted.to_owned()),
            _ if wanted == DEFAULT => Ok(self.own.clone()),
            _ => Err(EngineError::Refused(Why::new(
                "NamespaceNotAllowed",
                format!(
                    "This engine runs nothing in the namespace {wanted:?}: its option namespaces does not name it."
                ),
            ))),
        }
    }

    /// Returns the namespaces to watch; `None` stands for all.
    pub(super) fn watched(&self) -> Vec<Option<String>> {
        match &self.further {
            Further::All => vec![None],
            Further::Only(names) => {
                let further = names.iter().filter(|name| **name != self.own);
                std::iter::once(&self.own).chain(further).cloned().map(Some).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces(url: &str) -> Namespaces {
        Namespaces::new(&KubernetesUrl::parse(url).unwrap(), "team")
    }

    #[test]
    fn only_allowed_namespaces_are_used() {
        for (url, wanted, expected) in [
            ("k8s://", "default", Some("team")),
            ("k8s://", "team", Some("team")),
            ("k8s://", "other", None),
            ("k8s://?namespace=jobs", "default", Some("jobs")),
            ("k8s://?namespace=jobs", "team", None),
            ("k8s://?namespaces=a,default", "a", Some("a")),
            ("k8s://?namespaces=a,default", "default", Some("default")),
            ("k8s://?namespaces=*", "kube-system", Some("kube-system")),
            ("k8s://?namespaces=*", "default", Some("team")),
        ] {
            let allowed = namespaces(url).allow(wanted);
            assert_eq!(allowed.as_deref().ok(), expected, "{url} {wanted}");
        }
        let watched = |url: &str| namespaces(url).watched();
        assert_eq!(watched("k8s://?namespaces=a,team"), [Some("team".to_owned()), Some("a".into())]);
        assert_eq!(watched("k8s://?namespaces=*"), [None]);
    }
}
