//! What a Job, its pod and the warnings about them say, in the port's words.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use renga_shared::domain::{ExecutionId, RESERVED_PREFIX, Timestamp, Why};
use serde_json::{Value, json};

use super::job::PORTS;
use super::pod::{Life, PodSeen, at, stopped_before_start, version};
use super::ports::{self, ServiceSeen};
use crate::engine::{
    DEPLOYMENT_LABEL, EXECUTION_LABEL, EngineSettings, Exit, Listed, Object, ObjectState, object_name,
};

/// The annotation with how an execution ended whose pod had to be deleted to end it: the pod can tell no more.
pub(super) const KILLED: &str = "io.renga.killed";

/// What is kept of a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JobSeen {
    pub(super) execution: ExecutionId,
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) version: u64,
    pub(super) created: Timestamp,
    pub(super) suspended: bool,
    pub(super) deleting: bool,
    pub(super) end: Option<JobEnd>,
    pub(super) ports: Vec<String>,
    /// Whether it was stopped before it was seen to run: nobody but `stop` gives a Job a deadline, and only then.
    stopped: bool,
    killed: Option<Exit>,
}

/// How the cluster says that a Job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JobEnd {
    complete: bool,
    at: Timestamp,
}

impl JobSeen {
    /// `None`: its label names no execution, so it is none of ours.
    pub(super) fn of(job: &Job) -> Option<Self> {
        let annotations = job.metadata.annotations.as_ref();
        Some(Self {
            execution: job.metadata.labels.as_ref()?.get(EXECUTION_LABEL)?.parse().ok()?,
            namespace: job.metadata.namespace.clone()?,
            uid: job.metadata.uid.clone()?,
            version: version(job.metadata.resource_version.as_ref()),
            created: at(job.metadata.creation_timestamp.as_ref()).unwrap_or_default(),
            suspended: job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or_default(),
            deleting: job.metadata.deletion_timestamp.is_some(),
            end: end(job),
            ports: ports::specified(annotations.and_then(|all| all.get(PORTS))),
            stopped: job.spec.as_ref().is_some_and(|spec| spec.active_deadline_seconds.is_some()),
            killed: annotations.and_then(|all| all.get(KILLED)).and_then(|text| read_exit(text)),
        })
    }

    /// The engine's own id of it: where it is, and which of all that ever had its name it is.
    pub(super) fn id(&self) -> ObjectId {
        ObjectId { namespace: self.namespace.clone(), name: object_name(self.execution), uid: self.uid.clone() }
    }
}

/// The engine's own id of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectId {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

impl ObjectId {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/').map(str::to_owned);
        let id = Self { namespace: parts.next()?, name: parts.next()?, uid: parts.next()? };
        parts.next().is_none().then_some(id)
    }

    pub(super) fn execution(&self) -> Option<ExecutionId> {
        execution_of(&self.name)
    }
}

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.name, self.uid)
    }
}

/// The execution that an object's name begins with, as a pod's and an event's do.
pub(super) fn execution_of(name: &str) -> Option<ExecutionId> {
    let id = name.strip_prefix(RESERVED_PREFIX)?;
    id.get(..36)?.parse().ok()
}

fn end(job: &Job) -> Option<JobEnd> {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ends = conditions.filter(|condition| condition.status == "True").filter_map(|condition| {
        let complete = match condition.type_.as_str() {
            "Complete" => true,
            "Failed" => false,
            _ => return None,
        };
        let at = at(condition.last_transition_time.as_ref()).unwrap_or_default();
        Some(JobEnd { complete, at })
    });
    ends.next()
}

/// Whether these labels are those of an object of this execution and deployment.
pub(super) fn is_ours(labels: Option<&BTreeMap<String, String>>, deployment: &str, id: ExecutionId) -> bool {
    let is = |name: &str, value: &str| labels.and_then(|labels| labels.get(name)).is_some_and(|found| found == value);
    is(DEPLOYMENT_LABEL, deployment) && is(EXECUTION_LABEL, &id.to_string())
}

/// All that is known of an execution in a cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) job: Option<JobSeen>,
    /// Its pod, also when that is gone: what it was at last.
    pub(super) pod: Option<PodSeen>,
    pub(super) pod_gone: bool,
    /// The cluster's last warning about the Job: why it makes no pod.
    pub(super) job_warning: Option<Why>,
    /// The cluster's last warning about the pod: why its container is not made.
    pub(super) pod_warning: Option<Why>,
    pub(super) service: Option<ServiceSeen>,
}

impl Known {
    pub(super) fn object(&self, settings: &EngineSettings) -> Option<Object> {
        let job = self.job.as_ref()?;
        let state = self.state(job);
        let ports = match (&state, self.pod_of(job)) {
            (ObjectState::Running { .. }, Some(pod)) => {
                ports::reached(job.execution, &job.ports, self.service.as_ref(), pod.node.as_deref(), settings)
            }
            _ => Vec::new(),
        };
        Some(Object { id: job.id().to_string(), state, ports })
    }

