//! Docker Engine, 20.10 and newer.
//!
//! An execution is a container `renga-<id>`. Its specification becomes:
//!
//! | field | in Docker |
//! |---|---|
//! | `image` | pulled when absent; `:latest` without a tag or digest |
//! | `command` | the container's command, passed as arguments to the image's entry point if it has one |
//! | `ports` | published on an ephemeral port of `DEPLOYER_DOCKER_CONTAINER_IP` |
//! | `resources.limits` | memory (without swap), CPUs (at most the machine's), `nvidia.com/gpu`; others are refused |
//! | `resources.requests` | memory reservation, CPU shares, `nvidia.com/gpu`; others are refused |
//! | `emptyDir` | a volume of this container only, writable by all; mounted twice only without shared files |
//! | `emptyDir`, `medium: Memory` | a tmpfs; only here `sizeLimit` is allowed |
//! | `persistentVolumeClaim` | the volume of that name, created when absent; no `subPath` |
//! | `hostPath` | a bind mount of an existing path under `DEPLOYER_HOST_PATHS` |
//! | `configMap`, `secret` | refused |
//! | `labels` | not passed on, because a context's label could look like one of the deployer's |
//!
//! Containers get no new privileges, fewer capabilities than Docker's default, at most 4,096 processes, and no
//! restarts. No init process runs in front of the command, because with one a missing command would start and fail only
//! then. So a command that does not handle TERM uses up the whole grace period when it is stopped.

mod body;
mod client;
mod events;
mod failure;
mod logs;
mod mounts;
mod pull;
mod room;
mod state;
mod url;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, ListContainersOptions, RemoveContainerOptions,
    StartContainerOptions, StopContainerOptions, UploadToContainerOptions, WaitContainerOptions,
};
use futures::stream::{BoxStream, StreamExt as _};
use renga_shared::domain::{ExecutionId, Protocol, Timestamp, Why};
use renga_shared::placement::{Capacity, Namespaces, Volumes};

pub use logs::entries;
pub use url::DockerUrl;

use self::client::{ACT_WITHIN, ANSWER_WITHIN, Client, Connection};
use self::failure::Failure;
use crate::crash::crash_point;

use super::{
    Accepts, DEPLOYMENT_LABEL, EXECUTION_LABEL, Engine, EngineError, EngineEvent, EngineInfo, EngineSettings, Launch,
    Listed, LogEntry, Object, ObjectState, object_name,
};

/// A Docker Engine.
#[derive(Clone, Debug)]
pub struct Docker {
    client: Arc<Client>,
    settings: Arc<EngineSettings>,
}

impl Docker {
    /// Returns an adapter for the engine at `url`. Sends nothing to the engine yet; the engine may be down at any time.
    pub fn new(url: DockerUrl, settings: EngineSettings) -> Self {
        Self { client: Arc::new(Client::new(url)), settings: Arc::new(settings) }
    }

