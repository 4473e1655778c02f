//! The port to an engine: the obligations that Docker, the fake and every engine to come must keep.
//!
//! **Names.** The object of an execution is named [`object_name`] and carries labels with the execution's and the
//! deployment's id, so that it is found again after any crash.
//!
//! **Two steps.** [`Engine::create`] makes an object that does not run; [`Engine::start`] runs it. Between the two the
//! reconciler records the object's id, so that after a crash it knows whether the object may have run: an object that
//! is gone before that record is made again, one that is gone after it is lost. Nothing runs twice.
//!
//! **Idempotence.** Every operation may be repeated. `create` finds before it makes: an object of that name and this
//! deployment is adopted. `start` of what runs or has run, `stop` of what has ended and `remove` of what is gone are successes.
//! `start`, `stop` and `remove` take the engine's own id and so never touch a later object of the same name.
//!
//! **Errors** say what to do next: [`EngineError::Down`] and [`EngineError::Unreached`] are about the engine and never about an execution,
//! [`EngineError::Retry`] passes with time, [`EngineError::Refused`] never will, and then nothing is left running.
//!
//! **Never wait without bound.** A call that gets no answer ends as `Down`; [`Engine::prepare`] may take as long as it makes
//! progress.

pub mod config;
pub mod docker;
pub mod fake;
mod host_paths;
pub mod kubernetes;
mod words;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use renga_shared::api::PortBody;
use renga_shared::auth::OpenedToken;
use renga_shared::domain::{ExecutionId, Protocol, Specification, Timestamp, Why};
use renga_shared::placement::{Namespaces, Room, Volumes};
use renga_shared::sql::logs::LogStream;
use secrecy::ExposeSecret as _;

use crate::clock::SystemClock;
use crate::launch::ACCESS_TOKEN;

/// The label with the execution's id.
pub const EXECUTION_LABEL: &str = "io.renga.execution";
/// The label with the deployment's id: several deployments may share an engine.
pub const DEPLOYMENT_LABEL: &str = "io.renga.deployment";

/// The name of the engine object of an execution.
pub fn object_name(id: ExecutionId) -> String {
    format!("renga-{id}")
}

/// All that launching an execution takes. It can be neither shown nor cloned, because there are secrets in it.
pub struct Launch {
    /// The execution.
    pub id: ExecutionId,
    /// What to run.
    pub spec: Specification,
    /// The namespace that was asked for.
    pub namespace: String,
    /// The whole environment: the specification's, then the execution's, then ours, each name once.
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

/// An engine object as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The engine's own id of it.
    pub id: String,
    /// What it does.
    pub state: ObjectState,
    /// Its ports as they can be reached. Empty unless it runs.
    pub ports: Vec<PortBody>,
}

/// What an engine object does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectState {
    /// It was never started.
    Created,
    /// The engine is starting it and says why that takes long, if it does.
    Starting(Option<Why>),
    /// It runs.
    Running {
        /// Since when, by the engine's clock.
        started: Timestamp,
    },
    /// It ended.
    Exited(Exit),
    /// It has not run and never will: the engine gave up on it.
    Failed(Why),
    /// It ran, or may have, and what became of it cannot be known: the engine lost what it was made of.
    Lost(Why),
}

/// How an object ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code; `128 + signal` after a signal.
    pub code: i64,
    /// Whether it was killed for using more memory than it may.
    pub out_of_memory: bool,
    /// When it began, by the engine's clock.
    pub started: Option<Timestamp>,
    /// When it ended, by the engine's clock.
    pub finished: Timestamp,
    /// What the engine says of it, such as a command that could not be run.
    pub error: Option<String>,
}

/// What an engine tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    /// Its version, as it says it.
    pub version: String,
    /// The architecture of its machines, by the name that images use (`amd64`), if all have the same.
    pub architecture: Option<String>,
    /// How much room it has, as far as it knows.
    pub room: Option<Room>,
}

/// What an engine takes, whatever its load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepts {
    /// The kinds of volumes that it can mount.
    pub volumes: Vec<Volumes>,
    /// The protocols of ports that it can publish.
    pub protocols: Vec<Protocol>,
    /// The namespaces that executions may ask for.
    pub namespaces: Namespaces,
}

/// Something happened to an object of this deployment, or, after the stream was broken, may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// Look at this one.
    Changed(ExecutionId),
    /// Look at everything: events were missed. The first event of every stream.
    Resync,
}

/// What an execution wrote at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Where.
    pub stream: LogStream,
    /// When, by the engine's clock: nanoseconds since the Unix epoch. Never decreases within an object.
    pub nanos: i64,
    /// The bytes as they were, line ends included.
    pub bytes: Bytes,
}

