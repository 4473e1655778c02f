//! The reconciler in a world where everything goes wrong, by a clock that is moved by hand and by chance from a seed.
//!
//! What runs is real: the driver, the passes, the collectors, the leases and the watches, in one to three reconcilers at
//! once, on the shipped schema in SQLite and on fake engines. What they stand on is ruled by the dice: when a statement or
//! a call is answered and whether at all, whose clock is how wrong, who is killed at which of its deeds, frozen or stopped,
//! which engine is away, what users want and what others take away by hand. One thread and one seed: the same seed gives
//! the same run, deed for deed.
//!
//! `rules.rs` says what must be true, at every change of a row and whenever everything has come to rest.

mod change;
mod database;
mod dice;
mod engine;
mod life;
mod operations;
mod process;
mod rules;
mod trace;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use renga_reconciler::clock::{Clock as _, ManualClock};
use renga_reconciler::engine::fake::FakeWorld;
use renga_reconciler::tasks::Settings;
use renga_reconciler::tasks::watch::RESYNC_PERIOD;
use renga_shared::auth::{KEY_BYTES, SealKeys};
use renga_shared::domain::{EngineName, Phase, Timestamp};
use tracing_subscriber::layer::SubscriberExt as _;

use self::database::Store;
use self::dice::Dice;
use self::life::Deed;
use self::operations::Asked;
use self::process::{Process, Surroundings};
use self::rules::Rules;

/// The limit of logs in the simulation: small, so that it is met.
const LOG_LIMIT: i64 = 96 * 1024;
/// How many executions the second engine may run at once: few, so that it is often full.
const LIMIT: u32 = 3;
/// Everything is brought to rest after so many steps, on average.
const STEPS_TO_REST: u64 = 500;
/// How long that may take by the simulated clock, once nothing goes wrong any more.
const RESTS_WITHIN: Duration = Duration::from_secs(600);
/// How long nothing changes then, to see that nothing is done.
const QUIET: Duration = Duration::from_secs(120);
/// What one reconciler may do in that time, counted twice: its lease, looks at what is due whenever somebody wrote or a
/// second went by, and probes.
const STATEMENTS_WHEN_QUIET: u64 = 2 * (120 + 4 * 32 + 3 * 32 + 40);
/// The same for looks at the queues, three statements each, while somebody waits for an engine, and at whoever waits.
const STATEMENTS_WHEN_WAITING: u64 = 2 * (3 * 120 + 40);
const CALLS_WHEN_QUIET: u64 = 2 * 2 * 10;

/// What a simulation did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Steps taken.
    pub steps: u64,
    /// Executions asked for.
    pub executions: u64,
    /// Statements and engine calls of all reconcilers.
    pub deeds: u64,
    /// Processes killed.
    pub kills: u64,
    /// How often everything was brought to rest.
    pub rests: u64,
    /// Executions that exited.
    pub exited: u64,
    /// Executions that failed.
    pub failed: u64,
    /// Executions that were lost.
    pub lost: u64,
    /// Executions that were removed.
    pub removed: u64,
    /// How often an engine put off the removal of what had ended.
    pub delayed_removals: u64,
    /// How often a start was carried out too late: after a look that found the object not started, and before the record that
    /// it was stopped before it started. Rare, or something else is wrong.
    pub late_starts: u64,
    /// The time that went by in it.
    pub simulated: Duration,
    /// A digest of the run: the same for the same seed.
    pub digest: u64,
}

/// Runs a simulation.
///
/// # Errors
/// The first rules that were broken, with the seed and what happened before.
pub fn run(seed: u64, steps: u64) -> Result<Summary, String> {
    let subscriber = tracing_subscriber::registry().with(trace::Listener);
    let _listening = tracing::subscriber::set_default(subscriber);
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut simulation = Simulation::new(seed).map_err(|error| error.to_string())?;
        simulation.run(steps).await
    })
}

struct Simulation {
    seed: u64,
    dice: Dice,
    around: Surroundings,
    processes: Vec<Process>,
    asked: Vec<Asked>,
    summary: Summary,
    began: Timestamp,
}

impl Simulation {
    fn new(seed: u64) -> anyhow::Result<Self> {
        let began = Timestamp(1_800_000_000_000_000);
        let clock = ManualClock::new(began);
        let world = |name: &str| -> anyhow::Result<_> {
            Ok((EngineName::parse(name)?, FakeWorld::new(Arc::new(clock.clone()))))
        };
        let worlds = vec![world("one")?, world("two")?];
        let limits = BTreeMap::from([(EngineName::parse("two")?, LIMIT)]);
        let rules = Rules::new(worlds.iter().cloned().collect(), limits.clone(), LOG_LIMIT);
        let settings = Settings {
            stop_grace: Duration::from_secs(10),
            log_limit: LOG_LIMIT,
            default_base_url: "/".into(),
            seal_keys: Some(SealKeys::parse(&SealKeys::new_key([1; KEY_BYTES]))?),
            orphan_grace: Duration::from_secs(60),
            lease: Duration::from_secs(15),
        };
        let around = Surroundings {
            clock,
            store: Store::new(rules)?,
            worlds,
            limits,
            settings: Arc::new(settings),
            statements_fail: Arc::default(),
            deeds: Arc::default(),
        };
        let dice = Dice::from_seed(seed);
        let (processes, asked) = (Vec::new(), Vec::new());
        Ok(Self { seed, dice, around, processes, asked, summary: Summary::default(), began })
    }

