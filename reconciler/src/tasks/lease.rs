//! Keeps this reconciler's lease, and takes over what the dead held.
//!
//! Clocks are compared: those of the machines that reconcilers run on may differ by a fifth of the lease.

use std::sync::atomic::Ordering;
use std::time::Duration;

use renga_shared::sql::{DatabaseError, observations, reconcilers};

use super::Context;

/// How long the row of an ended lease is kept.
const KEPT: Duration = Duration::from_secs(3600);
/// Nobody puts a row off for longer. One that is due later was written when a clock was wrong.
const FARTHEST: Duration = Duration::from_secs(180);

/// How long a lease of this length may be relied on. The database counts longer: clocks differ, calls take time.
pub fn usable(length: Duration) -> Duration {
    length / 5 * 4
}

/// How often a lease of this length is renewed: one renewal may fail.
fn period(length: Duration) -> Duration {
    length / 4
}

/// Renews the lease.
pub async fn renew(context: &Context) -> Result<(), DatabaseError> {
    let (now, length) = (context.now(), context.settings.lease);
    reconcilers::renew(&context.db, &context.id, now.plus(length)).await?;
    context.lease_until.store(now.plus(usable(length)).0, Ordering::Release);
    Ok(())
}

/// Frees what reconcilers held whose lease has ended, and what a wrong clock put off.
async fn take_over(context: &Context) -> Result<(), DatabaseError> {
    let now = context.now();
    let freed = observations::release_dead(&context.db, now).await?;
    if !freed.is_empty() {
        tracing::info!(count = freed.len(), "took over {} executions of reconcilers that are gone", freed.len());
    }
    observations::pull_in(&context.db, now.plus(FARTHEST), now).await?;
    reconcilers::forget(&context.db, now.minus(KEPT)).await
}

/// Renews for ever. A database that is away is met again at the next beat; until then the lease may end, and with it
/// everything that this reconciler does to engines.
pub async fn keep(context: Context) {
    loop {
        match renew(&context).await {
            Ok(()) => {
                if let Err(error) = take_over(&context).await {
                    tracing::warn!(%error, "what the dead held is taken over later: {error}");
                }
            }
            Err(error) => tracing::warn!(%error, "the lease was not renewed: {error}"),
        }
        context.clock.sleep(period(context.settings.lease)).await;
    }
}
