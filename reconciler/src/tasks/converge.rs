//! One execution, one pass: read the row, look at the engine, decide ([`crate::plan`]), act, record; again until
//! nothing is left to do now. The row is read again only when a record found it changed, and the engine is asked only for what
//! the last step did not show: what was just created is there, and does not run.
//!
//! Obligations: the decision is durable before the engine is called; every record names the revision that was read, so that
//! a wish that came meanwhile is never overwritten, but read and planned for; a pass may be cut off at any point and
//! run again from the start.

mod placing;

use std::sync::Arc;
use std::time::Duration;

use renga_shared::domain::{ExecutionId, InvalidTransition, Phase, Status, Timestamp, Wanted, Why};
use renga_shared::sql::observations::{self, Observation, Work};
use renga_shared::sql::{DatabaseError, logs};
use tokio::sync::{Notify, mpsc};

use super::Context;
use super::collect_logs::{self, CollectError};
use crate::backoff;
use crate::crash::crash_point;
use crate::engine::{EngineError, Launch, Object, ObjectState};
use crate::engines::Served;
use crate::launch;
use crate::plan::{Seen, Situation, Step, plan};

/// How long an execution that its engine is slow with is left before somebody looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How long one is left that waits for an engine to answer, which wakes it. For when the waking went wrong.
const UNTIL_WOKEN: Duration = Duration::from_secs(120);
/// How often logs that the engine cannot give are asked for before the end is recorded without them.
const DRAIN_TRIES: i64 = 6;

/// Why a pass ended before its time. The driver tries again soon.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The database did not do what it was asked.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The states refused what the plan asked for: a mistake of ours, on which nothing was recorded.
    #[error("the plan does not fit the states: {0}")]
    Plan(#[from] InvalidTransition),
    /// This reconciler's lease ended: somebody else may look after the execution now.
    #[error("the lease has ended")]
    LeaseEnded,
}

/// Brings one execution, which this reconciler has claimed, as far as it gets now. `nudged` tells that its row changed.
pub async fn converge(context: &Context, id: ExecutionId, nudged: Arc<Notify>) -> Result<(), PassError> {
    while context.lease_holds() {
        let Some(work) = observations::load(&context.db, &context.id, id).await? else { return Ok(()) };
        let mut pass = Pass { context, nudged: &nudged, closings: context.engines.closings(), work };
        let mut sight = None;
        while context.lease_holds() {
            let stepped = pass.step(sight.take()).await;
            let next = match stepped {
                Ok(next) => next,
                Err(Trouble::Pass(error)) => return Err(error),
                Err(Trouble::Engine(error)) => pass.put_off(error).await?,
            };
            match next {
                Next::Plan(known) => sight = Some(known),
                Next::Look => {}
                Next::Read => break,
                Next::Done => return Ok(()),
            }
        }
    }
    Err(PassError::LeaseEnded)
}

/// What a step leaves to do.
enum Next {
    /// Plan on: the row is known, and so is what the engine shows.
    Plan(Sight),
    /// The row is known: look at the engine and plan on.
    Look,
    /// The row has changed: read it, look and plan on.
    Read,
    /// Nothing until something is heard or due.
    Done,
}

/// What the engine shows.
struct Sight {
    seen: Seen,
    /// The object's ports, as JSON.
    ports: Option<String>,
}

impl Sight {
    /// Of an engine that has no object of the execution.
    fn nothing() -> Self {
        Self { seen: Seen::Object(None), ports: None }
    }

    /// Of an object that was just made or found by that.
    fn created(id: String) -> Self {
        let object = Object { id, state: ObjectState::Created, ports: Vec::new() };
        Self { seen: Seen::Object(Some(object)), ports: None }
    }
}

/// What ends a step.
enum Trouble {
    Pass(PassError),
    Engine(EngineError),
}

impl<E: Into<PassError>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Pass(error.into())
    }
}

struct Pass<'a> {
    context: &'a Context,
    nudged: &'a Notify,
    /// How often engines had come up before this one was looked at.
    closings: u64,
    work: Work,
}

impl<'a> Pass<'a> {
    fn id(&self) -> ExecutionId {
        self.work.execution.id
    }

