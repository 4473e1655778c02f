//! Runs Spin components in one native process by embedding wasmtime.
//!
//! In production the components run on Spin; this crate runs the same bytes from the same `spin.toml` and
//! `runtime-config.toml` on a laptop and in the tests. It is not a second Spin: it provides the interfaces that a
//! component imports and that are named below, and refuses to start with any other.
//!
//! Obligations:
//! - A component sees nothing here that Spin lacks, and what it sees behaves as under Spin; where this host does it
//!   differently underneath (pooled connections, group commit), no component can tell.
//! - A component that traps, loops or hoards memory ends one instance of its own and nothing else.
//! - Everything that is wrong with the manifest, the configuration or a component is said at [`Host::load`], with the
//!   thing, its value and the cure. Nothing internal ever reaches an HTTP client.
//!
//! One file per capability: [`variables`], `sqlite`, `postgres`, `outbound_http`. `engine` makes wasmtime's engine,
//! `instance` what one instance of a component owns, `pool` hands requests to instances, `serve` speaks HTTP.

mod allowed_hosts;
mod bindings;
mod engine;
mod error;
mod instance;
mod manifest;
mod outbound_http;
mod pool;
mod postgres;
mod problem;
mod rows;
mod runtime_config;
mod serve;
mod settings;
mod sqlite;
pub mod variables;

pub use error::HostError;
pub use manifest::{Manifest, ManifestError};
pub use runtime_config::{RuntimeConfig, RuntimeConfigError, variables_from_env};
pub use serve::Host;
pub use settings::{Limits, Settings, WriteTurns};
