//! Ends what runs, and leaves its exit code and logs where they are.
//!
//! A pod that is deleted takes both along. So it is given a deadline that has passed: its kubelet ends it as it ends one
//! that is deleted, with TERM and its own grace period, and keeps it. That period is fixed when the pod is made: it is
//! the deployment's at that time. Who asks for a shorter one gets it by a deletion: how the pod ended is noted on its Job before it
//! goes, and of its logs there is what was followed until then.
//!
//! What does not run yet has no kubelet that could end it: its Job is given such a deadline, and ends without a pod.

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

/// How much longer than the grace period an end may take until the cluster has told it.
const SLACK: Duration = Duration::from_secs(60);

/// Ends an object, and answers when it has ended.
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
            // How it ended is about to be noted.
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

/// Once a pod that was deleted has ended, notes on its Job how. Whether that is done.
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

/// That it was killed is what was asked for: no error.
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

/// Patches what has the uid in the patch. `None`: it is gone.
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
    /// Deletes a pod, which is killed after `grace` seconds. Zero does not wait for its node.
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
