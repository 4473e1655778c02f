use serde_json::{Value, json};

use super::*;

const ONE: &str = "2017-07-14T02:40:00Z";
const TWO: &str = "2017-07-14T02:40:02Z";

fn seen(metadata: &Value, status: &Value) -> Life {
    let pod = json!({"metadata": metadata, "spec": {"containers": [{"name": "c", "image": "a:1"}]}, "status": status});
    life(&serde_json::from_value(pod).unwrap())
}

fn terminated(code: i64, reason: &str, message: &str) -> Value {
    let end = json!({"exitCode": code, "reason": reason, "message": message, "startedAt": ONE, "finishedAt": TWO});
    let state = json!({"name": "c", "image": "a", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": end}});
    json!({"phase": "Failed", "containerStatuses": [state]})
}

fn waiting(reason: &str, message: &str) -> Value {
    let state = json!({"waiting": {"reason": reason, "message": message}});
    json!({"phase": "Pending", "containerStatuses": [
        {"name": "c", "image": "a", "imageID": "", "ready": false, "restartCount": 0, "state": state}
    ]})
}

fn running() -> Value {
    json!({"phase": "Running", "containerStatuses": [
        {"name": "c", "image": "a", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {"startedAt": ONE}}}
    ]})
}

fn told(life: &Life) -> (&'static str, &str) {
    match life {
        Life::Waiting(why) => ("waiting", why.as_ref().map_or("", |why| &why.reason)),
        Life::Unstartable(why) => ("unstartable", &why.reason),
        Life::Running(_) => ("running", ""),
        Life::Ended(_) => ("ended", ""),
        Life::Lost(why) => ("lost", &why.reason),
    }
}

#[test]
fn ends_are_read() {
    let Life::Ended(exit) = seen(&json!({}), &terminated(3, "Error", "")) else { panic!() };
    assert_eq!((exit.code, exit.out_of_memory, exit.error), (3, false, None));
    assert_eq!(exit.finished.0 - exit.started.unwrap().0, 2_000_000);
    let Life::Ended(exit) = seen(&json!({}), &terminated(137, "OOMKilled", "")) else { panic!() };
    assert!(exit.out_of_memory);
}

#[test]
fn a_container_that_never_ran_is_unstartable() {
    let missing = r#"failed to create containerd task: exec: "no-such": executable file not found in $PATH: unknown"#;
    for (status, expected) in [
        (terminated(128, "StartError", missing), "CommandNotFound"),
        (terminated(128, "StartError", "exec: \"/etc\": permission denied"), "CommandNotExecutable"),
        (terminated(128, "StartError", "error mounting \"/a\" to rootfs"), "MountFailed"),
        (terminated(128, "StartError", "something new"), "StartError"),
        (waiting("InvalidImageName", "couldn't parse image reference"), "InvalidImageName"),
        (waiting("CreateContainerConfigError", "container has runAsNonRoot and image will run as root"), "RunsAsRoot"),
        (json!({"phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource"}), "OutOfcpu"),
        (json!({"phase": "Failed", "reason": "DeadlineExceeded"}), "StoppedBeforeStart"),
    ] {
        assert_eq!(told(&seen(&json!({}), &status)), ("unstartable", expected), "{status}");
    }
}

#[test]
fn the_reason_for_waiting_is_reported() {
    let unscheduled = |message: &str| {
        let condition =
            json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
        json!({"phase": "Pending", "conditions": [condition]})
    };
    for (status, expected) in [
        (waiting("ContainerCreating", ""), ""),
        (waiting("ErrImagePull", "not found"), "ErrImagePull"),
        (waiting("ImagePullBackOff", "Back-off"), "ImagePullBackOff"),
        (waiting("CreateContainerConfigError", "secret \"s\" not found"), "CreateContainerConfigError"),
        (unscheduled("0/1 nodes are available: 1 Insufficient cpu."), "Unschedulable"),
        (unscheduled("persistentvolumeclaim \"x\" not found"), "VolumeNotBound"),
        (unscheduled("pod has unbound immediate PersistentVolumeClaims"), "VolumeNotBound"),
        (json!({}), ""),
    ] {
        assert_eq!(told(&seen(&json!({}), &status)), ("waiting", expected), "{status}");
    }
}

#[test]
fn a_pod_that_others_ended_is_lost() {
    let with = |mut status: Value, reason: &str| {
        status["conditions"] = json!([{"type": "DisruptionTarget", "status": "True", "reason": reason}]);
        status
    };
    let late = json!({"deletionTimestamp": "2017-07-14T02:40:11Z"});
    for (metadata, status, expected) in [
        (json!({}), with(terminated(143, "Error", ""), "EvictionByEvictionAPI"), ("lost", "Evicted")),
        (json!({}), with(terminated(137, "Error", ""), "PreemptionByScheduler"), ("lost", "Preempted")),
        (json!({}), terminated(137, "ContainerStatusUnknown", ""), ("lost", "NodeLost")),
        (json!({}), json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}), ("lost", "Evicted")),
        (late.clone(), terminated(143, "Error", ""), ("lost", "PodDeleted")),
        (late.clone(), with(running(), "DeletionByTaintManager"), ("lost", "NodeLost")),
        (late, running(), ("running", "")),
        (json!({}), with(running(), "DeletionByTaintManager"), ("running", "")),
    ] {
        assert_eq!(told(&seen(&metadata, &status)), expected, "{metadata} {status}");
    }
}
