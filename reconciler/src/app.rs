//! The one place that names concrete adapters: what the reconciler talks to can be read here.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use renga_shared::auth::SealKeys;
use renga_shared::domain::{EngineName, ExecutionId, Timestamp};
use renga_shared::environment::SEAL_KEY;
use renga_shared::sql::engines::EngineRow;
use renga_shared::sql::uri::DatabaseUri;
use renga_shared::sql::{DatabaseError, deployment, engines as engine_rows, observations, reconcilers};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::db::{NativeDatabase, migrate};
use crate::driver::Driver;
use crate::engine::config::EngineConfig;
use crate::engine::{Engine, EngineSettings};
use crate::engines::{Configured, Engines, Served};
use crate::launch::ACCESS_TOKEN;
use crate::metrics::Metrics;
use crate::placement::Placements;
use crate::random::Random;
use crate::status::{self, Begun};
use crate::tasks::{Context, collect_logs::Collectors, lease, queue, watch::watch};

/// How long running passes may take to end when the process is asked to, and handing over after that.
const PATIENCE: Duration = Duration::from_secs(7);
const HAND_OVER: Duration = Duration::from_secs(2);
/// How long to wait before a database is tried again that is away at the start.
const RETRY: Duration = Duration::from_secs(1);
/// How long it is remembered whose turn it was on an engine.
const TURNS_KEPT: Duration = Duration::from_secs(3600);
/// How often the database is asked whose it is.
const IDENTITY_PERIOD: Duration = Duration::from_secs(5);

/// Runs a reconciler until `stop` completes, then hands over what it held.
///
/// # Errors
/// When its port is taken, the database's schema is newer than this program, or the database has become another. One
/// that is away is waited for.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    raise_open_files();
    run_on(config, &|_, found, settings| found.url.connect(settings), stop).await
}

/// Makes the engine of a name and configuration. Nothing is asked of it yet.
pub type Connect = dyn Fn(&EngineName, &EngineConfig, &EngineSettings) -> Arc<dyn Engine> + Send + Sync;

/// The same, on engines that `connect` makes: tests put worlds of their own behind them.
///
/// # Errors
/// As those of [`run`].
pub async fn run_on(config: Config, connect: &Connect, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    tokio::pin!(stop);
    let listener = TcpListener::bind(config.metrics_address).await.with_context(|| {
        format!(
            "cannot listen on {} for /healthz, /readyz and /metrics; set DEPLOYER_METRICS_ADDRESS to a free address, \
             such as 127.0.0.1:0",
            config.metrics_address
        )
    })?;
    let address = listener.local_addr()?;
    tell_of_tokens(config.tasks.seal_keys.as_ref());
    let begun = Begun::default();
    let mut background = JoinSet::new();
    background.spawn(serve_status(listener, Arc::clone(&begun)));

    let db = NativeDatabase::open_in_turn(&config.database, config.write_turns.clone())?;
    let (deployment, context, heard) = tokio::select! {
        ready = begin(&config, connect, &db) => ready?,
        () = &mut stop => return Ok(()),
    };
    // Set nowhere else.
    let _ = begun.set(context.clone());
    background.spawn(lease::keep(context.clone()));
    background.spawn(queue::keep(context.clone()));
    for served in context.engines.iter() {
        background.spawn(watch(context.clone(), served.clone()));
    }
    tracing::info!(reconciler = %context.id, %address, "reconciler {} is ready; /metrics on {address}", context.id);

    let mut ended = Ok(());
    let stop = async {
        tokio::select! {
            () = stop => {}
            () = becomes_another(&context.db, &deployment) => ended = Err(anyhow!(
                "the database {:?} is another than when the reconciler began: start it again", config.database
            )),
        }
    };
    Driver::new(context.clone(), heard).run(stop, PATIENCE).await;

    background.shutdown().await;
    hand_over(&context).await;
    ended
}

/// Each execution that runs has a connection of its own to its engine, for its logs. Systems let a process open 1,024 files
/// unless it asks for more, up to a limit that is the administrator's.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        let now = limit.current.map_or("any number of".to_owned(), |files| files.to_string());
        tracing::warn!(%error, "this process may open {now} files and cannot ask for more: {error}");
    }
}

/// Says once whether containers get the token of whoever asked for them.
fn tell_of_tokens(keys: Option<&SealKeys>) {
    match keys {
        Some(keys) => {
            let count = keys.count();
            tracing::info!(
                count,
                "containers get their caller's token as {ACCESS_TOKEN}: {SEAL_KEY} has {count} key(s)"
            );
        }
        None => {
            tracing::info!("no token is stored, and containers start without {ACCESS_TOKEN}: {SEAL_KEY} is not set")
        }
    }
}

async fn serve_status(listener: TcpListener, begun: Begun) {
    if let Err(error) = status::serve(listener, begun).await {
        tracing::error!(%error, "/healthz, /readyz and /metrics are no longer served: {error}");
    }
}

/// The deployment's id, the context of all tasks, and where it hears of executions.
type Beginning = (String, Context, mpsc::UnboundedReceiver<ExecutionId>);

/// Does what has to be done before the first pass, as soon as the database answers.
async fn begin(config: &Config, connect: &Connect, db: &NativeDatabase) -> anyhow::Result<Beginning> {
    loop {
        match try_to_begin(config, connect, db).await {
            Ok(beginning) => return Ok(beginning),
            Err(DatabaseError::Unavailable(error)) => {
                tracing::warn!(error, "the database {:?} is waited for: {error}", config.database);
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("cannot use the database {:?}; see SQLALCHEMY_DATABASE_URI", config.database)
                });
            }
        }
    }
}

