//! Queries on PostgreSQL.

use serde_json::{Value as Json, json};
use spin_sdk::pg::{Connection, DbValue, ParameterValue};

/// `{"address", "statements": [[sql, parameters...], ...], "parallel": bool}`: runs the statements on one connection.
pub(crate) async fn run(wish: &Json) -> Json {
    let address = wish["address"].as_str().unwrap_or_default();
    let connection = match Connection::open(address).await {
        Ok(connection) => connection,
        Err(error) => return json!({ "open": format!("{error:?}") }),
    };
    let statements = wish["statements"].as_array().cloned().unwrap_or_default();
    let mut results = Vec::new();
    if wish["parallel"] == true {
        results = futures::future::join_all(statements.iter().map(|statement| one(&connection, statement))).await;
    } else {
        for statement in &statements {
            results.push(one(&connection, statement).await);
        }
    }
    json!({ "results": results })
}

async fn one(connection: &Connection, statement: &Json) -> Json {
    let sql = statement[0].as_str().unwrap_or_default();
    let parameters: Vec<ParameterValue> = statement.as_array().into_iter().flatten().skip(1).map(from_json).collect();
    let mut result = match connection.query(sql, parameters).await {
        Ok(result) => result,
        Err(error) => return json!({ "error": format!("{error:?}") }),
    };
    let columns: Vec<_> =
        result.columns().iter().map(|column| json!([column.name, format!("{:?}", column.data_type)])).collect();
    let mut rows = Vec::new();
    while let Some(row) = result.rows().next().await {
        rows.push(row.iter().map(to_json).collect::<Json>());
    }
    match result.result().await {
        Ok(()) => json!({ "columns": columns, "rows": rows }),
        Err(error) => json!({ "error": format!("{error:?}") }),
    }
}

fn from_json(value: &Json) -> ParameterValue {
    match value {
        Json::Bool(value) => ParameterValue::Boolean(*value),
        Json::Number(number) => number
            .as_i64()
            .map_or_else(|| ParameterValue::Floating64(number.as_f64().unwrap_or(0.0)), ParameterValue::Int64),
        Json::String(text) => ParameterValue::Str(text.clone()),
        Json::Array(bytes) => {
            ParameterValue::Binary(bytes.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect())
        }
        _ => ParameterValue::DbNull,
    }
}

fn to_json(value: &DbValue) -> Json {
    match value {
        DbValue::Boolean(value) => json!(value),
        DbValue::Int16(value) => json!(value),
        DbValue::Int32(value) => json!(value),
        DbValue::Int64(value) => json!(value),
        DbValue::Floating64(value) => json!(value),
        DbValue::Str(value) => json!(value),
        DbValue::Binary(value) => json!(value),
        DbValue::DbNull => Json::Null,
        other => json!(format!("{other:?}")),
    }
}
