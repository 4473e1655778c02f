//! The encoding of statements and rows between the component and the tests; both include this file.
#![allow(dead_code, reason = "each side reads what the other writes")]

use renga_shared::sql::{DatabaseError, Value};
use serde_json::{Value as Json, json};

pub(crate) fn statement(sql: &str, parameters: &[Value]) -> Json {
    json!({ "sql": sql, "parameters": values(parameters) })
}

pub(crate) fn read_statement(json: &Json) -> Option<(String, Vec<Value>)> {
    Some((json["sql"].as_str()?.to_owned(), read_values(&json["parameters"])?))
}

pub(crate) fn answer(rows: &Result<Vec<Vec<Value>>, DatabaseError>) -> Json {
    let (kind, message) = match rows {
        Ok(rows) => return json!({ "rows": rows.iter().map(|row| values(row)).collect::<Json>() }),
        Err(DatabaseError::Unavailable(message)) => ("unavailable", message),
        Err(DatabaseError::Schema(message)) => ("schema", message),
        Err(DatabaseError::Full(message)) => ("full", message),
        Err(DatabaseError::Conflict(message)) => ("conflict", message),
        Err(DatabaseError::Unexpected(message)) => ("unexpected", message),
    };
    json!({ "error": kind, "message": message })
}

pub(crate) fn read_answer(json: &Json) -> Option<Result<Vec<Vec<Value>>, DatabaseError>> {
    let message = || json["message"].as_str().unwrap_or_default().to_owned();
    Some(match json["error"].as_str() {
        None => Ok(json["rows"].as_array()?.iter().map(read_values).collect::<Option<_>>()?),
        Some("unavailable") => Err(DatabaseError::Unavailable(message())),
        Some("schema") => Err(DatabaseError::Schema(message())),
        Some("full") => Err(DatabaseError::Full(message())),
        Some("conflict") => Err(DatabaseError::Conflict(message())),
        Some(_) => Err(DatabaseError::Unexpected(message())),
    })
}

fn values(values: &[Value]) -> Json {
    let json = |value: &Value| match value {
        Value::Null => Json::Null,
        Value::Integer(integer) => json!(integer),
        Value::Text(text) => json!(text),
        Value::Blob(bytes) => json!({ "bytes": bytes }),
    };
    values.iter().map(json).collect()
}

fn read_values(json: &Json) -> Option<Vec<Value>> {
    let value = |json: &Json| {
        Some(match json {
            Json::Null => Value::Null,
            Json::Number(number) => Value::Integer(number.as_i64()?),
            Json::String(text) => Value::Text(text.clone()),
            Json::Object(fields) => {
                let bytes = fields.get("bytes")?.as_array()?;
                Value::Blob(bytes.iter().map(|byte| u8::try_from(byte.as_u64()?).ok()).collect::<Option<_>>()?)
            }
            _ => return None,
        })
    };
    json.as_array()?.iter().map(value).collect()
}
