//! `up`: the API and the reconciler in one process. The one place that names both.

mod listen;
mod welcome;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use renga_host::{Host, Limits, Manifest, RuntimeConfig, Settings, variables_from_env};
use renga_reconciler::config::{Config, environment_of_process};
use renga_reconciler::db::WriteTurns;
use renga_shared::auth::{KEY_BYTES, SealKeys};
use renga_shared::config::ApiConfig;
use renga_shared::domain::Timestamp;
use renga_shared::environment::{BadVariable, Environment, SEAL_KEY};
use renga_shared::sql::uri::DatabaseUri;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::args::Up;
use crate::ended::{Ended, Failure};
use crate::issuer::{DEFAULT_ISSUER, DEFAULT_SCOPE_CLAIM, Issuer};
use crate::output;
use crate::signals;
use crate::state::{IssuerFacts, StateFolder};
use welcome::Welcome;

/// How long requests in flight get when asked to stop: `logs --follow` would use up any time.
const REQUESTS: Duration = Duration::from_secs(4);
/// When a stop that does not end is ended.
const STOP: Duration = Duration::from_secs(10);
/// The label of the components' SQLite database in `spin.toml`.
const SQLITE_LABEL: &str = "default";

/// Runs the service until it is asked to stop.
pub(crate) async fn up(
    up: &Up,
    folder: Result<StateFolder>,
    get: &dyn Fn(&str) -> Option<String>,
    now: Timestamp,
    random: [u8; KEY_BYTES],
) -> Result<Ended, Failure> {
    let mut requests = signals::stop_requests()?;
    renga_reconciler::logging::start();
    let mut environment = environment_of_process().map_err(|problems| wrong(&problems))?;
    let dev = if up.dev { Some(development(&mut environment, folder?, random)?) } else { None };
    let (api, mut config) = configuration(&environment, up.dev)?;
    config.write_turns = Some(WriteTurns::default());
    tracing::info!("{}", who_is_believed(&api));
    let listen = listen::choose(up, &environment)?;

    let listener = listen.bind().await?;
    let address = listener.local_addr().context("cannot tell the address that is listened on")?;
    if environment.text("DEPLOYER_URL").is_none() {
        environment.set("DEPLOYER_URL", listen.url(address));
    }
    migrate_database(&config.database).await?;
    let host = Arc::new(load(up, &environment, &config).await?);

    let database = config.database.clone();
    let parts = Parts::start(host, listener, config);
    let welcome = Welcome {
        url: listen.url(address),
        base_path: api.base_path.as_deref(),
        database: &database,
        dev: dev.as_ref(),
        try_image: &up.try_image,
    };
    welcome.print(get, now)?;
    parts.run(&mut requests).await
}

/// `migrate`: brings the schema up to date, and says so.
pub(crate) async fn migrate() -> Result<Ended, Failure> {
    let environment = environment_of_process().map_err(|problems| wrong(&problems))?;
    let mut problems = Vec::new();
    let database = environment.database(&mut problems);
    if !problems.is_empty() {
        return Err(wrong(&problems));
    }
    migrate_database(&database).await?;
    output::line(&format!("the schema of {database:?} is up to date"))?;
    Ok(Ended::Done)
}

async fn migrate_database(database: &DatabaseUri) -> Result<()> {
    renga_reconciler::db::migrate(database).await.with_context(|| {
        format!("cannot use the database {database:?}; SQLALCHEMY_DATABASE_URI names it, such as sqlite:////folder/deployer.db")
    })
}

/// The development issuer of `up --dev`, with the folder that its key is in. No issuer where tokens are verified with a
/// key that was configured.
pub(crate) struct Development {
    folder: StateFolder,
    issuer: Option<Issuer>,
}

/// Has tokens verified with the development issuer's key, unless a key is configured, and handed to containers.
fn development(environment: &mut Environment, folder: StateFolder, random: [u8; KEY_BYTES]) -> Result<Development> {
    if environment.text("DEPLOYER_JWT_KEY").is_some() {
        return Ok(Development { folder, issuer: None });
    }
    for (name, value) in [("DEPLOYER_JWT_ISSUER", DEFAULT_ISSUER), ("DEPLOYER_TOKEN_SCOPE_KEY", DEFAULT_SCOPE_CLAIM)] {
        if environment.text(name).is_none() {
            environment.set(name, value);
        }
    }
    let said = |name, default: &str| environment.text(name).unwrap_or(default).to_owned();
    let facts = IssuerFacts {
        issuer: said("DEPLOYER_JWT_ISSUER", DEFAULT_ISSUER),
        scope_claim: said("DEPLOYER_TOKEN_SCOPE_KEY", DEFAULT_SCOPE_CLAIM),
    };
    let issuer = Issuer::open(&folder, facts)?;
    environment.set("DEPLOYER_JWT_KEY", issuer.public_key());
    if environment.text(SEAL_KEY).is_none() {
        environment.set(SEAL_KEY, seal_key(&folder, random)?);
    }
    Ok(Development { folder, issuer: Some(issuer) })
}