    pub(super) fn listed(&self) -> Option<Listed> {
        let job = self.job.as_ref()?;
        let running = matches!(self.state(job), ObjectState::Running { .. });
        Some(Listed { execution: job.execution, object: job.id().to_string(), running, created: job.created })
    }

    /// Whether nothing is left of it.
    pub(super) fn is_empty(&self) -> bool {
        self.job.is_none() && (self.pod.is_none() || self.pod_gone) && self.service.is_none()
    }

    /// The pod of this very Job, not of one that had its name before.
    pub(super) fn pod_of(&self, job: &JobSeen) -> Option<&PodSeen> {
        self.pod.as_ref().filter(|pod| pod.owner == job.uid)
    }

    pub(super) fn state(&self, job: &JobSeen) -> ObjectState {
        if let Some(exit) = &job.killed {
            return ObjectState::Exited(exit.clone());
        }
        let Some(pod) = self.pod_of(job) else { return self.without_pod(job) };
        if job.stopped && (pod.life.is_over() || self.pod_gone) {
            // It may have started just then.
            let ran = pod.exit.clone().filter(|exit| exit.started.is_some());
            return ran.map_or_else(|| ObjectState::Failed(stopped_before_start()), ObjectState::Exited);
        }
        match &pod.life {
            Life::Ended(exit) => ObjectState::Exited(exit.clone()),
            Life::Unstartable(why) => ObjectState::Failed(why.clone()),
            Life::Lost(why) => ObjectState::Lost(why.clone()),
            Life::Waiting(_) if self.pod_gone => self.without_pod(job),
            Life::Running(_) if self.pod_gone => {
                let text = "Its pod was deleted by somebody else, and how it ended is not known.";
                ObjectState::Lost(Why::new("PodDeleted", text))
            }
            Life::Running(started) => ObjectState::Running { started: *started },
            Life::Waiting(why) => ObjectState::Starting(why.clone().or_else(|| self.pod_warning.clone())),
        }
    }

    fn without_pod(&self, job: &JobSeen) -> ObjectState {
        match &job.end {
            // Its pod was cleared away: the Job says that it ended well.
            Some(JobEnd { complete: true, at, .. }) => {
                ObjectState::Exited(Exit { code: 0, out_of_memory: false, started: None, finished: *at, error: None })
            }
            Some(_) if job.stopped => ObjectState::Failed(stopped_before_start()),
            Some(_) => {
                let text = "Its pod is gone, and how it ended is not known.";
                ObjectState::Lost(Why::new("PodGone", text))
            }
            None if job.suspended => ObjectState::Created,
            None => match &self.job_warning {
                Some(why) if why.reason == POD_SECURITY => ObjectState::Failed(why.clone()),
                why => ObjectState::Starting(why.clone()),
            },
        }
    }
}

/// The reason of an execution that Pod Security does not admit.
const POD_SECURITY: &str = "PodSecurity";

/// What an event about a Job means: why its pod cannot be made.
pub(super) fn job_warning(reason: &str, message: &str, restricted: bool) -> Why {
    let shown = crate::engine::words::shown(message.strip_prefix("Error creating: ").unwrap_or(message));
    let said = |words: &str| message.contains(words);
    if said("exceeded quota") || said("failed quota") {
        return Why::new("QuotaExceeded", format!("Its namespace's quota does not allow it now: {shown}"));
    }
    if said("violates PodSecurity") {
        let cure = if restricted {
            "the label pod-security.kubernetes.io/enforce of its namespace decides it"
        } else {
            "the label pod-security.kubernetes.io/enforce of its namespace decides it, \
             and ?security=restricted of the engine fits `restricted`"
        };
        return Why::new(POD_SECURITY, format!("Its namespace does not admit it: {shown} ({cure})."));
    }
    Why::new(reason, format!("The cluster cannot make its pod now: {shown}"))
}

/// The annotation for a pod that was killed.
pub(super) fn killed(exit: &Exit) -> String {
    let started = exit.started.map(|started| started.0);
    json!({"code": exit.code, "outOfMemory": exit.out_of_memory, "started": started, "finished": exit.finished.0})
        .to_string()
}

