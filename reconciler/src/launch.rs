//! From a row to what an engine is asked to launch.

use renga_shared::domain::{Specification, Why, additions, launch_environment};
use renga_shared::sql::observations::Work;

use crate::engine::Launch;

/// What the engine is asked to launch for this row, or why the row cannot be launched: somebody changed it by hand, or
/// a version of this program that is newer wrote it.
pub fn of(work: &Work, default_base_url: &str) -> Result<Launch, Why> {
    let execution = &work.execution;
    let unreadable =
        |what: &str, error: String| Why::new("UnreadableRow", format!("Its stored {what} cannot be read: {error}"));
    let spec =
        Specification::from_stored(&work.spec).map_err(|error| unreadable("specification", error.to_string()))?;
    let wished =
        serde_json::from_str(&execution.environment).map_err(|error| unreadable("environment", error.to_string()))?;
    let ours = additions(execution.context, default_base_url);
    Ok(Launch {
        id: execution.id,
        environment: launch_environment(&spec.env, &wished, &ours),
        namespace: execution.namespace.clone(),
        spec,
    })
}
