//! The HTTP interface: bodies, problems, query strings and headers.

mod bodies;
mod json;
mod log_record;
mod problem;
mod query;
mod time;

pub use bodies::{
    ContextBody, ContextList, EngineBody, EngineList, ExecutionBody, ExecutionList, PortBody, PortList, StatusBody,
};
pub use json::parse_json;
pub use log_record::LogRecord;
pub use problem::Problem;
pub use query::{ExecutionQuery, ListQuery, LogsQuery, idempotency_key, wait_preference};
pub use time::{parse_rfc3339, rfc3339, rfc3339_nanos};
