//! The host with a real component in it: what a client sees, what a component sees, and what happens when either
//! misbehaves.

mod configuration;
mod faults;
mod http;
mod outbound;
mod postgres;
mod sqlite;
mod streams;
mod support;
