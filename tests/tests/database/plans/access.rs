//! What a plan reads of which table, and which rows a statement names by their ids.

use anyhow::{Context as _, Result};
use regex::Regex;
use serde_json::Value;

/// One reading of a table.
#[derive(Clone, Debug)]
pub(super) struct Access {
    /// The table as the statement calls it.
    pub(super) relation: String,
    /// The index, if one is searched.
    index: Option<String>,
    /// What the index is searched for.
    condition: String,
}

/// A row, or rows, that a statement names by their ids.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// The table as the statement calls it.
    pub(super) relation: String,
    /// The first column of its primary key.
    pub(super) column: String,
}

impl Access {
    /// Of a line of SQLite's `EXPLAIN QUERY PLAN`; none, if it is about something else.
    pub(super) fn of_sqlite(line: &str) -> Vec<Self> {
        let mut words = line.split(' ');
        if !matches!(words.next(), Some("SEARCH" | "SCAN")) {
            return Vec::new();
        }
        let relation = words.next().unwrap_or_default().to_owned();
        let rest = words.collect::<Vec<_>>().join(" ");
        let (using, condition) = rest.split_once(" (").unwrap_or((&rest, ""));
        let index = line.starts_with("SEARCH").then(|| using.rsplit(' ').next().unwrap_or_default().to_owned());
        vec![Self { relation, index, condition: condition.to_owned() }]
    }

    /// All of a plan of PostgreSQL's, as JSON.
    pub(super) fn of_postgres(plan: &str) -> Result<Vec<Self>> {
        let plan: Value = serde_json::from_str(plan)?;
        let mut all = Vec::new();
        collect(plan.get(0).context("a plan")?.get("Plan").context("a plan")?, None, &mut all);
        Ok(all)
    }

    /// Whether it finds just what the key says, by the primary key.
    pub(super) fn is_lookup(&self, key: &Key) -> bool {
        let primary = self.index.as_deref().is_some_and(|index| {
            // SQLite's own name for the index of a primary key; a table without rowids has no other.
            index.ends_with("_pkey")
                || index.starts_with("sqlite_autoindex_") && index.ends_with("_1")
                || index == "KEY"
        });
        let equals =
            Regex::new(&format!(r"\b{}(=\?| = )", key.column)).is_ok_and(|equals| equals.is_match(&self.condition));
        primary && equals
    }
}

/// Goes through a node of a plan and those below it. A bitmap names its table, and below it its index.
fn collect(node: &Value, bitmap: Option<&str>, all: &mut Vec<Access>) {
    let text = |name: &str| node.get(name).and_then(Value::as_str);
    let kind = text("Node Type").unwrap_or_default();
    let alias = text("Alias").filter(|_| text("Relation Name").is_some());
    let written = kind == "ModifyTable";
    let mut below = None;
    match (kind, alias) {
        ("Bitmap Heap Scan", Some(alias)) => below = Some(alias),
        ("Bitmap Index Scan", _) => all.extend(bitmap.map(|relation| access(relation, node))),
        ("BitmapAnd" | "BitmapOr", _) => below = bitmap,
        (_, Some(alias)) if !written => all.push(access(alias, node)),
        _ => {}
    }
    for child in node.get("Plans").and_then(Value::as_array).into_iter().flatten() {
        collect(child, below, all);
    }
}

fn access(relation: &str, node: &Value) -> Access {
    let text = |name: &str| node.get(name).and_then(Value::as_str).map(str::to_owned);
    Access {
        relation: relation.to_owned(),
        index: text("Index Name"),
        condition: text("Index Cond").unwrap_or_default(),
    }
}

/// The rows that a statement names by their ids: `id = PARAMETER`, `id IN (SELECT …)`, and so of `execution_id`.
pub(super) fn keys(sql: &str) -> Vec<Key> {
    const WORDS: &str = r"(?x)
        (?P<open>\() | (?P<close>\)) |
        \b (?:FROM|JOIN|UPDATE) \s (?P<table>\w+) (?:\sAS\s(?P<alias>\w+))? |
        (?:\b(?P<of>\w+)\.)? \b (?P<column>(?:execution_)?id) \s
        (?: = \s (?:\$\d+::text::uuid|\?\d+) | IN \s (?P<list>\(SELECT) )";
    // The tables in scope, by the depth of parentheses.
    let mut scopes = vec![String::new()];
    let mut keys = Vec::new();
    let words = Regex::new(WORDS).unwrap();
    for found in words.captures_iter(sql) {
        if found.name("open").is_some() {
            scopes.push(String::new());
        } else if found.name("close").is_some() {
            scopes.pop();
        } else if let Some(table) = found.name("alias").or_else(|| found.name("table")) {
            scopes.last_mut().unwrap().replace_range(.., table.as_str());
        } else if let Some(column) = found.name("column") {
            // Also of a condition in parentheses.
            let scope = || scopes.iter().rev().find(|scope| !scope.is_empty()).cloned().unwrap_or_default();
            let relation = found.name("of").map_or_else(scope, |of| of.as_str().to_owned());
            keys.push(Key { relation, column: column.as_str().to_owned() });
            if found.name("list").is_some() {
                scopes.push(String::new());
            }
        }
    }
    keys
}

#[test]
fn ids_are_found_in_a_statement() {
    let named = |sql| keys(sql).into_iter().map(|key| format!("{}.{}", key.relation, key.column)).collect::<Vec<_>>();
    assert_eq!(named("SELECT a FROM t WHERE id = ?1 AND context_id = ?2"), ["t.id"]);
    assert_eq!(named("DELETE FROM t AS o WHERE execution_id = $1::text::uuid"), ["o.execution_id"]);
    assert_eq!(
        named("UPDATE t SET a = (SELECT 1 FROM o WHERE o.a = t.a) WHERE id IN (SELECT b FROM u) AND c = 1"),
        ["t.id"]
    );
    assert_eq!(named("SELECT a FROM t WHERE x = (SELECT id FROM u WHERE id = ?1) AND id < ?2"), ["u.id"]);
    assert_eq!(named("SELECT a FROM t JOIN u ON u.id = t.id WHERE t.name = ?1"), [""; 0]);
}
