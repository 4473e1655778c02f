//! The events of this deployment's containers.

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

/// The Docker events that change an object's state or existence.
const ACTIONS: [&str; 7] = ["create", "start", "die", "oom", "destroy", "pause", "unpause"];

/// Time in which an engine may still learn why a container ended. One second is too short on a busy machine.
const TOLD_WITHIN: Duration = Duration::from_secs(3);
/// SIGKILL in the notation of Docker's events.
const SIGKILL: &str = "9";

/// Streams the events of a deployment until the engine becomes unreachable.
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
    // The engine repeats its last 256 events. They include what happens between the resync that is requested here and
    // the moment when the engine begins to send.
    let options = EventsOptions { since: Some("1".into()), until: None, filters: Some(filters) };
    let messages = connection.for_streams().events(Some(options)).map_err(Failure::from);
    let ended = || Failure::Down("its stream of events ended".into());
    let heard = messages
        .chain(stream::once(async move { Err(ended()) }))
        .map_err(move |failure| match client.heard(failure) {
            // An error answer counts as `Down` too, because events are missed from here on.
            Failure::Answered { message, .. } => EngineError::Down(message),
            down => down.into(),
        })
        .try_filter_map(|message| async move { Ok(execution(message).map(EngineEvent::Changed)) });
    Ok(stream::once(async { Ok(EngineEvent::Resync) }).chain(heard).boxed())
}

/// Returns whether a container that was killed and ended at `finished` ran out of memory, according to the engine's
/// events. The events are more reliable than the container's state: if the engine learns of the end first and of its
/// cause a moment later, it does not update the state (Docker Engine 20.10: one in 40 ends, with eight containers that
/// run out of memory at once). This call waits for that moment unless the engine itself killed the container. An engine
/// may never learn the cause if a container runs out of memory in its first moment.
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
        // If the clock was set back, `until` may be far in the future.
        tokio::time::timeout(2 * TOLD_WITHIN, told.try_next()).await.unwrap_or(Ok(None))
    });
    Ok(first.await?.unwrap_or(false))
}

/// Returns whether an event gives memory as the reason of a kill, or `None` if the event gives no reason.
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
