//! The adapter of a deployment for the fake engine.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use renga_shared::api::PortBody;
use renga_shared::domain::{ExecutionId, Protocol, Timestamp, VolumeSource, Why};
use renga_shared::placement::{Namespaces, Volumes};
use tokio::sync::mpsc;

use super::script::{End, Script};
use super::state::{State, nanos};
use super::{FakeWorld, Fault, Operation};
use crate::engine::{
    Accepts, Engine, EngineError, EngineEvent, EngineInfo, EngineSettings, Launch, Listed, LogEntry, Object,
    ObjectState, host_paths,
};

/// Time without an answer after which the engine counts as unreachable.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const TERM: i64 = 15;
const KILL: i64 = 9;

/// The adapter of a deployment for a [`FakeWorld`].
#[derive(Clone)]
pub struct FakeEngine {
    world: FakeWorld,
    settings: Arc<EngineSettings>,
}

fn away() -> EngineError {
    EngineError::Down("the fake engine was told to be away".into())
}

impl FakeEngine {
    pub(super) fn new(world: FakeWorld, settings: EngineSettings) -> Self {
        Self { world, settings: Arc::new(settings) }
    }

    /// Performs a call on the engine's state, or fails with an injected fault.
    async fn call<T>(
        &self,
        operation: Operation,
        act: impl FnOnce(&mut State, Timestamp) -> Result<T, EngineError> + Send,
    ) -> Result<T, EngineError> {
        let (fault, delay) = {
            let mut state = self.world.lock();
            (state.faults.take(operation), state.faults.delays.get(&operation).copied())
        };
        if let Some(delay) = delay {
            self.world.clock.sleep(delay).await;
        }
        match fault {
            Some(Fault::Fails(error)) => return Err(error),
            Some(Fault::Hangs) => {
                self.world.clock.sleep(ANSWER_WITHIN).await;
                return Err(EngineError::Down(format!("no answer within {} s", ANSWER_WITHIN.as_secs())));
            }
            Some(Fault::AnswerLost | Fault::Halfway(_)) | None => {}
        }
        let now = self.world.clock.now();
        let mut state = self.world.settled();
        if state.down {
            return Err(away());
        }
        let done = act(&mut state, now);
        match fault {
            Some(Fault::Halfway(error)) => done.and(Err(error)),
            Some(_) => Err(EngineError::Down("the answer was lost, as it was told".into())),
            None => done,
        }
    }

    /// Refuses the same volumes as a real engine.
    fn check(&self, launch: &Launch) -> Result<(), EngineError> {
        for volume in &launch.spec.volumes {
            match &volume.source {
                VolumeSource::HostPath { path } => {
                    host_paths::allow(path, None, &self.settings.host_paths, false)?;
                }
                VolumeSource::ConfigMap { .. } | VolumeSource::Secret { .. } => {
                    let text =
                        format!("The volume {:?} is a configMap or secret, which only Kubernetes has.", volume.name);
                    return Err(EngineError::Refused(Why::new("VolumeKindUnsupported", text)));
                }
                VolumeSource::EmptyDir { .. } | VolumeSource::PersistentVolumeClaim { .. } => {}
            }
        }
        Ok(())
    }

    fn ports(&self, launch: &Launch) -> Vec<PortBody> {
        let port = |port: &renga_shared::domain::PortSpec| PortBody {
            specified: port.number.to_string(),
            host: self.settings.container_ip.to_string(),
            exposed: String::new(),
            protocol: port.protocol.as_str().to_ascii_uppercase(),
            path: None,
        };
        launch.spec.ports.iter().map(port).collect()
    }
}

