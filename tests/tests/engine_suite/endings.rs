//! The end of objects, and objects that never start.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use futures::future::try_join_all;
use renga_reconciler::engine::{EngineError, Exit, Launch, ObjectState};
use renga_shared::domain::Why;
use renga_tests::deployment::until;
use renga_tests::scripts::{Script, TestEngine};
use serde_json::json;

use crate::bed::{Bed, refused};

/// A grace period that is longer than any correct stop in these tests takes.
const GRACE: Duration = Duration::from_secs(20);
/// Maximum time that a stop takes beyond the grace period, on a busy machine.
const SLACK: Duration = Duration::from_secs(10);

pub(crate) async fn the_exit_code_is_told(bed: &Bed) -> Result<()> {
    for code in [0, 3, 255] {
        let launch = bed.launch(&Script::Exit(code))?;
        bed.run(&launch).await?;
        let exit = bed.ended(&launch).await?;
        ensure!(exit.code == i64::from(code) && !exit.out_of_memory && exit.error.is_none(), "{code}: {exit:?}");
        ensure!(exit.started.is_some_and(|started| started <= exit.finished), "{exit:?}");
    }
    Ok(())
}

pub(crate) async fn running_out_of_memory_is_told(bed: &Bed) -> Result<()> {
    let launch = bed.launch(&Script::OutOfMemory)?;
    bed.run(&launch).await?;
    let exit = bed.ended(&launch).await?;
    ensure!(exit.code == 137 && exit.out_of_memory, "{exit:?}");
    Ok(())
}

pub(crate) async fn a_signal_is_told(bed: &Bed) -> Result<()> {
    let launch = bed.launch(&Script::Sleep)?;
    bed.run_until_started(&launch).await?;
    bed.kill(&launch).await?;
    let exit = bed.ended(&launch).await?;
    ensure!(exit.code == 128 + 9 && !exit.out_of_memory, "{exit:?}");
    Ok(())
}

pub(crate) async fn a_missing_command_is_refused(bed: &Bed) -> Result<()> {
    let launch = bed.launch(&Script::MissingCommand)?;
    let object = bed.create(&launch).await?;
    for engine in [bed.engine.clone(), bed.engine.clone(), bed.again()?] {
        if bed.which.starts_at_once() {
            refused(engine.start(&object).await, "CommandNotFound")?;
            let seen = bed.object(&launch).await?;
            ensure!(seen.state == ObjectState::Created && seen.ports.is_empty(), "it never ran: {seen:?}");
        } else {
            engine.start(&object).await?;
            let failed =
                |state: &ObjectState| matches!(state, ObjectState::Failed(why) if why.reason == "CommandNotFound");
            becomes(bed, &launch, failed).await?;
        }
    }
    let listed = bed.engine.list().await?;
    ensure!(listed.len() == 1 && !listed[0].running, "{listed:?}");
    ensure!(bed.text(&object).await?.is_empty());
    bed.engine.stop(&object, GRACE).await?;
    bed.engine.remove(&object).await?;
    ensure!(bed.engine.inspect(launch.id).await?.is_none());
    Ok(())
}

/// Waits until the object's state matches `wanted`.
async fn becomes(bed: &Bed, launch: &Launch, wanted: impl Fn(&ObjectState) -> bool) -> Result<()> {
    until("the state to be told", async || {
        let seen = bed.object(launch).await?;
        ensure!(seen.ports.is_empty(), "it never ran: {seen:?}");
        Ok(if wanted(&seen.state) { Ok(()) } else { Err(json!(format!("{seen:?}"))) })
    })
    .await
}

pub(crate) async fn a_missing_image_is_told(bed: &Bed) -> Result<()> {
    let launch = bed.launch(&Script::MissingImage)?;
    if !bed.which.starts_at_once() {
        let object = bed.run(&launch).await?;
        for reason in ["ErrImagePull", "ImagePullBackOff"] {
            let told = |state: &ObjectState| matches!(state, ObjectState::Starting(Some(why)) if why.reason == reason && why.message.contains("no/such"));
            becomes(bed, &launch, told).await?;
        }
        // An object that has not started can be stopped.
        bed.engine.stop(&object, GRACE).await?;
        let stopped = bed.object(&launch).await?.state;
        ensure!(matches!(&stopped, ObjectState::Failed(why) if why.reason == "StoppedBeforeStart"), "{stopped:?}");
        return Ok(());
    }
    let told = Mutex::new(Vec::new());
    let tell = |why: Why| {
        if let Ok(mut told) = told.lock() {
            told.push(why.reason);
        }
    };
    // A registry that does not respond may do so later. A registry without the image will not get it.
    match bed.engine.prepare(&launch, &tell).await {
        Err(EngineError::Refused(why)) if why.reason == "ImageNotFound" => {}
        Err(EngineError::Retry(why)) if why.reason == "ImagePullFailed" => {}
        other => bail!("{other:?}"),
    }
    ensure!(bed.which == TestEngine::Fake || told.into_inner()? == ["PullingImage"], "it is told what is waited for");
    ensure!(bed.engine.inspect(launch.id).await?.is_none() && bed.engine.list().await?.is_empty());
    Ok(())
}

/// Stops a running object. Returns how it ended, and how long the stop took.
async fn stop(bed: &Bed, launch: &Launch, object: &str, grace: Duration) -> Result<(Exit, Duration)> {
    let begin = Instant::now();
    bed.engine.stop(object, grace).await?;
    let took = begin.elapsed();
    match bed.object(launch).await?.state {
        ObjectState::Exited(exit) => {
            ensure!(!exit.out_of_memory, "{exit:?}");
            Ok((exit, took))
        }
        other => bail!("it has ended when stop answers: {other:?}"),
    }
}

pub(crate) async fn stop_waits_for_one_that_handles_term(bed: &Bed) -> Result<()> {
    let launch = bed.launch(&Script::Sleep)?;
    let object = bed.run_until_started(&launch).await?;
    let (exit, took) = stop(bed, &launch, &object, GRACE).await?;
    ensure!(exit.code == 128 + 15, "it was asked to end: {exit:?}");
    ensure!(took < SLACK, "the grace period is not used up by what ends: {took:?}");
    let (again, _) = stop(bed, &launch, &object, GRACE).await?;
    ensure!(again == exit, "stopping again changes nothing");
    Ok(())
}

pub(crate) async fn stop_kills_one_that_ignores_term(bed: &Bed) -> Result<()> {
    // Engines may count whole seconds; a grace period below one second must not become zero.
    let graces = [Duration::from_secs(2), Duration::from_millis(300), Duration::ZERO];
    try_join_all(graces.map(async |grace| {
        let launch = bed.launch(&Script::IgnoreTerm)?;
        let object = bed.run_until_started(&launch).await?;
        let (exit, took) = stop(bed, &launch, &object, grace).await?;
        ensure!(exit.code == 128 + 9, "{exit:?}");
        ensure!(took >= grace && took < grace + SLACK, "{grace:?} became {took:?}");
        Ok(())
    }))
    .await?;
    Ok(())
}