    fn status(&self) -> &Status {
        &self.work.execution.status
    }

    /// Its engine, once there is one and if it is served here.
    fn served(&self) -> Option<&'a Served> {
        self.status().engine().and_then(|name| self.context.engines.get(name))
    }

    async fn step(&mut self, known: Option<Sight>) -> Result<Next, Trouble> {
        let sight = match known {
            Some(sight) => sight,
            None => self.look().await.map_err(Trouble::Engine)?,
        };
        let wanted = self.work.execution.wanted;
        let placement = match (self.status().phase(), wanted) {
            (Phase::Pending, Wanted::Running) => Some(self.decide().await?),
            _ => None,
        };
        let choice = self.choice(placement.as_ref());
        let step = plan(Situation { wanted, status: self.status(), seen: &sight.seen, choice: &choice });
        tracing::debug!(execution = %self.id(), ?step, "execution {}: {step:?}", self.id());
        match (step, placement) {
            (Step::Choose(engine), Some(placement)) => self.place(&engine, &placement).await,
            (Step::Wait(Some(why)), Some(placement)) => self.wait_for_engine(why, &placement).await,
            (Step::Wait(why), _) if matches!(sight.seen, Seen::Object(_)) => self.wait(why, LOOK_AGAIN).await,
            (Step::Wait(why), _) => self.wait(why, UNTIL_WOKEN).await,
            (step, _) => self.perform(step, sight).await,
        }
    }

    async fn look(&self) -> Result<Sight, EngineError> {
        let unseen = |seen| Ok(Sight { seen, ports: None });
        let Some(name) = self.status().engine() else { return unseen(Seen::NoEngine) };
        let Some(served) = self.served() else {
            let message = format!("The engine {name}, which it runs on, is not in this deployment's configuration.");
            return unseen(Seen::Unreachable(Why::new("EngineNotServed", message)));
        };
        if let Err(why) = served.available() {
            return unseen(Seen::Unreachable(why));
        }
        match served.heard(served.engine.inspect(self.id()).await) {
            Ok(object) => {
                let ports = object.as_ref().map(ports_json);
                Ok(Sight { seen: Seen::Object(object), ports })
            }
            Err(error) => match error.away() {
                Some(reason) => unseen(Seen::Unreachable(served.unavailable(reason))),
                None => Err(error),
            },
        }
    }

    async fn perform(&mut self, step: Step, sight: Sight) -> Result<Next, Trouble> {
        let status = self.status().clone();
        let now = self.context.now();
        match step {
            // Chosen by a placement alone.
            Step::Choose(_) => Ok(Next::Look),
            Step::Create => self.create(sight).await,
            Step::Start(object) => {
                let served = self.engine()?;
                crash_point!("before_start");
                let started = served.heard(served.engine.start(&object).await);
                crash_point!("after_start");
                match started {
                    Ok(()) => Ok(Next::Look),
                    Err(EngineError::Refused(why)) => self.fail(why, sight).await,
                    Err(error) => Err(Trouble::Engine(error)),
                }
            }
            Step::Running { started } => {
                let ports = sight.ports.clone();
                self.record(status.running(started)?, ports, sight).await
            }
            Step::Attend => self.attend(sight.ports).await,
            Step::BeginStop(why) => self.record(status.stopping(why)?, None, sight).await,
            Step::Stop(object) => {
                let served = self.engine()?;
                crash_point!("before_stop");
                let stopped = served.engine.stop(&object, self.context.settings.stop_grace).await;
                crash_point!("after_stop");
                served.heard(stopped).map_err(Trouble::Engine)?;
                Ok(Next::Look)
            }
            Step::End { exit, why } => {
                let why = self.drain(why).await?;
                let ended = status.exited(exit.code, exit.started, exit.finished, why)?;
                self.record(ended, Some("[]".into()), sight).await
            }
            Step::RemoveObject(object) => {
                let served = self.engine()?;
                crash_point!("before_remove");
                let removed = served.engine.remove(&object).await;
                crash_point!("after_remove");
                served.heard(removed).map_err(Trouble::Engine)?;
                Ok(Next::Plan(Sight::nothing()))
            }
            Step::FinishRemoval => {
                self.context.collectors.abort(self.id()).await;
                logs::remove(&self.context.db, &self.context.id, self.id()).await?;
                let removed = status.removed(Why::new("Deleted", "It was deleted, as its user asked."), now)?;
                self.record(removed, Some("[]".into()), sight).await
            }
            Step::Fail(why) => self.fail(why, sight).await,
            Step::Lose(why) => {
                let why = self.drain(why).await?;
                self.record(status.lost(why, now)?, Some("[]".into()), sight).await
            }
            Step::Wait(why) => self.wait(why, LOOK_AGAIN).await,
            Step::Rest => self.let_go().await,
        }
    }

    /// The engine that the plan speaks of. Nothing is asked of it once the lease has ended.
    fn engine(&self) -> Result<&'a Served, Trouble> {
        if !self.context.lease_holds() {
            return Err(PassError::LeaseEnded.into());
        }
        // The plan asks for an engine's work only after that engine showed the object.
        self.served().ok_or_else(|| {
            Trouble::Engine(EngineError::Retry(Why::new("EngineNotServed", "Its engine is not served here.")))
        })
    }

    /// Makes ready what the engine needs, telling what that waits for, and creates the object. Left when the wish
    /// changes meanwhile.
    async fn create(&mut self, sight: Sight) -> Result<Next, Trouble> {
        let served = self.engine()?;
        let mut launch = match launch::of(&self.work, &self.context.settings.default_base_url) {
            Ok(launch) => launch,
            Err(why) => return self.fail(why, sight).await,
        };
        // What a pass before made and could not record is completed here, and needs nothing made ready.
        let made = matches!(sight.seen, Seen::Object(Some(_)));
        if !made {
            crash_point!("before_prepare");
            match self.prepare(served, &launch).await? {
                Some(Ok(())) => {}
                Some(Err(error)) => return self.not_prepared(served, error, sight).await,
                None => return Ok(Next::Read),
            }
        }
        if let Err(why) = launch::hand_over_token(&mut launch, &self.work, self.context.settings.seal_keys.as_ref()) {
            return self.fail(why, sight).await;
        }
        crash_point!("before_create");
        let created = served.heard(served.engine.create(&launch).await);
        crash_point!("after_create");
        match created {
            Ok(object) => {
                let created = self.status().created(object.clone())?;
                self.record(created, None, Sight::created(object)).await
            }
            Err(error @ EngineError::Refused(_)) => {
                let next = self.not_created(served, error, Sight::nothing()).await?;
                self.clear_away(served, next).await
            }
            Err(error) if made => Err(Trouble::Engine(error)),
            Err(error) => self.not_created(served, error, sight).await,
        }
    }

    /// Removes what the engine made before it refused the rest, now or in a pass before.
    ///
    /// The record that the engine refused comes first. As long as the row names the engine, another reconciler may adopt
    /// and start the object after the lease has ended, and a removal that is carried out late would take a running one.
    async fn clear_away(&mut self, served: &Served, next: Next) -> Result<Next, Trouble> {
        let status = self.status();
        let recorded = status.phase().is_terminal() || status.engine() != Some(&served.name);
        if matches!(next, Next::Read) || !recorded {
            return Ok(next);
        }
        let removed = match served.heard(served.engine.inspect(self.id()).await) {
            Ok(Some(left)) => served.heard(served.engine.remove(&left.id).await),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => Ok(next),
            // What has failed removes its object by the plan, as often as that takes.
            Err(_) if self.status().phase().is_terminal() => Ok(Next::Look),
            Err(error) => {
                tracing::warn!(
                    execution = %self.id(), engine = %served.name, %error,
                    "what engine {} made of execution {} before it refused stays until that ends: {error}",
                    served.name, self.id()
                );
                Ok(next)
            }
        }
    }

    /// `None`: the row changed, so that it is no longer clear that this is wanted.
    async fn prepare(&mut self, served: &Served, launch: &Launch) -> Result<Option<Result<(), EngineError>>, Trouble> {
        let (tell, mut told) = mpsc::unbounded_channel();
        let progress = move |why| {
            // Who listens is gone only when the pull is given up.
            let _ = tell.send(why);
        };
        let prepare = served.engine.prepare(launch, &progress);
        tokio::pin!(prepare);
        loop {
            tokio::select! {
                biased;
                prepared = &mut prepare => return Ok(Some(served.heard(prepared))),
                Some(why) = told.recv() => {
                    let seen = self.observed(self.status().waiting(Some(why))?);
                    if !self.write(seen).await? {
                        return Ok(None);
                    }
                }
                () = self.nudged.notified() => {
                    let row = observations::load(&self.context.db, &self.context.id, self.id()).await?;
                    if row.is_none_or(|row| row.execution.wanted != Wanted::Running) {
                        return Ok(None);
                    }
                }
            }
        }
    }

    async fn fail(&mut self, why: Why, sight: Sight) -> Result<Next, Trouble> {
        let failed = self.status().failed(why, self.context.now())?;
        self.record(failed, None, sight).await
    }

    /// It runs: its logs are collected, its ports are known, and nothing else is to do.
    async fn attend(&mut self, ports: Option<String>) -> Result<Next, Trouble> {
        let (Some(served), Some(object)) = (self.served(), self.status().engine_id().map(str::to_owned)) else {
            return Ok(Next::Done);
        };
        self.context.collectors.ensure(self.context, served, self.id(), object);
        let ports = ports.filter(|ports| !same_json(ports, &self.work.execution.ports));
        if ports.is_some() || self.status().why().is_some() || self.work.attempts != 0 {
            let plain = self.observed(self.status().waiting(None)?);
            let written = self.write(Observation { ports, attempts: 0, ..plain }).await?;
            return Ok(if written { Next::Done } else { Next::Read });
        }
        self.lay_down(None).await
    }

    /// Stores what is left of the logs. Returns why it ended, which also says so if that is not all of them.
    async fn drain(&mut self, why: Why) -> Result<Why, Trouble> {
        let (Some(served), Some(object)) = (self.served(), self.status().engine_id().map(str::to_owned)) else {
            return Ok(why);
        };
        if self.work.execution.wanted == Wanted::Removed {
            return Ok(why);
        }
        match collect_logs::drain(self.context, served, self.id(), object).await {
            Ok(true) => Ok(why),
            Ok(false) => Ok(without_logs(why)),
            Err(CollectError::Database(error)) => Err(error.into()),
            Err(CollectError::Engine(error @ (EngineError::Retry(_) | EngineError::Refused(_))))
                if self.work.attempts >= DRAIN_TRIES =>
            {
                tracing::warn!(execution = %self.id(), %error, "the end of {} is recorded without its last logs: {error}", self.id());
                Ok(without_logs(why))
            }
            Err(CollectError::Engine(error)) => Err(Trouble::Engine(error)),
        }
    }

    /// An engine could not do it now: say so, and try again later. Whether it answers decides who wakes the row.
    async fn put_off(&mut self, error: EngineError) -> Result<Next, PassError> {
        let why = match error {
            // The circuit is open now: the next plan says what waits for it and what does not.
            EngineError::Down(_) | EngineError::Unreached(_) => return Ok(Next::Read),
            EngineError::Retry(why) | EngineError::Refused(why) => why,
        };
        let attempts = self.work.attempts.saturating_add(1);
        let due = self.context.now().plus(backoff::after(attempts, self.context.random.number()));
        let status = if self.status().phase().is_terminal() {
            // The removal of its object is delayed, which is no part of how it ended: only the operator hears of it.
            tracing::warn!(
                execution = %self.id(), reason = why.reason, attempts,
                "the object of execution {} is not removed yet: {}", self.id(), why.message
            );
            self.status().clone()
        } else {
            let why = match attempts {
                1 => why,
                _ => Why::new(why.reason, format!("{} It was tried {attempts} times.", why.message)),
            };
            self.status().waiting(Some(why))?
        };
        let put_off = self.observed(status);
        let written = self.write(Observation { attempts, due: Some(due), ..put_off }).await?;
        Ok(if written { Next::Done } else { Next::Read })
    }

    async fn wait(&mut self, why: Option<Why>, pause: Duration) -> Result<Next, Trouble> {
        let status = match why {
            Some(why) => self.status().waiting(Some(why))?,
            None => self.status().clone(),
        };
        let waits = self.observed(status);
        self.wait_as(waits, pause).await
    }

    /// Waits with this record, for `pause` at most.
    async fn wait_as(&mut self, waits: Observation, pause: Duration) -> Result<Next, Trouble> {
        let due = Some(self.context.now().plus(pause));
        // What waits for the same thing as before is not written again.
        let laid_down = if waits.status == *self.status() && waits.queued_on == self.work.queued_on {
            self.lay_down(due).await?
        } else if self.write(Observation { due, ..waits }).await? {
            Next::Done
        } else {
            Next::Read
        };
        // An engine that came up meanwhile woke only what lay down before.
        Ok(if self.context.engines.closings() == self.closings { laid_down } else { Next::Read })
    }

    /// Says when somebody must look next, if only an event can make it sooner.
    async fn lay_down(&mut self, due: Option<Timestamp>) -> Result<Next, Trouble> {
        let execution = &self.work.execution;
        if due == self.work.due
            || observations::defer(&self.context.db, &self.context.id, execution.id, execution.revision, due).await?
        {
            return Ok(Next::Done);
        }
        Ok(Next::Read)
    }

    /// Nobody needs to look after it any more.
    async fn let_go(&mut self) -> Result<Next, Trouble> {
        let ended = self.observed(self.status().clone());
        let written = self.write(Observation { attempts: 0, hold: false, ..ended }).await?;
        Ok(if written { Next::Done } else { Next::Read })
    }

    /// Records a step; the plan goes on from there, with what the engine shows now.
    async fn record(&mut self, status: Status, ports: Option<String>, sight: Sight) -> Result<Next, Trouble> {
        // What has ended is heard of no more, and is not yet let go: should this pass be cut off, another must follow.
        let due = status.phase().is_terminal().then(|| self.context.now().plus(observations::CLAIMED_FOR));
        let seen = Observation { ports, attempts: 0, due, ..self.observed(status) };
        if !self.write(seen).await? {
            return Ok(Next::Read);
        }
        self.tell_of_phase();
        Ok(Next::Plan(sight))
    }

    /// Says that the phase has changed.
    fn tell_of_phase(&self) {
        let (id, phase) = (self.id(), self.status().phase());
        let reason = self.status().why().map(|why| why.reason.as_str());
        tracing::info!(execution = %id, %phase, reason, "execution {id} is {phase}");
        if phase == Phase::Running {
            self.context.metrics.started(self.context.now().since(self.work.execution.created));
        }
    }

    /// What is recorded where nothing else is said: the status, held on to, and looked at again when an event says so.
    fn observed(&self, status: Status) -> Observation {
        Observation { attempts: self.work.attempts, ..Observation::of(status) }
    }

    /// Writes what was seen. `false`: the row is another than the one that was read; nothing was written.
    async fn write(&mut self, seen: Observation) -> Result<bool, PassError> {
        let was_placed = self.status().phase().is_placed();
        let execution = &mut self.work.execution;
        let written =
            observations::record(&self.context.db, &self.context.id, execution.id, execution.revision, &seen).await?;
        let Some(revision) = written else { return Ok(false) };
        let Observation { status, ports, attempts, due, placement, queued_on, .. } = seen;
        execution.revision = revision;
        execution.status = status;
        if let Some(ports) = ports {
            execution.ports = ports;
        }
        if placement.is_some() {
            execution.placement = placement;
        }
        (self.work.attempts, self.work.due, self.work.queued_on) = (attempts, due, queued_on);
        if was_placed && !self.status().phase().is_placed() {
            self.context.placements.freed();
        }
        Ok(true)
    }
}

fn ports_json(object: &Object) -> String {
    serde_json::to_string(&object.ports).unwrap_or_else(|_| "[]".into())
}

/// Whether two texts are the same JSON: a database may write it in its own way.
fn same_json(one: &str, other: &str) -> bool {
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    parse(one) == parse(other)
}

fn without_logs(why: Why) -> Why {
    Why::new(why.reason, format!("{} The engine did not give the last of its logs.", why.message))
}