    /// Returns the container with this name or id, if there is one.
    async fn container(&self, name: &str) -> Result<Option<ContainerInspectResponse>, EngineError> {
        let Connection { docker, .. } = self.client.connection().await?;
        let inspect = docker.inspect_container(name, None::<InspectContainerOptions>);
        match self.client.answer(ANSWER_WITHIN, inspect).await {
            Ok(container) => Ok(Some(container)),
            Err(Failure::Answered { status: 404, .. }) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Returns the container of an execution. A container of that name without our labels is foreign and counts as
    /// none; `create` then reports that the name is taken.
    async fn ours(&self, id: ExecutionId) -> Result<Option<ContainerInspectResponse>, EngineError> {
        let container = self.container(&object_name(id)).await?;
        Ok(container.filter(|found| state::is_ours(&state::labels(found), &self.settings, Some(&id.to_string()))))
    }

    /// Returns the container that already has the name. Fails with `NameTaken` if this deployment did not create it.
    async fn adopt(&self, launch: &Launch) -> Result<ContainerInspectResponse, EngineError> {
        let name = object_name(launch.id);
        match self.container(&name).await? {
            Some(found) if state::is_ours(&state::labels(&found), &self.settings, Some(&launch.id.to_string())) => {
                Ok(found)
            }
            Some(_) => Err(EngineError::Refused(Why::new(
                "NameTaken",
                format!("The engine has a container {name} that this deployment did not make."),
            ))),
            // The container was removed in this moment.
            None => Err(EngineError::Retry(Why::new("EngineBusy", format!("The engine is still removing {name}.")))),
        }
    }

    /// Makes the container's empty folders writable for all its users, because Docker creates them for root only.
    async fn open_to_all(
        &self,
        connection: &Connection,
        container: &str,
        folders: &[String],
    ) -> Result<(), EngineError> {
        for folder in folders {
            crash_point!("before_open_to_all");
            let options = UploadToContainerOptions { path: folder.clone(), ..UploadToContainerOptions::default() };
            let archive = bollard::body_full(open_folder().into());
            let upload = connection.docker.upload_to_container(container, Some(options), archive);
            self.client.answer(ACT_WITHIN, upload).await?;
        }
        Ok(())
    }
}

/// Returns the request body for a launch, and the mount points of its empty folders on disk, which all users in the
/// container may write to. `look`: the engine's host is this machine, so symbolic links on it are resolved.
///
/// # Errors
/// Fails with [`EngineError::Refused`] if Docker cannot provide something, or its operator does not allow it.
pub fn create_request(
    launch: &Launch,
    settings: &EngineSettings,
    look: bool,
) -> Result<(ContainerCreateBody, Vec<String>), EngineError> {
    let mounts = mounts::mounts(&launch.spec, settings, look)?;
    Ok((body::body(launch, settings, &mounts)?, mounts.open_to_all))
}

/// Returns a tar archive with one entry: the folder into which it is unpacked, with permissions for everybody.
fn open_folder() -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o777);
    header.set_size(0);
    let mut archive = tar::Builder::new(Vec::new());
    // Writing to memory does not fail.
    let written = archive.append_data(&mut header, "./", std::io::empty()).and_then(|()| archive.into_inner());
    written.unwrap_or_default()
}

