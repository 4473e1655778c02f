//! The port to an engine. Every adapter (Docker, Kubernetes, the fake) must keep these obligations.
//!
//! **Names.** The object of an execution is named [`object_name`]. Its labels hold the ids of the execution and of the
//! deployment, so that the reconciler finds it after any crash.
//!
//! **Two steps.** [`Engine::create`] makes an object that does not run; [`Engine::start`] runs it. The reconciler
//! records the object's id between the two, so that it knows after a crash whether the object may have run. An object
//! that is gone before that record is created again; an object that is gone after it is lost. Nothing runs twice.
//!
//! **Idempotence.** Every operation may be repeated. `create` looks up before it creates: it adopts an object that has
//! this name and deployment. `start` succeeds if the object runs or has run, `stop` if it has ended, `remove` if it is
//! gone. `start`, `stop` and `remove` take the engine's own id, so they never touch a later object of the same name.
//!
//! **Errors** name the next step. [`EngineError::Down`] and [`EngineError::Unreached`] describe the engine, never an
//! execution. [`EngineError::Retry`] is temporary. [`EngineError::Refused`] is permanent, and nothing is left running.
//!
//! **Bounded waits.** A call without an answer fails with `Down`. [`Engine::prepare`] may run as long as it makes
//! progress.

pub mod config;
pub mod docker;
pub mod fake;
mod host_paths;
pub mod kubernetes;
pub(crate) mod words;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use renga_shared::api::PortBody;
use renga_shared::auth::OpenedToken;
use renga_shared::domain::{ExecutionId, Protocol, RESERVED_PREFIX, Specification, Timestamp, Why};
use renga_shared::placement::{Capacity, Namespaces, Volumes};
use renga_shared::sql::logs::LogStream;
use secrecy::ExposeSecret as _;

use crate::clock::SystemClock;
use crate::launch::ACCESS_TOKEN;

/// The label with the execution's id.
pub const EXECUTION_LABEL: &str = "io.renga.execution";
/// The label with the deployment's id, because several deployments may share an engine.
pub const DEPLOYMENT_LABEL: &str = "io.renga.deployment";

/// Returns the name of an execution's engine object.
pub fn object_name(id: ExecutionId) -> String {
    format!("{RESERVED_PREFIX}{id}")
}

/// Everything that a launch needs. It can be neither shown nor cloned, because the environment contains secrets.
pub struct Launch {
    /// The execution.
    pub id: ExecutionId,
    /// The image, the command and the rest of the specification.
    pub spec: Specification,
    /// The requested namespace.
    pub namespace: String,
    /// The whole environment, each name once: the specification's, then the execution's, then the deployer's own.
    pub environment: BTreeMap<String, String>,
    /// The value of [`ACCESS_TOKEN`], if a token of whoever asked was kept. The environment does not hold that name then. An
    /// engine copies it into the request that it sends; neither the client nor the connection below wipes that copy.
    pub access_token: Option<OpenedToken>,
}

impl Launch {
    /// The value of a variable, also that of the token.
    pub fn variable(&self, name: &str) -> Option<&str> {
        match &self.access_token {
            Some(token) if name == ACCESS_TOKEN => Some(token.expose_secret()),
            _ => self.environment.get(name).map(String::as_str),
        }
    }

    /// The names of all variables, also that of the token.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.environment.keys().map(String::as_str).chain(self.access_token.as_ref().map(|_| ACCESS_TOKEN))
    }
}

/// The observed state of an engine object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The engine's own id of the object.
    pub id: String,
    /// The state of the object.
    pub state: ObjectState,
    /// The published ports, as a client reaches them. Empty unless the object runs.
    pub ports: Vec<PortBody>,
}

/// The state of an engine object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectState {
    /// Never started.
    Created,
    /// Being started, with the engine's reason if that takes long.
    Starting(Option<Why>),
    /// Running.
    Running {
        /// The start time, by the engine's clock.
        started: Timestamp,
    },
    /// Ended.
    Exited(Exit),
    /// Never ran and never will, because the engine gave up on it.
    Failed(Why),
    /// Ran, or may have run, with an unknown outcome, because the engine lost its parts.
    Lost(Why),
}

/// The end of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code; `128 + signal` after a signal.
    pub code: i64,
    /// Whether the object was killed because it exceeded its memory limit.
    pub out_of_memory: bool,
    /// The start time, by the engine's clock.
    pub started: Option<Timestamp>,
    /// The end time, by the engine's clock.
    pub finished: Timestamp,
    /// The engine's message about the end, such as a command that could not be run.
    pub error: Option<String>,
}

/// Facts that an engine reports about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    /// The version, as the engine reports it.
    pub version: String,
    /// The architecture of the engine's machines, as images name it (`amd64`), if all machines have the same.
    pub architecture: Option<String>,
    /// How much room it has. An engine that will never tell it answers [`Capacity::NotReported`].
    pub capacity: Capacity,
}

/// What an engine accepts at any load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepts {
    /// The kinds of volumes that the engine can mount.
    pub volumes: Vec<Volumes>,
    /// The protocols of ports that the engine can publish.
    pub protocols: Vec<Protocol>,
    /// The namespaces that executions may ask for.
    pub namespaces: Namespaces,
}

/// A change of this deployment's objects, or a possible one after the stream was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// The object of this execution changed.
    Changed(ExecutionId),
    /// Events were missed, so every object must be read again. The first event of every stream.
    Resync,
}

/// One piece of an execution's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The stream that it was written to.
    pub stream: LogStream,
    /// The time by the engine's clock, in nanoseconds since the Unix epoch. Never decreases within an object.
    pub nanos: i64,
    /// The unchanged bytes, line ends included.
    pub bytes: Bytes,
}

