//! The whole system in this process, as `renga-deployer up` runs it: the real components in the embedded host, the
//! reconciler, a database and an engine, each with its own ports and folders.
//!
//! Tests send it HTTP requests and wait for states, up to a timeout. They never wait for a fixed time.

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

/// Maximum time for which a test waits for a state.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running system.
pub struct Deployment {
    /// A client of the API as the user `alice`.
    pub client: Client,
    /// An issuer of tokens that the API accepts.
    pub issuer: Issuer,
    /// The configuration.
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

/// A part of the system that runs until it is stopped.
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
        // The part may have ended by itself. Then its own error counts.
        let _ = self.stop.send(());
        self.task.await?
    }
}

/// Returns the folder of the workspace.
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

    /// Starts the API without a reconciler, on a migrated database.
    pub async fn without_reconciler(variables: &[(&str, &str)]) -> Result<Self> {
        let deployment = Self::unmigrated(variables).await?;
        deployment.migrate().await?;
        Ok(deployment)
    }

    /// Starts the API without a reconciler, on the database as it is.
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

    /// Migrates the database's schema to the newest version.
    pub async fn migrate(&self) -> Result<()> {
        renga_reconciler::app::migrate_once(&self.environment.database(&mut Vec::new())).await
    }

    /// Opens the database with the native adapter.
    pub fn database(&self) -> Result<NativeDatabase> {
        Ok(NativeDatabase::open(&self.environment.database(&mut Vec::new()))?)
    }

    /// Starts the reconciler if none runs, and waits until the API lists its engines.
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

    /// Starts a further reconciler.
    pub fn start_another_reconciler(&mut self) -> Result<()> {
        let mut config = Config::read(&self.environment).map_err(|problems| anyhow::anyhow!("{problems}"))?;
        config.write_turns = Some(self.write_turns.clone());
        let worlds = self.worlds.clone();
        let connect = move |name: &EngineName, found: &EngineConfig, settings: &EngineSettings| -> Arc<dyn Engine> {
            match worlds.get(name.as_str()) {
                Some(world) => Arc::new(world.engine(settings)),
                None => found.url.connect(settings),
            }
        };
        self.reconcilers.push(Part::spawn(|stopped| async move {
            let stop = async {
                // Dropping the sender stops the reconciler as well.
                let _ = stopped.await;
            };
            renga_reconciler::app::run_on(config, &connect, stop).await
        }));
        Ok(())
    }

    /// Stops every reconciler, as a signal would.
    pub async fn stop_reconciler(&mut self) -> Result<()> {
        for reconciler in self.reconcilers.drain(..) {
            reconciler.stop().await?;
        }
        Ok(())
    }

    /// Returns a folder that exists as long as the deployment.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns a client of the API as the user `subject`.
    pub fn client_of(&self, subject: &str) -> Client {
        self.client.with_token(&self.issuer.token(subject))
    }

    /// Deletes the executions with everything that they left on the engines, and stops everything.
    pub async fn stop(self) -> Result<()> {
        self.client.remove_everything().await?;
        self.leave().await
    }

    /// Stops everything. Objects on engines go on.
    pub async fn leave(mut self) -> Result<()> {
        self.stop_reconciler().await?;
        self.host.stop().await
    }
}

/// Serves the components of a manifest until the part is dropped.
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
        // The manifest requires a file even if everything is in PostgreSQL.
        DatabaseUri::Postgres(_) => folder.join("unused.db"),
    };
    let settings = Settings {
        variables: renga_host::variables_from_env(&manifest, &runtime, &get),
        sqlite: BTreeMap::from([("default".to_owned(), sqlite)]),
        write_turns: BTreeMap::from([("default".to_owned(), write_turns.clone())]),
        cache_dir: workspace().join("target/compiled"),
        // Many tests run in one process, which has memory for the stacks of a few hundred instances.
        limits: Limits { instances: 8, ..Limits::default() },
        variable_faults,
    };
    let host = Arc::new(Host::load(&manifest, settings).await?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let part = Part::spawn(|stopped| async move {
        let stop = async {
            // Dropping the sender stops the host as well.
            let _ = stopped.await;
        };
        host.serve(listener, stop).await.context("the host stopped")
    });
    Ok((part, address))
}

/// Defines each test once per database, with an API and no reconciler. Reports loudly what the machine does not have.
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

/// Calls `found` until it returns a value. Fails after [`PATIENCE`] with the last observation.
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
