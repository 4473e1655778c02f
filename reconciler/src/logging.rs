//! Logs: text for a person at a terminal, JSON for a machine.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Sends what is traced to standard error. `RUST_LOG` filters it, `info` by default.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        subscriber.init();
    } else {
        subscriber.json().flatten_event(true).init();
    }
}
