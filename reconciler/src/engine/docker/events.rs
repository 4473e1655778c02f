//! What happens to the containers of this deployment.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures::stream::{self, BoxStream, StreamExt as _};
use futures::{Stream, TryStreamExt as _};
use renga_shared::domain::{ExecutionId, Timestamp};

use super::client::{ANSWER_WITHIN, Client};
use super::failure::Failure;
use crate::engine::{DEPLOYMENT_LABEL, EXECUTION_LABEL, EngineError, EngineEvent};

/// What changes an object's state or existence.
const ACTIONS: [&str; 7] = ["create", "start", "die", "oom", "destroy", "pause", "unpause"];

/// How long after a container's end its engine may still hear why it was killed: on a busy machine a second is not enough.
const TOLD_WITHIN: Duration = Duration::from_secs(3);
/// As events have it.
const SIGKILL: &str = "9";

/// The events of a deployment, until the engine goes away.
pub(super) fn events(
    client: Arc<Client>,
    deployment: String,
) -> impl Stream<Item = Result<EngineEvent, EngineError>> + Send + 'static {
    stream::once(async move { begin(client, &deployment).await }).try_flatten()
}

async fn begin(
    client: Arc<Client>,
    deployment: &str,
) -> Result<BoxStream<'static, Result<EngineEvent, EngineError>>, EngineError> {
    let connection = client.connection().await?;
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("label".to_owned(), vec![format!("{DEPLOYMENT_LABEL}={deployment}")]),
        ("event".to_owned(), ACTIONS.map(str::to_owned).into()),
    ]);
    // The engine keeps its last 256 events and gives them again. Among them is whatever happens between the resync that
    // is asked for here and the moment when the engine begins to tell.
    let options = EventsOptions { since: Some("1".into()), until: None, filters: Some(filters) };
    let messages = connection.for_streams().events(Some(options)).map_err(Failure::from);
    let ended = || Failure::Down("its stream of events ended".into());
    let heard = messages
        .chain(stream::once(async move { Err(ended()) }))
        .map_err(move |failure| match client.heard(failure) {
            // Whatever ended it: events are missed from here on.
            Failure::Answered { message, .. } => EngineError::Down(message),
            down => down.into(),
        })
        .try_filter_map(|message| async move { Ok(execution(message).map(EngineEvent::Changed)) });
    Ok(stream::once(async { Ok(EngineEvent::Resync) }).chain(heard).boxed())
}

/// Whether a container that was killed, and ended at `finished`, was killed because its memory did not suffice, by the engine's
/// events. They know better than the container's state: an engine that hears of the end first, and of its cause a moment later,
/// leaves the state as it was (Docker Engine 20.10, in one of 40 ends when eight containers run out of memory at once). That moment
/// is waited for, unless the engine itself killed it. Of what runs out of memory in its first moment an engine may never hear.
pub(super) async fn ran_out_of_memory(client: &Client, container: &str, finished: Timestamp) -> Result<bool, Failure> {
    let connection = client.connection().await?;
    let filters = HashMap::from([
        ("container".to_owned(), vec![container.to_owned()]),
        ("event".to_owned(), ["oom", "kill"].map(str::to_owned).into()),
    ]);
    let Timestamp(until) = finished.plus(TOLD_WITHIN);
    let until = format!("{}.{:06}", until.div_euclid(1_000_000), until.rem_euclid(1_000_000));
    let options = EventsOptions { since: Some("1".into()), until: Some(until), filters: Some(filters) };
    let told =
        connection.for_streams().events(Some(options)).try_filter_map(|event| async { Ok(is_for_memory(event)) });
    tokio::pin!(told);
    let first = client.answer(ANSWER_WITHIN, async {
        // By a clock that was put back, the moment may be far away.
        tokio::time::timeout(2 * TOLD_WITHIN, told.try_next()).await.unwrap_or(Ok(None))
    });
    Ok(first.await?.unwrap_or(false))
}

/// Whether an event that tells why a container was killed says that it was for memory; `None`: it does not tell.
fn is_for_memory(event: EventMessage) -> Option<bool> {
    if event.action.as_deref() == Some("oom") {
        return Some(true);
    }
    let signal = event.actor?.attributes?.remove("signal")?;
    (signal == SIGKILL).then_some(false)
}

fn execution(message: EventMessage) -> Option<ExecutionId> {
    message.actor?.attributes?.get(EXECUTION_LABEL)?.parse().ok()
}
