//! SQL written once for both dialects.
//!
//! A template is PostgreSQL's SQL with a few words in braces, each of which either dialect spells its own way:
//!
//! | in a template | PostgreSQL | SQLite |
//! |---|---|---|
//! | `{text 1}` `{int 1}` `{blob 1}` | `$1::text` … | `?1` |
//! | `{uuid 1}` `{json 1}` | `$1::text::uuid` … | `?1` |
//! | `{time 1}` | an instant from microseconds | `?1` |
//! | `{uuids 1}` | the ids of a JSON array | the same |
//! | `{as_text c}` | `c::text` | `c` |
//! | `{as_micros c}` | microseconds of an instant | `c` |
//! | `{few id}` | a condition that is always true, by which PostgreSQL expects one row | `true` |
//! | `{each c}` | the fields of a JSON object: rows of `key` and `value` | the same |
//! | `{total c}` | the sum of a column, at most `i64::MAX` | the same |
//! | `{skip_locked}` | `FOR UPDATE SKIP LOCKED` | nothing: SQLite has one writer |
//!
//! Every parameter is cast, so that PostgreSQL never has to guess a type from the place where it stands.
//!
//! **Plans of statements by id.** PostgreSQL keeps the plan of a prepared statement, also one that it made when the
//! table was empty, until the table is analysed. For `id = $1 AND holder = $2` on an empty table the index on `holder`
//! looks as good as the primary key; with ten thousand rows it reads all that the holder has. So a statement by id says
//! only the id in a form that an index serves, and everything else in `checked!`. A list of ids is expected to be
//! short for the same reason: see `uuids`.
//! `tests/tests/database/plans.rs` holds every statement against that.

use std::sync::OnceLock;

use super::{Dialect, Value};

/// A statement whose text is known when the program is built; it is rendered once for each dialect. Each is registered
/// with `statements!`: what is not cannot be held against the plans that the databases make.
#[derive(Debug)]
pub struct Statement {
    template: &'static str,
    sqlite: OnceLock<String>,
    postgres: OnceLock<String>,
}

impl Statement {
    pub(crate) const fn new(template: &'static str) -> Self {
        Self { template, sqlite: OnceLock::new(), postgres: OnceLock::new() }
    }

    /// The text for one dialect.
    pub fn sql(&self, dialect: Dialect) -> &str {
        match dialect {
            Dialect::Sqlite => self.sqlite.get_or_init(|| render(dialect, self.template)),
            Dialect::Postgres => self.postgres.get_or_init(|| render(dialect, self.template)),
        }
    }
}

/// Registers the statements of a module: `super::statements` lists those of all modules.
macro_rules! statements {
    ($($name:ident),+ $(,)?) => {
        pub(super) static STATEMENTS: &[(&str, &$crate::sql::statement::Statement)] =
            &[$((stringify!($name), &$name)),+];
    };
}
pub(super) use statements;

/// A condition that is checked on the rows which an id finds: no index serves it, and it changes no estimate of how
/// many rows there are by much.
macro_rules! checked {
    ($($condition:expr),+ $(,)?) => {
        concat!("CASE WHEN ", $($condition,)+ " THEN true ELSE false END")
    };
}
pub(super) use checked;

/// A statement whose conditions depend on the request: parts are added in order, each with its parameter.
pub(crate) struct Composed {
    template: String,
    parameters: Vec<Value>,
    conditions: usize,
}

impl Composed {
    /// Begins with a registered statement, which has no condition.
    pub(crate) fn new(start: &Statement) -> Self {
        Self { template: start.template.to_owned(), parameters: Vec::new(), conditions: 0 }
    }

    /// Adds a condition. `#` in it stands for the number of its parameter: `owner = {text #}`.
    pub(crate) fn condition(&mut self, condition: &str, parameter: impl Into<Value>) {
        self.template.push_str(if self.conditions == 0 { " WHERE " } else { " AND " });
        self.conditions += 1;
        self.part(condition, parameter);
    }

    /// Adds any other part, with its parameter.
    pub(crate) fn part(&mut self, part: &str, parameter: impl Into<Value>) {
        self.parameters.push(parameter.into());
        self.template.push_str(&part.replace('#', &self.parameters.len().to_string()));
    }

