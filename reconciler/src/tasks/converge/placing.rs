//! The part of a pass that finds an engine, waits for one, and hands the execution on from one that does not take it.
//!
//! Obligations: the decision and its reasons are durable before the engine is asked for anything; an execution is handed on only
//! while nothing can have been started for it.

use renga_shared::domain::{EngineName, Why};
use renga_shared::placement::{LEFT_ALONE, Outcome, PlacementRecord, Tried, Verdict};
use renga_shared::sql::DatabaseError;
use renga_shared::sql::observations::{self, Observation, Placing};

use super::{Next, Pass, PassError, Sight, Trouble, UNTIL_WOKEN};
use crate::backoff;
use crate::engine::EngineError;
use crate::engines::Served;
use crate::placement::{Placement, record_of};

impl Pass<'_> {
    /// Where it is to run.
    pub(super) async fn decide(&self) -> Result<Placement, PassError> {
        Ok(self.context.placements.decide(self.context, &self.work, None).await?)
    }

    /// The engine of a placement, or what stands in the way.
    pub(super) fn choice(&self, placement: Option<&Placement>) -> Result<EngineName, Why> {
        let Some(Placement { decision, .. }) = placement else {
            return Err(Why::new("EngineChosen", "An engine is chosen already."));
        };
        let asked = self.work.execution.wanted_engine.as_deref();
        decision.chosen.clone().ok_or_else(|| decision.obstacle(asked))
    }

    /// Records that this engine is chosen, and why.
    pub(super) async fn place(&mut self, engine: &EngineName, placement: &Placement) -> Result<Next, Trouble> {
        let scheduled = self.status().scheduled(engine.clone())?;
        let (db, holder, execution) = (&self.context.db, &self.context.id, &mut self.work.execution);
        let record = placement.record(self.context.clock.now());
        let placing = Placing { engine, placement: &record, max: placement.max, needs: &placement.needs };
        let placed = observations::place(db, holder, execution.id, execution.revision, &placing).await?;
        let Some(revision) = placed else {
            // The row has changed, or another took the last place: look at both anew.
            self.context.placements.outdated();
            return Ok(Next::Read);
        };
        execution.revision = revision;
        execution.status = scheduled;
        execution.placement = Some(record);
        (self.work.due, self.work.queued_on) = (None, None);
        if self.context.placements.placed(self.id(), engine, &placement.needs).await {
            was_turn(engine, observations::served(db, engine, &self.work.owner, self.context.now()).await);
        }
        self.tell_of_phase();
        // Nothing was asked of the engine for it before now.
        Ok(Next::Plan(Sight::nothing()))
    }

    /// None fits now: says what is missing, and stands in the queues of those that may do later.
    pub(super) async fn wait_for_engine(&mut self, why: Why, placement: &Placement) -> Result<Next, Trouble> {
        let queued_on = placement.queued_on();
        let joins = queued_on.is_some() && queued_on != self.work.queued_on;
        let waits = Observation {
            placement: Some(placement.record(self.context.now())),
            queued_on,
            ..self.observed(self.status().waiting(Some(why))?)
        };
        // One that could not take it a moment ago is asked again.
        let pause = if placement.tried.iter().all(|tried| tried.outcome != Outcome::NotReady) {
            UNTIL_WOKEN
        } else {
            LEFT_ALONE.max(backoff::after(self.work.attempts, self.context.random.number()))
        };
        let next = self.wait_as(waits, pause).await?;
        if joins && matches!(next, Next::Done) && self.context.placements.joined() {
            for engine in placement.decision.later() {
                was_turn(engine, observations::all_served(&self.context.db, engine, self.context.now()).await);
            }
        }
        Ok(next)
    }

    /// The engine could not make ready what the execution needs; nothing was created. Another that can take it now does so;
    /// otherwise it is tried again here, unless it never will do.
    pub(super) async fn not_prepared(
        &mut self,
        served: &Served,
        error: EngineError,
        sight: Sight,
    ) -> Result<Next, Trouble> {
        match error {
            EngineError::Retry(why) => {
                let placement = self.decide_without(served, &why).await?;
                if placement.decision.chosen.is_some() {
                    return self.hand_on(served, &why, Outcome::NotReady).await;
                }
                Err(Trouble::Engine(EngineError::Retry(why)))
            }
            error => self.not_created(served, error, sight).await,
        }
    }

    /// The engine did not create the object. If it refused, or was not reached, nothing was created, and another may take
    /// it; otherwise it stays until that is known.
    pub(super) async fn not_created(
        &mut self,
        served: &Served,
        error: EngineError,
        sight: Sight,
    ) -> Result<Next, Trouble> {
        match error {
            EngineError::Unreached(reason) => {
                let why = served.unavailable(&reason);
                self.hand_on(served, &why, Outcome::Unreached).await
            }
            EngineError::Refused(why) => {
                let placement = self.decide_without(served, &why).await?;
                let hope =
                    |verdict: &Verdict| matches!(verdict, Verdict::Fits(_) | Verdict::Later(_) | Verdict::Away(_));
                if placement.decision.considered.iter().any(|considered| hope(&considered.verdict)) {
                    self.hand_on(served, &why, Outcome::Refused).await
                } else {
                    self.fail(why, sight).await
                }
            }
            error @ (EngineError::Down(_) | EngineError::Retry(_)) => Err(Trouble::Engine(error)),
        }
    }

    /// Where it would run if this engine did not.
    async fn decide_without(&self, served: &Served, why: &Why) -> Result<Placement, PassError> {
        Ok(self.context.placements.decide(self.context, &self.work, Some((&served.name, why))).await?)
    }

    /// Records that the engine did not take it, and waits for an engine anew. That counts as an attempt, and only what the
    /// execution achieves (its object is created, it runs) begins to count anew.
    async fn hand_on(&mut self, served: &Served, why: &Why, outcome: Outcome) -> Result<Next, Trouble> {
        let now = self.context.now();
        let mut record: PlacementRecord = record_of(&self.work);
        record.engine = None;
        record.add_tried(Tried::new(served.name.clone(), why, now, outcome));
        let pending = self.observed(self.status().unscheduled(why.clone())?);
        // Counted on: engines that hand it to and fro are asked ever more rarely.
        let attempts = self.work.attempts.saturating_add(1);
        let seen = Observation { placement: serde_json::to_string(&record).ok(), attempts, ..pending };
        if !self.write(seen).await? {
            return Ok(Next::Read);
        }
        self.context.placements.outdated();
        tracing::warn!(
            execution = %self.id(), engine = %served.name, reason = why.reason,
            "execution {} is handed on from engine {}: {}", self.id(), served.name, why.message
        );
        Ok(Next::Look)
    }
}

/// Whose turn it is next is no matter of life and death: without this record it is somebody's all the same.
fn was_turn(engine: &EngineName, recorded: Result<(), DatabaseError>) {
    if let Err(error) = recorded {
        tracing::warn!(%error, %engine, "whose turn it was on engine {engine} is not recorded: {error}");
    }
}
