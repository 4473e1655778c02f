//! Logs: text for a person at a terminal, JSON otherwise.
//!
//! Obligation: no log contains a token or a container's environment, whatever `RUST_LOG` says.

use std::io::IsTerminal as _;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

/// Sends logs to standard error. `RUST_LOG` filters them; the default is `info`.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = if std::io::stderr().is_terminal() { lines.boxed() } else { lines.json().flatten_event(true).boxed() };
    tracing_subscriber::registry().with(filter).with(filter_fn(tells_no_secret)).with(lines).init();
}

/// Libraries whose `debug` logs contain the data that they send: the Docker client's show request bodies, and so
/// containers' environments; the PostgreSQL client's show the parameters of statements.
const TELL_ALL: [&str; 2] = ["bollard", "tokio_postgres"];

fn tells_no_secret(told: &Metadata<'_>) -> bool {
    *told.level() <= Level::INFO || !TELL_ALL.iter().any(|library| told.target().starts_with(library))
}
