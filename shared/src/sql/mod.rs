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
pub use statement::Statement;

/// All statements of the product, each with its module and name. Of one whose conditions depend on the request it is
/// the beginning.
pub fn statements() -> impl Iterator<Item = (&'static str, &'static str, &'static Statement)> {
    let modules = [
        ("contexts", contexts::STATEMENTS),
        ("deployment", deployment::STATEMENTS),
        ("engines", engines::STATEMENTS),
        ("executions", executions::STATEMENTS),
        ("issuer_keys", issuer_keys::STATEMENTS),
        ("logs", logs::STATEMENTS),
        ("observations", observations::STATEMENTS),
        ("reconcilers", reconcilers::STATEMENTS),
    ];
    modules.into_iter().flat_map(|(module, list)| list.iter().map(move |(name, statement)| (module, *name, *statement)))
}

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The statements that the source defines: each `static NAME: Statement`, of the module that its file is.
    fn defined() -> BTreeSet<(String, String)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sql");
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        files
            .flat_map(|path| {
                let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
                let source = std::fs::read_to_string(&path).unwrap();
                let (product, _tests) = source.split_once("#[cfg(test)]").unwrap_or((&source, ""));
                let made = product.matches("Statement::new(").count();
                let names: Vec<_> = product
                    .lines()
                    .filter_map(|line| line.trim_start().strip_prefix("static ")?.split_once(": Statement ="))
                    .map(|(name, _)| (module.clone(), name.to_owned()))
                    .collect();
                assert_eq!(names.len(), made, "{module}: each statement is a `static NAME: Statement`");
                names
            })
            .collect()
    }

    #[test]
    fn every_statement_is_registered() {
        let registered: BTreeSet<_> =
            statements().map(|(module, name, _)| (module.to_owned(), name.to_owned())).collect();
        assert_eq!(registered, defined(), "`statements!` of each module names what is defined there");
    }
}