    pub(crate) fn finish(self, dialect: Dialect) -> (String, Vec<Value>) {
        (render(dialect, &self.template), self.parameters)
    }
}

fn render(dialect: Dialect, template: &str) -> String {
    let mut sql = String::with_capacity(template.len() + 64);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        sql.push_str(before);
        let (word, after) = after.split_once('}').unwrap_or((after, ""));
        let (word, argument) = word.split_once(' ').unwrap_or((word, ""));
        sql.push_str(&spell(dialect, word, argument));
        rest = after;
    }
    sql.push_str(rest);
    sql
}

fn spell(dialect: Dialect, word: &str, argument: &str) -> String {
    match (dialect, word) {
        (Dialect::Sqlite, "text" | "int" | "blob" | "uuid" | "json" | "time") => format!("?{argument}"),
        (Dialect::Sqlite, "uuids") => format!("(SELECT value FROM json_each(?{argument}))"),
        (Dialect::Sqlite, "as_text" | "as_micros") => argument.to_owned(),
        (Dialect::Sqlite, "each") => format!("json_each({argument})"),
        // `SUM` fails on an overflow; `TOTAL` adds as floating point, and the cast saturates.
        (Dialect::Sqlite, "total") => format!("CAST(TOTAL({argument}) AS INTEGER)"),
        (Dialect::Sqlite, "skip_locked") => String::new(),
        (Dialect::Sqlite, "few") => "true".to_owned(),
        (Dialect::Postgres, "text") => format!("${argument}::text"),
        (Dialect::Postgres, "int") => format!("${argument}::bigint"),
        (Dialect::Postgres, "blob") => format!("${argument}::bytea"),
        (Dialect::Postgres, "uuid") => format!("${argument}::text::uuid"),
        (Dialect::Postgres, "json") => format!("${argument}::text::jsonb"),
        (Dialect::Postgres, "time") => {
            format!("(timestamptz 'epoch' + ${argument}::bigint * interval '1 microsecond')")
        }
        // A JSON array is taken for a hundred rows, for which a table that is not analysed is read whole. An equation
        // of an expression is taken to be true of one row in two hundred.
        (Dialect::Postgres, "uuids") => format!(
            "(SELECT listed::uuid FROM jsonb_array_elements_text(${argument}::text::jsonb) AS listed \
             WHERE length(listed) = 36)"
        ),
        (Dialect::Postgres, "few") => format!("length({argument}::text) = 36"),
        (Dialect::Postgres, "as_text") => format!("{argument}::text"),
        (Dialect::Postgres, "as_micros") => format!("(extract(epoch FROM {argument}) * 1000000)::bigint"),
        (Dialect::Postgres, "each") => format!("jsonb_each_text({argument})"),
        // The sum of `bigint`s is `numeric`, which does not overflow.
        (Dialect::Postgres, "total") => format!("LEAST(SUM({argument}), {})::bigint", i64::MAX),
        (Dialect::Postgres, "skip_locked") => "FOR UPDATE SKIP LOCKED".to_owned(),
        // Left as it stands, which no database accepts: the contract tests run every statement.
        _ => format!("{{{word} {argument}}}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_spelt_for_each_dialect() {
        let statement =
            Statement::new("SELECT {as_micros at} FROM t WHERE id = {uuid 1} AND n < {int 2} {skip_locked}");
        assert_eq!(statement.sql(Dialect::Sqlite), "SELECT at FROM t WHERE id = ?1 AND n < ?2 ");
        assert_eq!(
            statement.sql(Dialect::Postgres),
            "SELECT (extract(epoch FROM at) * 1000000)::bigint FROM t WHERE id = $1::text::uuid AND n < $2::bigint \
             FOR UPDATE SKIP LOCKED"
        );
    }

    #[test]
    fn conditions_are_numbered_in_order() {
        let mut composed = Composed::new(&Statement::new("SELECT id FROM t"));
        composed.condition("owner = {text #}", "me");
        composed.condition("id < {uuid #}", "x");
        composed.part(" LIMIT {int #}", 3);
        let (sql, parameters) = composed.finish(Dialect::Sqlite);
        assert_eq!(sql, "SELECT id FROM t WHERE owner = ?1 AND id < ?2 LIMIT ?3");
        assert_eq!(parameters.len(), 3);
    }
}
