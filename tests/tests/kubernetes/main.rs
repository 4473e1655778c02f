//! Behavior that only clusters have: their reasons, lost pods and nodes, permissions, and executions while the API
//! server is unreachable. `tests/tests/engine_suite/` tests the obligations of every engine.

mod api_server;
mod credentials;
mod forgotten;
mod lost;
mod namespaces;
mod ports;
mod reasons;
mod safety;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::TryStreamExt as _;
use renga_reconciler::clock::{Clock as _, SystemClock};
use renga_reconciler::engine::kubernetes::KubernetesSettings;
use renga_reconciler::engine::{Engine, EngineSettings, EngineUrl, Launch, Object, ObjectState, object_name};
use renga_reconciler::random::Random;
use renga_shared::domain::{ExecutionId, Specification};
use renga_tests::deployment::until;
use renga_tests::kubernetes::Executions;
use renga_tests::scripts::{Script, TestEngine};
use renga_tests::servers::Cluster;
use serde_json::{Value, json};

/// A namespace of a cluster, and the engine that runs executions in it.
struct Ground {
    executions: Executions,
    engine: Arc<dyn Engine>,
    random: Random,
}

impl Ground {
    async fn new(cluster: &Cluster, purpose: &str) -> Result<Self> {
        Self::with(cluster, purpose, "").await
    }

    /// Like `new`, with further options in the engine's URL.
    async fn with(cluster: &Cluster, purpose: &str, options: &str) -> Result<Self> {
        let executions = Executions::new(cluster, purpose).await?;
        let engine = connect(&format!("{}{options}", executions.url()))?;
        Ok(Self { executions, engine, random: Random::from_system() })
    }

    fn launch(&self, spec: &Value) -> Result<Launch> {
        let spec = Specification::parse(spec).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
        let id = ExecutionId::new(SystemClock.now(), self.random.number().to_be_bytes());
        let environment = BTreeMap::new();
        Ok(Launch { id, spec, namespace: "default".into(), environment, access_token: None })
    }

    fn script(&self, script: &Script) -> Result<Launch> {
        self.launch(&TestEngine::Kubernetes.specification(script))
    }

    /// Prepares, creates and starts the object. Returns its id on the engine.
    async fn run(&self, launch: &Launch) -> Result<String> {
        self.engine.prepare(launch, &|_| {}).await?;
        let object = self.engine.create(launch).await?;
        self.engine.start(&object).await?;
        Ok(object)
    }

    /// Like `run`, for [`Script::Sleep`]. Returns once the script is running.
    async fn run_until_started(&self, launch: &Launch) -> Result<String> {
        let object = self.run(launch).await?;
        let first = self.engine.logs(&object, 0).try_next().await?.context("it wrote nothing")?;
        ensure!(&first.bytes[..] == b"started\n", "{first:?}");
        self.becomes(launch, |state| matches!(state, ObjectState::Running { .. })).await?;
        Ok(object)
    }

    async fn object(&self, launch: &Launch) -> Result<Object> {
        self.engine.inspect(launch.id).await?.context("there is no object")
    }

    async fn becomes(&self, launch: &Launch, wanted: impl Fn(&ObjectState) -> bool) -> Result<ObjectState> {
        until("the state to be told", async || {
            let seen = self.object(launch).await?.state;
            Ok(if wanted(&seen) { Ok(seen) } else { Err(json!(format!("{seen:?}"))) })
        })
        .await
    }

    /// Returns the execution's pod.
    async fn pod(&self, cluster: &Cluster, launch: &Launch) -> Result<Value> {
        let label = format!("--selector=job-name={}", object_name(launch.id));
        let pods = cluster.get(&["pods", &label, "--namespace", &self.executions.namespace]).await?;
        pods["items"].get(0).cloned().context("there is no pod")
    }

    async fn pod_name(&self, cluster: &Cluster, launch: &Launch) -> Result<String> {
        let pod = self.pod(cluster, launch).await?;
        Ok(pod["metadata"]["name"].as_str().context("a pod has a name")?.to_owned())
    }
}

fn connect(url: &str) -> Result<Arc<dyn Engine>> {
    connect_with(url, KubernetesSettings::default())
}

fn connect_with(url: &str, kubernetes: KubernetesSettings) -> Result<Arc<dyn Engine>> {
    Ok(EngineUrl::parse(url)?.connect(&settings(kubernetes)))
}

/// Returns the engine settings of a deployment with a unique name.
fn settings(kubernetes: KubernetesSettings) -> EngineSettings {
    EngineSettings {
        deployment: format!("test-{:016x}", Random::from_system().number()),
        host_paths: Vec::new(),
        container_ip: Ipv4Addr::LOCALHOST.into(),
        kubernetes: KubernetesSettings { stop_grace: Duration::from_secs(5), ..kubernetes },
    }
}