/// Who decides about tokens.
fn who_is_believed(api: &ApiConfig) -> String {
    let issuer = &api.expected.issuer;
    match (&api.resource_manager, &api.key) {
        (Some(url), _) => format!("tokens are exchanged at the resource manager {url}"),
        (None, Some(key)) => format!("tokens of {issuer} are verified with the key {}", key.fingerprint()),
        (None, None) => format!("tokens of {issuer} are verified with the keys that it publishes"),
    }
}

/// The key that the development issuer's tokens are sealed with until their containers are launched. It is made on first use.
fn seal_key(folder: &StateFolder, random: [u8; KEY_BYTES]) -> Result<String> {
    let key = folder.seal_key(&SealKeys::new_key(random))?;
    if SealKeys::parse(&key).is_err() {
        bail!("{} holds no key; remove it, and a new one is made", folder.seal_key_path().display());
    }
    Ok(key)
}

/// Both parts' configuration, or all that is wrong with either.
fn configuration(environment: &Environment, dev: bool) -> Result<(ApiConfig, Config), Failure> {
    match (ApiConfig::read(environment), Config::read(environment)) {
        (Ok(api), Ok(config)) => Ok((api, config)),
        (api, config) => {
            let mut problems = api.err().unwrap_or_default();
            problems.extend(config.err().map(|bad| bad.0).unwrap_or_default());
            let hint = if !dev && environment.text("DEPLOYER_JWT_KEY").is_none() {
                "\nWithout DEPLOYER_JWT_KEY, tokens are verified with the keys that DEPLOYER_JWT_ISSUER publishes; \
                 on a laptop, `renga-deployer up --dev` brings an issuer of its own."
            } else {
                ""
            };
            Err(Failure::Usage(format!("{}{hint}", told(&problems))))
        }
    }
}

pub(crate) fn wrong(problems: &[BadVariable]) -> Failure {
    Failure::Usage(told(problems))
}

/// Each mistake once: both parts read some variables.
fn told(problems: &[BadVariable]) -> String {
    let lines: BTreeSet<String> = problems.iter().map(|problem| format!("\n  {problem}")).collect();
    format!("the configuration is not usable:{}", lines.into_iter().collect::<String>())
}

async fn load(up: &Up, environment: &Environment, config: &Config) -> Result<Host> {
    let path = manifest_path(up.manifest.as_deref(), std::env::current_exe().ok().as_deref())?;
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    let manifest = Manifest::load(&path)?;
    let runtime_config = up.runtime_config.clone().unwrap_or_else(|| folder.join("runtime-config.toml"));
    let runtime_config = RuntimeConfig::load(&runtime_config)?;
    let mut sqlite = runtime_config.sqlite().clone();
    if let DatabaseUri::Sqlite(path) = &config.database {
        sqlite.insert(SQLITE_LABEL.to_owned(), PathBuf::from(path));
    }
    let get = |name: &str| environment.text(name).map(str::to_owned);
    let settings = Settings {
        variables: variables_from_env(&manifest, &runtime_config, &get),
        sqlite,
        // The API and the reconciler write to the same file, in this process.
        write_turns: config.write_turns.iter().map(|turns| (SQLITE_LABEL.to_owned(), turns.clone())).collect(),
        cache_dir: folder.join("target/compiled"),
        limits: Limits { graceful_stop: REQUESTS, ..Limits::default() },
        ..Settings::default()
    };
    Ok(Host::load(&manifest, settings).await?)
}

/// The manifest: as given, here, or in a folder above the program, as in a workspace that built it.
fn manifest_path(given: Option<&Path>, program: Option<&Path>) -> Result<PathBuf> {
    const NAME: &str = "spin.toml";
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let above = program.into_iter().flat_map(Path::ancestors).skip(1).map(|folder| folder.join(NAME));
    match std::iter::once(PathBuf::from(NAME)).chain(above).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("there is no {NAME} here or above the program; say where it is with --manifest FILE"),
    }
}

/// What runs.
struct Parts {
    running: JoinSet<Result<()>>,
    stop: watch::Sender<bool>,
}

impl Parts {
    fn start(host: Arc<Host>, listener: TcpListener, config: Config) -> Self {
        let (stop, _) = watch::channel(false);
        let mut running = JoinSet::new();
        let asked = stopped(&stop);
        running.spawn(async move { host.serve(listener, asked).await.context("the API ended") });
        let asked = stopped(&stop);
        running.spawn(async move { renga_reconciler::app::run(config, asked).await.context("the reconciler ended") });
        Self { running, stop }
    }