/// What can go wrong with an engine, by what the reconciler does about it. The texts go into `status.message`: they are
/// for the execution's user and hold no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// It does not answer: nothing is known of anything on it, nor whether it did what it was asked.
    #[error("the engine does not answer: {0}")]
    Down(String),
    /// It could not even be asked: nothing came of this call, and nothing is known of anything on it.
    #[error("the engine cannot be reached: {0}")]
    Unreached(String),
    /// It answers but cannot do this now.
    #[error("{}", .0.message)]
    Retry(Why),
    /// It will never do this.
    #[error("{}", .0.message)]
    Refused(Why),
}

impl EngineError {
    /// Why the engine is not there, if that is what this says.
    pub fn away(&self) -> Option<&str> {
        match self {
            Self::Down(reason) | Self::Unreached(reason) => Some(reason),
            Self::Retry(_) | Self::Refused(_) => None,
        }
    }
}

/// A place that runs executions.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// What it is, as requests name it: `docker`.
    fn kind(&self) -> &'static str;

    /// What it takes. Known without asking it.
    fn accepts(&self) -> Accepts;

    /// How much room it has at this moment, of an engine that knows without being asked. `None`: as its last probe told.
    fn room(&self) -> Option<Room> {
        None
    }

    /// Asks whether it is there.
    async fn probe(&self) -> Result<EngineInfo, EngineError>;

    /// Makes ready what `create` needs, such as the image. `progress` is told what it waits for, as often as there is
    /// something new to say.
    async fn prepare(&self, launch: &Launch, progress: &(dyn Fn(Why) + Send + Sync)) -> Result<(), EngineError>;

    /// Makes the object, or adopts the one that there is, and completes it if a call that was cut off left something out.
    /// It does not run yet. Returns the engine's own id of it.
    async fn create(&self, launch: &Launch) -> Result<String, EngineError>;

    /// Runs the object.
    async fn start(&self, object: &str) -> Result<(), EngineError>;

    /// The object of an execution, by its derived name. `None`: there is none.
    async fn inspect(&self, id: ExecutionId) -> Result<Option<Object>, EngineError>;

    /// Asks the object to end, and kills it after `grace`. Returns when it has ended.
    async fn stop(&self, object: &str, grace: Duration) -> Result<(), EngineError>;

    /// Removes the object, running or not, with what belongs to it alone. Returns when it is gone.
    async fn remove(&self, object: &str) -> Result<(), EngineError>;

    /// The executions of this deployment that have an object. One call, however many there are.
    async fn list(&self) -> Result<Vec<Listed>, EngineError>;

    /// What the object writes, from `since` (nanoseconds since the Unix epoch, inclusive) on. Follows a running object,
    /// and ends when it has ended.
    fn logs(&self, object: &str, since: i64) -> BoxStream<'static, Result<LogEntry, EngineError>>;

    /// What happens to objects of this deployment. Ends with an error when the engine goes away.
    fn events(&self) -> BoxStream<'static, Result<EngineEvent, EngineError>>;
}

/// One object of [`Engine::list`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The execution on its label.
    pub execution: ExecutionId,
    /// The engine's own id of it.
    pub object: String,
    /// Whether it runs.
    pub running: bool,
    /// When it was made, by the engine's clock.
    pub created: Timestamp,
}

/// Where an engine is, as the configuration says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineUrl {
    /// A Docker Engine.
    Docker(docker::DockerUrl),
    /// A Kubernetes cluster.
    Kubernetes(kubernetes::KubernetesUrl),
    /// The fake, which runs nothing: for tests and benchmarks.
    Fake,
}

/// A URL that names no engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadEngineUrl(pub String);

impl EngineUrl {
    /// Reads `docker:///var/run/docker.sock`, `docker+tcp://host:2376?certs=DIR`, `k8s://CONTEXT` or `fake://`.
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

    /// The engine there. Nothing is asked of it yet.
    pub fn connect(&self, settings: &EngineSettings) -> Arc<dyn Engine> {
        match self {
            Self::Docker(url) => Arc::new(docker::Docker::new(url.clone(), settings.clone())),
            Self::Kubernetes(url) => Arc::new(kubernetes::Kubernetes::new(url.clone(), settings.clone())),
            Self::Fake => Arc::new(fake::FakeWorld::new(Arc::new(SystemClock)).engine(settings)),
        }
    }
}

/// What every engine of a deployment is told.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// The deployment's id, for the label.
    pub deployment: String,
    /// Folders of the host that volumes may use: `DEPLOYER_HOST_PATHS`.
    pub host_paths: Vec<PathBuf>,
    /// The address that ports are published on: `DEPLOYER_DOCKER_CONTAINER_IP`.
    pub container_ip: std::net::IpAddr,
    /// What only clusters need.
    pub kubernetes: kubernetes::KubernetesSettings,
}
