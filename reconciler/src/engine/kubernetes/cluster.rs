//! One cluster as a deployment uses it: its connection, its watches, and what is asked when these do not tell.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::Ingress;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::Resource;
use renga_shared::domain::{ExecutionId, Why};
use renga_shared::placement::Capacity;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, OnceCell};
use tokio::task::JoinSet;

use super::capacity::NodesWatch;
use super::client::{ANSWER_WITHIN, Connection, Namespaces};
use super::failure::Failure;
use super::job;
use super::pod::PodSeen;
use super::ports::{self, ServiceSeen};
use super::state::{JobSeen, Known, ObjectId, is_ours};
use super::store::{Kind, Store};
use super::watches::{self, Watched};
use crate::engine::{DEPLOYMENT_LABEL, EXECUTION_LABEL, EngineError, EngineSettings, Launch, object_name};

/// One cluster as a deployment uses it.
pub(super) struct Cluster {
    pub(super) connection: Arc<Connection>,
    pub(super) settings: EngineSettings,
    watching: OnceCell<Watching>,
}

struct Watching {
    namespaces: Namespaces,
    watched: Arc<Watched>,
    nodes: Arc<NodesWatch>,
    /// The watches, which end with this.
    _tasks: JoinSet<()>,
}

impl Cluster {
    pub(super) fn new(connection: Connection, settings: EngineSettings) -> Self {
        Self { connection: Arc::new(connection), settings, watching: OnceCell::new() }
    }

    /// The watches, which the first who asks begins: before, it is not known which namespaces there are to watch.
    async fn watching(&self) -> Result<&Watching, EngineError> {
        let begin = async || {
            let client = self.connection.client().await.map_err(|failure| self.connection.heard(failure))?;
            let namespaces = Namespaces::new(&self.connection.url, client.default_namespace());
            let watched = Arc::new(Watched {
                connection: Arc::clone(&self.connection),
                store: Arc::new(Store::new(watches::ids(namespaces.watched().len()))),
                namespaces: namespaces.watched(),
                deployment: self.settings.deployment.clone(),
                restricted: self.connection.url.restricted,
                answers: Notify::new(),
                doubted: Notify::new(),
            });
            let nodes = Arc::new(NodesWatch::new(Arc::clone(&self.connection)));
            let mut tasks = watched.begin();
            nodes.begin(&mut tasks);
            Ok::<_, Failure>(Watching { namespaces, watched, nodes, _tasks: tasks })
        };
        Ok(self.watching.get_or_try_init(begin).await?)
    }

    /// The watches, once they have shown everything. Otherwise why they cannot be believed.
    pub(super) async fn ready(&self) -> Result<&Arc<Watched>, EngineError> {
        let watched = &self.watching().await?.watched;
        watched.store.ready().await?;
        Ok(watched)
    }

    /// The namespace that an execution runs in.
    pub(super) async fn namespace(&self, launch: &Launch) -> Result<String, EngineError> {
        self.watching().await?.namespaces.allow(&launch.namespace)
    }

    /// The architecture of all nodes, and the room on them, as far as they are known.
    pub(super) fn capacity(&self) -> (Option<String>, Capacity) {
        self.watching.get().map(|watching| watching.nodes.now()).unwrap_or_default()
    }

    /// The API server answered, or did not: what has failed is begun anew, what may have died silently too.
    pub(super) fn answered(&self, answered: bool) {
        let Some(watching) = self.watching.get() else { return };
        if answered {
            watching.watched.answers.notify_waiters();
        } else {
            watching.watched.doubted.notify_waiters();
        }
    }

    /// What is known of an execution. What the watches have not shown is asked for before it counts as not there.
    pub(super) async fn known(&self, watched: &Watched, id: ExecutionId) -> Result<Option<Known>, EngineError> {
        if let Some(known) = watched.store.known(id) {
            return Ok(Some(known));
        }
        for namespace in &watched.namespaces {
            self.look(watched, namespace.as_deref(), id).await?;
        }
        Ok(watched.store.known(id))
    }

    /// The same of an object, if it is still that one.
    pub(super) async fn find(&self, watched: &Watched, id: &ObjectId) -> Result<Option<Known>, EngineError> {
        if let Some(known) = watched.store.object(id) {
            return Ok(Some(known));
        }
        if let Some(execution) = id.execution() {
            self.look(watched, Some(&id.namespace), execution).await?;
        }
        Ok(watched.store.object(id))
    }

