//! Objects: created once, run once, found by name, and changed only by their own ids.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use renga_reconciler::clock::{Clock as _, SystemClock};
use renga_reconciler::engine::{EngineError, Listed, ObjectState};
use renga_tests::deployment::until;
use renga_tests::scripts::Script;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::bed::{Bed, PATIENCE, refused};

/// A grace period that is longer than any correct stop in these tests takes.
const GRACE: Duration = Duration::from_secs(20);

fn is_running(state: &ObjectState) -> bool {
    matches!(state, ObjectState::Running { .. })
}

pub(crate) async fn created_twice_is_adopted_and_does_not_run(bed: &Bed) -> Result<()> {
    let launch = bed.launch_with(&Script::PrintAndExit3, &json!({"ports": ["8080"]}))?;
    ensure!(bed.engine.inspect(launch.id).await?.is_none(), "it is not there before it is made");
    let object = bed.create(&launch).await?;
    ensure!(bed.engine.create(&launch).await? == object, "it is adopted");
    ensure!(bed.again()?.create(&launch).await? == object, "it is adopted by the next process");
    let seen = bed.object(&launch).await?;
    ensure!(seen.id == object && seen.state == ObjectState::Created && seen.ports.is_empty(), "{seen:?}");
    ensure!(bed.text(&object).await?.is_empty(), "it wrote something");
    Ok(())
}

pub(crate) async fn created_again_when_it_has_run_is_adopted_as_it_is(bed: &Bed) -> Result<()> {
    let launch = bed.launch(&Script::Sleep)?;
    let object = bed.run_until_started(&launch).await?;
    let before = bed.object(&launch).await?;
    ensure!(bed.engine.create(&launch).await? == object);
    ensure!(bed.object(&launch).await? == before, "it was changed");
    bed.engine.stop(&object, GRACE).await?;
    let before = bed.object(&launch).await?;
    ensure!(bed.engine.create(&launch).await? == object);
    ensure!(bed.object(&launch).await? == before, "it was changed");
    Ok(())
}

pub(crate) async fn started_twice_runs_once(bed: &Bed) -> Result<()> {
    let launch = bed.launch(&Script::Sleep)?;
    let object = bed.run_until_started(&launch).await?;
    let before = bed.object(&launch).await?;
    ensure!(is_running(&before.state), "{before:?}");
    bed.engine.start(&object).await?;
    bed.again()?.start(&object).await?;
    ensure!(bed.object(&launch).await? == before, "it was started anew");
    bed.engine.stop(&object, GRACE).await?;
    ensure!(bed.text(&object).await? == "started\n", "it ran twice");
    Ok(())
}

pub(crate) async fn started_again_after_its_end_does_not_run_again(bed: &Bed) -> Result<()> {
    let launch = bed.launch(&Script::PrintAndExit3)?;
    let object = bed.run(&launch).await?;
    let exit = bed.ended(&launch).await?;
    let logs = bed.written(&object, 0).await?;
    bed.engine.start(&object).await?;
    bed.again()?.start(&object).await?;
    let after = bed.object(&launch).await?;
    ensure!(after.state == ObjectState::Exited(exit), "{after:?}");
    ensure!(bed.written(&object, 0).await? == logs, "it ran twice");
    Ok(())
}

pub(crate) async fn what_is_gone_is_stopped_and_removed(bed: &Bed) -> Result<()> {
    let never_ran = bed.launch(&Script::Sleep)?;
    let object = bed.create(&never_ran).await?;
    bed.engine.stop(&object, GRACE).await?;
    ensure!(!is_running(&bed.object(&never_ran).await?.state), "stopping made it run");

    let ended = bed.launch(&Script::Exit(0))?;
    let ended_object = bed.run(&ended).await?;
    let exit = bed.ended(&ended).await?;
    bed.engine.stop(&ended_object, GRACE).await?;
    ensure!(bed.object(&ended).await?.state == ObjectState::Exited(exit), "stopping what has ended changes nothing");

    for (launch, object) in [(&never_ran, &object), (&ended, &ended_object)] {
        bed.engine.remove(object).await?;
        ensure!(bed.engine.inspect(launch.id).await?.is_none(), "it is gone when remove answers");
        bed.engine.remove(object).await?;
        bed.engine.stop(object, GRACE).await?;
        bed.again()?.remove(object).await?;
        ensure!(bed.written(object, 0).await?.is_empty(), "what is gone has no logs");
    }
    Ok(())
}

pub(crate) async fn what_runs_is_removed(bed: &Bed) -> Result<()> {
    let launch = bed.launch(&Script::IgnoreTerm)?;
    let object = bed.run_until_started(&launch).await?;
    let (first, second) = tokio::join!(bed.engine.remove(&object), bed.engine.remove(&object));
    first?;
    second?;
    ensure!(bed.engine.inspect(launch.id).await?.is_none(), "it is gone when remove answers");
    ensure!(bed.engine.list().await?.is_empty());
    Ok(())
}

