//! Runs Spin components in one native process by embedding wasmtime.
//!
//! In production the components run on Spin. This crate runs the same bytes from the same `spin.toml` and
//! `runtime-config.toml` on a laptop and in the tests. It is not a second Spin: it provides only the interfaces that
//! the components import, named below, and refuses to start a component that imports another.
//!
//! Obligations:
//! - A component gets nothing here that Spin lacks, and everything behaves as under Spin. Where the implementation
//!   differs (pooled connections, group commit), a component cannot detect it.
//! - A component that traps, loops or uses too much memory ends one of its own instances and nothing else.
//! - [`Host::load`] reports everything that is wrong with the manifest, the configuration or a component, with the
//!   thing, its value and the cure. Nothing internal ever reaches an HTTP client.
//!
//! One file per capability: [`variables`], `sqlite`, `postgres`, `outbound_http`. `engine` makes wasmtime's engine,
//! `instance` what one instance of a component owns, `occupancy` what it has in hand, `pool` hands requests to
//! instances, `streams` bounds what stays open, `serve` speaks HTTP.

mod allowed_hosts;
mod bindings;
mod engine;
mod error;
mod instance;
mod manifest;
mod occupancy;
mod outbound_http;
mod pool;
mod postgres;
mod problem;
mod rows;
mod runtime_config;
mod serve;
mod settings;
mod sqlite;
mod streams;
pub mod variables;

pub use error::HostError;
pub use manifest::{Manifest, ManifestError};
pub use runtime_config::{RuntimeConfig, RuntimeConfigError, variables_from_env};
pub use serve::Host;
pub use settings::{Limits, Settings, WriteTurns};
