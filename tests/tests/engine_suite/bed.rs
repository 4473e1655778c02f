//! An engine under test: launches, outages, and the removal of everything afterwards.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bollard::errors::Error;
use bollard::query_parameters::{KillContainerOptions, RemoveContainerOptions, RemoveVolumeOptions};
use futures::TryStreamExt as _;
use renga_reconciler::clock::{Clock as _, SystemClock};
use renga_reconciler::engine::fake::{FakeWorld, Fault, Operation};
use renga_reconciler::engine::kubernetes::KubernetesSettings;
use renga_reconciler::engine::{
    Engine, EngineError, EngineSettings, EngineUrl, Exit, Launch, LogEntry, Object, ObjectState, object_name,
};
use renga_reconciler::random::Random;
use renga_shared::domain::{ExecutionId, Specification};
use renga_tests::deployment::until;
use renga_tests::kubernetes::Executions;
use renga_tests::scripts::{Script, TestEngine};
use renga_tests::servers::{Cluster, Gate};
use serde_json::{Value, json};

use crate::cluster;
use crate::flaws::{Flaw, Flawed};

pub(crate) use renga_tests::deployment::PATIENCE;

/// An engine under test.
pub(crate) struct Bed {
    pub(crate) which: TestEngine,
    /// The engine, connected as one deployment.
    pub(crate) engine: Arc<dyn Engine>,
    /// The same engine, connected as another deployment. This connection is never cut.
    pub(crate) other: Arc<dyn Engine>,
    /// The folder that host path volumes may use.
    pub(crate) allowed: tempfile::TempDir,
    place: Place,
    settings: EngineSettings,
    random: Random,
    claims: Mutex<Vec<String>>,
}

enum Place {
    Fake(FakeWorld),
    Flawed(FakeWorld, Flaw),
    Docker(bollard::Docker, Gate),
    Kubernetes(Namespace, Gate),
}

/// The namespace of one test in a cluster.
pub(crate) struct Namespace {
    pub(crate) cluster: &'static Cluster,
    pub(crate) executions: Executions,
    /// The kubeconfig that reaches the API server through the gate.
    kubeconfig: PathBuf,
}

impl Bed {
    pub(crate) fn fake() -> Result<Self> {
        let world = FakeWorld::new(Arc::new(SystemClock));
        let there = world.clone();
        Self::new(TestEngine::Fake, Place::Fake(world), |settings| Ok(Arc::new(there.engine(settings))))
    }

    /// Returns a bed with the fake engine that has this flaw.
    pub(crate) fn flawed(flaw: Flaw) -> Result<Self> {
        let world = FakeWorld::new(Arc::new(SystemClock));
        let there = world.clone();
        Self::new(TestEngine::Fake, Place::Flawed(world, flaw), |settings| Ok(Arc::new(there.engine(settings))))
    }

    pub(crate) async fn docker(docker: bollard::Docker) -> Result<Self> {
        let (_, url) = TestEngine::Docker.variable();
        let gate = Gate::before_file(url.trim_start_matches("docker://")).await?;
        Self::new(TestEngine::Docker, Place::Docker(docker, gate), |settings| {
            Ok(EngineUrl::parse(url)?.connect(settings))
        })
    }

    pub(crate) async fn kubernetes(cluster: &'static Cluster) -> Result<Self> {
        let executions = Executions::new(cluster, "suite").await?;
        let (gate, kubeconfig) = executions.gate(cluster).await?;
        let url = executions.url();
        let place = Place::Kubernetes(Namespace { cluster, executions, kubeconfig }, gate);
        Self::new(TestEngine::Kubernetes, place, |settings| Ok(EngineUrl::parse(&url)?.connect(settings)))
    }

    fn new(
        which: TestEngine,
        place: Place,
        other: impl FnOnce(&EngineSettings) -> Result<Arc<dyn Engine>>,
    ) -> Result<Self> {
        let random = Random::from_system();
        let allowed = tempfile::tempdir()?;
        let settings = EngineSettings {
            deployment: format!("suite-{:016x}", random.number()),
            host_paths: vec![allowed.path().to_owned()],
            container_ip: Ipv4Addr::LOCALHOST.into(),
            kubernetes: KubernetesSettings { stop_grace: Duration::from_secs(20), ..KubernetesSettings::default() },
        };
        let other =
            other(&EngineSettings { deployment: format!("{}-other", settings.deployment), ..settings.clone() })?;
        let engine = connect(&place, &settings)?;
        Ok(Self { which, engine, other, allowed, place, settings, random, claims: Mutex::default() })
    }

    /// Connects to the engine as another process of the same deployment, such as the next one after a crash.
    pub(crate) fn again(&self) -> Result<Arc<dyn Engine>> {
        connect(&self.place, &self.settings)
    }

    /// Returns the launch of a new execution of `script`.
    pub(crate) fn launch(&self, script: &Script) -> Result<Launch> {
        self.launch_with(script, &json!({}))
    }

