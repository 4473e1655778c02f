//! `spin:sqlite`, through a component, in both of its forms.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::{Server, database};

async fn run(server: &Server, form: &str, statements: Value) -> Value {
    server.post("/sql", &json!({ "form": form, "statements": statements })).await
}

/// The statements at the same time on one connection.
async fn together(server: &Server, statements: Vec<Value>) -> Vec<Value> {
    let mut answer = server.post("/sql", &json!({ "statements": statements, "parallel": true })).await;
    answer["results"].as_array_mut().map(std::mem::take).unwrap()
}

/// A host whose database has a table, in WAL mode as the migrations make it.
async fn with_table(table: &str) -> Server {
    let server = Server::start(|_| {}).await;
    let native = Connection::open(server.database()).unwrap();
    native.execute_batch(&format!("PRAGMA journal_mode = WAL; {table}")).unwrap();
    server
}

const ITEMS: &str = "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT UNIQUE)";

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_type_come_back() {
    for form in ["sync", "async"] {
        let server = Server::start(|_| {}).await;
        let answer = run(
            &server,
            form,
            json!([
                ["CREATE TABLE t (a, b, c, d, e)"],
                ["INSERT INTO t VALUES (?, ?, ?, ?, ?)", 42, 2.5, "grüße", [0, 255], null],
                ["SELECT a, b, c, d, e AS last FROM t"],
                ["SELECT a FROM t WHERE a = 1"],
                ["WITH x AS (SELECT 1 AS n) SELECT n FROM x"],
                ["VALUES (1), (2)"],
            ]),
        )
        .await;
        let results = &answer["results"];
        assert_eq!(results[1], json!({ "columns": [], "rows": [] }), "{form}");
        assert_eq!(
            results[2],
            json!({ "columns": ["a", "b", "c", "d", "last"], "rows": [[42, 2.5, "grüße", [0, 255], null]] })
        );
        assert_eq!(results[3], json!({ "columns": ["a"], "rows": [] }));
        assert_eq!(results[4]["rows"], json!([[1]]));
        assert_eq!(results[5]["rows"], json!([[1], [2]]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_those_of_sqlite() {
    for form in ["sync", "async"] {
        let server = with_table(ITEMS).await;
        let answer = run(
            &server,
            form,
            json!([
                ["SELECT * FROM nowhere"],
                ["INSERT INTO nowhere VALUES (1)"],
                ["INSERT INTO items (id, name) VALUES (1, 'a')"],
                ["INSERT INTO items (id, name) VALUES (1, 'b')"],
                ["SELEC 1"],
                ["ATTACH '/tmp/other.db' AS other"],
                ["SELECT changes()"],
            ]),
        )
        .await;
        let error = |at: usize| answer["results"][at]["error"].as_str().unwrap_or_default().to_owned();
        assert!(error(0).starts_with("Error::Io(\"no such table: nowhere"), "{form}: {}", error(0));
        assert!(error(1).contains("no such table: nowhere"));
        assert!(error(3).contains("UNIQUE constraint failed: items.id"));
        assert!(error(4).contains("syntax error"));
        assert!(error(5).contains("not authorized"));
        // The connection has a native one of its own by now, so its own counts are right.
        assert_eq!(answer["results"][6]["rows"], json!([[0]]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_those_of_the_connection() {
    let server = with_table(ITEMS).await;
    for form in ["sync", "async"] {
        let answer = run(
            &server,
            form,
            json!([
                [format!("INSERT INTO items (name) VALUES ('{form} 1'), ('{form} 2')")],
                ["SELECT last_insert_rowid() = (SELECT max(id) FROM items)"],
                ["UPDATE items SET name = name || '!'"],
                ["SELECT 1"],
            ]),
        )
        .await;
        assert_eq!(answer["results"][1]["rows"], json!([[1]]));
        let rows = if form == "sync" { 2 } else { 4 };
        assert_eq!((&answer["changes"], &answer["rowid"]), (&json!(rows), &json!(rows)));
    }
    // Another connection has counts of its own, although the native one is the same.
    let answer = run(&server, "async", json!([["SELECT last_insert_rowid()"], ["SELECT changes()"]])).await;
    assert_eq!(answer["results"][0]["rows"], json!([[0]]));
    assert!(answer["results"][1]["error"].as_str().unwrap().contains("RETURNING"));
    assert_eq!((&answer["changes"], &answer["rowid"]), (&json!(0), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_leaves_those_beside_it() {
    let server = with_table(ITEMS).await;
    let mut statements = vec![json!(["INSERT INTO items (name) VALUES ('taken')"])];
    together(&server, statements.clone()).await;
    statements.extend((0..100).map(|n| json!(["INSERT INTO items (name) VALUES (?) RETURNING name", format!("n{n}")])));
    statements.push(json!(["INSERT INTO nowhere VALUES (1)"]));
    let results = together(&server, statements).await;
    assert!(results[0]["error"].as_str().unwrap().contains("UNIQUE constraint failed"));
    for (n, result) in results[1..101].iter().enumerate() {
        assert_eq!(result["rows"], json!([[format!("n{n}")]]));
    }
    assert!(results[101]["error"].as_str().unwrap().contains("no such table"));
    let count = run(&server, "async", json!([["SELECT count(*) FROM items"]])).await;
    assert_eq!(count["results"][0]["rows"], json!([[101]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_ends_the_transaction_takes_no_other_with_it() {
    let server = with_table(ITEMS).await;
    let mut statements = vec![json!(["INSERT INTO items (name) VALUES ('taken')"])];
    together(&server, statements.clone()).await;
    statements = (0..50).map(|n| json!(["INSERT INTO items (name) VALUES (?)", format!("before {n}")])).collect();
    statements.push(json!(["INSERT OR ROLLBACK INTO items (name) VALUES ('taken')"]));
    statements.extend((0..50).map(|n| json!(["INSERT INTO items (name) VALUES (?)", format!("after {n}")])));
    let results = together(&server, statements).await;
    for (at, result) in results.iter().enumerate() {
        assert_eq!(result.get("error").is_some(), at == 50, "{at}: {result}");
    }
    let count = run(&server, "async", json!([["SELECT count(*) FROM items"]])).await;
    assert_eq!(count["results"][0]["rows"], json!([[101]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constraint_that_is_checked_at_the_commit_fails_its_own_write_alone() {
    let server = with_table(
        "CREATE TABLE parents (id INTEGER PRIMARY KEY);
         CREATE TABLE children (parent INTEGER REFERENCES parents DEFERRABLE INITIALLY DEFERRED);",
    )
    .await;
    let mut statements: Vec<_> = (0..20).map(|n| json!(["INSERT INTO parents VALUES (?)", n])).collect();
    statements.push(json!(["INSERT INTO children VALUES (1000)"]));
    statements.extend((20..40).map(|n| json!(["INSERT INTO parents VALUES (?)", n])));
    let results = together(&server, statements).await;
    for (at, result) in results.iter().enumerate() {
        assert_eq!(result.get("error").is_some(), at == 20, "{at}: {result}");
    }
    let count =
        run(&server, "async", json!([["SELECT count(*) FROM parents"], ["SELECT count(*) FROM children"]])).await;
    assert_eq!((&count["results"][0]["rows"], &count["results"][1]["rows"]), (&json!([[40]]), &json!([[0]])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_a_component_is_its_own() {
    let server = with_table(ITEMS).await;
    let answer = run(
        &server,
        "async",
        json!([
            ["BEGIN"],
            ["INSERT INTO items (name) VALUES ('gone')"],
            ["SELECT count(*) FROM items"],
            ["ROLLBACK"],
            ["SELECT count(*) FROM items"],
            ["CREATE TEMP TABLE mine (x)"],
            ["INSERT INTO mine VALUES (7)"],
            ["SELECT x FROM mine"],
            ["PRAGMA user_version = 9"],
        ]),
    )
    .await;
    assert_eq!(answer["results"][2]["rows"], json!([[1]]));
    assert_eq!(answer["results"][4]["rows"], json!([[0]]));
    assert_eq!(answer["results"][7]["rows"], json!([[7]]));
    let other = run(&server, "async", json!([["SELECT x FROM mine"], ["PRAGMA user_version"]])).await;
    assert!(other["results"][0]["error"].as_str().unwrap().contains("no such table: mine"));
    assert_eq!(other["results"][1]["rows"], json!([[9]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn long_results_arrive_whole() {
    let server = Server::start(|_| {}).await;
    const LONG: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) \
        SELECT i, 'a text of some length that fills chunks' FROM n";
    for (form, count) in [("sync", 20_000), ("async", 20_000), ("async", 900), ("async", 1_001)] {
        let answer = run(&server, form, json!([[LONG, count]])).await;
        let rows = answer["results"][0]["rows"].as_array().unwrap();
        assert_eq!(rows.len(), count, "{form}");
        assert!(rows.iter().enumerate().all(|(at, row)| row[0] == at + 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heavy_read_holds_up_nobody() {
    let server = Server::start(|_| {}).await;
    // Some seconds of SQLite's time, in a connection each.
    const HEAVY: &str =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000) SELECT sum(i) FROM n";
    let heavy: Vec<_> = (0..4)
        .map(|_| {
            let port = server.port;
            tokio::spawn(async move {
                let wish = json!({ "statements": [[HEAVY]] }).to_string();
                crate::support::Client::connect(port).await.ask("POST", "/sql", wish.as_bytes()).await.json()
            })
        })
        .collect();
    // There are two threads for all: four heavy reads on them would let no other through.
    for _ in 0..10 {
        run(&server, "async", json!([["SELECT 1"]])).await;
    }
    assert!(!heavy.iter().any(tokio::task::JoinHandle::is_finished), "small reads waited for heavy ones");
    for answer in heavy {
        assert_eq!(answer.await.unwrap()["results"][0]["rows"], json!([[4_500_001_500_000_i64]]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_waited_for_up_to_a_bound_and_reads_go_on() {
    let server = with_table(ITEMS).await;
    let other = Connection::open(server.database()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let port = server.port;
    let write = |name: &'static str| {
        tokio::spawn(async move {
            let wish = json!({ "statements": [["INSERT INTO items (name) VALUES (?)", name]] }).to_string();
            let start = Instant::now();
            let answer = crate::support::Client::connect(port).await.ask("POST", "/sql", wish.as_bytes()).await.json();
            (answer, start.elapsed())
        })
    };
    let early = write("early");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let late = write("late");
    run(&server, "async", json!([["SELECT count(*) FROM items"]])).await;
    assert!(!early.is_finished(), "a read waited for the lock");
    let (answer, waited) = early.await.unwrap();
    assert_eq!(answer["results"][0]["error"], "Error::Io(\"database is locked\")");
    assert!(waited >= Duration::from_secs(5), "{waited:?}");
    // Each write has its own 5 s: the second is still there, and gets the lock.
    other.execute_batch("COMMIT").unwrap();
    let (answer, _) = late.await.unwrap();
    assert_eq!(answer["results"][0], json!({ "columns": [], "rows": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_waits_for_the_turn_of_others_in_the_process_and_a_read_for_nothing() {
    let turns = renga_host::WriteTurns::default();
    let shared = turns.clone();
    let server = Server::start(move |settings| _ = settings.write_turns.insert("default".to_owned(), shared)).await;
    Connection::open(server.database()).unwrap().execute_batch(&format!("PRAGMA journal_mode = WAL; {ITEMS}")).unwrap();
    let turn = turns.lock().await;
    let port = server.port;
    let write = tokio::spawn(async move {
        let wish = json!({ "statements": [["INSERT INTO items (name) VALUES ('waited')"]] }).to_string();
        crate::support::Client::connect(port).await.ask("POST", "/sql", wish.as_bytes()).await.json()
    });
    for _ in 0..50 {
        run(&server, "async", json!([["SELECT count(*) FROM items"]])).await;
    }
    assert!(!write.is_finished(), "it wrote in the turn of another");
    drop(turn);
    assert_eq!(write.await.unwrap()["results"][0], json!({ "columns": [], "rows": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_host_makes_is_its_owners_alone() {
    let server = with_table(ITEMS).await;
    run(&server, "async", json!([["INSERT INTO items (name) VALUES ('secret')"]])).await;
    for extension in ["db", "db-wal", "db-shm"] {
        let file = server.database().with_extension(extension);
        let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_replaced_is_opened_anew() {
    let server = with_table(ITEMS).await;
    run(&server, "async", json!([["INSERT INTO items (name) VALUES ('old')"], ["SELECT * FROM items"]])).await;
    let path = server.database();
    let fresh = path.with_extension("fresh");
    Connection::open(&fresh).unwrap().execute_batch(ITEMS).unwrap();
    std::fs::rename(&fresh, &path).unwrap();
    for rest in ["db-wal", "db-shm"] {
        _ = std::fs::remove_file(path.with_extension(rest));
    }
    let answer =
        run(&server, "async", json!([["SELECT count(*) FROM items"], ["INSERT INTO items (name) VALUES ('new')"]]))
            .await;
    assert_eq!(answer["results"][0]["rows"], json!([[0]]));
    let names: String =
        Connection::open(&path).unwrap().query_row("SELECT name FROM items", [], |row| row.get(0)).unwrap();
    assert_eq!(names, "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_in_the_file() {
    let server = with_table("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)").await;
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let port = server.port;
            tokio::spawn(async move {
                let mut client = crate::support::Client::connect(port).await;
                let mut ids = Vec::new();
                for _ in 0..50 {
                    ids.push(client.get("/insert").await.json()["rows"][0][0].as_i64().unwrap());
                }
                ids
            })
        })
        .collect();
    let mut ids = Vec::new();
    for writer in writers {
        ids.extend(writer.await.unwrap());
    }
    ids.sort_unstable();
    assert_eq!(ids, (1..=400).collect::<Vec<_>>());
    let folder = server.stop().await;
    let native = Connection::open(database(folder.path())).unwrap();
    let count: i64 = native.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 400);
}
