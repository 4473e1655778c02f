//! Who waits for an engine that is full, and whose turn it is: each time that something is freed, as many are looked at as may start.
//!
//! Obligations: whoever is looked at still has to be placed by its own pass, which keeps every limit; so this task may wake too many or
//! the same twice. What another reconciler frees is found within a second.

use std::time::Duration;

use futures::future::OptionFuture;
use renga_shared::sql::{DatabaseError, observations};

use super::Context;

/// How often the queues are looked at while there are any.
const PERIOD: Duration = Duration::from_secs(1);
/// How long changes are gathered: a hundred executions that end at once are one look.
const GATHER: Duration = Duration::from_millis(20);

/// Keeps the queues moving, for ever.
pub async fn keep(context: Context) {
    // Some may have waited since before this process began.
    let mut waiting = true;
    loop {
        let period = waiting.then(|| context.clock.sleep(PERIOD));
        tokio::select! {
            biased;
            () = context.placements.changed() => context.clock.sleep(GATHER).await,
            Some(()) = OptionFuture::from(period) => {}
        }
        waiting = match look(&context).await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::warn!(%error, "who waits for an engine is looked at later: {error}");
                true
            }
        };
        context.placements.seen_waiting(waiting);
    }
}

/// Wakes those whose turn it is. Whether anybody waits.
async fn look(context: &Context) -> Result<bool, DatabaseError> {
    let Some(next) = context.placements.turns(context).await? else { return Ok(false) };
    if !next.is_empty() {
        observations::wake(&context.db, &next, context.now()).await?;
    }
    for id in next {
        context.nudge(id);
    }
    Ok(true)
}
