//! Stops a running object, and keeps its exit code and logs.
//!
//! Deleting a pod loses both. So the pod gets a deadline that has passed: its kubelet ends it like a deleted pod, with
//! TERM and the pod's own grace period, but keeps it. That period is the deployment's when the pod is created, and then
//! fixed. A stop with a shorter grace period deletes the pod: its exit is recorded on its Job before the pod is gone,
//! and its logs are kept only as far as they were followed.
//!
//! Before the pod runs, no kubelet can end it. So its Job gets such a deadline, and ends without a pod.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use renga_shared::domain::Why;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Cluster;
use super::client::ANSWER_WITHIN;
use super::job::seconds;
use super::pod::PodSeen;
use super::state::{JobSeen, KILLED, Known, ObjectId, killed};
use super::store::Kind;
use super::watches::Watched;
use crate::engine::{EngineError, Exit, ObjectState};

/// Time after the grace period within which the cluster must report the end.
const SLACK: Duration = Duration::from_secs(60);

/// Ends an object, and returns when it has ended. Fails with `StopUnconfirmed` if no end is reported in time.
pub(super) async fn stop(cluster: &Cluster, id: &ObjectId, grace: Duration) -> Result<(), EngineError> {
    let Some(execution) = id.execution() else { return Ok(()) };
    let watched = cluster.ready().await?;
    let begin = Instant::now();
    let (mut job_asked, mut pod_asked) = (false, false);
    let waiter = watched.store.waiter(execution);
    loop {
        let changed = waiter.notified();
        let Some(known) = cluster.find(watched, id).await? else { return Ok(()) };
        let Some(job) = &known.job else { return Ok(()) };
        let shorter = known.pod_of(job).is_some_and(|pod| seconds(grace) < pod.grace);
        if pod_asked && shorter && note(cluster, watched, &known, job, id).await? {
            return Ok(());
        }
        match (known.state(job), known.pod_of(job)) {
            (ObjectState::Starting(_), _) if !job_asked => {
                deadline::<Job>(cluster, &id.namespace, &id.name, &id.uid).await?;
                job_asked = true;
            }
            (ObjectState::Running { .. }, Some(pod)) if !pod_asked => {
                if shorter {
                    cluster.delete_pod(&id.namespace, pod, seconds(grace).max(1)).await?;
                } else {
                    deadline::<Pod>(cluster, &id.namespace, &pod.name, &pod.uid).await?;
                }
                pod_asked = true;
            }
            (ObjectState::Starting(_) | ObjectState::Running { .. }, _) => {}
            // The exit is about to be recorded.
            _ if pod_asked && shorter => {}
            _ => return Ok(()),
        }
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep_until(begin + grace + SLACK) => {
                let text = "It was asked to end, but its node does not tell that it has.";
                return Err(EngineError::Retry(Why::new("StopUnconfirmed", text)));
            }
            failure = watched.store.broken() => return Err(failure.into()),
        }
    }
}

/// Records the exit of a deleted pod on its Job. Returns whether that is done, or the pod is gone.
async fn note(
    cluster: &Cluster,
    watched: &Watched,
    known: &Known,
    job: &JobSeen,
    id: &ObjectId,
) -> Result<bool, EngineError> {
    let Some(PodSeen { exit: Some(exit), .. }) = known.pod_of(job) else { return Ok(known.pod_gone) };
    let patch = json!({"metadata": {"uid": id.uid, "annotations": {(KILLED): killed(&ended(exit))}}});
    let patched: Option<Job> = patched(cluster, &id.namespace, &id.name, &patch).await?;
    if let Some(job) = patched.as_ref().and_then(JobSeen::of) {
        watched.store.put_job(watched.watch_of(Kind::Jobs, &id.namespace), job);
    }
    Ok(true)
}

/// Drops the error, because the kill was requested.
fn ended(exit: &Exit) -> Exit {
    Exit { error: None, ..exit.clone() }
}

/// Gives a Job or a pod a deadline that has passed.
async fn deadline<K>(cluster: &Cluster, namespace: &str, name: &str, uid: &str) -> Result<(), EngineError>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
{
    let patch = json!({"metadata": {"uid": uid}, "spec": {"activeDeadlineSeconds": 1}});
    patched::<K>(cluster, namespace, name, &patch).await.map(drop)
}

/// Patches the object with the patch's uid. Returns `None` if it is gone.
pub(super) async fn patched<K>(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    patch: &Value,
) -> Result<Option<K>, EngineError>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
{
    let api = cluster.connection.api::<K>(namespace).await?;
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
    let call = api.patch(name, &parameters, &patch);
    match cluster.connection.answer(ANSWER_WITHIN, call).await {
        Ok(patched) => Ok(Some(patched)),
        Err(failure) if failure.is_gone() => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

impl Cluster {
    /// Deletes a pod with a grace period of `grace` seconds. Zero does not wait for the pod's node.
    pub(super) async fn delete_pod(&self, namespace: &str, pod: &PodSeen, grace: u32) -> Result<(), EngineError> {
        let api = self.connection.api::<Pod>(namespace).await?;
        let preconditions = Preconditions { uid: Some(pod.uid.clone()), resource_version: None };
        let parameters = DeleteParams {
            grace_period_seconds: Some(grace),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match self.connection.answer(ANSWER_WITHIN, api.delete(&pod.name, &parameters)).await {
            Err(failure) if !failure.is_gone() => Err(failure.into()),
            _ => Ok(()),
        }
    }
}
