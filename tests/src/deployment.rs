//! The whole system in this process, as `renga-deployer up` runs it: the real components in the embedded host, the
//! reconciler, a database and an engine, each on ports and in folders of its own.
//!
//! Tests speak HTTP to it and wait for states, with a bound, never for a time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use renga_host::variables::VariableFaults;
use renga_host::{Host, Limits, Manifest, RuntimeConfig, Settings};
use renga_reconciler::config::Config;
use renga_reconciler::db::{NativeDatabase, WriteTurns};
use renga_reconciler::engine::config::EngineConfig;
use renga_reconciler::engine::fake::FakeWorld;
use renga_reconciler::engine::{Engine, EngineSettings};
use renga_shared::domain::EngineName;
use renga_shared::environment::Environment;
use renga_shared::sql::uri::DatabaseUri;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::issuer::Issuer;

/// How long a test waits for a state before it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running system.
pub struct Deployment {
    /// Speaks to its API as the user `alice`.
    pub client: Client,
    /// Makes tokens that it accepts.
    pub issuer: Issuer,
    /// Its configuration.
    pub environment: Environment,
    /// Which Spin variables its components cannot read.
    pub variable_faults: VariableFaults,
    /// What is behind fake engines, by their names. The others have a world that ends with the reconciler.
    pub worlds: BTreeMap<String, FakeWorld>,
    folder: tempfile::TempDir,
    /// The API's and the reconcilers', as in `renga-deployer up`.
    write_turns: WriteTurns,
    host: Part,
    reconcilers: Vec<Part>,
}

/// A part that runs until it is told to stop.
pub(crate) struct Part {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
}

impl Part {
    fn spawn<F: Future<Output = Result<()>> + Send + 'static>(run: impl FnOnce(oneshot::Receiver<()>) -> F) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, task: tokio::spawn(run(stopped)) }
    }

    async fn stop(self) -> Result<()> {
        // It may have ended by itself; then its own error is what counts.
        let _ = self.stop.send(());
        self.task.await?
    }
}

/// The folder of the workspace.
pub fn workspace() -> &'static Path {
    static ROOT: std::sync::LazyLock<PathBuf> = std::sync::LazyLock::new(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        here.parent().unwrap_or(here).to_owned()
    });
    &ROOT
}

impl Deployment {
    /// Starts everything, with further variables.
    pub async fn start(variables: &[(&str, &str)]) -> Result<Self> {
        let mut deployment = Self::without_reconciler(variables).await?;
        deployment.start_reconciler().await?;
        Ok(deployment)
    }

    /// Starts the API alone, on a database that is migrated.
    pub async fn without_reconciler(variables: &[(&str, &str)]) -> Result<Self> {
        let deployment = Self::unmigrated(variables).await?;
        deployment.migrate().await?;
        Ok(deployment)
    }

