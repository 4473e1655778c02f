//! The events of an engine, and an engine that becomes unreachable and comes back.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::stream::BoxStream;
use futures::{FutureExt as _, TryStreamExt as _};
use renga_reconciler::engine::{EngineError, EngineEvent, Launch};
use renga_shared::domain::ExecutionId;
use renga_tests::scripts::Script;

use crate::bed::{Bed, PATIENCE, down};

/// Maximum time until a call fails if the engine is not there.
const AT_ONCE: Duration = Duration::from_secs(5);
/// Maximum time until a call fails if the engine does not respond.
const IN_THE_END: Duration = Duration::from_secs(40);
const GRACE: Duration = Duration::from_secs(10);

type Events = BoxStream<'static, Result<EngineEvent, EngineError>>;

async fn next(events: &mut Events) -> Result<EngineEvent> {
    let next = tokio::time::timeout(PATIENCE, events.try_next()).await.context("nothing is told")?;
    next?.context("a stream of events never ends well")
}

pub(crate) async fn events_tell_of_this_deployments_changes(bed: &Bed) -> Result<()> {
    let mut events = bed.engine.events();
    ensure!(next(&mut events).await? == EngineEvent::Resync, "the first event");
    let (launch, others) = (bed.launch(&Script::Sleep)?, bed.launch(&Script::Sleep)?);
    bed.engine.prepare(&launch, &|_| {}).await?;

    // Changes of another deployment's objects are not reported, although they come first.
    let theirs = bed.other.create(&others).await?;
    bed.other.start(&theirs).await?;
    let object = bed.engine.create(&launch).await?;
    is_told(&mut events, launch.id, "made").await?;
    bed.engine.start(&object).await?;
    is_told(&mut events, launch.id, "started").await?;
    bed.kill(&launch).await?;
    is_told(&mut events, launch.id, "ended").await?;
    bed.engine.remove(&object).await?;
    is_told(&mut events, launch.id, "removed").await
}

async fn is_told(events: &mut Events, id: ExecutionId, what: &str) -> Result<()> {
    match next(events).await.with_context(|| format!("that it was {what}"))? {
        EngineEvent::Changed(changed) if changed == id => Ok(()),
        other => bail!("told {other:?} when it was {what}"),
    }
}

/// Fails unless every call reports within `bound` that the engine is unreachable.
async fn every_call_is_down(bed: &Bed, launch: &Launch, object: &str, bound: Duration) -> Result<()> {
    let engine = bed.again()?;
    let (mut logs, mut events) = (engine.logs(object, 0), engine.events());
    let calls = [
        ("probe", down(bound, engine.probe()).boxed()),
        ("prepare", down(bound, engine.prepare(launch, &|_| {})).boxed()),
        ("create", down(bound, engine.create(launch)).boxed()),
        ("start", down(bound, engine.start(object)).boxed()),
        ("inspect", down(bound, engine.inspect(launch.id)).boxed()),
        ("stop", down(bound, engine.stop(object, GRACE)).boxed()),
        ("remove", down(bound, engine.remove(object)).boxed()),
        ("list", down(bound, engine.list()).boxed()),
        ("logs", down(bound, logs.try_next()).boxed()),
        ("events", down(bound, events.try_next()).boxed()),
    ];
    let (names, calls): (Vec<_>, Vec<_>) = calls.into_iter().unzip();
    for (name, answer) in names.into_iter().zip(futures::future::join_all(calls).await) {
        answer.context(name)?;
    }
    Ok(())
}

pub(crate) async fn an_engine_that_is_away_is_down(bed: &Bed) -> Result<()> {
    let launch = bed.launch(&Script::Sleep)?;
    let object = bed.run_until_started(&launch).await?;
    let before = bed.object(&launch).await?;
    let mut events = bed.engine.events();
    ensure!(next(&mut events).await? == EngineEvent::Resync);
    let mut logs = bed.engine.logs(&object, 0);
    let first = logs.try_next().await?;

    bed.take_away().await?;
    // Earlier events may come first.
    down(AT_ONCE, async {
        while events.try_next().await?.is_some() {}
        Ok(())
    })
    .await
    .context("events")?;
    down(AT_ONCE, logs.try_next()).await.context("logs")?;
    down(AT_ONCE, bed.engine.inspect(launch.id)).await.context("an engine that was there")?;
    every_call_is_down(bed, &launch, &object, AT_ONCE).await?;

    bed.bring_back().await?;
    bed.engine.probe().await?;
    ensure!(bed.object(&launch).await? == before, "it never knew");
    ensure!(bed.engine.logs(&object, 0).try_next().await? == first);
    ensure!(next(&mut bed.engine.events()).await? == EngineEvent::Resync);
    Ok(())
}

pub(crate) async fn an_engine_that_does_not_answer_is_down(bed: &Bed) -> Result<()> {
    let launch = bed.launch(&Script::Sleep)?;
    let object = bed.run_until_started(&launch).await?;
    let before = bed.object(&launch).await?;
    bed.silence().await?;
    every_call_is_down(bed, &launch, &object, IN_THE_END).await?;
    bed.bring_back().await?;
    ensure!(bed.object(&launch).await? == before, "it never knew");
    Ok(())
}
