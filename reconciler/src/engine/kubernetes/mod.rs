//! Kubernetes 1.29 and newer, because Jobs need the field `podReplacementPolicy`.
//!
//! An execution is a Job `renga-<id>` with one attempt and one pod that is never restarted. Its specification becomes:
//!
//! | field | in Kubernetes |
//! |---|---|
//! | `image` | pulled by the kubelet when absent; `:latest` without a tag or digest |
//! | `command` | the container's arguments, for the image's entry point if it has one; `$(NAME)` is not expanded |
//! | `env` | unchanged; a user's token comes from a Secret that the Job owns |
//! | `ports` | a NodePort Service, reported with `DEPLOYER_K8S_CONTAINER_IP` or the address of the pod's node |
//! | `ports`, `DEPLOYER_K8S_INGRESS` | an Ingress at `/interactive/<execution id>`, for TCP only |
//! | `resources` | unchanged |
//! | `emptyDir`, `persistentVolumeClaim`, `configMap`, `secret` | unchanged |
//! | `hostPath` | a path of the pod's node, under `DEPLOYER_HOST_PATHS` |
//! | `labels` | not passed on, because a context's label could look like one of the deployer's |
//!
//! Pods meet Pod Security `baseline` and have no privilege escalation, fewer capabilities than a runtime's default,
//! seccomp `RuntimeDefault` and no service-account token. `?security=restricted` forbids root and drops all
//! capabilities.
//!
//! **Calls.** One call creates the suspended Job; one each creates the Secret, the Service and the Ingress if needed;
//! one starts the Job; two read its logs, while it runs and after it has ended; one deletes it with its dependents.
//! Running objects are not polled: one watch for each kind of object and namespace (`watches.rs`) reports changes, and
//! `store.rs` keeps the few facts about each object that matter here.
//!
//! **Stopping** must keep the exit code and the logs, which are lost when a pod is deleted: see `stop.rs`.
//!
//! **Logs** come as one stream, reported as standard output: see `logs.rs`. A kubelet keeps the last 10 MiB of a
//! container's logs unless it is configured to keep more; logs that are followed while they are written have no such
//! limit.
//!
//! **Lost.** An execution is lost, with the cluster's reason, if others delete, evict or preempt its pod, or if the
//! pod's node disappears. A node that does not answer for a while changes nothing: the cluster decides how long to
//! wait, and then deletes the pod.

mod capacity;
mod client;
mod cluster;
mod failure;
mod job;
mod lines;
mod logs;
mod pod;
mod ports;
mod room;
mod state;
mod stop;
mod store;
mod url;
mod volumes;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use futures::stream::{self, BoxStream, StreamExt as _};
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions, PropagationPolicy};
use renga_shared::domain::{ExecutionId, Protocol, Why};
use renga_shared::placement::{Capacity, Volumes};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

pub use cluster::KubernetesSettings;
pub use ports::IngressHost;
pub use url::KubernetesUrl;

use self::client::{ANSWER_WITHIN, Connection};
use self::cluster::{Cluster, busy};
use self::failure::Failure;
use self::pod::Life;
use self::state::{JobSeen, Known, ObjectId};
use self::store::Kind;
use super::{Accepts, Engine, EngineError, EngineEvent, EngineInfo, EngineSettings, Launch, Listed, LogEntry, Object};
use crate::crash::crash_point;

/// Time limit for the API server's version.
const PROBE_WITHIN: Duration = Duration::from_secs(10);
/// Time limit for the removal of an object, including the grace period of its pod.
const REMOVE_WITHIN: Duration = Duration::from_secs(120);

/// A Kubernetes cluster.
#[derive(Clone)]
pub struct Kubernetes {
    cluster: Arc<Cluster>,
}

impl Kubernetes {
    /// Returns an adapter for the cluster at `url`. Sends nothing to it yet; the cluster may be down at any time.
    pub fn new(url: KubernetesUrl, settings: EngineSettings) -> Self {
        Self { cluster: Arc::new(Cluster::new(Connection::new(url), settings)) }
    }
}

