//! All of the SQL of the product, one file per table, over one narrow port.
//!
//! Obligations: every operation is **one guarded statement**, since the components' database interfaces have no
//! transactions. Zero rows changed is an answer, not an error. The API writes what is wanted, the reconciler what was
//! observed, and both bump `revision`. No page costs more than the rows it returns: each list has its index.

pub mod contexts;
pub mod database;
pub mod deployment;
pub mod engines;
pub mod executions;
pub mod issuer_keys;
pub mod logs;
pub mod observations;
pub mod reconcilers;
mod statement;
pub mod uri;

pub use database::{Database, DatabaseError, Dialect, Row, Value};

/// Names as a column holds them in which one is looked for with `LIKE '%,name,%'`: none has a comma, nor what `LIKE` would not take
/// as it is.
pub fn between_commas<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().fold(String::from(","), |list, name| list + name + ",")
}

/// Whose rows may be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visible<'a> {
    /// Those of one subject.
    To(&'a str),
    /// Everybody's, as with `DEPLOYER_ACCESS=shared`.
    All,
}

/// One page of a list: newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<I> {
    /// Only rows older than this one.
    pub before: Option<I>,
    /// The most rows.
    pub limit: u32,
}

/// What came of inserting a row that a client may send again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted<R> {
    /// The row is new.
    New(R),
    /// The same request came before, with the same key: this is the row that it made.
    Again(R),
    /// The key was used before, for another request.
    KeyReused,
}

/// The client's wish that a request be carried out once however often it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idempotency<'a> {
    /// The `Idempotency-Key` header.
    pub key: &'a str,
    /// A digest of what was asked for, to tell a retry from another request.
    pub digest: &'a str,
}
