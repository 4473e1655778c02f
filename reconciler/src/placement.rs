//! What this reconciler knows of the engines' load, and the decision for an execution by it.
//!
//! The rules are `renga_shared::placement`; here is what they are applied to. The load is read from the database, since other reconcilers
//! place too, but not anew for each execution: what is placed meanwhile is added. So a decision may rest on a load that is a
//! moment old; the record of it is guarded, and an engine's limit is kept there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use renga_shared::domain::{EngineName, ExecutionId, Specification, Timestamp, Why};
use renga_shared::placement::{Asked, Candidate, Capacity, Decision, Needs, PlacementRecord, Queue, Tried, decide};
use renga_shared::sql::observations::{self, Work};
use renga_shared::sql::{DatabaseError, between_commas, engines};
use tokio::sync::{Mutex, Notify};

use crate::tasks::Context;

/// How long what was read is believed.
const FRESH: Duration = Duration::from_millis(250);
/// How far a queue is looked at.
const QUEUE_SEEN: u32 = 256;

/// What is known of the engines' load.
#[derive(Clone, Default)]
pub struct Placements {
    load: Arc<Mutex<Option<Load>>>,
    /// Counts how often what was read became out of date.
    changes: Arc<AtomicU64>,
    /// Whether anybody was seen to wait for an engine.
    waited_for: Arc<AtomicBool>,
    changed: Arc<Notify>,
}

/// The load as it was read, with what was placed since.
struct Load {
    read: Timestamp,
    changes: u64,
    engines: Vec<Candidate>,
    /// Who waits for each engine, whose turn it is first.
    queues: BTreeMap<EngineName, Vec<ExecutionId>>,
}

/// What an execution needs, and where it is to run.
#[derive(Clone, Debug)]
pub struct Placement {
    /// What it needs.
    pub needs: Needs,
    /// Which engine, and why.
    pub decision: Decision,
    /// The most that the chosen engine may run at once.
    pub max: Option<u32>,
    /// What was tried before.
    pub tried: Vec<Tried>,
}

impl Placements {
    /// Where an execution is to run, with one more engine that has refused it, if one has just done so.
    pub async fn decide(
        &self,
        context: &Context,
        work: &Work,
        refused: Option<(&EngineName, &Why)>,
    ) -> Result<Placement, DatabaseError> {
        let execution = &work.execution;
        // What cannot be read has no needs; launching it fails with the reason.
        let needs = Specification::from_stored(&work.spec).map(|spec| Needs::of(&spec)).unwrap_or_default();
        let claims = serde_json::from_str::<Vec<_>>(&work.claims).unwrap_or_default();
        let record = record_of(work);
        let mut refusals = record.refused(context.now());
        refusals.extend(refused.map(|(engine, why)| (engine.clone(), why.clone())));
        let asked = Asked {
            engine: execution.wanted_engine.as_deref(),
            namespace: &execution.namespace,
            claims: &claims,
            needs: &needs,
            refused: &refusals,
        };
        let engines = self.seen_by(context, execution.id).await?;
        let decision = decide(&asked, &engines);
        let chosen = engines.iter().find(|engine| Some(&engine.name) == decision.chosen.as_ref());
        let max = chosen.and_then(|engine| engine.offer.max);
        Ok(Placement { needs, decision, max, tried: record.tried })
    }