/// Parses an object's id. Fails with `ObjectGone` for another engine's id, because it names no object here.
fn id(object: &str) -> Result<ObjectId, EngineError> {
    ObjectId::parse(object).ok_or_else(gone)
}

fn gone() -> EngineError {
    EngineError::Retry(Why::new("ObjectGone", "Its Job is no longer there."))
}

#[async_trait]
impl Engine for Kubernetes {
    fn kind(&self) -> &'static str {
        "k8s"
    }

    fn accepts(&self) -> Accepts {
        let settings = &self.cluster.settings;
        let allowed = |kind: &Volumes| *kind != Volumes::HostPath || !settings.host_paths.is_empty();
        let protocols = match settings.kubernetes.ingress {
            Some(_) => vec![Protocol::Tcp],
            None => vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp],
        };
        let namespaces = self.cluster.connection.url.namespaces();
        Accepts { volumes: Volumes::ALL.into_iter().filter(allowed).collect(), protocols, namespaces }
    }

    fn capacity(&self) -> Option<Capacity> {
        Some(self.cluster.capacity().1)
    }

    async fn probe(&self) -> Result<EngineInfo, EngineError> {
        let client = self.cluster.connection.client().await?;
        let answer = self.cluster.connection.answer(PROBE_WITHIN, client.apiserver_version()).await;
        self.cluster.answered(!matches!(answer, Err(Failure::Down(_) | Failure::Unreached(_))));
        let version = answer?.git_version;
        // An API server that answers but does not allow the watches is useless, so it counts as down.
        match self.cluster.ready().await {
            Err(EngineError::Retry(why) | EngineError::Refused(why)) => Err(EngineError::Down(why.message)),
            Err(away) => Err(away),
            Ok(_) => {
                let (architecture, capacity) = self.cluster.capacity();
                Ok(EngineInfo { version: version.trim_start_matches('v').to_owned(), architecture, capacity })
            }
        }
    }

    async fn prepare(&self, launch: &Launch, _: &(dyn Fn(Why) + Send + Sync)) -> Result<(), EngineError> {
        // The kubelet pulls the image, so nothing needs preparation. An unreachable cluster is already reported here.
        self.cluster.ready().await?;
        self.cluster.namespace(launch).await.map(drop)
    }

    async fn create(&self, launch: &Launch) -> Result<String, EngineError> {
        let cluster = &self.cluster;
        let watched = cluster.ready().await?;
        let namespace = cluster.namespace(launch).await?;
        let job = job::job(launch, &namespace, &cluster.settings, cluster.connection.url.restricted)?;
        let jobs: Api<Job> = cluster.connection.api(&namespace).await?;
        let created = cluster.connection.answer(ANSWER_WITHIN, jobs.create(&PostParams::default(), &job)).await;
        let made = match created {
            Err(failure) if failure.is(409) => cluster.adopt(&jobs, launch.id).await?,
            Err(failure) if cluster.connection.lacks_namespace(&failure, Some(&namespace)).await => {
                let text = format!("Its namespace {namespace:?} is not there. It is tried again.");
                return Err(EngineError::Retry(Why::new("NamespaceMissing", text)));
            }
            created => created?,
        };
        let seen = JobSeen::of(&made).ok_or_else(gone)?;
        let (object, suspended) = (seen.id().to_string(), seen.suspended);
        watched.store.put_job(watched.watch_of(Kind::Jobs, &namespace), seen);
        if suspended {
            crash_point!("before_complete");
            cluster.complete(watched, launch, &made).await?;
        }
        Ok(object)
    }

    async fn start(&self, object: &str) -> Result<(), EngineError> {
        let id = id(object)?;
        let watched = self.cluster.ready().await?;
        let known = watched.store.object(&id).and_then(|known| known.job);
        if known.is_some_and(|job| !job.suspended) {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": id.uid}, "spec": {"suspend": false}});
        let started: Option<Job> = stop::patched(&self.cluster, &id.namespace, &id.name, &patch).await?;
        let job = started.as_ref().and_then(JobSeen::of).ok_or_else(gone)?;
        watched.store.put_job(watched.watch_of(Kind::Jobs, &id.namespace), job);
        Ok(())
    }

    async fn inspect(&self, id: ExecutionId) -> Result<Option<Object>, EngineError> {
        let watched = self.cluster.ready().await?;
        let known = self.cluster.known(watched, id).await?;
        Ok(known.and_then(|known| known.object(&self.cluster.settings)))
    }

    async fn stop(&self, object: &str, grace: Duration) -> Result<(), EngineError> {
        match ObjectId::parse(object) {
            Some(id) => stop::stop(&self.cluster, &id, grace).await,
            None => Ok(()),
        }
    }

    async fn remove(&self, object: &str) -> Result<(), EngineError> {
        let (cluster, Some(id)) = (&self.cluster, ObjectId::parse(object)) else { return Ok(()) };
        let Some(execution) = id.execution() else { return Ok(()) };
        let watched = cluster.ready().await?;
        if let Some(known) = watched.store.object(&id) {
            kill(cluster, &id, &known).await?;
        }
        let parameters = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            preconditions: Some(Preconditions { uid: Some(id.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        let jobs: Api<Job> = cluster.connection.api(&id.namespace).await?;
        match cluster.connection.answer(ANSWER_WITHIN, jobs.delete(&id.name, &parameters)).await {
            Ok(_) => {}
            Err(failure) if failure.is_gone() => {
                watched.store.job_gone(execution, &id.uid);
                return Ok(());
            }
            Err(failure) => return Err(failure.into()),
        }
        let waiter = watched.store.waiter(execution);
        let removed = async {
            loop {
                let changed = waiter.notified();
                if watched.store.object(&id).is_none() {
                    return;
                }
                changed.await;
            }
        };
        tokio::select! {
            () = removed => Ok(()),
            () = tokio::time::sleep(REMOVE_WITHIN) => Err(busy(&id.name)),
            failure = watched.store.broken() => Err(failure.into()),
        }
    }

    async fn list(&self) -> Result<Vec<Listed>, EngineError> {
        Ok(self.cluster.ready().await?.store.all(Known::listed))
    }

    fn logs(&self, object: &str, since: i64) -> BoxStream<'static, Result<LogEntry, EngineError>> {
        logs::follow(Arc::clone(&self.cluster), ObjectId::parse(object), since).boxed()
    }

    fn events(&self) -> BoxStream<'static, Result<EngineEvent, EngineError>> {
        let cluster = Arc::clone(&self.cluster);
        let begin = async move {
            let watched = Arc::clone(cluster.ready().await.map_err(away)?);
            let receiver = watched.store.events();
            let told =
                stream::try_unfold((cluster, watched, receiver), |(cluster, watched, mut receiver)| async move {
                    let event = tokio::select! {
                        event = receiver.recv() => event,
                        failure = watched.store.broken() => return Err(away(failure.into())),
                    };
                    let event = match event {
                        Ok(event) => event,
                        Err(RecvError::Lagged(_)) => EngineEvent::Resync,
                        Err(RecvError::Closed) => return Ok(None),
                    };
                    // The state of the stream keeps the cluster, and so its watches, alive.
                    Ok(Some((event, (cluster, watched, receiver))))
                });
            Ok::<_, EngineError>(stream::once(async { Ok(EngineEvent::Resync) }).chain(told))
        };
        stream::once(begin).try_flatten().boxed()
    }
}

/// Ends a pod at once, even if its node cannot report the end.
async fn kill(cluster: &Cluster, id: &ObjectId, known: &Known) -> Result<(), EngineError> {
    let Some(pod) = known.job.as_ref().and_then(|job| known.pod_of(job)).filter(|_| !known.pod_gone) else {
        return Ok(());
    };
    let grace = match &pod.life {
        Life::Running(_) | Life::Waiting(_) => 1,
        Life::Lost(_) if pod.exit.is_none() => 0,
        _ => return Ok(()),
    };
    cluster.delete_pod(&id.namespace, pod, grace).await
}

/// Maps each error to unreachable, because events are missed from here on.
fn away(error: EngineError) -> EngineError {
    match error {
        EngineError::Retry(why) | EngineError::Refused(why) => EngineError::Down(why.message),
        away => away,
    }
}