/// A failed engine call. The variants follow what the reconciler does next. The messages go into `status.message`: they
/// are written for the execution's user and contain no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// No answer. The state of the engine's objects is unknown, and the call may or may not have had its effect.
    #[error("the engine does not answer: {0}")]
    Down(String),
    /// The call did not get through. It had no effect, and the state of the engine's objects is unknown.
    #[error("the engine cannot be reached: {0}")]
    Unreached(String),
    /// The engine answers but cannot do this now.
    #[error("{}", .0.message)]
    Retry(Why),
    /// The engine will never do this.
    #[error("{}", .0.message)]
    Refused(Why),
}

impl EngineError {
    /// Returns the reason if the error says that the engine is unreachable.
    pub fn away(&self) -> Option<&str> {
        match self {
            Self::Down(reason) | Self::Unreached(reason) => Some(reason),
            Self::Retry(_) | Self::Refused(_) => None,
        }
    }
}

/// The port to an engine that runs executions.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Returns the kind of engine, as requests name it: `docker`.
    fn kind(&self) -> &'static str;

    /// Returns what the engine accepts. Needs no call to the engine.
    fn accepts(&self) -> Accepts;

    /// The capacity at this moment, of an engine that knows it without being asked. `None`: as its last probe told.
    fn capacity(&self) -> Option<Capacity> {
        None
    }

    /// Checks that the engine answers, and returns its facts.
    async fn probe(&self) -> Result<EngineInfo, EngineError>;

    /// Prepares what `create` needs, such as the image. Calls `progress` with the reason for waiting whenever it
    /// changes.
    async fn prepare(&self, launch: &Launch, progress: &(dyn Fn(Why) + Send + Sync)) -> Result<(), EngineError>;

    /// Creates the object without running it, and returns the engine's own id of it. Adopts an existing object, and
    /// completes it if an interrupted call left a part out.
    async fn create(&self, launch: &Launch) -> Result<String, EngineError>;

    /// Runs the object.
    async fn start(&self, object: &str) -> Result<(), EngineError>;

    /// Returns the object of an execution, by its derived name, or `None` if there is none.
    async fn inspect(&self, id: ExecutionId) -> Result<Option<Object>, EngineError>;

    /// Asks the object to end, and kills it after `grace`. Returns when the object has ended.
    async fn stop(&self, object: &str, grace: Duration) -> Result<(), EngineError>;

    /// Removes the object, running or not, with everything that belongs only to it. Returns when the object is gone.
    async fn remove(&self, object: &str) -> Result<(), EngineError>;

    /// Lists this deployment's objects. Makes one call, however many objects there are.
    async fn list(&self) -> Result<Vec<Listed>, EngineError>;

    /// Streams the object's output from `since` (nanoseconds since the Unix epoch, inclusive). Follows a running object
    /// until it has ended.
    fn logs(&self, object: &str, since: i64) -> BoxStream<'static, Result<LogEntry, EngineError>>;

    /// Streams the events of this deployment's objects. Fails when the engine becomes unreachable.
    fn events(&self) -> BoxStream<'static, Result<EngineEvent, EngineError>>;
}

/// One object of [`Engine::list`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The execution that the object's label names.
    pub execution: ExecutionId,
    /// The engine's own id of the object.
    pub object: String,
    /// Whether the object runs.
    pub running: bool,
    /// The creation time, by the engine's clock.
    pub created: Timestamp,
}

/// The address of an engine, as the configuration gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineUrl {
    /// A Docker Engine.
    Docker(docker::DockerUrl),
    /// A Kubernetes cluster.
    Kubernetes(kubernetes::KubernetesUrl),
    /// The fake engine for tests and benchmarks, which runs nothing.
    Fake,
}

/// A URL that names no engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadEngineUrl(pub String);

impl EngineUrl {
    /// Parses `docker:///var/run/docker.sock`, `docker+tcp://host:2376?certs=DIR`, `k8s://CONTEXT` or `fake://`.
    pub fn parse(url: &str) -> Result<Self, BadEngineUrl> {
        match url.split_once("://").map(|(scheme, _)| scheme) {
            Some("docker" | "docker+tcp") => docker::DockerUrl::parse(url).map(Self::Docker),
            Some("k8s") => kubernetes::KubernetesUrl::parse(url).map(Self::Kubernetes),
            Some("fake") => Ok(Self::Fake),
            _ => Err(BadEngineUrl(
                "it must be docker:///PATH/TO/docker.sock, docker+tcp://HOST:PORT?certs=DIR, k8s://CONTEXT or fake://"
                    .into(),
            )),
        }
    }

    /// Returns an adapter for the engine. Sends nothing to the engine yet.
    pub fn connect(&self, settings: &EngineSettings) -> Arc<dyn Engine> {
        match self {
            Self::Docker(url) => Arc::new(docker::Docker::new(url.clone(), settings.clone())),
            Self::Kubernetes(url) => Arc::new(kubernetes::Kubernetes::new(url.clone(), settings.clone())),
            Self::Fake => Arc::new(fake::FakeWorld::new(Arc::new(SystemClock)).engine(settings)),
        }
    }
}

/// The settings that all engines of a deployment share.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// The deployment's id, for the objects' label.
    pub deployment: String,
    /// The folders of the host that volumes may use: `DEPLOYER_HOST_PATHS`.
    pub host_paths: Vec<PathBuf>,
    /// The address that ports are published on: `DEPLOYER_DOCKER_CONTAINER_IP`.
    pub container_ip: std::net::IpAddr,
    /// The settings that only Kubernetes clusters need.
    pub kubernetes: kubernetes::KubernetesSettings,
}
