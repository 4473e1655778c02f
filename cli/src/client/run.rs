//! `run`: a context, an execution of it, its logs, its code.

use std::cell::Cell;
use std::time::Duration;

use anstyle::AnsiColor;
use anyhow::{Context as _, Result, anyhow};
use renga_shared::domain::{Phase, Timestamp, uuid_at};
use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::Surroundings;
use super::bodies::Execution;
use super::follow::Follow;
use super::http::Api;
use super::names::Place;
use super::progress::Progress;
use super::target::Target;
use crate::args::{Output, Run};
use crate::ended::{Ended, Failure};
use crate::output;
use crate::signals;

/// How often is looked at what keeps an execution waiting.
const LOOK: Duration = Duration::from_millis(500);

/// Runs an image.
pub(crate) async fn run(target: Result<Target>, run: Run, surroundings: &Surroundings<'_>) -> Result<Ended, Failure> {
    let specification = specification(&run, surroundings.get).map_err(Failure::Usage)?;
    let api = &target.and_then(|target| Api::new(target, surroundings.clock)).map_err(Failure::Run)?;
    let mut interrupts = signals::stop_requests().map_err(Failure::Run)?;
    if run.dry_run {
        let decision = placement(api, &run, &specification, surroundings).await.map_err(Failure::Run)?;
        return show_placement(&decision, surroundings.output).map(|()| Ended::Done).map_err(Failure::Run);
    }
    let created = tokio::select! {
        created = create(api, &run, &specification, surroundings) => created.map_err(Failure::Run)?,
        _ = interrupts.recv() => return Ok(Ended::Left),
    };
    if run.detach {
        let ids = json!({"context": created.context, "execution": created.execution});
        let printed = match surroundings.output {
            Output::Json => output::json(&ids),
            Output::Table => output::line(&created.execution),
        };
        return printed.map(|()| Ended::Done).map_err(Failure::Run);
    }

    let progress = Progress::new();
    let follow = Follow { api, place: &created, query: Vec::new(), progress: &progress };
    let mut out = tokio::io::stdout();
    let stop_asked = Cell::new(false);
    let ended = tokio::select! {
        ended = follow.to_end(&mut out) => ended.map_err(Failure::Run)?,
        () = show_what_keeps_it(api, &created, &progress) => unreachable!("it never ends"),
        () = leave(api, &created, &progress, &mut interrupts, &stop_asked) => return Ok(Ended::Left),
    };
    progress.clear();
    verdict(&ended, stop_asked.get())
}

async fn create(api: &Api, run: &Run, specification: &Value, surroundings: &Surroundings<'_>) -> Result<Place> {
    let context = create_context(api, specification, surroundings).await?;
    let key = key(surroundings.now, surroundings.random, 2);
    let execution = api.create(&["contexts", &context, "executions"], &wish(run), &key).await?;
    Ok(Place { execution: identifier(&execution)?, context })
}

async fn create_context(api: &Api, specification: &Value, surroundings: &Surroundings<'_>) -> Result<String> {
    let key = key(surroundings.now, surroundings.random, 1);
    identifier(&api.create(&["contexts"], specification, &key).await?)
}

/// Where it would run: the API's decision.
async fn placement(api: &Api, run: &Run, specification: &Value, surroundings: &Surroundings<'_>) -> Result<Value> {
    let context = create_context(api, specification, surroundings).await?;
    let key = key(surroundings.now, surroundings.random, 2);
    Ok(api.create(&["contexts", &context, "placement"], &wish(run), &key).await?)
}