    /// Like `launch`, with further fields in the specification.
    pub(crate) fn launch_with(&self, script: &Script, fields: &Value) -> Result<Launch> {
        let mut spec = self.which.specification(script);
        for (name, value) in fields.as_object().context("fields are an object")? {
            spec[name] = value.clone();
        }
        let spec = Specification::parse(&spec).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
        let id = ExecutionId::new(SystemClock.now(), self.random.number().to_be_bytes());
        let environment = BTreeMap::new();
        Ok(Launch { id, spec, namespace: "default".into(), environment, access_token: None })
    }

    /// Prepares and creates the object. Returns its id on the engine.
    pub(crate) async fn create(&self, launch: &Launch) -> Result<String> {
        self.engine.prepare(launch, &|_| {}).await?;
        Ok(self.engine.create(launch).await?)
    }

    /// Prepares, creates and starts the object. Returns its id on the engine.
    pub(crate) async fn run(&self, launch: &Launch) -> Result<String> {
        let object = self.create(launch).await?;
        self.engine.start(&object).await?;
        Ok(object)
    }

    /// Like `run`, for [`Script::Sleep`] and [`Script::IgnoreTerm`]. It returns once the script handles TERM.
    pub(crate) async fn run_until_started(&self, launch: &Launch) -> Result<String> {
        let object = self.run(launch).await?;
        let first = self.engine.logs(&object, 0).try_next().await?.context("it wrote nothing")?;
        ensure!(&first.bytes[..] == b"started\n", "{first:?}");
        Ok(object)
    }

    /// Returns the object of an execution. Fails if there is none.
    pub(crate) async fn object(&self, launch: &Launch) -> Result<Object> {
        self.engine.inspect(launch.id).await?.context("there is no object")
    }

    /// Waits until the object runs, and returns it.
    pub(crate) async fn running(&self, launch: &Launch) -> Result<Object> {
        until("the object to run", async || {
            let seen = self.object(launch).await?;
            Ok(match seen.state {
                ObjectState::Running { .. } => Ok(seen),
                other => Err(json!(format!("{other:?}"))),
            })
        })
        .await
    }

    /// Waits until the object has ended, and returns how it ended.
    pub(crate) async fn ended(&self, launch: &Launch) -> Result<Exit> {
        until("the object to end", async || {
            Ok(match self.object(launch).await?.state {
                ObjectState::Exited(exit) => Ok(exit),
                other => Err(json!(format!("{other:?}"))),
            })
        })
        .await
    }

    /// Returns all log entries from `since` (in nanoseconds) to the object's end. Fails if that takes too long.
    pub(crate) async fn written(&self, object: &str, since: i64) -> Result<Vec<LogEntry>> {
        let all = self.engine.logs(object, since).try_collect();
        Ok(tokio::time::timeout(PATIENCE, all).await.context("the logs do not end")??)
    }

    /// Returns the whole log as a string.
    pub(crate) async fn text(&self, object: &str) -> Result<String> {
        let all = self.written(object, 0).await?;
        Ok(String::from_utf8(all.iter().flat_map(|entry| entry.bytes.to_vec()).collect())?)
    }

    /// Returns the host at which ports are reached.
    pub(crate) fn host(&self) -> String {
        match &self.place {
            Place::Kubernetes(namespace, _) => namespace.cluster.node_address().to_string(),
            _ => self.settings.container_ip.to_string(),
        }
    }

    /// Returns the namespace, if the engine is a cluster.
    pub(crate) fn namespace(&self) -> Option<&Namespace> {
        match &self.place {
            Place::Kubernetes(namespace, _) => Some(namespace),
            _ => None,
        }
    }

    /// Returns the name of a new persistent volume, which lasts until the end of the test.
    pub(crate) async fn claim(&self) -> Result<String> {
        let name = format!("suite-{:016x}", self.random.number());
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        if let Some(namespace) = self.namespace() {
            cluster::claim(namespace, &name, self.allowed.path()).await?;
        }
        Ok(name)
    }

    /// Returns Docker's names of the volumes of an object. Returns none for other engines.
    pub(crate) async fn volumes_of(&self, object: &str) -> Result<Vec<String>> {
        let Place::Docker(docker, _) = &self.place else { return Ok(Vec::new()) };
        let mounts = docker.inspect_container(object, None).await?.mounts.unwrap_or_default();
        Ok(mounts.into_iter().filter_map(|mount| mount.name).collect())
    }

    pub(crate) async fn has_volume(&self, name: &str) -> Result<bool> {
        let Place::Docker(docker, _) = &self.place else { return Ok(false) };
        present(docker.inspect_volume(name).await)
    }

    /// Kills a running object, behind the deployer's back.
    pub(crate) async fn kill(&self, launch: &Launch) -> Result<()> {
        match &self.place {
            Place::Fake(world) | Place::Flawed(world, _) => ensure!(world.end(launch.id, 128 + 9), "it does not run"),
            Place::Docker(docker, _) => {
                docker.kill_container(&object_name(launch.id), None::<KillContainerOptions>).await?;
            }
            Place::Kubernetes(namespace, _) => cluster::kill(namespace, launch).await?,
        }
        Ok(())
    }

