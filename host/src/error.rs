//! Why the host cannot run an application. Every message names the thing, its value and the cure.

use std::path::PathBuf;

/// Why [`crate::Host::load`] or [`crate::Host::serve`] failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// Required variables of the manifest have no value.
    #[error("no value for the required variable(s) {}: set them in the environment, under the names that runtime-config.toml gives them", .0.join(", "))]
    MissingVariables(Vec<String>),
    /// A value is given for a variable that the manifest does not declare.
    #[error("there is a value for variable {0:?}, which spin.toml does not declare under [variables]")]
    UnknownVariable(String),
    /// A component uses a database that is not configured.
    #[error(
        "component {component:?} uses the SQLite database {label:?}, but no file is configured for it: add [sqlite_database.{label}] to runtime-config.toml"
    )]
    UnknownDatabase {
        /// The component's id in the manifest.
        component: String,
        /// The database's label.
        label: String,
    },
    /// A database file cannot be opened or created.
    #[error("the SQLite database {label:?} cannot be opened at {}: {reason}: choose a path in a folder that exists and can be written", path.display())]
    Database {
        /// The database's label.
        label: String,
        /// Its file.
        path: PathBuf,
        /// The error of SQLite or the system.
        reason: String,
    },
    /// An entry of `allowed_outbound_hosts` does not have Spin's syntax.
    #[error("component {component:?}: allowed_outbound_hosts has {entry:?}: {reason}")]
    AllowedHost {
        /// The component's id in the manifest.
        component: String,
        /// The entry, with its variables resolved.
        entry: String,
        /// The fault in the entry.
        reason: String,
    },
    /// The cache folder for compiled code cannot be used.
    #[error("the cache folder {} cannot be used: {reason}: choose one that can be written", path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// The error of wasmtime or the system.
        reason: String,
    },
    /// The WebAssembly engine cannot be set up on this machine.
    #[error("the WebAssembly engine cannot be set up: {0}")]
    Engine(String),
    /// A file is not a WebAssembly component that can be compiled.
    #[error("component {component:?}: {} cannot be compiled: {reason}: build it again with `make build`", path.display())]
    Compile {
        /// The component's id in the manifest.
        component: String,
        /// The WebAssembly file.
        path: PathBuf,
        /// The compiler's error.
        reason: String,
    },
    /// A component imports an interface that this host does not provide.
    #[error("component {component:?} imports {}, which this host does not provide: it provides WASI 0.2 and 0.3, wasi:http, spin:variables, spin:sqlite and spin:postgres", interfaces.join(", "))]
    UnknownImports {
        /// The component's id in the manifest.
        component: String,
        /// The interfaces.
        interfaces: Vec<String>,
    },
    /// A component's imports or exports have another shape than this host expects.
    #[error("component {component:?} does not fit this host: {reason}: build it with spin-sdk 7 for wasm32-wasip2")]
    Link {
        /// The component's id in the manifest.
        component: String,
        /// The mismatch.
        reason: String,
    },
    /// The listening socket has failed permanently.
    #[error("no connection can be accepted any more")]
    Accept(#[source] std::io::Error),
}