#[async_trait]
impl Engine for Docker {
    fn kind(&self) -> &'static str {
        "docker"
    }

    fn accepts(&self) -> Accepts {
        let mut volumes = vec![Volumes::EmptyDir, Volumes::PersistentVolumeClaim];
        if !self.settings.host_paths.is_empty() {
            volumes.push(Volumes::HostPath);
        }
        let protocols = vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        Accepts { volumes, protocols, namespaces: Namespaces::Any }
    }

    async fn probe(&self) -> Result<EngineInfo, EngineError> {
        let Connection { docker, version } = self.client.connect().await?;
        let told = self.client.answer(ANSWER_WITHIN, docker.info()).await?;
        let (architecture, room) = room::of(&told);
        Ok(EngineInfo { version, architecture, capacity: Capacity::Known(room) })
    }

    async fn prepare(&self, launch: &Launch, progress: &(dyn Fn(Why) + Send + Sync)) -> Result<(), EngineError> {
        let Connection { docker, .. } = self.client.connection().await?;
        let image = launch.spec.image.canonical();
        match self.client.answer(ANSWER_WITHIN, docker.inspect_image(&image)).await {
            Ok(_) => Ok(()),
            Err(Failure::Answered { status: 404, .. }) => pull::pull(&docker, &image, progress).await,
            Err(failure) => Err(failure.into()),
        }
    }

    async fn create(&self, launch: &Launch) -> Result<String, EngineError> {
        let mounts = mounts::mounts_looked_at(&launch.spec, &self.settings, self.client.url.is_local()).await?;
        let body = body::body(launch, &self.settings, &mounts)?;
        let connection = self.client.connection().await?;
        let options =
            CreateContainerOptions { name: Some(object_name(launch.id)), ..CreateContainerOptions::default() };
        let create = connection.docker.create_container(Some(options), body);
        let container = match self.client.answer(ACT_WITHIN, create).await {
            Ok(created) => created.id,
            Err(Failure::Answered { status: 409, .. }) => {
                let found = self.adopt(launch).await?;
                let id = found.id.clone().unwrap_or_default();
                if state::was_started(&found) {
                    return Ok(id);
                }
                id
            }
            Err(failure) => return Err(failure::of_create(failure, launch.spec.image.as_str())),
        };
        self.open_to_all(&connection, &container, &mounts.open_to_all).await?;
        Ok(container)
    }

    async fn start(&self, object: &str) -> Result<(), EngineError> {
        // Docker runs an ended container again when asked to start it. This inspection waits for a start in progress.
        if self.container(object).await?.is_some_and(|container| state::was_started(&container)) {
            return Ok(());
        }
        let Connection { docker, .. } = self.client.connection().await?;
        let start = docker.start_container(object, None::<StartContainerOptions>);
        self.client.answer(ACT_WITHIN, start).await.map_err(failure::of_start)
    }

    async fn inspect(&self, id: ExecutionId) -> Result<Option<Object>, EngineError> {
        let Some(container) = self.ours(id).await? else { return Ok(None) };
        let mut object = state::object(&container, &self.settings);
        if let ObjectState::Exited(exit) = &mut object.state
            && state::may_have_run_out_of_memory(&container)
        {
            exit.out_of_memory = events::ran_out_of_memory(&self.client, &object.id, exit.finished).await?;
        }
        Ok(Some(object))
    }

    async fn stop(&self, object: &str, grace: Duration) -> Result<(), EngineError> {
        let Connection { docker, .. } = self.client.connection().await?;
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let options = StopContainerOptions { t: Some(i32::try_from(seconds).unwrap_or(i32::MAX)), signal: None };
        let stop = docker.stop_container(object, Some(options));
        match self.client.answer(grace + ACT_WITHIN, stop).await {
            Ok(()) | Err(Failure::Answered { status: 404, .. }) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn remove(&self, object: &str) -> Result<(), EngineError> {
        let Connection { docker, .. } = self.client.connection().await?;
        let options = RemoveContainerOptions { v: true, force: true, link: false };
        match self.client.answer(ACT_WITHIN, docker.remove_container(object, Some(options))).await {
            Ok(()) | Err(Failure::Answered { status: 404, .. }) => return Ok(()),
            Err(Failure::Answered { status: 409, .. }) => {}
            Err(failure) => return Err(failure.into()),
        }
        // Another request is removing the container: wait until it is gone.
        let options = WaitContainerOptions { condition: "removed".into() };
        let mut waited = docker.wait_container(object, Some(options));
        match tokio::time::timeout(ANSWER_WITHIN, waited.next()).await {
            Err(_) => Err(EngineError::Retry(Why::new("EngineBusy", "The engine is still removing its container."))),
            Ok(_) if self.container(object).await?.is_none() => Ok(()),
            Ok(_) => Err(EngineError::Retry(Why::new("EngineBusy", "The engine could not remove its container."))),
        }
    }

    async fn list(&self) -> Result<Vec<Listed>, EngineError> {
        let Connection { docker, .. } = self.client.connection().await?;
        let label = format!("{DEPLOYMENT_LABEL}={}", self.settings.deployment);
        let filters = HashMap::from([("label".to_owned(), vec![label])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
        let containers = self.client.answer(ANSWER_WITHIN, docker.list_containers(Some(options))).await?;
        Ok(containers.into_iter().filter_map(listed).collect())
    }

    fn logs(&self, object: &str, since: i64) -> BoxStream<'static, Result<LogEntry, EngineError>> {
        logs::follow(Arc::clone(&self.client), object.to_owned(), since).boxed()
    }

    fn events(&self) -> BoxStream<'static, Result<EngineEvent, EngineError>> {
        events::events(Arc::clone(&self.client), self.settings.deployment.clone()).boxed()
    }
}

/// Returns `None` if the label names no execution: the container is then not ours, whatever its other label says.
fn listed(container: ContainerSummary) -> Option<Listed> {
    use ContainerSummaryStateEnum::{PAUSED, RESTARTING, RUNNING, STOPPING};
    Some(Listed {
        execution: container.labels?.get(EXECUTION_LABEL)?.parse().ok()?,
        object: container.id?,
        running: matches!(container.state, Some(RUNNING | PAUSED | RESTARTING | STOPPING)),
        created: Timestamp(container.created.unwrap_or_default().saturating_mul(1_000_000)),
    })
}
