//! Keeps this reconciler's lease, and takes over what the dead held.
//!
//! Clocks are compared: those of the machines that reconcilers run on may differ by a fifth of the lease.

use std::sync::atomic::Ordering;
use std::time::Duration;

use renga_shared::domain::Timestamp;
use renga_shared::sql::{DatabaseError, engines, observations, reconcilers};

use super::Context;

/// How long the row of an ended lease is kept.
const KEPT: Duration = Duration::from_secs(3600);
/// Nobody puts a row off for longer. One that is due later was written when a clock was wrong.
const FARTHEST: Duration = Duration::from_secs(180);

/// How long a lease of this length may be relied on. The database counts longer: clocks differ, calls take time.
pub fn usable(length: Duration) -> Duration {
    length.saturating_sub(skew(length))
}

/// How far the clocks of two machines may differ.
fn skew(length: Duration) -> Duration {
    length / 5
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

/// Forgets the engines that nobody has served since this reconciler `began`: they were taken out of the configuration.
/// When it began, the lease of one that was killed may still have held. Whether that is over, so that this is done.
async fn forget_engines(context: &Context, began: Timestamp) -> Result<bool, DatabaseError> {
    let (now, length) = (context.now(), context.settings.lease);
    // The clock of the one that served them may have been ahead.
    for name in engines::forget(&context.db, began.plus(skew(length)), now).await? {
        tracing::info!(engine = name, "the engine {name} is no longer configured, and nothing is placed on it");
    }
    Ok(now > began.plus(length).plus(skew(length)))
}

/// Renews for ever. A database that is away is met again at the next beat; until then the lease may end, and with it
/// everything that this reconciler does to engines.
pub async fn keep(context: Context) {
    let (began, mut forgotten) = (context.now(), false);
    loop {
        match renew(&context).await {
            Ok(()) => {
                if let Err(error) = take_over(&context).await {
                    tracing::warn!(%error, "what the dead held is taken over later: {error}");
                }
                if !forgotten {
                    forgotten = forget_engines(&context, began).await.unwrap_or_else(|error| {
                        tracing::warn!(%error, "engines that are no longer configured are forgotten later: {error}");
                        false
                    });
                }
            }
            Err(error) => tracing::warn!(%error, "the lease was not renewed: {error}"),
        }
        context.clock.sleep(period(context.settings.lease)).await;
    }
}
