//! What the functions and the reconciler both need: the domain, the bodies of the API, token verification and all
//! of the SQL.
//!
//! This crate does nothing by itself: no sockets, files, clock, randomness or runtime, and no `Send` demands. Time,
//! ids and the database are arguments. It compiles for `wasm32-wasip2` and natively.

pub mod api;
pub mod auth;
pub mod config;
pub mod domain;
pub mod environment;
pub mod placement;
pub mod sql;