    /// Starts the API alone, on a database as it is.
    pub async fn unmigrated(variables: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let issuer = Issuer::new();
        let sqlite = format!("sqlite:///{}", folder.path().join("deployer.db").display());
        let mut environment: Environment = [
            ("SQLALCHEMY_DATABASE_URI", sqlite.as_str()),
            ("DEPLOYER_JWT_KEY", &issuer.public_key_pem()),
            ("DEPLOYER_JWT_ISSUER", Issuer::NAME),
            ("DEPLOYER_TOKEN_SCOPE_KEY", "scope"),
            ("DEPLOYER_BASE_PATH", "/api/deployer"),
            ("DEPLOYER_METRICS_ADDRESS", "127.0.0.1:0"),
            ("DEPLOYER_STOP_GRACE", "1"),
            ("DEPLOYER_ORPHAN_GRACE", "1"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        for (name, value) in variables {
            environment.set(name, *value);
        }
        let variable_faults = VariableFaults::default();
        let write_turns = WriteTurns::default();
        let manifest = workspace().join("spin.toml");
        let (host, address) =
            start_host(&manifest, &environment, folder.path(), variable_faults.clone(), &write_turns).await?;
        let client = Client::new(&format!("http://{address}"), &issuer.token("alice"));
        let (worlds, reconcilers) = (BTreeMap::new(), Vec::new());
        Ok(Self { client, issuer, environment, variable_faults, write_turns, worlds, folder, host, reconcilers })
    }

    /// Brings the database's schema up to date.
    pub async fn migrate(&self) -> Result<()> {
        renga_reconciler::app::migrate_once(&self.environment.database(&mut Vec::new())).await
    }

    /// The database, natively.
    pub fn database(&self) -> Result<NativeDatabase> {
        Ok(NativeDatabase::open(&self.environment.database(&mut Vec::new()))?)
    }

    /// Starts the reconciler, if it does not run, and waits until its engines are known.
    pub async fn start_reconciler(&mut self) -> Result<()> {
        let config = Config::read(&self.environment).map_err(|problems| anyhow::anyhow!("{problems}"))?;
        let engines: Vec<String> = config.engines.keys().map(ToString::to_string).collect();
        if self.reconcilers.is_empty() {
            self.start_another_reconciler()?;
        }
        until(&format!("{engines:?} to be served"), async || {
            let seen = self.client.get("/v1/engines").await?;
            let listed = seen["engines"].as_array().map(Vec::as_slice).unwrap_or_default();
            let known = engines.iter().all(|name| listed.iter().any(|engine| engine["name"] == name.as_str()));
            Ok(if known { Ok(()) } else { Err(seen) })
        })
        .await
    }

    /// Starts a reconciler beside those that run.
    pub fn start_another_reconciler(&mut self) -> Result<()> {
        let mut config = Config::read(&self.environment).map_err(|problems| anyhow::anyhow!("{problems}"))?;
        config.write_turns = self.write_turns.clone();
        let worlds = self.worlds.clone();
        let connect = move |name: &EngineName, found: &EngineConfig, settings: &EngineSettings| -> Arc<dyn Engine> {
            match worlds.get(name.as_str()) {
                Some(world) => Arc::new(world.engine(settings)),
                None => found.url.connect(settings),
            }
        };
        self.reconcilers.push(Part::spawn(|stopped| async move {
            let stop = async {
                // Dropping the sender stops it as well.
                let _ = stopped.await;
            };
            renga_reconciler::app::run_on(config, &connect, stop).await
        }));
        Ok(())
    }

    /// Stops every reconciler as a signal would.
    pub async fn stop_reconciler(&mut self) -> Result<()> {
        for reconciler in self.reconcilers.drain(..) {
            reconciler.stop().await?;
        }
        Ok(())
    }

    /// A folder that lives as long as the deployment.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Speaks to the API as `subject`.
    pub fn client_of(&self, subject: &str) -> Client {
        self.client.with_token(&self.issuer.token(subject))
    }

    /// Stops everything, and removes what this deployment's executions left on its engines.
    pub async fn stop(self) -> Result<()> {
        self.client.remove_everything().await?;
        self.leave().await
    }

    /// Stops everything; what runs on engines goes on.
    pub async fn leave(mut self) -> Result<()> {
        self.stop_reconciler().await?;
        self.host.stop().await
    }
}

/// Serves the components of a manifest; stops when the part is dropped.
pub(crate) async fn start_host(
    manifest: &Path,
    environment: &Environment,
    folder: &Path,
    variable_faults: VariableFaults,
    write_turns: &WriteTurns,
) -> Result<(Part, SocketAddr)> {
    let manifest = Manifest::load(manifest)?;
    let runtime = RuntimeConfig::load(&workspace().join("runtime-config.toml"))?;
    let get = |name: &str| environment.text(name).map(str::to_owned);
    let sqlite = match environment.database(&mut Vec::new()) {
        DatabaseUri::Sqlite(path) => PathBuf::from(path),
        // The manifest asks for a file also where everything is in PostgreSQL.
        DatabaseUri::Postgres(_) => folder.join("unused.db"),
    };
    let settings = Settings {
        variables: renga_host::variables_from_env(&manifest, &runtime, &get),
        sqlite: BTreeMap::from([("default".to_owned(), sqlite)]),
        write_turns: BTreeMap::from([("default".to_owned(), write_turns.clone())]),
        cache_dir: workspace().join("target/compiled"),
        // Many tests run in one process, which has room for the stacks of a few hundred instances.
        limits: Limits { instances: 8, ..Limits::default() },
        variable_faults,
    };
    let host = Arc::new(Host::load(&manifest, settings).await?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let part = Part::spawn(|stopped| async move {
        let stop = async {
            // Dropping the sender stops it as well.
            let _ = stopped.await;
        };
        host.serve(listener, stop).await.context("the host stopped")
    });
    Ok((part, address))
}

/// One test function for each database, with an API and no reconciler; what the machine lacks is said loudly.
#[macro_export]
macro_rules! on_each_database {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() -> ::anyhow::Result<()> {
                super::$test(&$crate::deployment::Deployment::without_reconciler(&[]).await?).await
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $test() -> ::anyhow::Result<()> {
                let database = $crate::require!(postgres).create_database().await?;
                let variables = [("SQLALCHEMY_DATABASE_URI", database.as_str())];
                super::$test(&$crate::deployment::Deployment::without_reconciler(&variables).await?).await
            })+
        }
    };
}

/// Asks again and again until `found` has an answer. Fails after [`PATIENCE`] with what was seen last.
pub async fn until<T>(what: &str, mut found: impl AsyncFnMut() -> Result<Result<T, Value>>) -> Result<T> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match found().await? {
            Ok(found) => return Ok(found),
            Err(seen) if tokio::time::Instant::now() > deadline => {
                bail!("{what}: not seen within {PATIENCE:?}; last was {seen:#}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