pub(crate) async fn an_old_id_never_touches_a_later_object(bed: &Bed) -> Result<()> {
    let launch = bed.launch(&Script::Sleep)?;
    let old = bed.run_until_started(&launch).await?;
    bed.engine.remove(&old).await?;

    let later = bed.create(&launch).await?;
    ensure!(later != old, "an id is never given twice");
    let Err(EngineError::Retry(_) | EngineError::Refused(_)) = bed.engine.start(&old).await else {
        bail!("what is gone cannot be started");
    };
    let seen = bed.object(&launch).await?;
    ensure!(seen.id == later && seen.state == ObjectState::Created, "the old id started it: {seen:?}");

    bed.engine.start(&later).await?;
    let before = bed.running(&launch).await?;
    bed.engine.stop(&old, Duration::ZERO).await?;
    bed.engine.remove(&old).await?;
    ensure!(bed.written(&old, 0).await?.is_empty(), "the old id has its logs");
    ensure!(bed.object(&launch).await? == before, "the old id touched it");
    Ok(())
}

pub(crate) async fn what_was_removed_by_others_is_gone(bed: &Bed) -> Result<()> {
    let launch = bed.launch(&Script::Sleep)?;
    let object = bed.run_until_started(&launch).await?;
    bed.lose(&launch).await?;
    ensure!(bed.engine.inspect(launch.id).await?.is_none() && bed.engine.list().await?.is_empty());
    let Err(EngineError::Retry(_) | EngineError::Refused(_)) = bed.engine.start(&object).await else {
        bail!("what is gone cannot be started");
    };
    bed.engine.stop(&object, GRACE).await?;
    bed.engine.remove(&object).await?;
    Ok(())
}

pub(crate) async fn the_list_shows_what_this_deployment_has(bed: &Bed) -> Result<()> {
    let since = SystemClock.now();
    let launches = [
        bed.launch(&Script::Sleep)?,
        bed.launch(&Script::Sleep)?,
        bed.launch(&Script::Exit(0))?,
        bed.launch(&Script::Sleep)?,
    ];
    let [created, running, ended, others] = &launches;
    let made = bed.create(created).await?;
    let ran = bed.run(running).await?;
    let over = bed.run(ended).await?;
    bed.ended(ended).await?;
    let theirs = bed.other.create(others).await?;

    let listed = bed.engine.list().await?;
    let shown = |listed: &[Listed]| -> BTreeSet<_> {
        listed.iter().map(|one| (one.execution, one.object.clone(), one.running)).collect()
    };
    let expected = BTreeSet::from([(created.id, made, false), (running.id, ran, true), (ended.id, over, false)]);
    ensure!(shown(&listed) == expected && listed.len() == 3, "{listed:?}");
    for one in &listed {
        // An engine may report whole seconds.
        let age = one.created.since(since.minus(Duration::from_secs(1)));
        ensure!(age > Duration::ZERO && age < 2 * PATIENCE, "made at a time that is not now: {one:?}");
    }
    ensure!(shown(&bed.other.list().await?) == BTreeSet::from([(others.id, theirs, false)]));
    Ok(())
}

pub(crate) async fn a_name_that_another_deployment_has_is_taken(bed: &Bed) -> Result<()> {
    let launch = bed.launch(&Script::Sleep)?;
    bed.engine.prepare(&launch, &|_| {}).await?;
    let theirs = bed.other.create(&launch).await?;
    bed.other.start(&theirs).await?;
    let before = bed.other.inspect(launch.id).await?.context("it is not there")?;
    refused(bed.engine.create(&launch).await, "NameTaken")?;
    ensure!(bed.engine.inspect(launch.id).await?.is_none(), "another's object counts as none");
    ensure!(bed.other.inspect(launch.id).await? == Some(before), "it was touched");
    Ok(())
}

pub(crate) async fn ports_can_be_reached_while_it_runs(bed: &Bed) -> Result<()> {
    let serve = |bed: &Bed| bed.launch_with(&Script::Serve, &json!({"ports": ["8080", "53/udp", 9000]}));
    let (launch, beside) = (serve(bed)?, serve(bed)?);
    let object = bed.run(&launch).await?;
    bed.run(&beside).await?;
    let ports = bed.running(&launch).await?.ports;
    let shown: Vec<_> = ports.iter().map(|port| (port.specified.as_str(), port.protocol.as_str())).collect();
    ensure!(shown == [("8080", "TCP"), ("53", "UDP"), ("9000", "TCP")], "in the order asked for: {ports:?}");
    let mut given = BTreeSet::new();
    for port in ports.iter().chain(&bed.running(&beside).await?.ports) {
        ensure!(port.host == bed.host() && port.path.is_none(), "{port:?}");
        ensure!(port.exposed.parse::<u16>()? > 0, "{port:?}");
        ensure!(given.insert((port.exposed.clone(), port.protocol.clone())), "given twice: {port:?}");
    }
    if bed.which.has_files() {
        let address = format!("{}:{}", ports[0].host, ports[0].exposed);
        let served = until("the page to be served", async || {
            let answer = ask(&address).await.unwrap_or_else(|error| error.to_string());
            Ok(if answer.ends_with("\r\n\r\nserved\n") { Ok(()) } else { Err(json!(answer)) })
        });
        served.await?;
    }
    bed.engine.stop(&object, Duration::ZERO).await?;
    ensure!(bed.object(&launch).await?.ports.is_empty(), "what does not run cannot be reached");
    Ok(())
}

/// Returns the response of a web server to `GET /`.
async fn ask(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

pub(crate) async fn the_environment_is_given(bed: &Bed) -> Result<()> {
    let value = "zwölf = \"12\" $HOME\n  'x'";
    let mut launch = bed.launch(&Script::Variable("GIVEN"))?;
    launch.environment.insert("GIVEN".into(), value.into());
    let object = bed.run(&launch).await?;
    ensure!(bed.text(&object).await? == format!("{value}\n"));
    Ok(())
}
