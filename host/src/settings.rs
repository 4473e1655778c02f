//! What surrounds an application: values, files and bounds.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::variables::VariableFaults;

/// Has those who write to one SQLite file in this process take turns: who waits longest is next.
pub type WriteTurns = Arc<tokio::sync::Mutex<()>>;

/// What Spin takes from `runtime-config.toml`, the environment and its own flags.
#[derive(Clone, Default)]
pub struct Settings {
    /// Values of application variables, by their names in the manifest.
    pub variables: BTreeMap<String, String>,
    /// The variables of a component that cannot be read. Only tests set any.
    pub variable_faults: VariableFaults,
    /// Files of the SQLite databases, by label.
    pub sqlite: BTreeMap<String, PathBuf>,
    /// The turns of those who write to such a file in this process, by label, where others than components do.
    pub write_turns: BTreeMap<String, WriteTurns>,
    /// Where compiled code is kept between starts.
    pub cache_dir: PathBuf,
    /// The bounds of an instance and of the server.
    pub limits: Limits,
}

impl fmt::Debug for Settings {
    /// Without the values of variables, because there are passwords and keys among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variables, variable_faults, sqlite, write_turns: _, cache_dir, limits } = self;
        let names: Vec<&String> = variables.keys().collect();
        f.debug_struct("Settings")
            .field("variables", &names)
            .field("variable_faults", variable_faults)
            .field("sqlite", sqlite)
            .field("cache_dir", cache_dir)
            .field("limits", limits)
            .finish()
    }
}

/// Bounds. The defaults suit a laptop and a small server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of linear memory of an instance; what goes beyond is refused to it (128 MiB).
    pub instance_memory: usize,
    /// How long a component may take until the head of its answer; then the client gets a 504 (60 s: longer than the
    /// longest wait that a client can ask for).
    pub first_byte: Duration,
    /// How long a component may compute without letting its other requests go on; then the instance ends (2 s).
    pub cpu_slice: Duration,
    /// Requests that an instance answers at the same time (16, as in Spin), without those that [`Self::place`] leaves
    /// out.
    pub requests_per_instance: usize,
    /// Requests and answers that may be open in an instance at the same time, however long they are (64).
    pub open_per_instance: usize,
    /// How long a request counts among those that are answered at the same time (250 ms): one that takes longer waits
    /// for something, and needs neither a processor nor a place that another could have.
    pub place: Duration,
    /// Requests after which an instance is replaced, which frees what it has hoarded (10,000).
    pub requests_before_retirement: usize,
    /// How long an instance without work is kept (60 s): what it has learnt, such as verified tokens, goes with it.
    pub idle_instance: Duration,
    /// Instances alive at the same time (64).
    pub instances: u32,
    /// Requests that run at the same time, for as long as [`Self::place`] says; more wait for their turn on the socket
    /// (1,024).
    pub requests: usize,
    /// Answers that are open at the same time, of those that do not say how long they are or that are longer than a
    /// socket takes at once; one too many is refused (1,024).
    pub streams: usize,
    /// Open connections; more wait in the system's queue (4,096).
    pub connections: usize,
    /// How long the head of a request may take to arrive, from the end of the one before it (95 s): longer than clients keep
    /// an idle connection (reqwest 90 s, nginx 60 s), so that none sends a request on one that is just being closed.
    pub header_read: Duration,
    /// How long the body of a request may stand still (30 s); of a small one, how long it may take in all.
    pub body_read: Duration,
    /// Bytes of a body, if it says its length, that make it a small one, which is read before an instance is troubled with
    /// it (16 KiB).
    pub body_ahead: u64,
    /// How long a client may leave what was sent to it unread, or be gone without a word (60 s).
    pub client_silence: Duration,
    /// Bytes that a request's head may have (64 KiB); twice as many are a 431 for certain.
    pub header_bytes: usize,
    /// How long requests in flight get when the host stops (10 s).
    pub graceful_stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            instance_memory: 128 << 20,
            first_byte: Duration::from_secs(60),
            cpu_slice: Duration::from_secs(2),
            requests_per_instance: 16,
            open_per_instance: 64,
            place: Duration::from_millis(250),
            requests_before_retirement: 10_000,
            idle_instance: Duration::from_secs(60),
            instances: 64,
            requests: 1024,
            streams: 1024,
            connections: 4096,
            header_read: Duration::from_secs(95),
            body_read: Duration::from_secs(30),
            body_ahead: 16 << 10,
            client_silence: Duration::from_secs(60),
            header_bytes: 64 << 10,
            graceful_stop: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_variables_are_not_shown() {
        let variables = BTreeMap::from([("deployer_seal_key".to_owned(), "marked-key".to_owned())]);
        let shown = format!("{:?}", Settings { variables, ..Settings::default() });
        assert!(shown.contains("deployer_seal_key") && !shown.contains("marked-key"), "{shown}");
    }
}