    async fn run(&mut self, steps: u64) -> Result<Summary, String> {
        for step in 1..=steps {
            self.summary.steps = step;
            self.operate();
            self.let_run().await;
            self.check()?;
            if self.dice.one_in(STEPS_TO_REST) || step == steps {
                self.come_to_rest().await?;
            }
        }
        self.summary.deeds = self.deeds();
        let rules = self.around.store.rules();
        let reached = |phase| rules.reached.get(&phase).copied().unwrap_or_default();
        self.summary.exited = reached(Phase::Exited);
        self.summary.failed = reached(Phase::Failed);
        self.summary.lost = reached(Phase::Lost);
        self.summary.removed = reached(Phase::Removed);
        self.summary.delayed_removals = rules.delayed_removals;
        self.summary.late_starts = rules.late_starts;
        self.summary.simulated = self.around.clock.now().since(self.began);
        Ok(self.summary)
    }

    /// Lets everybody do a few things, not as much as they could.
    async fn let_run(&mut self) {
        for _ in 0..=self.dice.below(6) {
            tokio::task::yield_now().await;
        }
        let deeds = self.deeds();
        self.summary.digest = (self.summary.digest ^ deeds).wrapping_mul(0x0100_0000_01b3);
        self.bury_the_dead();
    }

    fn bury_the_dead(&mut self) {
        for at in (0..self.processes.len()).rev() {
            if self.processes[at].has_ended() {
                let process = self.processes.remove(at);
                self.summary.kills += u64::from(process.life.is_dead());
                process.bury();
            }
        }
    }

    /// Lets everybody do all that they can do without time going by. Fails if that never ends.
    async fn let_run_out(&mut self) -> Result<(), String> {
        let (mut deeds, mut idle) = (self.deeds(), 0);
        let most = deeds + 200_000;
        while idle < 12 {
            tokio::task::yield_now().await;
            let now = self.deeds();
            idle = if now == deeds { idle + 1 } else { 0 };
            deeds = now;
            if deeds > most {
                return Err(self.failure("something is done again and again without end"));
            }
        }
        self.bury_the_dead();
        Ok(())
    }

    fn deeds(&self) -> u64 {
        self.around.deeds.all()
    }

    fn check(&self) -> Result<(), String> {
        let broken = self.around.store.rules().broken.first().cloned();
        match broken {
            Some(text) => Err(self.failure(&text)),
            None => Ok(()),
        }
    }

    fn failure(&self, text: &str) -> String {
        let id = text.split([':', ' ']).next().filter(|word| word.len() == 36);
        format!(
            "What happened before:\n{}\n{text}\nat step {}, {:?} into it; RENGA_SIM_SEED={} plays it again.",
            trace::last(id, 150),
            self.summary.steps,
            self.around.clock.now().since(self.began),
            self.seed,
        )
    }

    /// Nothing goes wrong any more: everything must come to rest, be as it should, and stay so without being looked at.
    async fn come_to_rest(&mut self) -> Result<(), String> {
        self.end_all_trouble();
        self.summary.rests += 1;
        let deadline = self.around.clock.now().plus(RESTS_WITHIN);
        self.let_run_out().await?;
        while let Some(restless) = self.around.store.restless() {
            if self.around.clock.now() > deadline {
                return Err(self.failure(&restless));
            }
            self.next_moment();
            self.let_run_out().await?;
            self.check()?;
        }
        // The orphans go last: one that a late answer left behind is found by the next comparison, then left alone for a while.
        self.pass_time(RESYNC_PERIOD + self.around.settings.orphan_grace * 2).await?;
        self.around.store.at_rest();
        self.check()?;
        let deeds = |deed| self.around.deeds.of(deed);
        let before = (deeds(Deed::Statement), deeds(Deed::Call));
        self.pass_time(QUIET).await?;
        let deeds = |deed| self.around.deeds.of(deed);
        let (statements, calls) = (deeds(Deed::Statement) - before.0, deeds(Deed::Call) - before.1);
        let processes = self.processes.len() as u64;
        let allowed = STATEMENTS_WHEN_QUIET + if self.around.store.waiting() { STATEMENTS_WHEN_WAITING } else { 0 };
        if statements > processes * allowed || calls > processes * CALLS_WHEN_QUIET {
            let text =
                format!("{statements} statements and {calls} calls of {processes} processes in {QUIET:?} of nothing");
            return Err(self.failure(&text));
        }
        let live = self.around.store.forget_ended();
        self.asked.retain(|asked| live.contains(&asked.id));
        self.check()
    }

    async fn pass_time(&mut self, duration: Duration) -> Result<(), String> {
        let until = self.around.clock.now().plus(duration);
        while self.around.clock.now() < until {
            self.next_moment();
            self.let_run_out().await?;
            self.check()?;
        }
        Ok(())
    }

    /// Moves the clock to where somebody wakes.
    fn next_moment(&self) {
        let clock = &self.around.clock;
        let next = clock.next_wake().map_or(Duration::from_secs(1), |wake| wake.since(clock.now()));
        clock.advance(next.max(Duration::from_millis(1)));
    }

    fn statements_fail(&self, one_in: u64) {
        *self.around.statements_fail.lock().unwrap_or_else(PoisonError::into_inner) = one_in;
    }
}
