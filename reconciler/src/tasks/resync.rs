//! Repairs what an event missed, with one list of an engine's objects: executions whose object no longer runs are looked at,
//! and objects that belong to no execution are removed.

use std::collections::{HashMap, HashSet};

use renga_shared::domain::{ExecutionId, Timestamp};
use renga_shared::sql::{DatabaseError, observations};

use super::Context;
use crate::engine::{EngineError, Listed};
use crate::engines::Served;

/// The objects without a row that were seen, and when first: by the engine's own id, since one of that name may come anew.
#[derive(Debug, Default)]
pub struct Orphans(HashMap<String, Timestamp>);

/// What keeps a resync from its end.
#[derive(Debug, thiserror::Error)]
pub enum ResyncError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Compares what this reconciler looks after on an engine with what is there.
pub async fn resync(context: &Context, served: &Served, orphans: &mut Orphans) -> Result<(), ResyncError> {
    // The rows first: an object made after that is not taken for an orphan, and a row made after the list is not
    // taken for lost.
    let collected = context.collectors.of(&served.name);
    let held = observations::held(&context.db, &context.id, &served.name).await?;
    let held: HashSet<ExecutionId> = held.into_iter().collect();
    // What moved to another reconciler is collected there.
    context.collectors.forget(collected.into_iter().filter(|id| !held.contains(id)));
    let listed = served.heard(served.engine.list().await)?;
    let running: HashSet<ExecutionId> =
        listed.iter().filter(|object| object.running).map(|object| object.execution).collect();
    for id in held.into_iter().filter(|id| !running.contains(id)) {
        context.nudge(id);
    }
    sweep(context, served, listed, orphans).await
}

/// Removes the objects that have been nobody's for the grace period.
async fn sweep(
    context: &Context,
    served: &Served,
    listed: Vec<Listed>,
    orphans: &mut Orphans,
) -> Result<(), ResyncError> {
    let ids: Vec<ExecutionId> = listed.iter().map(|object| object.execution).collect();
    let owned: HashSet<ExecutionId> = observations::with_object(&context.db, &ids).await?.into_iter().collect();
    let now = context.now();
    let found: Vec<Listed> = listed.into_iter().filter(|object| !owned.contains(&object.execution)).collect();
    orphans.0.retain(|object, _| found.iter().any(|found| found.object == *object));
    for Listed { execution, object, .. } in found {
        let first_seen = *orphans.0.entry(object.clone()).or_insert(now);
        if now.since(first_seen) < context.settings.orphan_grace || !context.lease_holds() {
            continue;
        }
        served.heard(served.engine.remove(&object).await)?;
        orphans.0.remove(&object);
        context.metrics.swept();
        tracing::warn!(
            engine = %served.name, execution = %execution, object,
            "removed the object {object} from engine {}: no execution owns it", served.name
        );
    }
    Ok(())
}

impl Orphans {
    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
