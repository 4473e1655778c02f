//! What the tests of the whole system are built with.
//!
//! [`servers`] starts the real servers that they run against.

pub mod client;
pub mod component_database;
pub mod contract;
pub mod deployment;
pub mod hand;
pub mod issuer;
pub mod issuer_double;
pub mod kubernetes;
pub mod process;
pub mod resource_manager_double;
pub mod scripts;
pub mod servers;
pub mod signing_key;
pub mod simulation;
pub mod workload;
