//! Queries on SQLite, in whichever of the interface's two forms the test names.

use serde_json::{Value as Json, json};
use spin_sdk::sqlite::wit::sqlite as sync;
use spin_sdk::sqlite::{Connection, Value};

/// `{"database", "form": "sync"|"async", "statements": [[sql, parameters...], ...], "parallel": bool}`: runs the
/// statements on one connection and says what each came to.
pub(crate) async fn run(wish: &Json) -> Json {
    let label = wish["database"].as_str().unwrap_or("default");
    let statements = wish["statements"].as_array().cloned().unwrap_or_default();
    if wish["form"] == "sync" {
        let connection = match sync::Connection::open(label) {
            Ok(connection) => connection,
            Err(error) => return json!({ "open": format!("{error:?}") }),
        };
        let mut results = Vec::new();
        for statement in &statements {
            results.push(match connection.execute(&sql(statement), &parameters(statement)) {
                Ok(result) => {
                    let rows: Vec<Json> = result.rows.iter().map(|row| to_json(&row.values)).collect();
                    json!({ "columns": result.columns, "rows": rows })
                }
                Err(error) => json!({ "error": format!("{error:?}") }),
            });
        }
        return json!({ "results": results, "changes": connection.changes(), "rowid": connection.last_insert_rowid() });
    }
    let connection = match Connection::open(label).await {
        Ok(connection) => connection,
        Err(error) => return json!({ "open": format!("{error:?}") }),
    };
    let mut results = Vec::new();
    if wish["parallel"] == true {
        results = futures::future::join_all(statements.iter().map(|statement| one(&connection, statement))).await;
    } else {
        for statement in &statements {
            results.push(one(&connection, statement).await);
        }
    }
    json!({ "results": results, "changes": connection.changes().await, "rowid": connection.last_insert_rowid().await })
}

async fn one(connection: &Connection, statement: &Json) -> Json {
    let mut result = match connection.execute(sql(statement), parameters(statement)).await {
        Ok(result) => result,
        Err(error) => return json!({ "early error": format!("{error:?}") }),
    };
    let columns = result.columns().to_vec();
    let mut rows = Vec::new();
    while let Some(row) = result.next().await {
        rows.push(to_json(&row.values));
    }
    match result.result().await {
        Ok(()) => json!({ "columns": columns, "rows": rows }),
        Err(error) => json!({ "error": format!("{error:?}") }),
    }
}

/// One durable row.
pub(crate) async fn insert() -> Json {
    let connection = Connection::open("default").await.unwrap();
    one(&connection, &json!(["INSERT INTO t (name) VALUES (?) RETURNING id", "a row"])).await
}

fn sql(statement: &Json) -> String {
    statement[0].as_str().unwrap_or_default().to_owned()
}

fn parameters(statement: &Json) -> Vec<Value> {
    statement.as_array().into_iter().flatten().skip(1).map(from_json).collect()
}

fn from_json(value: &Json) -> Value {
    match value {
        Json::Number(number) => {
            number.as_i64().map_or_else(|| Value::Real(number.as_f64().unwrap_or(0.0)), Value::Integer)
        }
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(bytes) => Value::Blob(bytes.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect()),
        _ => Value::Null,
    }
}

fn to_json(values: &[Value]) -> Json {
    values
        .iter()
        .map(|value| match value {
            Value::Integer(number) => json!(number),
            Value::Real(number) => json!(number),
            Value::Text(text) => json!(text),
            Value::Blob(bytes) => json!(bytes),
            Value::Null => Json::Null,
        })
        .collect()
}
