//! `ps`, `ports` and `engines`.

use std::collections::HashMap;

use anstyle::AnsiColor;
use anyhow::Result;
use renga_shared::api::PortBody;
use renga_shared::domain::{ClientState, Phase, Timestamp};
use renga_shared::placement::{Claim, Offer};
use serde::Deserialize as _;
use serde_json::Value;

use super::bodies::{Context, Engine, Execution};
use super::http::Api;
use super::names::{find, short};
use crate::args::{Output, Ps};
use crate::output::{self, Cell};

/// Prints executions.
pub(crate) async fn ps(api: &Api, ps: &Ps, output: Output, now: Timestamp) -> Result<()> {
    let states: Vec<Option<ClientState>> = match (ps.state.as_slice(), ps.all) {
        ([], true) => vec![None],
        ([], false) => vec![Some(ClientState::Pending), Some(ClientState::Running)],
        (states, _) => states.iter().copied().map(Some).collect(),
    };
    let mut found = Vec::new();
    for state in states {
        let state = state.map(|state| ("state", state.as_str()));
        let label = ps.label.as_deref().map(|label| ("label", label));
        let query: Vec<_> = state.into_iter().chain(label).collect();
        found.extend(api.list(&["executions"], &query, "executions", |_| false).await?);
    }
    // Newest first, as in each list: ids sort by age.
    let id = |value: &Value| value["identifier"].as_str().unwrap_or_default().to_owned();
    found.sort_by_key(|value| std::cmp::Reverse(id(value)));
    found.dedup_by_key(|value| id(value));
    if output == Output::Json {
        return output::json(&Value::Array(found));
    }
    let executions = found.iter().map(Execution::read).collect::<Result<Vec<_>>>()?;
    let images = images(api, &executions).await?;
    let rows = executions.iter().map(|execution| {
        [
            short(&execution.identifier).into(),
            images.get(execution.context_id.as_str()).map_or("-", String::as_str).into(),
            state(execution, now),
            execution.status.engine.as_deref().unwrap_or("-").into(),
            output::ago(&execution.created, now).into(),
            what_keeps(execution).into(),
        ]
    });
    output::table(["ID", "IMAGE", "STATE", "ENGINE", "CREATED", ""], rows.collect())
}

/// Returns the image of each context, by the context's id.
async fn images(api: &Api, executions: &[Execution]) -> Result<HashMap<String, String>> {
    let wanted: Vec<&str> = executions.iter().map(|execution| execution.context_id.as_str()).collect();
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let read = |value: &Value| Context::deserialize(value).ok().map(|context| (context.identifier, context.spec.image));
    let enough = |items: &[Value]| {
        let known: HashMap<_, _> = items.iter().filter_map(read).collect();
        wanted.iter().all(|context| known.contains_key(*context))
    };
    let contexts = api.list(&["contexts"], &[], "contexts", enough).await?;
    Ok(contexts.iter().filter_map(read).collect())
}

fn state(execution: &Execution, now: Timestamp) -> Cell {
    let status = &execution.status;
    let word = status.phase.as_deref().unwrap_or(&execution.state);
    match (execution.phase(), status.exit_code) {
        (Some(Phase::Exited), Some(0)) => Cell::new("exited (0)"),
        (Some(Phase::Exited), Some(code)) => Cell::new(format!("exited ({code})")).coloured(AnsiColor::Red),
        (Some(Phase::Failed | Phase::Lost), _) => Cell::new(word).coloured(AnsiColor::Red),
        (Some(Phase::Running), _) => match &status.started {
            Some(started) => Cell::new(format!("running for {}", output::ago(started, now).trim_end_matches(" ago"))),
            None => Cell::new(word),
        }
        .coloured(AnsiColor::Green),
        (Some(phase), _) if !phase.is_terminal() => Cell::new(word).coloured(AnsiColor::Yellow),
        _ => Cell::new(word),
    }
}

/// Returns why the execution does not run, if that is not obvious.
fn what_keeps(execution: &Execution) -> &str {
    match execution.phase() {
        Some(Phase::Running | Phase::Exited | Phase::Removed) => "",
        _ => execution.status.message.as_deref().unwrap_or_default(),
    }
}

/// Prints the ports of an execution.
pub(crate) async fn ports(api: &Api, id: &str, output: Output) -> Result<()> {
    let place = find(api, id).await?;
    let answer = api.get(&place.path(&["ports"]), &[]).await?;
    let ports = &answer["ports"];
    if output == Output::Json {
        return output::json(ports);
    }
    let ports = Vec::<PortBody>::deserialize(ports)?;
    let rows = ports.iter().map(|port| {
        let url = match (&port.path, port.protocol.as_str()) {
            (Some(path), _) => format!("http://{}:{}{path}", port.host, port.exposed),
            (None, "TCP") => format!("http://{}:{}", port.host, port.exposed),
            (None, _) => String::new(),
        };
        let inside = format!("{}/{}", port.specified, port.protocol.to_ascii_lowercase());
        [inside.into(), format!("{}:{}", port.host, port.exposed).into(), url.into()]
    });
    output::table(["PORT", "ADDRESS", "IF IT SPEAKS HTTP"], rows.collect())
}

/// Prints the engines.
pub(crate) async fn engines(api: &Api, output: Output, now: Timestamp) -> Result<()> {
    let answer = api.get(&["engines"], &[]).await?;
    let engines = &answer["engines"];
    if output == Output::Json {
        return output::json(engines);
    }
    let engines = Vec::<Engine>::deserialize(engines)?;
    let rows = engines.iter().map(|engine| {
        let (word, colour) = if engine.up { ("up", AnsiColor::Green) } else { ("down", AnsiColor::Red) };
        let since = output::ago(&engine.since, now);
        [
            engine.name.as_str().into(),
            engine.kind.as_str().into(),
            Cell::new(format!("{word} for {}", since.trim_end_matches(" ago"))).coloured(colour),
            engine.version.as_deref().unwrap_or("-").into(),
            busy(engine).into(),
            engine.offer.as_ref().map(free).unwrap_or_default().into(),
            engine.reason.clone().or_else(|| engine.offer.as_ref().map(only_for)).unwrap_or_default().into(),
        ]
    });
    output::table(["NAME", "KIND", "STATE", "VERSION", "EXECUTIONS", "FREE", ""], rows.collect())
}

/// Returns the number of executions, and the maximum.
fn busy(engine: &Engine) -> String {
    let max = engine.offer.as_ref().and_then(|offer| offer.max).map(|max| format!(" of {max}")).unwrap_or_default();
    let more = [(engine.pending, "pending"), (engine.waiting, "waiting")];
    let more: String =
        more.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}")).collect();
    format!("{} running{more}{max}", engine.running)
}

/// Returns the free and the total amount of each resource.
fn free(offer: &Offer) -> String {
    let Some(room) = offer.capacity.room() else { return String::new() };
    let shown = room.total.iter().map(|(name, total)| {
        let free = room.free.get(name).copied().unwrap_or_default();
        format!("{name} {}/{}", free.show(name), total.show(name))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Returns who may use the engine, if not everybody, or that it accepts no new executions.
fn only_for(offer: &Offer) -> String {
    let claims: Vec<&str> = offer.claims.iter().map(Claim::as_str).collect();
    match (offer.retired, claims.is_empty()) {
        (true, _) => "taken out of the configuration; kept until what it runs has ended".to_owned(),
        (false, true) => String::new(),
        (false, false) => format!("for {}", claims.join(" or ")),
    }
}
