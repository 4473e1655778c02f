//! What happens to the containers of this deployment.

use std::collections::HashMap;
use std::sync::Arc;

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures::stream::{self, BoxStream, StreamExt as _};
use futures::{Stream, TryStreamExt as _};

use super::client::Client;
use super::failure::Failure;
use crate::engine::{DEPLOYMENT_LABEL, EXECUTION_LABEL, EngineError, EngineEvent};

/// What changes an object's state or existence.
const ACTIONS: [&str; 7] = ["create", "start", "die", "oom", "destroy", "pause", "unpause"];

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

fn execution(message: EventMessage) -> Option<renga_shared::domain::ExecutionId> {
    message.actor?.attributes?.get(EXECUTION_LABEL)?.parse().ok()
}