fn read_exit(text: &str) -> Option<Exit> {
    let value: Value = serde_json::from_str(text).ok()?;
    Some(Exit {
        code: value["code"].as_i64()?,
        out_of_memory: value["outOfMemory"].as_bool()?,
        started: value["started"].as_i64().map(Timestamp),
        finished: Timestamp(value["finished"].as_i64()?),
        error: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(suspended: bool, end: Option<(&str, &str)>) -> JobSeen {
        let condition = end.map(|(kind, reason)| json!({"type": kind, "status": "True", "reason": reason}));
        let job = json!({
            "metadata": {
                "name": "renga-0191b8c0-0000-7000-8000-000000000001", "namespace": "jobs", "uid": "u", "resourceVersion": "7",
                "labels": {(EXECUTION_LABEL): "0191b8c0-0000-7000-8000-000000000001"},
            },
            "spec": {
                "suspend": suspended, "template": {},
                "activeDeadlineSeconds": end.filter(|end| end.1 == "DeadlineExceeded").map(|_| 1),
            },
            "status": {"conditions": condition.into_iter().collect::<Vec<_>>()},
        });
        JobSeen::of(&serde_json::from_value(job).unwrap()).unwrap()
    }

    fn pod(life: Life) -> Option<PodSeen> {
        let (name, namespace, uid) = ("p".to_owned(), "jobs".to_owned(), "u".to_owned());
        let created = Timestamp(1);
        let owner = "u".into();
        Some(PodSeen {
            name,
            namespace,
            uid,
            owner,
            version: 1,
            created,
            node: None,
            deleting: false,
            grace: 10,
            life,
            exit: None,
        })
    }

    fn state(known: &Known) -> String {
        match known.state(known.job.as_ref().unwrap()) {
            ObjectState::Failed(why) => format!("Failed {}", why.reason),
            ObjectState::Lost(why) => format!("Lost {}", why.reason),
            ObjectState::Starting(why) => format!("Starting {}", why.map_or(String::new(), |why| why.reason)),
            ObjectState::Exited(exit) => format!("Exited {}", exit.code),
            ObjectState::Created => "Created".into(),
            ObjectState::Running { .. } => "Running".into(),
        }
    }

    #[test]
    fn without_a_pod_the_job_tells() {
        let warned = |message: &str| Some(job_warning("FailedCreate", message, false));
        for (job, warning, expected) in [
            (job(true, None), None, "Created"),
            (job(false, None), None, "Starting "),
            (job(false, None), warned("exceeded quota: q"), "Starting QuotaExceeded"),
            (job(false, None), warned("serviceaccount not found"), "Starting FailedCreate"),
            (job(false, None), warned("violates PodSecurity \"restricted:latest\""), "Failed PodSecurity"),
            (job(false, Some(("Complete", ""))), None, "Exited 0"),
            (job(false, Some(("Failed", "BackoffLimitExceeded"))), None, "Lost PodGone"),
            (job(false, Some(("Failed", "DeadlineExceeded"))), None, "Failed StoppedBeforeStart"),
        ] {
            assert_eq!(state(&Known { job: Some(job), job_warning: warning, ..Known::default() }), expected);
        }
    }

    #[test]
    fn a_pod_tells_also_when_it_is_gone() {
        let exit = Exit { code: 3, out_of_memory: false, started: None, finished: Timestamp(9), error: None };
        let failed = || job(false, Some(("Failed", "BackoffLimitExceeded")));
        for (life, gone, expected) in [
            (Life::Running(Timestamp(1)), false, "Running"),
            (Life::Running(Timestamp(1)), true, "Lost PodDeleted"),
            (Life::Ended(exit.clone()), true, "Exited 3"),
            (Life::Waiting(None), false, "Starting "),
            (Life::Waiting(None), true, "Lost PodGone"),
        ] {
            assert_eq!(
                state(&Known { job: Some(failed()), pod: pod(life), pod_gone: gone, ..Known::default() }),
                expected
            );
        }
        assert_eq!(read_exit(&killed(&exit)), Some(exit));
    }

    #[test]
    fn one_that_was_stopped_before_it_ran_says_so_unless_it_ran() {
        let stopped = job(false, Some(("Failed", "DeadlineExceeded")));
        let mut known = Known { job: Some(stopped), pod: pod(Life::Waiting(None)), ..Known::default() };
        assert_eq!(state(&known), "Starting ", "its pod is being deleted");
        known.pod_gone = true;
        assert_eq!(state(&known), "Failed StoppedBeforeStart");
        let exit =
            Exit { code: 143, out_of_memory: false, started: Some(Timestamp(1)), finished: Timestamp(9), error: None };
        known.pod.as_mut().unwrap().exit = Some(exit);
        assert_eq!(state(&known), "Exited 143");
    }

    #[test]
    fn ids_are_read_as_they_are_written() {
        let id = job(true, None).id();
        assert_eq!(ObjectId::parse(&id.to_string()), Some(id.clone()));
        assert_eq!(id.execution(), Some(job(true, None).execution));
        assert_eq!(execution_of(&format!("{}-x7k2p", id.name)), id.execution());
        for bad in ["", "a/b", "a/b/c/d", "0123456789abcdef"] {
            assert_eq!(ObjectId::parse(bad), None, "{bad}");
        }
    }
}
