//! One engine: asks whether it answers, hears its events, and keeps its row.

use std::time::Duration;

use futures::StreamExt as _;
use renga_shared::domain::Timestamp;
use renga_shared::placement::Capacity;
use renga_shared::sql::{engines, observations};

use super::Context;
use super::resync::{Orphans, resync};
use crate::backoff;
use crate::engine::{EngineError, EngineEvent};
use crate::engines::Served;

/// How often an engine is asked whether it still answers.
const PROBE_PERIOD: Duration = Duration::from_secs(20);
/// How often an engine is asked that has not told its capacity yet: until then nothing is placed there.
const CAPACITY_PERIOD: Duration = Duration::from_secs(1);
/// How often everything is compared although no event said so.
pub const RESYNC_PERIOD: Duration = Duration::from_secs(300);
/// How often objects without a row are looked at again, while there are any.
const ORPHAN_PERIOD: Duration = Duration::from_secs(15);

/// Watches one engine for ever, or until one that was taken out of the configuration has nothing left to look after.
pub async fn watch(context: Context, served: Served) {
    let orphans = Orphans::default();
    let mut watch = Watch { context, served, orphans, resynced: Timestamp::default(), once_more: false };
    let mut failures = 0;
    loop {
        let began = watch.context.now();
        let Err(error) = watch.until_it_fails().await else { return };
        watch.went_down(&error).await;
        // Who answered for a while begins anew; who never did is asked ever more rarely, but at least every ten seconds.
        let lasted = watch.context.now().since(began);
        failures = if lasted > PROBE_PERIOD { 1 } else { failures + 1 };
        let pause = backoff::after(failures, watch.context.random.number()).min(Duration::from_secs(10));
        watch.context.clock.sleep(pause).await;
    }
}

struct Watch {
    context: Context,
    served: Served,
    orphans: Orphans,
    resynced: Timestamp,
    /// Whether to compare again at the next beat: what a reconciler that died asked for at last may appear a little later.
    once_more: bool,
}

impl Watch {
    /// Probes, then hears events until the engine does not answer, to this task or to any other. `Ok`: the engine is
    /// retired, and nothing of it is left.
    async fn until_it_fails(&mut self) -> Result<(), EngineError> {
        self.probe().await?;
        let served = self.served.clone();
        let mut events = served.engine.events();
        // Kept from event to event: on a busy engine they come closer together than this.
        let mut beat = self.context.clock.sleep(self.period());
        loop {
            tokio::select! {
                biased;
                reason = served.opened() => return Err(EngineError::Down(reason)),
                () = &mut beat => {
                    self.probe().await?;
                    if self.retires().await {
                        return Ok(());
                    }
                    let due = self.context.now().since(self.resynced) >= RESYNC_PERIOD;
                    if due || self.once_more || !self.orphans.is_empty() {
                        self.once_more = false;
                        self.resync().await;
                    }
                    beat = self.context.clock.sleep(self.period());
                }
                event = events.next() => match event {
                    Some(Ok(EngineEvent::Changed(id))) => self.context.nudge(id),
                    Some(Ok(EngineEvent::Resync)) => {
                        self.once_more = true;
                        self.resync().await;
                        beat = self.context.clock.sleep(self.period());
                    }
                    Some(Err(error)) => return Err(error),
                    None => return Err(EngineError::Down("its stream of events ended".into())),
                },
            }
        }
    }

    /// Whether the engine was taken out of the configuration, and what it ran has ended: it is not served any more.
    async fn retires(&self) -> bool {
        let (context, name) = (&self.context, &self.served.name);
        if !self.served.offer().retired || !self.orphans.is_empty() {
            return false;
        }
        match engines::retire(&context.db, name, &context.id, context.now()).await {
            Ok(true) => {
                tracing::info!(engine = %name, "what ran on the engine {name} has ended: it is no longer served");
                context.metrics.engine(name.as_str(), false);
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::warn!(%error, "the engine {name} is retired later: {error}");
                false
            }
        }
    }

    fn period(&self) -> Duration {
        if self.served.offer().capacity == Capacity::Unknown {
            return CAPACITY_PERIOD;
        }
        if self.orphans.is_empty() { PROBE_PERIOD } else { ORPHAN_PERIOD.min(self.context.settings.orphan_grace) }
    }

    async fn probe(&mut self) -> Result<(), EngineError> {
        let info = self.served.engine.probe().await?;
        let (context, name) = (&self.context, &self.served.name);
        let came_up = self.served.close_circuit();
        context.metrics.engine(name.as_str(), true);
        self.put(Ok(&info.version)).await;
        let told = self.served.told(&info);
        if told.new {
            context.placements.outdated();
            let (db, offer) = (&context.db, self.served.offer());
            if let Err(error) = engines::describe(db, name, &offer, &self.served.url).await {
                tracing::warn!(%error, "what engine {name} offers is not written: {error}");
            }
        }
        if came_up {
            context.placements.outdated();
            tracing::info!(engine = %name, version = info.version, "engine {name} answers: version {}", info.version);
        }
        if (came_up || told.ready)
            && let Err(error) = observations::wake_engine(&context.db, name, context.now()).await
        {
            tracing::warn!(%error, "what waits for engine {name} is looked at later: {error}");
        }
        Ok(())
    }

    async fn went_down(&mut self, error: &EngineError) {
        let reason = error.away().map_or_else(|| error.to_string(), str::to_owned);
        if self.served.open_circuit(&reason) {
            tracing::warn!(engine = %self.served.name, reason, "engine {} does not answer: {reason}", self.served.name);
        }
        self.context.metrics.engine(self.served.name.as_str(), false);
        self.put(Err(&reason)).await;
    }

    async fn put(&self, state: Result<&str, &str>) {
        let (context, served) = (&self.context, &self.served);
        let kind = served.engine.kind();
        if let Err(error) = engines::put(&context.db, &served.name, kind, state, context.now()).await {
            tracing::warn!(%error, "the row of engine {} is not written: {error}", served.name);
        }
    }

    async fn resync(&mut self) {
        self.resynced = self.context.now();
        if let Err(error) = resync(&self.context, &self.served, &mut self.orphans).await {
            tracing::warn!(%error, "engine {} is compared again later: {error}", self.served.name);
            self.resynced = Timestamp::default();
        }
    }
}