#[async_trait]
impl Engine for FakeEngine {
    fn kind(&self) -> &'static str {
        "fake"
    }

    fn accepts(&self) -> Accepts {
        Accepts {
            volumes: vec![Volumes::EmptyDir, Volumes::PersistentVolumeClaim, Volumes::HostPath],
            protocols: vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp],
            namespaces: Namespaces::Any,
        }
    }

    async fn probe(&self) -> Result<EngineInfo, EngineError> {
        let told = |state: &mut State, _| {
            Ok(EngineInfo { version: "fake".into(), architecture: None, capacity: state.capacity.clone() })
        };
        self.call(Operation::Probe, told).await
    }

    /// Special images: `fake/missing`, `fake/denied`, `fake/unreachable`, `fake/slow-pull:SECONDS`. All others exist.
    async fn prepare(&self, launch: &Launch, progress: &(dyn Fn(Why) + Send + Sync)) -> Result<(), EngineError> {
        let image = launch.spec.image.canonical();
        let (name, tag) = image.rsplit_once(':').unwrap_or((&image, ""));
        let there = self.call(Operation::Prepare, |state, _| Ok(state.pulled.contains(&image))).await?;
        let why = |reason: &str, text: &str| Why::new(reason, format!("{text} {image}: it is a fake."));
        match name {
            "fake/missing" => Err(EngineError::Refused(why("ImageNotFound", "There is no image"))),
            "fake/denied" => Err(EngineError::Refused(why("ImagePullDenied", "You may not pull the image"))),
            "fake/unreachable" => Err(EngineError::Retry(why("ImagePullFailed", "Nobody could pull the image"))),
            "fake/slow-pull" if !there => {
                let seconds = tag.parse::<u32>().unwrap_or(1);
                for second in 0..seconds {
                    progress(Why::new("PullingImage", format!("Pulling image {image}: {second} of {seconds} layers")));
                    self.world.clock.sleep(Duration::from_secs(1)).await;
                }
                self.world.lock().pulled.insert(image);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn create(&self, launch: &Launch) -> Result<String, EngineError> {
        let deployment = &self.settings.deployment;
        self.call(Operation::Create, |state, now| {
            self.check(launch)?;
            let Some(object) = state.object_of(launch.id) else {
                return Ok(state.create(launch.id, deployment, Script::of(launch), self.ports(launch), now));
            };
            if state.get(&object).is_some_and(|found| found.deployment == *deployment) {
                return Ok(object);
            }
            let text = "The engine has an object of that name that this deployment did not make.";
            Err(EngineError::Refused(Why::new("NameTaken", text)))
        })
        .await
    }

    async fn start(&self, object: &str) -> Result<(), EngineError> {
        self.call(Operation::Start, |state, now| {
            let Some(found) = state.get(object) else {
                return Err(EngineError::Retry(Why::new("ObjectGone", "Its object is no longer there.")));
            };
            match (&found.state, &found.script) {
                (ObjectState::Created, Err(step)) => {
                    let text = format!("Its command is not in the image: {step:?} is no step of a fake.");
                    Err(EngineError::Refused(Why::new("CommandNotFound", text)))
                }
                (ObjectState::Created, Ok(_)) => {
                    state.start(object, now);
                    Ok(())
                }
                _ => Ok(()),
            }
        })
        .await
    }

    async fn inspect(&self, id: ExecutionId) -> Result<Option<Object>, EngineError> {
        self.call(Operation::Inspect, |state, _| {
            let Some(object) = state.object_of(id) else { return Ok(None) };
            let found = state.get(&object).filter(|found| found.deployment == self.settings.deployment);
            Ok(found.map(|found| {
                let running = matches!(found.state, ObjectState::Running { .. });
                let ports = if running { found.ports.clone() } else { Vec::new() };
                Object { id: object.clone(), state: found.state.clone(), ports }
            }))
        })
        .await
    }

    async fn stop(&self, object: &str, grace: Duration) -> Result<(), EngineError> {
        let running =
            |state: &State| state.get(object).is_some_and(|found| matches!(found.state, ObjectState::Running { .. }));
        let wait = self
            .call(Operation::Stop, |state, now| {
                let ignores = state
                    .get(object)
                    .is_some_and(|found| found.script.as_ref().is_ok_and(|script| script.ignores_term));
                if running(state) && !ignores {
                    state.end(object, End::Code(128 + TERM), now);
                }
                Ok(running(state))
            })
            .await?;
        if wait {
            self.world.clock.sleep(grace).await;
            let now = self.world.clock.now();
            self.world.settled().end(object, End::Code(128 + KILL), now);
        }
        Ok(())
    }

    async fn remove(&self, object: &str) -> Result<(), EngineError> {
        self.call(Operation::Remove, |state, _| {
            state.remove(object);
            Ok(())
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Listed>, EngineError> {
        self.call(Operation::List, |state, _| {
            let ours = state.all().filter(|(_, found)| found.deployment == self.settings.deployment);
            Ok(ours
                .map(|(object, found)| Listed {
                    execution: found.execution,
                    object: object.clone(),
                    running: matches!(found.state, ObjectState::Running { .. }),
                    created: found.created,
                })
                .collect())
        })
        .await
    }

    fn logs(&self, object: &str, since: i64) -> BoxStream<'static, Result<LogEntry, EngineError>> {
        let reader = Reader { world: self.world.clone(), object: object.to_owned(), since, read: 0 };
        stream::try_unfold(reader, |mut reader| async move { Ok(reader.next().await?.map(|entry| (entry, reader))) })
            .boxed()
    }

    fn events(&self) -> BoxStream<'static, Result<EngineEvent, EngineError>> {
        let listener = Listener { world: self.world.clone(), deployment: self.settings.deployment.clone(), told: None };
        stream::try_unfold(listener, |mut listener| async move { Ok(Some((listener.next().await?, listener))) }).boxed()
    }
}

/// Fails if the engine is unreachable or an injected fault breaks the stream.
fn broken(state: &mut State, operation: Operation) -> Result<(), EngineError> {
    if state.down {
        return Err(away());
    }
    match state.faults.take(operation) {
        None => Ok(()),
        Some(Fault::Fails(error) | Fault::Halfway(error)) => Err(error),
        Some(Fault::AnswerLost | Fault::Hangs) => Err(EngineError::Down("the stream broke, as it was told".into())),
    }
}

/// A reader of one object's logs.
struct Reader {
    world: FakeWorld,
    object: String,
    since: i64,
    read: usize,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<LogEntry>, EngineError> {
        loop {
            let now = self.world.clock.now();
            let (changed, wake) = {
                let mut state = self.world.settled();
                if state.down {
                    return Err(away());
                }
                let Some(found) = state.get(&self.object) else { return Ok(None) };
                let written = found.written(now);
                if let Some(entry) = found.entries[..written].get(self.read).cloned() {
                    self.read += 1;
                    if entry.nanos < self.since {
                        continue;
                    }
                    broken(&mut state, Operation::Logs)?;
                    return Ok(Some(entry));
                }
                let ObjectState::Running { started } = found.state else { return Ok(None) };
                let due = found.entries.get(written).map(|entry| entry.nanos - nanos(now));
                let end = found.script.as_ref().ok().and_then(|script| script.end);
                let end = end.map(|(after, _)| nanos(started.plus(after)) - nanos(now));
                let wake = due.into_iter().chain(end).min();
                // Created while the state is locked, so that it is notified of every later change.
                (Arc::clone(&found.changed).notified_owned(), wake)
            };
            let sleep = async {
                match wake {
                    Some(wake) => {
                        self.world.clock.sleep(Duration::from_nanos(u64::try_from(wake).unwrap_or(0)).max(TICK)).await
                    }
                    // An object without output to come needs no timer.
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep => {}
            }
        }
    }
}

/// The precision of the clock, and so the shortest sleep.
const TICK: Duration = Duration::from_micros(1);

/// A subscriber to the events of one deployment.
struct Listener {
    world: FakeWorld,
    deployment: String,
    told: Option<mpsc::UnboundedReceiver<EngineEvent>>,
}

impl Listener {
    async fn next(&mut self) -> Result<EngineEvent, EngineError> {
        let Some(told) = &mut self.told else {
            let mut state = self.world.lock();
            broken(&mut state, Operation::Events)?;
            self.told = Some(state.listen(&self.deployment));
            return Ok(EngineEvent::Resync);
        };
        loop {
            let now = self.world.clock.now();
            let next = self.world.settled().next_end();
            let clock = &self.world.clock;
            let sleep = async {
                match next {
                    Some(at) => clock.sleep(at.since(now).max(TICK)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = told.recv() => {
                    let event = event.ok_or_else(away)?;
                    broken(&mut self.world.lock(), Operation::Events)?;
                    return Ok(event);
                }
                () = sleep => {}
            }
        }
    }
}
