//! One watch for each kind of objects and each namespace: all that is ever asked about executions that run.
//!
//! `kube::runtime::watcher` keeps a watch going: bookmarks, time-outs and `410 Gone`, after which it lists anew. After any
//! other error it would begin again where it was, and tell nobody that it is back before something happens. So it is
//! replaced by a new one then, whose list ends the time in which the store is not to be believed.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event as Told, Pod, Service};
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::Api;
use kube::core::Resource;
use kube::runtime::watcher::{self, Event, watcher};
use renga_shared::domain::ExecutionId;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::client::{ANSWER_WITHIN, Connection};
use super::failure::Failure;
use super::pod::PodSeen;
use super::ports::ServiceSeen;
use super::state::{JobSeen, execution_of, job_warning};
use super::store::{Health, Kind, Store, WatchId};
use crate::engine::{DEPLOYMENT_LABEL, EXECUTION_LABEL};

/// How long a watch lasts that is told nothing. One that the network forgot is known to be dead soon after.
const WATCH_SECONDS: u32 = 120;
/// How long after a failure a watch is begun anew, at first and at most. A probe that is answered makes it sooner.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How often it is looked whether warnings may be listed.
const WARNINGS_AFTER: Duration = Duration::from_millis(20);
/// How often a namespace that is not there is looked for.
const NAMESPACE_PERIOD: Duration = Duration::from_secs(10);

/// What all watches of a cluster share.
pub(super) struct Watched {
    pub(super) connection: Arc<Connection>,
    pub(super) store: Arc<Store>,
    /// The namespaces; `None` is all of them.
    pub(super) namespaces: Vec<Option<String>>,
    pub(super) deployment: String,
    pub(super) restricted: bool,
    /// Tells watches that failed that the API server answers again.
    pub(super) answers: Notify,
    /// Tells all watches to begin anew: the API server did not answer, so none can be trusted.
    pub(super) doubted: Notify,
}

/// The watches of these namespaces.
pub(super) fn ids(namespaces: usize) -> impl Iterator<Item = WatchId> {
    let kinds = [Kind::Jobs, Kind::Pods, Kind::Services, Kind::Warnings];
    (0..namespaces).flat_map(move |number| kinds.map(|kind| (kind, number)))
}

impl Watched {
    /// The watch of a kind that a namespace belongs to.
    pub(super) fn watch_of(&self, kind: Kind, namespace: &str) -> WatchId {
        let is = |watched: &Option<String>| watched.as_deref().is_none_or(|name| name == namespace);
        (kind, self.namespaces.iter().position(is).unwrap_or_default())
    }

    /// Begins all watches. They end with the answer.
    pub(super) fn begin(self: &Arc<Self>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for watch in ids(self.namespaces.len()) {
            let watched = Arc::clone(self);
            match watch.0 {
                Kind::Jobs => tasks.spawn(async move { watched.keep::<Job>(watch).await }),
                Kind::Pods => tasks.spawn(async move { watched.keep::<Pod>(watch).await }),
                Kind::Services => tasks.spawn(async move { watched.keep::<Service>(watch).await }),
                Kind::Warnings => tasks.spawn(async move { watched.keep::<Told>(watch).await }),
            };
        }
        tasks
    }