    /// Removes an object behind the deployer's back.
    pub(crate) async fn lose(&self, launch: &Launch) -> Result<()> {
        match &self.place {
            Place::Fake(world) | Place::Flawed(world, _) => ensure!(world.lose(launch.id), "there is no object"),
            Place::Docker(docker, _) => {
                let options = RemoveContainerOptions { force: true, v: true, link: false };
                docker.remove_container(&object_name(launch.id), Some(options)).await?;
            }
            Place::Kubernetes(namespace, _) => {
                cluster::lose(namespace, launch).await?;
                // The watch reports the removal a moment later.
                let told = until("the engine to see it", async || {
                    let seen = self.engine.inspect(launch.id).await?;
                    Ok(seen.map_or(Ok(()), |object| Err(json!(format!("{object:?}")))))
                });
                tokio::time::timeout(Duration::from_secs(2), told).await.context("the watch tells nothing")??;
            }
        }
        Ok(())
    }

    /// Makes the engine unreachable. Its running objects go on.
    pub(crate) async fn take_away(&self) -> Result<()> {
        match &self.place {
            Place::Fake(world) | Place::Flawed(world, _) => world.set_down(true),
            Place::Docker(_, gate) | Place::Kubernetes(_, gate) => gate.close().await?,
        }
        Ok(())
    }

    /// Makes the engine accept every call and respond to none. The fake does so once for each kind of call.
    pub(crate) async fn silence(&self) -> Result<()> {
        use Operation::{Create, Events, Inspect, List, Logs, Prepare, Probe, Remove, Start, Stop};
        match &self.place {
            Place::Fake(world) | Place::Flawed(world, _) => {
                for operation in [Create, Events, Inspect, List, Logs, Prepare, Probe, Remove, Start, Stop] {
                    world.fail_next(operation, Fault::Hangs);
                }
            }
            Place::Docker(_, gate) | Place::Kubernetes(_, gate) => gate.silence().await?,
        }
        Ok(())
    }

    /// Makes the engine reachable again.
    pub(crate) async fn bring_back(&self) -> Result<()> {
        match &self.place {
            Place::Fake(world) | Place::Flawed(world, _) => {
                world.forget_faults();
                world.set_down(false);
            }
            Place::Docker(_, gate) | Place::Kubernetes(_, gate) => gate.open().await?,
        }
        Ok(())
    }

    /// Removes everything that the test created. Fails if anything is left.
    pub(crate) async fn clean(&self) -> Result<()> {
        self.bring_back().await?;
        for engine in [self.again()?, Arc::clone(&self.other)] {
            for listed in engine.list().await? {
                engine.remove(&listed.object).await?;
            }
            let left = engine.list().await?;
            ensure!(left.is_empty(), "the engine still has {left:?}");
        }
        if let Place::Docker(docker, _) = &self.place {
            let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for name in claims {
                present(docker.remove_volume(&name, None::<RemoveVolumeOptions>).await)?;
            }
        }
        if let Some(namespace) = self.namespace() {
            let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner).clone();
            cluster::clean(namespace, &claims).await?;
        }
        Ok(())
    }
}

fn connect(place: &Place, settings: &EngineSettings) -> Result<Arc<dyn Engine>> {
    Ok(match place {
        Place::Fake(world) => Arc::new(world.engine(settings)),
        Place::Flawed(world, flaw) => Arc::new(Flawed::new(world.engine(settings), *flaw)),
        Place::Docker(_, gate) => EngineUrl::parse(&format!("docker://{}", gate.socket()))?.connect(settings),
        Place::Kubernetes(namespace, _) => {
            EngineUrl::parse(&namespace.executions.url_by(&namespace.kubeconfig))?.connect(settings)
        }
    })
}

/// Returns whether Docker found the object. Fails with errors other than 404.
fn present<T>(answer: Result<T, Error>) -> Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Fails unless the engine refused for good, with this reason.
pub(crate) fn refused<T: Debug>(answer: Result<T, EngineError>, reason: &str) -> Result<()> {
    match answer {
        Err(EngineError::Refused(why)) if why.reason == reason && why.message.len() > 10 => Ok(()),
        other => bail!("not refused as {reason}: {other:?}"),
    }
}

/// Fails unless the call reports within `bound` that the engine is unreachable.
pub(crate) async fn down<T: Debug>(bound: Duration, call: impl Future<Output = Result<T, EngineError>>) -> Result<()> {
    match tokio::time::timeout(bound, call).await {
        Ok(Err(EngineError::Down(reason) | EngineError::Unreached(reason))) if !reason.is_empty() => Ok(()),
        Ok(other) => bail!("not down: {other:?}"),
        Err(_) => bail!("no answer within {bound:?}"),
    }
}
