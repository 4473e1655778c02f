//! Fake engines that violate one obligation each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use renga_reconciler::engine::fake::FakeEngine;
use renga_reconciler::engine::{
    Accepts, Engine, EngineError, EngineEvent, EngineInfo, Launch, Listed, LogEntry, Object, ObjectState,
};
use renga_shared::domain::{ExecutionId, Why};

/// The obligation that is violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// `create` replaces an existing object.
    MakesAnew,
    /// `start` runs an ended object again.
    RunsAgain,
    /// `create` also starts.
    RunsWhenMade,
    /// `stop` and `remove` act on the object that has the name now, whichever id they are given.
    KnowsNamesOnly,
    /// `stop` and `remove` fail if the object is gone.
    FailsForWhatIsGone,
    /// `stop` ignores the grace period.
    KillsAtOnce,
    /// `stop` returns before the object has ended.
    AnswersBeforeTheEnd,
    /// `logs` omits the entries that were written exactly at `since`.
    ResumesAfter,
    /// `logs` always starts at the beginning.
    BeginsAnew,
    /// `logs` ends after the entries that were written so far.
    DoesNotFollow,
}

pub(crate) struct Flawed {
    engine: FakeEngine,
    flaw: Flaw,
    /// What was launched, by the ids of its objects.
    launched: Mutex<BTreeMap<String, Arc<Launch>>>,
}

impl Flawed {
    pub(crate) fn new(engine: FakeEngine, flaw: Flaw) -> Self {
        Self { engine, flaw, launched: Mutex::default() }
    }

    fn launch_of(&self, object: &str) -> Option<Arc<Launch>> {
        self.launched.lock().unwrap_or_else(PoisonError::into_inner).get(object).cloned()
    }

    /// Returns the id of the object that this flawed engine takes for `object`.
    async fn meant(&self, object: &str) -> Result<String, EngineError> {
        if self.flaw == Flaw::KnowsNamesOnly
            && let Some(launch) = self.launch_of(object)
            && let Some(found) = self.engine.inspect(launch.id).await?
        {
            return Ok(found.id);
        }
        if self.flaw == Flaw::FailsForWhatIsGone
            && self.engine.list().await?.iter().all(|listed| listed.object != object)
        {
            return Err(EngineError::Refused(Why::new("NotFound", "There is no such object.")));
        }
        Ok(object.to_owned())
    }
}

#[async_trait]
impl Engine for Flawed {
    fn kind(&self) -> &'static str {
        self.engine.kind()
    }

    fn accepts(&self) -> Accepts {
        self.engine.accepts()
    }

    async fn probe(&self) -> Result<EngineInfo, EngineError> {
        self.engine.probe().await
    }

    async fn prepare(&self, launch: &Launch, progress: &(dyn Fn(Why) + Send + Sync)) -> Result<(), EngineError> {
        self.engine.prepare(launch, progress).await
    }

    async fn create(&self, launch: &Launch) -> Result<String, EngineError> {
        if self.flaw == Flaw::MakesAnew
            && let Some(found) = self.engine.inspect(launch.id).await?
        {
            self.engine.remove(&found.id).await?;
        }
        let object = self.engine.create(launch).await?;
        if self.flaw == Flaw::RunsWhenMade {
            self.engine.start(&object).await?;
        }
        let copy = Launch {
            id: launch.id,
            spec: launch.spec.clone(),
            namespace: launch.namespace.clone(),
            environment: launch.environment.clone(),
            access_token: None,
        };
        self.launched.lock().unwrap_or_else(PoisonError::into_inner).insert(object.clone(), Arc::new(copy));
        Ok(object)
    }

    async fn start(&self, object: &str) -> Result<(), EngineError> {
        if self.flaw == Flaw::RunsAgain
            && let Some(launch) = self.launch_of(object)
            && let Some(Object { state: ObjectState::Exited(_), id, .. }) = self.engine.inspect(launch.id).await?
        {
            self.engine.remove(&id).await?;
            let again = self.engine.create(&launch).await?;
            return self.engine.start(&again).await;
        }
        self.engine.start(object).await
    }

    async fn inspect(&self, id: ExecutionId) -> Result<Option<Object>, EngineError> {
        self.engine.inspect(id).await
    }

    async fn stop(&self, object: &str, grace: Duration) -> Result<(), EngineError> {
        let object = self.meant(object).await?;
        match self.flaw {
            Flaw::KillsAtOnce => self.engine.stop(&object, Duration::ZERO).await,
            Flaw::AnswersBeforeTheEnd => self.engine.stop(&object, grace).now_or_never().unwrap_or(Ok(())),
            _ => self.engine.stop(&object, grace).await,
        }
    }

    async fn remove(&self, object: &str) -> Result<(), EngineError> {
        self.engine.remove(&self.meant(object).await?).await
    }

    async fn list(&self) -> Result<Vec<Listed>, EngineError> {
        self.engine.list().await
    }

    fn logs(&self, object: &str, since: i64) -> BoxStream<'static, Result<LogEntry, EngineError>> {
        match self.flaw {
            Flaw::ResumesAfter => self.engine.logs(object, since + 1),
            Flaw::BeginsAnew => self.engine.logs(object, 0),
            Flaw::DoesNotFollow => {
                let mut logs = self.engine.logs(object, since);
                futures::stream::poll_fn(move |context| match logs.poll_next_unpin(context) {
                    std::task::Poll::Pending => std::task::Poll::Ready(None),
                    ready => ready,
                })
                .boxed()
            }
            _ => self.engine.logs(object, since),
        }
    }

    fn events(&self) -> BoxStream<'static, Result<EngineEvent, EngineError>> {
        self.engine.events()
    }
}
