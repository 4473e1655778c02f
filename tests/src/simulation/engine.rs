//! A process's look at a fake world: every call passes its life, before it is carried out and before it is answered.

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use renga_reconciler::engine::fake::FakeEngine;
use renga_reconciler::engine::{
    Accepts, Engine, EngineError, EngineEvent, EngineInfo, Launch, Listed, LogEntry, Object,
};
use renga_shared::domain::{ExecutionId, Why};

use super::life::{Deed, Life};

pub(super) struct Lived {
    pub(super) engine: FakeEngine,
    pub(super) life: Life,
}

impl Lived {
    async fn call<T>(&self, call: impl Future<Output = T>) -> T {
        self.life.pass(Deed::Call).await;
        let answer = call.await;
        self.life.pass(Deed::Call).await;
        answer
    }

    fn stream<T: Send + 'static>(&self, stream: BoxStream<'static, T>) -> BoxStream<'static, T> {
        let life = self.life.clone();
        stream
            .then(move |item| {
                let life = life.clone();
                async move {
                    life.pass(Deed::Call).await;
                    item
                }
            })
            .boxed()
    }
}

#[async_trait]
impl Engine for Lived {
    fn kind(&self) -> &'static str {
        self.engine.kind()
    }

    fn accepts(&self) -> Accepts {
        self.engine.accepts()
    }

    async fn probe(&self) -> Result<EngineInfo, EngineError> {
        self.call(self.engine.probe()).await
    }

    async fn prepare(&self, launch: &Launch, progress: &(dyn Fn(Why) + Send + Sync)) -> Result<(), EngineError> {
        self.call(self.engine.prepare(launch, progress)).await
    }

    async fn create(&self, launch: &Launch) -> Result<String, EngineError> {
        self.call(self.engine.create(launch)).await
    }

    async fn start(&self, object: &str) -> Result<(), EngineError> {
        self.call(self.engine.start(object)).await
    }

    async fn inspect(&self, id: ExecutionId) -> Result<Option<Object>, EngineError> {
        self.call(self.engine.inspect(id)).await
    }

    async fn stop(&self, object: &str, grace: Duration) -> Result<(), EngineError> {
        self.call(self.engine.stop(object, grace)).await
    }

    async fn remove(&self, object: &str) -> Result<(), EngineError> {
        self.call(self.engine.remove(object)).await
    }

    async fn list(&self) -> Result<Vec<Listed>, EngineError> {
        self.call(self.engine.list()).await
    }

    fn logs(&self, object: &str, since: i64) -> BoxStream<'static, Result<LogEntry, EngineError>> {
        self.stream(self.engine.logs(object, since))
    }

    fn events(&self) -> BoxStream<'static, Result<EngineEvent, EngineError>> {
        self.stream(self.engine.events())
    }
}
