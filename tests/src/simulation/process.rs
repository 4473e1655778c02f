//! A simulated reconciler process: the real tasks, as `renga_reconciler::app` starts them, on simulated surroundings.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use renga_reconciler::clock::{Clock, ManualClock};
use renga_reconciler::db::NativeDatabase;
use renga_reconciler::driver::Driver;
use renga_reconciler::engine::EngineSettings;
use renga_reconciler::engine::config::Options;
use renga_reconciler::engine::fake::FakeWorld;
use renga_reconciler::engines::{Configured, Engines};
use renga_reconciler::metrics::Metrics;
use renga_reconciler::placement::Placements;
use renga_reconciler::tasks::collect_logs::Collectors;
use renga_reconciler::tasks::watch::watch;
use renga_reconciler::tasks::{Context, Settings, lease, queue};
use renga_shared::domain::{EngineName, ExecutionId, Timestamp};
use renga_shared::sql::{DatabaseError, engines, observations, reconcilers};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use super::database::{Link, Store};
use super::dice::Dice;
use super::engine::Lived;
use super::life::{Deeds, Life};

const PATIENCE: Duration = Duration::from_secs(7);
const RETRY: Duration = Duration::from_secs(1);

/// What all processes share.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) clock: ManualClock,
    pub(super) store: Store,
    pub(super) worlds: Vec<(EngineName, FakeWorld)>,
    /// The most executions that an engine may run at once, of those that have a limit.
    pub(super) limits: BTreeMap<EngineName, u32>,
    pub(super) settings: Arc<Settings>,
    /// One statement in so many goes wrong; none for 0.
    pub(super) statements_fail: Arc<Mutex<u64>>,
    /// Counts what all processes do.
    pub(super) deeds: Arc<Deeds>,
}

/// A process.
pub(super) struct Process {
    pub(super) id: Arc<str>,
    pub(super) life: Life,
    collectors: Collectors,
    task: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
}

impl Process {
    pub(super) fn start(around: &Surroundings, dice: &Dice, slow: bool) -> Self {
        let clock = around.clock.clone();
        let life = Life::new(clock.clone(), dice.fork(), slow, Arc::clone(&around.deeds));
        let link = Link {
            store: around.store.clone(),
            life: life.clone(),
            dice: dice.fork(),
            clock: clock.clone(),
            fails_one_in: Arc::clone(&around.statements_fail),
            hearing: Mutex::default(),
        };
        let settings = EngineSettings {
            deployment: "simulated".into(),
            host_paths: Vec::new(),
            container_ip: std::net::Ipv4Addr::LOCALHOST.into(),
            kubernetes: Default::default(),
        };
        let engines = around.worlds.iter().map(|(name, world)| {
            let lived = Lived { engine: world.engine(&settings), life: life.clone() };
            let options = Options { max: around.limits.get(name).copied(), ..Options::default() };
            Configured { options, ..Configured::plain(name.clone(), Arc::new(lived)) }
        });
        let (nudges, heard) = mpsc::unbounded_channel();
        let skew = i64::try_from(dice.below(2_000_000)).unwrap_or_default() - 1_000_000;
        let context = Context {
            id: ExecutionId::new(clock.now(), dice.number().to_be_bytes()).to_string().into(),
            db: NativeDatabase::Substitute(Arc::new(link)),
            engines: Engines::new(engines),
            clock: Arc::new(Skewed(clock, skew)),
            random: dice.random(),
            settings: Arc::clone(&around.settings),
            collectors: Collectors::default(),
            metrics: Metrics::default(),
            placements: Placements::default(),
            nudges,
            lease_until: Arc::new(AtomicI64::new(0)),
        };
        let (stop, stopped) = oneshot::channel();
        let (id, collectors) = (Arc::clone(&context.id), context.collectors.clone());
        Self { id, life, collectors, task: tokio::spawn(run(context, heard, stopped)), stop: Some(stop) }
    }

    /// Asks it to stop in good order. Whether it is the first time.
    pub(super) fn stop(&mut self) -> bool {
        self.stop.take().is_some_and(|stop| stop.send(()).is_ok())
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_none()
    }

    /// Whether it has ended, killed or not.
    pub(super) fn has_ended(&self) -> bool {
        self.life.is_dead() || self.task.is_finished()
    }

    /// Removes what is left of it.
    pub(super) fn bury(self) {
        // Whatever is left of it waits for ever in its life, or would after the next passage.
        self.life.kill_after(0);
        self.task.abort();
        self.collectors.abort_all();
    }
}

async fn run(context: Context, heard: mpsc::UnboundedReceiver<ExecutionId>, stopped: oneshot::Receiver<()>) {
    while let Err(error) = begin(&context).await {
        tracing::debug!(%error, "{} begins later: {error}", context.id);
        context.clock.sleep(RETRY).await;
    }
    let mut background = JoinSet::new();
    background.spawn(lease::keep(context.clone()));
    background.spawn(queue::keep(context.clone()));
    for served in context.engines.iter() {
        background.spawn(watch(context.clone(), served.clone()));
    }
    let stop = async {
        // The simulation drops a process only together with its task.
        let _ = stopped.await;
    };
    Driver::new(context.clone(), heard).run(stop, PATIENCE).await;
    background.shutdown().await;
    context.collectors.abort_all();
    let handed_over = async {
        observations::release_all(&context.db, &context.id, context.now()).await?;
        reconcilers::end(&context.db, &context.id).await
    };
    if let Err(error) = handed_over.await {
        tracing::debug!(%error, "{} hands nothing over: {error}", context.id);
    }
}

async fn begin(context: &Context) -> Result<(), DatabaseError> {
    lease::renew(context).await?;
    for served in context.engines.iter() {
        let answer = Err("it has not answered yet");
        engines::serve(&context.db, &served.name, &context.id).await?;
        engines::put(&context.db, &served.name, served.engine.kind(), answer, context.now()).await?;
        engines::describe(&context.db, &served.name, &served.offer(), &served.url).await?;
    }
    Ok(())
}

/// A clock that is wrong by so many microseconds.
struct Skewed(ManualClock, i64);

impl Clock for Skewed {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.now().0 + self.1)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0.sleep(duration)
    }
}
