//! Waiting for what becomes of an execution.
//!
//! Obligations: a wait ends when its time is over, whatever the database does; a database that fails meanwhile takes
//! nothing from what was known before; those that wait leave room in their instance for those that do not.

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};
use renga_shared::auth::Principal;
use renga_shared::sql::executions::{self, ExecutionRow};

use crate::ambient;
use crate::instance::Instance;

/// The most requests of an instance that wait: three quarters of those that the embedded host lets be open in one.
const MAX_WAITING: usize = 48;
/// The first and the longest pause between two looks at a row.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));
/// How long the last look may take, beyond the end of the wait.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The row is as it should be, or was looked at until the time was over.
    Looked,
    /// The database did not answer at the end. The row is as it was before.
    DatabaseAway,
    /// Too many others wait in this instance.
    TooManyWait,
}

thread_local! {
    static WAITING: Cell<usize> = const { Cell::new(0) };
}

/// A request that waits.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let waiting = WAITING.get();
        (waiting < MAX_WAITING).then(|| {
            WAITING.set(waiting + 1);
            Self
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        WAITING.set(WAITING.get() - 1);
    }
}

/// Looks at `row` until `enough` says so, for `limit` at most, and leaves it as it was seen last.
pub(crate) async fn until(
    instance: &Instance,
    principal: &Principal,
    row: &mut ExecutionRow,
    limit: Duration,
    enough: impl Fn(&ExecutionRow) -> bool,
) -> Outcome {
    let mut outcome = Outcome::Looked;
    if enough(row) {
        return outcome;
    }
    let Some(_place) = Place::take() else { return Outcome::TooManyWait };
    let (mut pause, longest) = PAUSES;
    let deadline = ambient::now().plus(limit);
    while !enough(row) && ambient::now() < deadline {
        spin_sdk::time::sleep(pause.min(deadline.since(ambient::now()))).await;
        pause = (pause * 2).min(longest);
        let look = executions::get(&instance.database, instance.visible(principal), row.context, row.id);
        let patience = deadline.since(ambient::now()).max(LAST_LOOK);
        outcome = match select(pin!(look), pin!(spin_sdk::time::sleep(patience))).await {
            Either::Left((Ok(Some(seen)), _)) => {
                *row = seen;
                Outcome::Looked
            }
            // Rows of executions stay: one that cannot be seen any more was seen a moment ago.
            Either::Left((Ok(None), _)) => return Outcome::Looked,
            Either::Left((Err(error), _)) => {
                if outcome == Outcome::Looked {
                    eprintln!("waiting for {}: {error}", row.id);
                }
                Outcome::DatabaseAway
            }
            Either::Right(_) => Outcome::DatabaseAway,
        };
    }
    outcome
}