fn show_placement(decision: &Value, output: Output) -> Result<()> {
    if output == Output::Json {
        return output::json(decision);
    }
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let engines = decision["engines"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = engines.iter().map(|engine| {
        let chosen = engine["engine"] == decision["engine"];
        let colour = if chosen { AnsiColor::Green } else { AnsiColor::Yellow };
        [
            text(engine, "engine").into(),
            output::Cell::new(text(engine, "reason")).coloured(colour),
            text(engine, "message").into(),
        ]
    });
    output::table(["ENGINE", "VERDICT", ""], rows.collect())
}

/// What is asked for beside the context.
fn wish(run: &Run) -> Value {
    let mut wish = json!({});
    for (name, value) in [("engine", &run.engine), ("namespace", &run.namespace)] {
        if let Some(value) = value {
            wish[name] = json!(value);
        }
    }
    wish
}

/// A key that no other call has.
fn key(now: Timestamp, random: u64, part: u8) -> String {
    uuid_at(now, random.wrapping_add(part.into()).to_be_bytes()).to_string()
}

fn identifier(created: &Value) -> Result<String> {
    let id = created.get("identifier").and_then(Value::as_str);
    id.map(str::to_owned).context("the answer names no identifier: is this the address of a deployer's API?")
}

/// The context to create.
fn specification(run: &Run, get: &dyn Fn(&str) -> Option<String>) -> Result<Value, String> {
    let variable = |given: &String| match given.split_once('=') {
        Some(("", _)) => Err(format!("--env {given:?} names no variable; write K=V")),
        Some((name, value)) => Ok(json!({"name": name, "value": value})),
        None => match get(given) {
            Some(value) => Ok(json!({"name": given, "value": value})),
            None => Err(format!("--env {given}: the variable is not set here; set it, or write {given}=VALUE")),
        },
    };
    let env = run.env.iter().map(variable).collect::<Result<Vec<_>, _>>()?;
    let mut specification = json!({"image": run.image});
    let limits: Map<String, Value> = [
        ("cpu", run.cpus.clone().map(Value::from)),
        ("memory", run.memory.clone().map(Value::from)),
        ("nvidia.com/gpu", run.gpus.map(Value::from)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect();
    // What is not given is left out, so that the service's defaults hold.
    for (name, value, given) in [
        ("command", json!(run.command), !run.command.is_empty()),
        ("env", json!(env), !env.is_empty()),
        ("ports", json!(run.port), !run.port.is_empty()),
        ("labels", json!(run.label), !run.label.is_empty()),
        ("resources", json!({"limits": limits}), !limits.is_empty()),
    ] {
        if given {
            specification[name] = value;
        }
    }
    Ok(specification)
}

/// Shows what an execution waits for until it has started. Never ends.
async fn show_what_keeps_it(api: &Api, place: &Place, progress: &Progress) {
    loop {
        // An answer that does not come is the follower's business.
        if let Ok(execution) =
            api.get(&place.path(&[]), &[]).await.map_err(Into::into).and_then(|value| Execution::read(&value))
        {
            if execution.has_ended()
                || !matches!(execution.phase(), Some(Phase::Pending | Phase::Scheduled | Phase::Starting))
            {
                progress.clear();
                return std::future::pending().await;
            }
            if let Some(message) = &execution.status.message {
                progress.show(message);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits for a first request to stop, passes it on, and ends at the second.
async fn leave(
    api: &Api,
    place: &Place,
    progress: &Progress,
    interrupts: &mut mpsc::UnboundedReceiver<()>,
    stop_asked: &Cell<bool>,
) {
    let _ = interrupts.recv().await;
    stop_asked.set(true);
    progress.say("stopping it; press Ctrl-C again to leave it as it is");
    let stop = async {
        if let Err(error) = api.ask(Method::POST, &place.path(&["stop"])).await {
            progress.say(&format!("it could not be stopped: {error}"));
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = stop => {}
        _ = interrupts.recv() => progress.say(&format!("left; it is still there: renga-deployer logs -f {}", place.execution)),
    }
}

/// What the end of an execution means for who ran it.
fn verdict(execution: &Execution, stop_asked: bool) -> Result<Ended, Failure> {
    let status = &execution.status;
    let message = status.message.as_deref().unwrap_or("the service does not say why");
    match status.exit_code {
        Some(code) => {
            // A code that the container chose itself needs no words.
            if !matches!(status.reason.as_deref(), None | Some("Completed" | "ExitedWithError")) {
                Progress::new().say(&output::plain(message));
            }
            Ok(Ended::Container(code))
        }
        // It never started: that is what was asked for.
        None if stop_asked => Ok(Ended::Left),
        None => {
            let phase = status.phase.as_deref().unwrap_or(&execution.state);
            let message = output::plain(message);
            Err(Failure::Run(anyhow!("the execution {} is {}: {message}", execution.identifier, output::plain(phase))))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Arguments, Command};

    fn run(line: &[&str]) -> Run {
        let line = ["renga-deployer", "run"].iter().chain(line).copied();
        match Arguments::try_parse_from(line).unwrap().command {
            Command::Run(run) => run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_given_is_left_out() {
        assert_eq!(specification(&run(&["alpine"]), &|_| None).unwrap(), json!({"image": "alpine"}));
        let line = ["-e", "A=b=c", "-e", "HOME", "-p", "53/udp", "-l", "x=y", "alpine", "--", "echo", "a b"];
        let expected = json!({
            "image": "alpine", "command": ["echo", "a b"], "ports": ["53/udp"], "labels": ["x=y"],
            "env": [{"name": "A", "value": "b=c"}, {"name": "HOME", "value": "/home/ada"}],
        });
        assert_eq!(specification(&run(&line), &|_| Some("/home/ada".into())).unwrap(), expected);
    }

    #[test]
    fn a_variable_that_is_nowhere_is_told_with_the_cure() {
        let told = specification(&run(&["-e", "NOWHERE", "alpine"]), &|_| None).unwrap_err();
        assert!(told.contains("NOWHERE=VALUE"), "{told}");
        assert!(specification(&run(&["-e", "=x", "alpine"]), &|_| None).is_err());
    }

    fn ended(status: Value) -> Execution {
        Execution::read(&json!({"identifier": "id", "state": "unavailable", "status": status})).unwrap()
    }

    #[test]
    fn only_the_containers_own_code_is_its_code() {
        let exited = ended(json!({"phase": "exited", "exit_code": 3, "reason": "ExitedWithError"}));
        assert_eq!(verdict(&exited, true).unwrap(), Ended::Container(3));
        let failed = ended(json!({"phase": "failed", "reason": "ImageNotFound", "message": "There is no image x."}));
        let told = verdict(&failed, false).unwrap_err();
        assert_eq!(told.to_string(), "the execution id is failed: There is no image x.");
        assert!(matches!(told, Failure::Run(_)));
        assert_eq!(verdict(&failed, true).unwrap(), Ended::Left);
    }
}