    /// Asks for the Job of an execution, and for its pod if there is one.
    async fn look(&self, watched: &Watched, namespace: Option<&str>, id: ExecutionId) -> Result<(), EngineError> {
        let client = self.connection.client().await?;
        let selector = format!("{EXECUTION_LABEL}={id},{DEPLOYMENT_LABEL}={}", self.settings.deployment);
        let listing = ListParams::default().labels(&selector);
        let job = match namespace {
            Some(name) => {
                let jobs: Api<Job> = Api::namespaced(client.clone(), name);
                match self.connection.answer(ANSWER_WITHIN, jobs.get_opt(&object_name(id))).await {
                    Err(failure) if self.connection.lacks_namespace(&failure, namespace).await => None,
                    answer => answer?,
                }
            }
            None => {
                let jobs: Api<Job> = Api::all(client.clone());
                self.connection.answer(ANSWER_WITHIN, jobs.list(&listing)).await?.items.pop()
            }
        };
        let job = job.filter(|job| is_ours(job.metadata.labels.as_ref(), &self.settings.deployment, id));
        let Some(job) = job.as_ref().and_then(JobSeen::of) else { return Ok(()) };
        let pods: Api<Pod> = Api::namespaced(client, &job.namespace);
        let pods = self.connection.answer(ANSWER_WITHIN, pods.list(&listing)).await?;
        let (job_watch, pod_watch) =
            (watched.watch_of(Kind::Jobs, &job.namespace), watched.watch_of(Kind::Pods, &job.namespace));
        watched.store.put_job(job_watch, job);
        for pod in pods.items.iter().filter_map(PodSeen::of) {
            watched.store.put_pod(pod_watch, id, pod);
        }
        Ok(())
    }

    /// The Job that has the name already.
    pub(super) async fn adopt(&self, jobs: &Api<Job>, id: ExecutionId) -> Result<Job, EngineError> {
        let name = object_name(id);
        match self.connection.answer(ANSWER_WITHIN, jobs.get_opt(&name)).await? {
            // It was removed just now, or is being removed.
            None => Err(busy(&name)),
            Some(found) if !is_ours(found.metadata.labels.as_ref(), &self.settings.deployment, id) => {
                Err(EngineError::Refused(Why::new(
                    "NameTaken",
                    format!("The namespace has a Job {name} that this deployment did not make."),
                )))
            }
            Some(found) if found.metadata.deletion_timestamp.is_some() => Err(busy(&name)),
            Some(found) => Ok(found),
        }
    }

    /// Makes what belongs to a Job, as far as it is not there yet.
    pub(super) async fn complete(&self, watched: &Watched, launch: &Launch, job: &Job) -> Result<(), EngineError> {
        let namespace = job.metadata.namespace.clone().unwrap_or_default();
        if let Some(secret) = job::secret(launch, job, &self.settings) {
            self.apply(&namespace, &secret).await?;
        }
        if let Some(service) = ports::service(launch, job, &self.settings) {
            let made: Service = self.apply(&namespace, &service).await?;
            if let Some(service) = ServiceSeen::of(&made) {
                watched.store.put_service(watched.watch_of(Kind::Services, &namespace), launch.id, service);
            }
        }
        if let Some(ingress) = ports::ingress(launch, job, &self.settings) {
            self.apply::<Ingress>(&namespace, &ingress).await?;
        }
        Ok(())
    }

    /// Makes an object, or brings the one that there is to what it has to be: a call that was cut off made it, perhaps for
    /// a Job that had the name before.
    async fn apply<K>(&self, namespace: &str, object: &K) -> Result<K, EngineError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let api = self.connection.api::<K>(namespace).await?;
        let made = self.connection.answer(ANSWER_WITHIN, api.create(&PostParams::default(), object)).await;
        match made {
            Err(failure) if failure.is(409) => {}
            made => return Ok(made?),
        }
        let name = object.meta().name.clone().unwrap_or_default();
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(object));
        match self.connection.answer(ANSWER_WITHIN, api.patch(&name, &parameters, &patch)).await {
            Ok(there) if there.meta().deletion_timestamp.is_none() => Ok(there),
            Err(failure) if !failure.is_gone() => Err(failure.into()),
            // What belonged to a former Job is still being removed.
            _ => Err(busy(&name)),
        }
    }
}

pub(super) fn busy(name: &str) -> EngineError {
    EngineError::Retry(Why::new("EngineBusy", format!("The cluster is still removing {name}.")))
}

/// What a deployment configures for all its clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesSettings {
    /// How long what is stopped has to end: `DEPLOYER_STOP_GRACE`. It is fixed when a pod is made.
    pub stop_grace: std::time::Duration,
    /// The address that ports of the nodes are told with: `DEPLOYER_K8S_CONTAINER_IP`. The pod's own node's without it.
    pub container_ip: Option<std::net::IpAddr>,
    /// The ingress that ports are served by instead: `DEPLOYER_K8S_INGRESS`.
    pub ingress: Option<ports::IngressHost>,
}

impl Default for KubernetesSettings {
    fn default() -> Self {
        Self { stop_grace: std::time::Duration::from_secs(10), container_ip: None, ingress: None }
    }
}
