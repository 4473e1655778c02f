//! Decides when a pass runs, and knows nothing of what it does.
//!
//! A row is looked at when it is due, when something was heard of it, and never twice at once. Hints (database changes, engine
//! events) only make that sooner. On a graceful stop, everything held is handed over.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use renga_shared::domain::ExecutionId;
use renga_shared::sql::{DatabaseError, observations};
use tokio::sync::{Notify, mpsc};
use tokio::task::{Id, JoinSet};

use crate::db::Changes;
use crate::tasks::Context;
use crate::tasks::converge::{PassError, converge};

/// The most passes at once. Most of a pass is waiting for an engine.
const MOST_PASSES: usize = 256;
/// So much room is worth a claim: each is a write, and a claim for every pass that ends would take most of the time. The rest
/// waits for the next period.
const WORTH_A_CLAIM: usize = MOST_PASSES / 4;
/// How often rows are looked for although nothing was heard: what no hint told is found this late.
const PERIOD: Duration = Duration::from_secs(1);
/// How long to leave a row alone whose pass failed.
const RETRY: Duration = Duration::from_secs(1);

/// Runs passes.
pub struct Driver {
    context: Context,
    nudges: mpsc::UnboundedReceiver<ExecutionId>,
    /// What was heard of and waits for a pass, the oldest first.
    heard: BTreeSet<ExecutionId>,
    /// Whether rows may be due that nobody has claimed.
    missed: bool,
    passes: JoinSet<Result<(), PassError>>,
    running: HashMap<ExecutionId, Running>,
    tasks: HashMap<Id, ExecutionId>,
}

/// A pass that runs.
struct Running {
    /// Tells it that its row changed.
    nudged: Arc<Notify>,
    /// Whether another is to follow.
    again: bool,
}

impl Driver {
    /// A driver that hears of executions through `nudges`.
    pub fn new(context: Context, nudges: mpsc::UnboundedReceiver<ExecutionId>) -> Self {
        Self {
            context,
            nudges,
            heard: BTreeSet::new(),
            missed: true,
            passes: JoinSet::new(),
            running: HashMap::new(),
            tasks: HashMap::new(),
        }
    }

    /// Runs until `stop` completes, then lets running passes end, for `patience` at most.
    pub async fn run(mut self, stop: impl Future<Output = ()>, patience: Duration) {
        tokio::pin!(stop);
        let mut changes = Changes::of(self.context.db.clone());
        let mut tick: BoxFuture<'static, ()> = Box::pin(std::future::ready(()));
        loop {
            tokio::select! {
                biased;
                // Also in the midst of a turn: a database that does not answer must not hold up the stop.
                () = &mut stop => break,
                () = self.turn(&mut changes, &mut tick) => {}
            }
        }
        self.drain(patience).await;
    }

    /// Waits for something to happen, and sees to it. Dropped halfway, it may leave rows claimed and not begun, which
    /// are handed over with the others.
    async fn turn(&mut self, changes: &mut Changes, tick: &mut BoxFuture<'static, ()>) {
        let mut period = false;
        tokio::select! {
            biased;
            Some(id) = self.nudges.recv() => {
                self.hear(id);
                // All that is known by now is claimed at once.
                while let Ok(id) = self.nudges.try_recv() {
                    self.hear(id);
                }
            }
            Some(ended) = self.passes.join_next_with_id() => {
                self.ended(ended);
                while let Some(ended) = self.passes.try_join_next_with_id() {
                    self.ended(ended);
                }
            }
            () = changes.next() => self.missed = true,
            () = &mut *tick => period = true,
        }
        // However much engines and passes have to tell, a wish does not wait for it to end.
        if period || tick.as_mut().now_or_never().is_some() {
            *tick = self.context.clock.sleep(PERIOD);
            (period, self.missed) = (true, true);
        }
        if !period && self.room() < WORTH_A_CLAIM {
            return;
        }
        self.take_up().await;
        if self.missed
            && let Err(error) = self.look().await
        {
            tracing::warn!(%error, "rows that are due are looked for again later: {error}");
        }
    }

