//! Values come back as they were given.

use renga_shared::sql::{Database, DatabaseError, Dialect, Value};

pub(super) async fn round_trip(db: &impl Database) {
    let sql = match db.dialect() {
        Dialect::Sqlite => "SELECT ?1, ?2, ?3, ?4, ?5, ?6",
        Dialect::Postgres => "SELECT $1::text, $2::bigint, $3::bytea, $4::text, $5::bigint, $6::bigint",
    };
    let given = vec![
        Value::Text("ünïcode 🐋 'quoted' \"twice\" \\ %s ; -- \n".into()),
        Value::Integer(i64::MIN),
        Value::Blob((0..=255).collect()),
        Value::Null,
        Value::Null,
        Value::Integer(i64::MAX),
    ];
    let mut rows = db.query(sql, given.clone()).await.unwrap();
    assert_eq!(rows.len(), 1);
    let mut row = rows.remove(0);
    for value in given {
        assert_eq!(row.value().unwrap(), value);
    }
    assert!(row.value().is_err(), "no more columns than were asked for");

    let long = "x".repeat(1 << 20);
    let mut rows = db.query(&sql_of_one(db.dialect()), vec![Value::Text(long.clone())]).await.unwrap();
    assert_eq!(rows[0].text().unwrap().len(), long.len());

    for missing in ["SELECT x FROM nowhere", "SELECT x FROM contexts", "INSERT INTO nowhere VALUES (1)"] {
        let told = db.query(missing, Vec::new()).await.unwrap_err();
        assert!(matches!(told, DatabaseError::Schema(_)), "{missing}: {told:?}");
    }
    let told = db.query("SELECT FROM WHERE", Vec::new()).await.unwrap_err();
    assert!(matches!(told, DatabaseError::Unexpected(_)), "{told:?}");
    // An error leaves the database usable.
    assert_eq!(db.query("SELECT 1 WHERE 1 = 0", Vec::new()).await.unwrap().len(), 0);
}

fn sql_of_one(dialect: Dialect) -> String {
    match dialect {
        Dialect::Sqlite => "SELECT ?1",
        Dialect::Postgres => "SELECT $1::text",
    }
    .to_owned()
}