async fn try_to_begin(config: &Config, connect: &Connect, db: &NativeDatabase) -> Result<Beginning, DatabaseError> {
    migrate(&config.database).await?;
    deployment::set_audit(db, config.track_modifications).await?;
    let proposed = ExecutionId::new(SystemClock.now(), Random::from_system().number().to_be_bytes());
    let deployment = deployment::id(db, &proposed.to_string()).await?;
    let settings = EngineSettings {
        deployment: deployment.clone(),
        host_paths: config.host_paths.clone(),
        container_ip: config.container_ip,
        kubernetes: config.kubernetes.clone(),
    };
    let known = engine_rows::list(db, SystemClock.now()).await?;
    let engines = Engines::new(configured(config, connect, &known, &settings));
    let (context, heard) = context(config, db.clone(), engines);
    lease::renew(&context).await?;
    for served in context.engines.iter() {
        let known = known.iter().find(|row| row.name == served.name);
        announce(&context, served, known).await?;
    }
    // Those that this reconciler or one before it served, and that are not in the configuration any more.
    for name in engine_rows::forget(db, context.now(), context.now()).await? {
        tracing::info!(engine = name, "the engine {name} is no longer configured, and nothing is placed on it");
    }
    observations::forget_turns(db, context.now().minus(TURNS_KEPT)).await?;
    Ok((deployment, context, heard))
}

/// Makes an engine known before anything is asked of it, so that a POST that names it is accepted from the start. What
/// another reconciler that is alive knows of its state stands.
async fn announce(context: &Context, served: &Served, known: Option<&EngineRow>) -> Result<(), DatabaseError> {
    let (db, name) = (&context.db, &served.name);
    engine_rows::serve(db, name, &context.id).await?;
    let mut offer = served.offer();
    match known.filter(|row| row.confirmed) {
        Some(row) => offer.capacity.clone_from(&row.offer.capacity),
        None => {
            let answer = Err("it has not answered yet");
            engine_rows::put(db, name, served.engine.kind(), answer, context.now()).await?;
        }
    }
    engine_rows::describe(db, name, &offer, &served.url).await
}

/// The engines of the configuration, and those that were taken out of it while they still run something: an execution that
/// nobody looks after would be running for ever.
fn configured(config: &Config, connect: &Connect, known: &[EngineRow], settings: &EngineSettings) -> Vec<Configured> {
    let configured = |name: &EngineName, found: &EngineConfig, retired| Configured {
        name: name.clone(),
        engine: connect(name, found, settings),
        options: found.options.clone(),
        url: found.text.clone(),
        retired,
    };
    let mut engines: Vec<Configured> =
        config.engines.iter().map(|(name, found)| configured(name, found, false)).collect();
    for row in known {
        let (name, placed) = (&row.name, row.usage.placed);
        if config.engines.contains_key(name) || placed == 0 {
            continue;
        }
        match row.url.as_deref().map(EngineConfig::parse) {
            Some(Ok(found)) => {
                tracing::warn!(engine = %name, placed, "the engine {name} is no longer configured: it gets nothing new, and the {placed} executions on it are looked after until they end");
                engines.push(configured(name, &found, true));
            }
            _ => {
                tracing::warn!(engine = %name, placed, "the engine {name} is no longer configured, and where it was is not known: the {placed} executions on it are left as they are");
            }
        }
    }
    engines
}

/// Completes when the database has another deployment's id or no tables: another was put in its place. What belongs to
/// this one would be looked for in vain there, and what is made now would bear the wrong labels.
async fn becomes_another(db: &NativeDatabase, deployment: &str) {
    loop {
        tokio::time::sleep(IDENTITY_PERIOD).await;
        match deployment::known_id(db).await {
            Ok(Some(known)) if known == deployment => {}
            Ok(_) | Err(DatabaseError::Schema(_)) => return,
            // It is away, which the lease tells.
            Err(_) => {}
        }
    }
}

fn context(config: &Config, db: NativeDatabase, engines: Engines) -> (Context, mpsc::UnboundedReceiver<ExecutionId>) {
    let random = Random::from_system();
    let id = ExecutionId::new(SystemClock.now(), random.number().to_be_bytes()).to_string();
    let (nudges, heard) = mpsc::unbounded_channel();
    let context = Context {
        id: id.into(),
        db,
        engines,
        clock: Arc::new(SystemClock),
        random,
        settings: Arc::new(config.tasks.clone()),
        collectors: Collectors::default(),
        metrics: Metrics::default(),
        placements: Placements::default(),
        nudges,
        lease_until: Arc::new(AtomicI64::new(Timestamp::default().0)),
    };
    (context, heard)
}

/// Frees what was held, so that others need not wait for the lease to end.
async fn hand_over(context: &Context) {
    context.collectors.abort_all();
    let released = async {
        let held = observations::release_all(&context.db, &context.id, context.now()).await?;
        reconcilers::end(&context.db, &context.id).await?;
        context.db.close().await;
        Ok::<_, DatabaseError>(held.len())
    };
    match tokio::time::timeout(HAND_OVER, released).await {
        Ok(Ok(count)) => tracing::info!(count, "stopped; handed over {count} executions"),
        Ok(Err(error)) => tracing::warn!(%error, "stopped; others take over when the lease ends: {error}"),
        Err(_) => tracing::warn!("stopped; others take over when the lease ends: the database does not answer"),
    }
}

/// Brings the schema of `database` up to date, and says so.
pub async fn migrate_once(database: &DatabaseUri) -> anyhow::Result<()> {
    migrate(database)
        .await
        .with_context(|| format!("cannot migrate the database {database:?}; see SQLALCHEMY_DATABASE_URI"))?;
    tracing::info!("the database {database:?} is up to date");
    Ok(())
}