    /// The load as it is to be believed now, read anew if need be.
    async fn fresh<'l>(&self, context: &Context, known: &'l mut Option<Load>) -> Result<&'l Load, DatabaseError> {
        // Counted before it is read: what changes meanwhile is read again.
        let (now, changes) = (context.now(), self.changes.load(Ordering::Acquire));
        // Another time than before means that the clock was set.
        let holds = |load: &Load| load.changes == changes && now >= load.read && now.since(load.read) < FRESH;
        let load = match known.take().filter(holds) {
            Some(load) => load,
            None => Load::read(context, now, changes).await?,
        };
        Ok(known.insert(load))
    }

    /// Those whose turn it is at an engine that waits for them, by a load that is read anew; `None` when nobody waits.
    pub async fn turns(&self, context: &Context) -> Result<Option<Vec<ExecutionId>>, DatabaseError> {
        self.outdated();
        let mut load = self.load.lock().await;
        let load = self.fresh(context, &mut load).await?;
        let mut next = Vec::new();
        for engine in load.engines.iter().filter(|engine| away(context, engine).is_none()) {
            let Some(queue) = load.queues.get(&engine.name) else { continue };
            // Without a limit the first decides by itself whether there is room.
            let open = engine.offer.max.map_or(1, |max| max.saturating_sub(engine.queue.placed));
            next.extend(queue.iter().take(usize::try_from(open).unwrap_or(usize::MAX)));
        }
        Ok((!load.queues.is_empty()).then_some(next))
    }

    /// The engines as this execution sees them.
    async fn seen_by(&self, context: &Context, id: ExecutionId) -> Result<Vec<Candidate>, DatabaseError> {
        let mut load = self.load.lock().await;
        let load = self.fresh(context, &mut load).await?;
        let mut engines = load.engines.clone();
        for engine in &mut engines {
            engine.away = away(context, engine);
            if let Some(queue) = load.queues.get(&engine.name) {
                let ahead = queue.iter().position(|waiting| *waiting == id).unwrap_or(queue.len());
                engine.queue.ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
            }
        }
        Ok(engines)
    }

    /// Adds what was just placed. Whether others wait for that engine.
    pub async fn placed(&self, id: ExecutionId, engine: &EngineName, needs: &Needs) -> bool {
        let mut load = self.load.lock().await;
        let Some(load) = &mut *load else { return false };
        for queue in load.queues.values_mut() {
            queue.retain(|waiting| *waiting != id);
        }
        let waited_for = load.queues.get(engine).is_some_and(|queue| !queue.is_empty());
        let Some(found) = load.engines.iter_mut().find(|found| found.name == *engine) else { return waited_for };
        found.queue.placed += 1;
        if let Capacity::Known(room) = &mut found.offer.capacity {
            for (resource, amount) in &needs.resources {
                if let Some(free) = room.free.get_mut(resource) {
                    free.0 = free.0.saturating_sub(amount.0).max(0);
                }
            }
        }
        waited_for
    }

    /// What was read is out of date: the load is read anew for the next decision.
    pub fn outdated(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Something of an engine's was freed. Those who wait for it are looked at; if nobody does, that costs nothing.
    pub fn freed(&self) {
        if self.waited_for.load(Ordering::Acquire) {
            self.changed.notify_one();
        }
    }

    /// Somebody began to wait for an engine. Whether nobody was known to wait before.
    pub fn joined(&self) -> bool {
        self.outdated();
        let first = !self.waited_for.swap(true, Ordering::AcqRel);
        self.changed.notify_one();
        first
    }

    /// Whether anybody was seen to wait when the queues were looked at.
    pub fn seen_waiting(&self, waiting: bool) {
        self.waited_for.store(waiting, Ordering::Release);
    }

    /// Completes when somebody began to wait, or something was freed that is waited for.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Why an engine takes nothing now, if it does not answer.
fn away(context: &Context, engine: &Candidate) -> Option<Why> {
    context.engines.get(&engine.name).and_then(|served| served.available().err())
}

impl Load {
    async fn read(context: &Context, now: Timestamp, changes: u64) -> Result<Self, DatabaseError> {
        let rows = engines::list(&context.db, now).await?;
        let mut queues = BTreeMap::new();
        let mut known = Vec::new();
        for served in context.engines.iter() {
            let usage =
                rows.iter().find(|row| row.name == served.name).map(|row| row.usage.clone()).unwrap_or_default();
            let mut offer = served.offer();
            offer.capacity = served.engine.capacity().unwrap_or(offer.capacity).less(&usage);
            if usage.waiting > 0 {
                let queue = observations::queue(&context.db, &served.name, QUEUE_SEEN).await?;
                queues.insert(served.name.clone(), queue);
            }
            let kind = served.engine.kind().to_owned();
            let queue = Queue { placed: usage.placed, ahead: 0 };
            known.push(Candidate { name: served.name.clone(), kind, away: None, offer, queue });
        }
        Ok(Self { read: now, changes, engines: known, queues })
    }
}

impl Placement {
    /// The decision as it is stored, as JSON.
    pub fn record(&self, now: Timestamp) -> String {
        let record = PlacementRecord::of(&self.decision, now, self.tried.clone());
        // Plain data always is JSON.
        serde_json::to_string(&record).unwrap_or_else(|_| "{}".to_owned())
    }

    /// The engines that it waits for, each between commas.
    pub fn queued_on(&self) -> Option<String> {
        let mut names = self.decision.later().map(EngineName::as_str).peekable();
        names.peek().is_some().then(|| between_commas(names))
    }
}

/// The decision that is stored with an execution.
pub fn record_of(work: &Work) -> PlacementRecord {
    let stored = work.execution.placement.as_deref();
    stored.and_then(|stored| serde_json::from_str(stored).ok()).unwrap_or_default()
}
