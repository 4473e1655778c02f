//! How a pod is, in few words.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStateWaiting, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use renga_shared::domain::{Timestamp, Why};

use crate::engine::Exit;
use crate::engine::words::shown;

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodSeen {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
    /// The uid of its Job.
    pub(super) owner: String,
    pub(super) version: u64,
    pub(super) created: Timestamp,
    /// The address of its node.
    pub(super) node: Option<String>,
    pub(super) deleting: bool,
    /// The seconds that it has to end, as it was made.
    pub(super) grace: u32,
    pub(super) life: Life,
    /// How its container ended, whoever ended it.
    pub(super) exit: Option<Exit>,
}

/// How far a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It does not run yet, and why, if its status says so.
    Waiting(Option<Why>),
    /// It never ran and never will.
    Unstartable(Why),
    /// Its container runs.
    Running(Timestamp),
    /// Its container ended by itself, or was stopped by us.
    Ended(Exit),
    /// It was ended or taken away by others.
    Lost(Why),
}

impl Life {
    pub(super) fn is_over(&self) -> bool {
        !matches!(self, Self::Waiting(_) | Self::Running(_))
    }
}

impl PodSeen {
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        Some(Self {
            name: pod.metadata.name.clone()?,
            namespace: pod.metadata.namespace.clone()?,
            uid: pod.metadata.uid.clone()?,
            owner: pod.metadata.owner_references.as_ref()?.first()?.uid.clone(),
            version: version(pod.metadata.resource_version.as_ref()),
            created: at(pod.metadata.creation_timestamp.as_ref()).unwrap_or_default(),
            node: pod.status.as_ref().and_then(|status| status.host_ip.clone()),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            grace: grace.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or_default(),
            life: life(pod),
            exit: terminated(pod).map(exit),
        })
    }
}

impl PodSeen {
    /// What was seen to end before it was deleted has ended, whatever is said of it later.
    pub(super) fn keep_end(&mut self, before: &Self) {
        let more = self.life.is_over() || !before.life.is_over();
        if matches!(before.life, Life::Ended(_)) || !more {
            self.life = before.life.clone();
            self.exit = before.exit.clone();
        }
    }
}

/// The version of an object. They can be compared as numbers.
pub(super) fn version(text: Option<&String>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

pub(super) fn at(time: Option<&Time>) -> Option<Timestamp> {
    time.map(|Time(at)| Timestamp(at.as_microsecond())).filter(|at| at.0 > 0)
}

fn life(pod: &Pod) -> Life {
    let Some(status) = &pod.status else { return Life::Waiting(None) };
    let state = status.container_statuses.iter().flatten().next().and_then(|container| container.state.clone());
    let state = state.unwrap_or_default();
    let condition = |kind: &str| status.conditions.iter().flatten().find(|condition| condition.type_ == kind);
    let disruption = condition("DisruptionTarget").filter(|condition| condition.status == "True");
    let (reason, message) = (status.reason.as_deref().unwrap_or_default(), status.message.as_deref());
    match (status.phase.as_deref(), state) {
        (_, ContainerState { terminated: Some(end), .. }) => ended(pod, &end, disruption, reason, message),
        (Some("Succeeded"), _) => Life::Ended(exit(&ContainerStateTerminated::default())),
        (Some("Failed"), _) => never_ran(disruption, reason, message),
        (_, ContainerState { running: Some(running), .. }) => match disruption {
            // The cluster has waited for the node as long as it is configured to, and nobody there can tell an end.
            Some(why) if why.reason.as_deref() == Some("DeletionByTaintManager") && is_deleted(pod) => {
                Life::Lost(disrupted(why, None))
            }
            _ => Life::Running(at(running.started_at.as_ref()).unwrap_or_default()),
        },
        (_, ContainerState { waiting: Some(waiting), .. }) => waits(&waiting, image(pod)),
        _ => Life::Waiting(condition("PodScheduled").and_then(unscheduled)),
    }
}

fn ended(
    pod: &Pod,
    end: &ContainerStateTerminated,
    disruption: Option<&PodCondition>,
    reason: &str,
    message: Option<&str>,
) -> Life {
    let code = i64::from(end.exit_code);
    match end.reason.as_deref() {
        Some("StartError" | "ContainerCannotRun") => return Life::Unstartable(not_started(end)),
        // The node came back without it.
        Some("ContainerStatusUnknown") => {
            let text = "Its node was restarted or lost it, and how it ended is not known.";
            return Life::Lost(Why::new("NodeLost", text));
        }
        _ => {}
    }
    if let Some(why) = disruption {
        return Life::Lost(disrupted(why, Some(code)));
    }
    if matches!(reason, "Evicted" | "Preempting" | "NodeLost" | "NodeShutdown" | "Terminated") {
        let message = message.unwrap_or("Its pod was taken from its node.");
        return Life::Lost(Why::new(reason, format!("{} It ended with code {code}.", shown(message))));
    }
    if is_deleted(pod) {
        let text = format!("Its pod was deleted by somebody else, and ended with code {code}.");
        return Life::Lost(Why::new("PodDeleted", text));
    }
    Life::Ended(exit(end))
}

fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    container.state.as_ref()?.terminated.as_ref()
}

