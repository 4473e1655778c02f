use serde_json::{Value, json};

use super::*;
use crate::engine::{EXECUTION_LABEL, ObjectState};

const EXECUTION: &str = "0191b8c0-0000-7000-8000-000000000001";

/// Two namespaces, each with its watches. The tested execution is in the first, `here`.
const HERE: usize = 0;
const THERE: usize = 1;

fn id() -> ExecutionId {
    EXECUTION.parse().unwrap()
}

fn metadata(uid: &str) -> Value {
    json!({
        "name": format!("renga-{EXECUTION}"), "namespace": "here", "uid": uid, "resourceVersion": "7",
        "labels": {(EXECUTION_LABEL): EXECUTION}, "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "Job", "name": "renga", "uid": "job"}
        ],
    })
}

/// A Job that failed. Only its pod tells the exit code.
fn job() -> JobSeen {
    let condition = json!({"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"});
    let job = json!({"metadata": metadata("job"), "spec": {"template": {}}, "status": {"conditions": [condition]}});
    JobSeen::of(&serde_json::from_value(job).unwrap()).unwrap()
}

fn pod(state: &Value) -> PodSeen {
    let container =
        json!({"name": "c", "image": "a", "imageID": "", "ready": false, "restartCount": 0, "state": state});
    let pod = json!({
        "metadata": metadata("pod"), "spec": {"containers": [{"name": "c", "image": "a:1"}]},
        "status": {"phase": "Running", "containerStatuses": [container]},
    });
    PodSeen::of(&serde_json::from_value(pod).unwrap()).unwrap()
}

fn running() -> PodSeen {
    pod(&json!({"running": {"startedAt": "2017-07-14T02:40:00Z"}}))
}

fn service() -> ServiceSeen {
    ServiceSeen { namespace: "here".into(), uid: "service".into(), node_ports: [("80/tcp".to_owned(), 30_000)].into() }
}

fn store() -> Store {
    Store::new([Kind::Jobs, Kind::Pods, Kind::Services].into_iter().flat_map(|kind| [(kind, HERE), (kind, THERE)]))
}

fn state(store: &Store) -> ObjectState {
    let known = store.known(id()).unwrap();
    known.state(known.job.as_ref().unwrap())
}

/// Has a watch list what `show` shows, and nothing else.
fn list(store: &Store, watch: WatchId, namespace: &str, show: impl FnOnce()) {
    store.begin_list(watch);
    show();
    store.end_list(watch, Some(namespace));
}

#[test]
fn the_list_of_one_namespace_says_nothing_of_another() {
    let store = store();
    // The pods are listed before the Jobs: until then nothing but the pod says where the execution is.
    list(&store, (Kind::Pods, HERE), "here", || store.put_pod((Kind::Pods, HERE), id(), running()));
    list(&store, (Kind::Services, HERE), "here", || store.put_service((Kind::Services, HERE), id(), service()));
    for kind in [Kind::Pods, Kind::Services, Kind::Jobs] {
        list(&store, (kind, THERE), "there", || {});
    }
    list(&store, (Kind::Jobs, HERE), "here", || store.put_job((Kind::Jobs, HERE), job()));
    let known = store.known(id()).unwrap();
    assert!(!known.pod_gone && known.service.is_some(), "{known:?}");
    assert!(matches!(state(&store), ObjectState::Running { .. }), "{:?}", state(&store));
}

#[test]
fn lists_of_namespaces_may_be_interleaved() {
    let store = store();
    store.begin_list((Kind::Pods, THERE));
    store.begin_list((Kind::Pods, HERE));
    store.put_pod((Kind::Pods, HERE), id(), running());
    store.end_list((Kind::Pods, THERE), Some("there"));
    store.end_list((Kind::Pods, HERE), Some("here"));
    list(&store, (Kind::Jobs, HERE), "here", || store.put_job((Kind::Jobs, HERE), job()));
    assert!(matches!(state(&store), ObjectState::Running { .. }), "{:?}", state(&store));
}

#[test]
fn what_its_own_namespace_does_not_list_is_gone() {
    let store = store();
    list(&store, (Kind::Jobs, HERE), "here", || store.put_job((Kind::Jobs, HERE), job()));
    list(&store, (Kind::Pods, HERE), "here", || store.put_pod((Kind::Pods, HERE), id(), running()));
    list(&store, (Kind::Services, HERE), "here", || store.put_service((Kind::Services, HERE), id(), service()));
    list(&store, (Kind::Pods, HERE), "here", || {});
    assert!(matches!(state(&store), ObjectState::Lost(why) if why.reason == "PodDeleted"));
    list(&store, (Kind::Services, HERE), "here", || {});
    assert_eq!(store.known(id()).unwrap().service, None);
    list(&store, (Kind::Jobs, HERE), "here", || {});
    assert!(store.known(id()).is_none());
    assert!(store.lock().executions.is_empty(), "nothing is kept of what is gone");
}

#[test]
fn a_service_that_went_with_its_job_unseen_leaves_nothing() {
    let store = store();
    list(&store, (Kind::Jobs, HERE), "here", || store.put_job((Kind::Jobs, HERE), job()));
    list(&store, (Kind::Services, HERE), "here", || store.put_service((Kind::Services, HERE), id(), service()));
    // The watches broke, the Job and its Service were removed, and everything is listed anew.
    list(&store, (Kind::Jobs, HERE), "here", || {});
    list(&store, (Kind::Services, HERE), "here", || {});
    assert!(store.lock().executions.is_empty());
}

#[test]
fn executions_that_nobody_waits_for_are_forgotten() {
    let store = store();
    let ids = (0..1_000_u64).map(|number| ExecutionId::new(renga_shared::domain::Timestamp(1), number.to_be_bytes()));
    for id in ids {
        drop(store.waiter(id));
    }
    let waits = store.waiter(id());
    assert!(Arc::ptr_eq(&waits, &store.waiter(id())), "all who wait for the same are told at once");
    assert_eq!(store.waiting.lock().unwrap().len(), 1);
}
