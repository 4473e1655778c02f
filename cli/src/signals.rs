//! Requests to stop: Ctrl-C and SIGTERM.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Returns a receiver with a message for each SIGINT or SIGTERM from now on. Neither ends the process any more.
pub(crate) fn stop_requests() -> Result<mpsc::UnboundedReceiver<()>> {
    let hear = || Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?));
    let (mut interrupt, mut terminate) =
        hear().map_err(|error: std::io::Error| error).context("cannot hear signals")?;
    let (requests, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if requests.send(()).is_err() {
                return;
            }
        }
    });
    Ok(heard)
}