    /// Until a first request stops them and they have ended, or a second, or one of them ends by itself.
    async fn run(mut self, requests: &mut tokio::sync::mpsc::UnboundedReceiver<()>) -> Result<Ended, Failure> {
        let mut problem = None;
        tokio::select! {
            _ = requests.recv() => tracing::info!("stopping; once more ends it at once"),
            Some(ended) = self.running.join_next() => problem = Some(flat(ended).err().unwrap_or_else(|| anyhow!("a part of it ended"))),
        }
        self.stop.send_replace(true);
        let rest = async {
            while let Some(ended) = self.running.join_next().await {
                problem = problem.take().or(flat(ended).err());
            }
        };
        tokio::select! {
            ended = tokio::time::timeout(STOP, rest) => {
                if ended.is_err() {
                    tracing::warn!("not everything ended within {STOP:?}; the next start takes over");
                }
            }
            _ = requests.recv() => return Ok(Ended::Left),
        }
        match problem {
            Some(problem) => Err(Failure::Failed(problem)),
            None => Ok(Ended::Done),
        }
    }
}

fn flat(ended: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended.map_err(anyhow::Error::from).flatten()
}

/// Completes when `stop` says so.
fn stopped(stop: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + use<> {
    let mut stop = stop.subscribe();
    async move {
        // Without a sender there is nobody left to run for.
        let _ = stop.wait_for(|stop| *stop).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_found_above_the_program() {
        let temp = tempfile::tempdir().unwrap();
        let program = temp.path().join("target/debug/renga-deployer");
        // Tests run in the crate's own folder, which has none.
        let told = manifest_path(None, Some(&program)).unwrap_err().to_string();
        assert!(told.contains("--manifest"), "{told}");
        std::fs::write(temp.path().join("spin.toml"), "").unwrap();
        assert_eq!(manifest_path(None, Some(&program)).unwrap(), temp.path().join("spin.toml"));
        assert_eq!(manifest_path(Some(Path::new("x.toml")), Some(&program)).unwrap(), Path::new("x.toml"));
    }

    #[test]
    fn a_mistake_that_both_parts_see_is_told_once_with_the_others() {
        let variables = [("SQLALCHEMY_DATABASE_URI", "mysql://u:hunter2@h/d"), ("DEPLOYER_STOP_GRACE", "soon")];
        let environment: Environment =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let told = configuration(&environment, false).unwrap_err().to_string();
        assert_eq!(told.matches("SQLALCHEMY_DATABASE_URI").count(), 1, "{told}");
        assert!(told.contains("DEPLOYER_STOP_GRACE is \"soon\"") && told.contains("DEPLOYER_JWT_KEY"), "{told}");
        assert!(told.contains("up --dev") && !told.contains("hunter2"), "{told}");
    }

    #[test]
    fn a_configured_key_is_not_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let folder = StateFolder::choose(Some(temp.path()), &|_| None).unwrap();
        let mut environment = Environment::default();
        environment.set("DEPLOYER_JWT_KEY", "mine");
        assert!(development(&mut environment, folder.clone(), [1; KEY_BYTES]).unwrap().issuer.is_none());
        assert_eq!(environment.text("DEPLOYER_JWT_KEY"), Some("mine"));

        let mut environment = Environment::default();
        environment.set("DEPLOYER_JWT_ISSUER", "http://mine");
        let issuer = development(&mut environment, folder, [1; KEY_BYTES]).unwrap().issuer.unwrap();
        assert_eq!(issuer.facts().issuer, "http://mine");
        assert!(configuration(&environment, true).is_ok());
    }

    #[test]
    fn the_development_issuers_tokens_are_handed_on_with_a_key_that_is_made_once() {
        let temp = tempfile::tempdir().unwrap();
        let folder = StateFolder::choose(Some(temp.path()), &|_| None).unwrap();
        let key_of = |given: Option<&str>, random| {
            let mut environment = Environment::default();
            if let Some(given) = given {
                environment.set(SEAL_KEY, given);
            }
            development(&mut environment, folder.clone(), [random; KEY_BYTES])
                .map(|_| environment.text(SEAL_KEY).unwrap().to_owned())
        };
        let first = key_of(None, 1).unwrap();
        assert!(SealKeys::parse(&first).is_ok());
        assert_eq!(key_of(None, 2).unwrap(), first, "the second start has the same key");
        assert_eq!(key_of(Some("mine"), 3).unwrap(), "mine");
        std::fs::write(folder.seal_key_path(), "not a key").unwrap();
        let told = key_of(None, 4).unwrap_err().to_string();
        assert!(told.contains("dev-seal-key") && !told.contains("not a key"), "{told}");
    }
}
