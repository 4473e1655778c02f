//! The reconciler: makes what the API recorded as wanted true on the engines, and records what it saw.
//!
//! It is level-based: a pass looks at what is wanted and what is there, decides ([`plan`], pure), acts and records.
//! Events only make a pass sooner. Kill it at any line and the next one goes on.

pub mod app;
pub mod backoff;
pub mod clock;
pub mod config;
mod crash;
pub mod db;
pub mod driver;
pub mod engine;
pub mod engines;
pub mod launch;
pub mod logging;
pub mod metrics;
pub mod placement;
pub mod plan;
pub mod random;
pub mod status;
pub mod tasks;

/// Completes when the process is asked to stop: SIGINT or SIGTERM.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        // Without a handler the signal ends the process at once, which it must survive anyway.
        Err(_) => return std::future::pending().await,
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
