//! What the reconciler does, one file per task, and what all of them share.

pub mod collect_logs;
pub mod converge;
pub mod lease;
pub mod queue;
pub mod resync;
pub mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use renga_shared::auth::SealKeys;
use renga_shared::domain::{ExecutionId, Timestamp};
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::db::NativeDatabase;
use crate::engines::Engines;
use crate::metrics::Metrics;
use crate::placement::Placements;
use crate::random::Random;

/// What every task is given.
#[derive(Clone)]
pub struct Context {
    /// This reconciler's id: the holder of what it looks after.
    pub id: Arc<str>,
    /// The database.
    pub db: NativeDatabase,
    /// The engines.
    pub engines: Engines,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness, for jitter.
    pub random: Random,
    /// What the deployment set.
    pub settings: Arc<Settings>,
    /// The collectors that are at work.
    pub collectors: collect_logs::Collectors,
    /// What is counted.
    pub metrics: Metrics,
    /// What is known of the engines' load, for placing.
    pub placements: Placements,
    /// Executions that something was heard of.
    pub nudges: mpsc::UnboundedSender<ExecutionId>,
    /// Until when this reconciler's lease holds.
    pub lease_until: Arc<AtomicI64>,
}

/// What the deployment set for the tasks.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a container that is stopped may take to end by itself.
    pub stop_grace: Duration,
    /// The most bytes kept of an execution's logs: `DEPLOYER_LOG_LIMIT`.
    pub log_limit: i64,
    /// `DEPLOYER_DEFAULT_BASE_URL`: given to containers.
    pub default_base_url: String,
    /// `DEPLOYER_SEAL_KEY`: opens the tokens that containers are given.
    pub seal_keys: Option<SealKeys>,
    /// How long an engine object without a row is left alone: its row may be on its way, or its database restored.
    pub orphan_grace: Duration,
    /// How long after its last sign of life a reconciler is taken for dead: `DEPLOYER_LEASE`.
    pub lease: Duration,
}

impl Context {
    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Whether what this reconciler holds is still its own. Nothing is asked of an engine after that ends: somebody else
    /// may have taken over.
    pub fn lease_holds(&self) -> bool {
        let until = Timestamp(self.lease_until.load(Ordering::Acquire));
        let now = self.now();
        // Before it was taken: the clock was set back, and tells nothing until the lease is renewed.
        now < until && now >= until.minus(lease::usable(self.settings.lease))
    }

    /// Has the driver look at an execution.
    pub fn nudge(&self, id: ExecutionId) {
        // The driver is gone only when the process stops.
        let _ = self.nudges.send(id);
    }

    /// The same, after a pause.
    pub fn nudge_after(&self, pause: Duration, id: ExecutionId) {
        let (sleep, nudges) = (self.clock.sleep(pause), self.nudges.clone());
        tokio::spawn(async move {
            sleep.await;
            // As above.
            let _ = nudges.send(id);
        });
    }
}