fn is_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn exit(end: &ContainerStateTerminated) -> Exit {
    let started = at(end.started_at.as_ref());
    let reason = end.reason.as_deref().unwrap_or("Completed");
    let told = end.message.as_deref().unwrap_or(reason);
    Exit {
        code: i64::from(end.exit_code),
        out_of_memory: reason == "OOMKilled" && end.exit_code != 0,
        started,
        finished: at(end.finished_at.as_ref()).max(started).unwrap_or_default(),
        error: (!matches!(reason, "Completed" | "Error" | "OOMKilled")).then(|| shown(told)),
    }
}

/// Why a container could not be run, by its runtime's words.
fn not_started(end: &ContainerStateTerminated) -> Why {
    let message = end.message.as_deref().unwrap_or_default();
    let said = |words: &str| message.contains(words);
    let executing = said("exec: ") || said("exec user process") || said("exec format");
    let line = message.lines().next().unwrap_or_default();
    let inner = line.find("exec: ").or_else(|| line.find("error mounting")).map_or(line, |at| &line[at..]);
    let inner = shown(inner.strip_suffix(": unknown").unwrap_or(inner));
    if executing && (said("executable file not found") || said("no such file or directory")) {
        Why::new("CommandNotFound", format!("Its command is not in the image: {inner}"))
    } else if executing
        && (said("permission denied") || said("exec format error") || said("is a directory") || said("not a directory"))
    {
        Why::new("CommandNotExecutable", format!("Its command cannot be executed: {inner}"))
    } else if said("mountpoint") || said("error mounting") || said("to rootfs") {
        Why::new("MountFailed", format!("A volume could not be mounted: {inner}"))
    } else if said("memory limit too low") || said("OOM-killed") {
        Why::new("MemoryLimitTooLow", "Its memory limit is too low to start anything in.")
    } else {
        Why::new("StartError", format!("It could not be started: {inner}"))
    }
}

/// A pod that failed although no container of it ever ended.
fn never_ran(disruption: Option<&PodCondition>, reason: &str, message: Option<&str>) -> Life {
    if let Some(why) = disruption {
        return Life::Lost(disrupted(why, None));
    }
    let message = message.map_or_else(|| "Its pod failed.".to_owned(), shown);
    match reason {
        "DeadlineExceeded" => Life::Unstartable(stopped_before_start()),
        "" | "Evicted" | "NodeLost" | "NodeShutdown" | "Preempting" | "Terminated" => {
            Life::Lost(Why::new(if reason.is_empty() { "PodFailed" } else { reason }, message))
        }
        // The kubelet did not take it.
        other => Life::Unstartable(Why::new(other, message)),
    }
}

pub(super) fn stopped_before_start() -> Why {
    Why::new("StoppedBeforeStart", "It was stopped before it started.")
}

/// Why the cluster takes a pod away.
fn disrupted(condition: &PodCondition, code: Option<i64>) -> Why {
    let reason = condition.reason.as_deref().unwrap_or_default();
    let (word, text) = match reason {
        "PreemptionByScheduler" | "PreemptionByKubeScheduler" => {
            ("Preempted", "Its pod made room for a more important one")
        }
        "DeletionByTaintManager" => ("NodeLost", "Its node went away or may not run it any more"),
        "EvictionByEvictionAPI" => ("Evicted", "Its pod was evicted, as when a node is drained"),
        "DeletionByPodGC" => ("NodeLost", "Its node is no longer part of the cluster"),
        "TerminationByKubelet" => ("Evicted", "Its node ended its pod"),
        _ => ("PodDisrupted", "Its pod was taken away"),
    };
    let said = condition.message.as_deref().filter(|message| !message.is_empty());
    let said = said.map(|message| format!(": {}", shown(message))).unwrap_or_default();
    let ended = code.map(|code| format!(" It ended with code {code}.")).unwrap_or_default();
    Why::new(word, format!("{text}{said}.{ended}"))
}

fn waits(waiting: &ContainerStateWaiting, image: &str) -> Life {
    let message = waiting.message.as_deref().unwrap_or_default();
    match waiting.reason.as_deref().unwrap_or_default() {
        "" | "ContainerCreating" | "PodInitializing" => Life::Waiting(None),
        "InvalidImageName" => {
            Life::Unstartable(Why::new("InvalidImageName", format!("{image} is no image's name: {}", shown(message))))
        }
        reason @ ("ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable" | "ImageInspectError") => {
            Life::Waiting(Some(Why::new(reason, format!("The image {image} cannot be pulled: {}", shown(message)))))
        }
        "CreateContainerConfigError" if message.contains("runAsNonRoot") || message.contains("run as root") => {
            let text = format!(
                "The engine is configured with ?security=restricted, which lets nothing run as root: {}",
                shown(message)
            );
            Life::Unstartable(Why::new("RunsAsRoot", text))
        }
        reason => Life::Waiting(Some(Why::new(reason, format!("It cannot be started yet: {}", shown(message))))),
    }
}

/// Why the scheduler has not found a node.
fn unscheduled(condition: &PodCondition) -> Option<Why> {
    if condition.status != "False" {
        return None;
    }
    let message = condition.message.as_deref().unwrap_or_default();
    let said = |words: &str| message.contains(words);
    let volume = said("persistentvolumeclaim") || said("PersistentVolumeClaim") || said("persistent volume");
    let reason = if volume { "VolumeNotBound" } else { condition.reason.as_deref().unwrap_or("Unschedulable") };
    Some(Why::new(reason, format!("No node takes it: {}", shown(message))))
}

fn image(pod: &Pod) -> &str {
    let image = pod.spec.as_ref().and_then(|spec| spec.containers.first()?.image.as_deref());
    image.unwrap_or_default()
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