    fn room(&self) -> usize {
        MOST_PASSES.saturating_sub(self.running.len())
    }

    /// Claims what is due and runs a pass for each.
    pub async fn look(&mut self) -> Result<(), DatabaseError> {
        // Until there is nothing due, or no room: then a later turn goes on.
        while self.room() > 0 && self.context.lease_holds() {
            let (db, id, now) = (&self.context.db, &self.context.id, self.context.now());
            // Asking first costs no lock; only what is due is worth a write.
            if observations::next_due(db, id, now).await?.is_none_or(|due| due > now) {
                self.missed = false;
                return Ok(());
            }
            let room = u32::try_from(self.room()).unwrap_or(u32::MAX);
            let claimed = observations::claim_due(db, id, now, room).await?;
            if claimed.is_empty() {
                self.missed = false;
                return Ok(());
            }
            for id in claimed {
                self.begin(id);
            }
        }
        Ok(())
    }

    /// Something happened to this execution: the pass that runs is told and another follows, or one begins soon.
    fn hear(&mut self, id: ExecutionId) {
        match self.running.get_mut(&id) {
            Some(running) => {
                running.again = true;
                running.nudged.notify_one();
            }
            None => _ = self.heard.insert(id),
        }
    }

    /// Begins passes for what was heard of, as far as there is room. What cannot be claimed now waits for the next turn.
    async fn take_up(&mut self) {
        let room = self.room();
        if self.heard.is_empty() || room == 0 || !self.context.lease_holds() {
            return;
        }
        let ids: Vec<ExecutionId> = self.heard.iter().copied().take(room).collect();
        let (db, holder, now) = (&self.context.db, &self.context.id, self.context.now());
        match observations::claim(db, holder, now, &ids).await {
            Ok(claimed) => {
                for id in &ids {
                    self.heard.remove(id);
                }
                // The others have ended or are somebody else's, and so are their logs.
                self.context.collectors.forget(ids.into_iter().filter(|id| !claimed.contains(id)));
                for id in claimed {
                    self.begin(id);
                }
            }
            Err(error) => tracing::warn!(%error, "{} executions are looked at again later: {error}", ids.len()),
        }
    }

    fn begin(&mut self, id: ExecutionId) {
        if self.running.contains_key(&id) {
            self.hear(id);
            return;
        }
        self.heard.remove(&id);
        let nudged = Arc::new(Notify::new());
        let (context, told) = (self.context.clone(), Arc::clone(&nudged));
        let task = self.passes.spawn(async move { converge(&context, id, told).await });
        self.tasks.insert(task.id(), id);
        self.running.insert(id, Running { nudged, again: false });
    }

    fn ended(&mut self, ended: Result<(Id, Result<(), PassError>), tokio::task::JoinError>) {
        let (task, failed) = match ended {
            Ok((task, Ok(()))) => (task, None),
            Ok((task, Err(error))) => (task, Some(error.to_string())),
            Err(error) => (error.id(), Some("it panicked".to_owned())),
        };
        let Some(id) = self.tasks.remove(&task) else { return };
        let again = self.running.remove(&id).is_some_and(|running| running.again);
        self.context.metrics.pass(failed.is_none());
        if let Some(error) = failed {
            tracing::warn!(execution = %id, error, "the pass of execution {id} is repeated: {error}");
            self.context.nudge_after(RETRY, id);
        } else if again {
            self.heard.insert(id);
        }
    }

    async fn drain(mut self, patience: Duration) {
        let patience = self.context.clock.sleep(patience);
        let ended = async { while self.passes.join_next().await.is_some() {} };
        tokio::select! {
            biased;
            () = ended => {}
            () = patience => {}
        }
        // Cut off where they stand, which every pass must survive anyway.
        self.passes.shutdown().await;
    }
}