    /// Keeps one watch going for ever.
    async fn keep<K: Seen>(&self, watch: WatchId) {
        let mut pause = FIRST_PAUSE;
        if watch.0 == Kind::Warnings {
            // Warnings outlive what they are about: what that is has to be known before.
            while ![Kind::Jobs, Kind::Pods].iter().all(|kind| self.store.is_current((*kind, watch.1))) {
                tokio::time::sleep(WARNINGS_AFTER).await;
            }
        }
        loop {
            let failure = tokio::select! {
                failure = self.until_it_fails::<K>(watch, &mut pause) => failure,
                () = self.doubted.notified() => Failure::Down("the API server did not answer".into()),
            };
            if self.connection.lacks_namespace(&failure, self.namespace(watch)).await {
                self.store.begin_list(watch);
                self.store.end_list(watch, self.namespace(watch));
                tokio::time::sleep(NAMESPACE_PERIOD).await;
                continue;
            }
            let failure = self.connection.heard(failure);
            tracing::debug!(?watch, ?failure, "the watch of {watch:?} is begun anew: {failure:?}");
            self.store.set_health(watch, Health::Broken(failure));
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                () = self.answers.notified() => {}
            }
        }
    }

    async fn until_it_fails<K: Seen>(&self, watch: WatchId, pause: &mut Duration) -> Failure {
        let client = match self.connection.client().await {
            Ok(client) => client,
            Err(failure) => return failure,
        };
        let namespace = self.namespace(watch);
        let api: Api<K> = match namespace {
            Some(name) => Api::namespaced(client, name),
            None => Api::all(client),
        };
        let config = K::selected(watcher::Config::default().timeout(WATCH_SECONDS), &self.deployment);
        let mut events = watcher(api, config).boxed();
        let mut listing = true;
        loop {
            let next = events.next();
            // A list must be answered; a watch may be silent.
            let next = if listing {
                match tokio::time::timeout(ANSWER_WITHIN, next).await {
                    Ok(next) => next,
                    Err(_) => return Failure::Down(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
                }
            } else {
                next.await
            };
            match next {
                Some(Ok(Event::Init)) => {
                    listing = true;
                    self.store.begin_list(watch);
                }
                Some(Ok(Event::InitDone)) => {
                    listing = false;
                    *pause = FIRST_PAUSE;
                    self.store.end_list(watch, namespace);
                }
                Some(Ok(Event::InitApply(object) | Event::Apply(object))) => object.shown(self, watch),
                Some(Ok(Event::Delete(object))) => object.gone(self),
                // It lists anew by itself.
                Some(Err(watcher::Error::WatchError(status))) if status.code == 410 => {}
                Some(Err(error)) => return failure(error),
                None => return Failure::Down("the watch ended".into()),
            }
        }
    }

    fn namespace(&self, (_, number): WatchId) -> Option<&str> {
        self.namespaces.get(number)?.as_deref()
    }
}

fn failure(error: watcher::Error) -> Failure {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => error.into(),
        watcher::Error::WatchError(status) => status.into(),
        watcher::Error::NoResourceVersion => Failure::Down("the API server gives no resource versions".into()),
    }
}

/// What is watched, and what is kept of it.
trait Seen:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static
{
    /// Which objects are told.
    fn selected(config: watcher::Config, deployment: &str) -> watcher::Config {
        config.labels(&format!("{DEPLOYMENT_LABEL}={deployment}"))
    }

    fn shown(self, watched: &Watched, watch: WatchId);

    fn gone(self, watched: &Watched);
}

fn execution(metadata: &ObjectMeta) -> Option<ExecutionId> {
    metadata.labels.as_ref()?.get(EXECUTION_LABEL)?.parse().ok()
}

impl Seen for Job {
    fn shown(self, watched: &Watched, watch: WatchId) {
        if let Some(job) = JobSeen::of(&self) {
            watched.store.put_job(watch, job);
        }
    }

    fn gone(self, watched: &Watched) {
        if let Some(job) = JobSeen::of(&self) {
            watched.store.job_gone(job.execution, &job.uid);
        }
    }
}

impl Seen for Pod {
    fn shown(self, watched: &Watched, watch: WatchId) {
        if let (Some(id), Some(pod)) = (execution(&self.metadata), PodSeen::of(&self)) {
            watched.store.put_pod(watch, id, pod);
        }
    }

    fn gone(self, watched: &Watched) {
        if let (Some(id), Some(pod)) = (execution(&self.metadata), PodSeen::of(&self)) {
            watched.store.pod_gone(id, pod);
        }
    }
}

impl Seen for Service {
    fn shown(self, watched: &Watched, watch: WatchId) {
        if let (Some(id), Some(service)) = (execution(&self.metadata), ServiceSeen::of(&self)) {
            watched.store.put_service(watch, id, service);
        }
    }

    fn gone(self, watched: &Watched) {
        if let (Some(id), Some(service)) = (execution(&self.metadata), ServiceSeen::of(&self)) {
            watched.store.service_gone(id, &service.uid);
        }
    }
}

impl Seen for Told {
    /// Events bear no labels of what they are about.
    fn selected(config: watcher::Config, _: &str) -> watcher::Config {
        config.fields("type=Warning")
    }

    fn shown(self, watched: &Watched, _: WatchId) {
        let about = &self.involved_object;
        let Some(id) = about.name.as_deref().and_then(execution_of) else { return };
        let (reason, message) = (self.reason.unwrap_or_default(), self.message.unwrap_or_default());
        match about.kind.as_deref() {
            Some("Job") if reason == "FailedCreate" => {
                watched.store.put_warning(id, true, job_warning(&reason, &message, watched.restricted));
            }
            Some("Pod")
                if matches!(reason.as_str(), "FailedMount" | "FailedAttachVolume" | "FailedCreatePodSandBox") =>
            {
                let text = format!("It cannot be started yet: {}", crate::engine::words::shown(&message));
                watched.store.put_warning(id, false, renga_shared::domain::Why::new(reason, text));
            }
            _ => {}
        }
    }

    fn gone(self, _: &Watched) {}
}
