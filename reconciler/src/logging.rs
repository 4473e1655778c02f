//! Logs: text for a person at a terminal, JSON for a machine.
//!
//! Obligation: whatever `RUST_LOG` asks for, no token and no environment of a container is among it.

use std::io::IsTerminal as _;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

/// Sends what is traced to standard error. `RUST_LOG` filters it, `info` by default.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = if std::io::stderr().is_terminal() { lines.boxed() } else { lines.json().flatten_event(true).boxed() };
    tracing_subscriber::registry().with(filter).with(filter_fn(tells_no_secret)).with(lines).init();
}

/// Libraries that tell at `debug` what they send: the client of the Docker Engine the bodies of its requests, and so the
/// environments of containers; the host's client of PostgreSQL the parameters of statements.
const TELL_ALL: [&str; 2] = ["bollard", "tokio_postgres"];

fn tells_no_secret(told: &Metadata<'_>) -> bool {
    *told.level() <= Level::INFO || !TELL_ALL.iter().any(|library| told.target().starts_with(library))
}
