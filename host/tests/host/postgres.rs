//! `spin:postgres`, through a component, on a real server.

use std::time::Instant;

use renga_tests::require;
use renga_tests::servers::Postgres;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{MANIFEST, PATIENCE, Server};

async fn run(server: &Server, address: &str, statements: Value) -> Value {
    server.post("/pg", &json!({ "address": address, "statements": statements })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_back_as_spin_gives_them() {
    let address = require!(postgres).create_database().await.unwrap();
    let server = Server::start(|_| {}).await;
    let answer = run(
        &server,
        &address,
        json!([
            ["CREATE TABLE t (id uuid, n bigint, small int, name text, raw bytea, yes boolean, at timestamptz, doc jsonb)"],
            [
                "INSERT INTO t VALUES ($1::text::uuid, $2, $3::bigint::int, $4, $5, $6, $7::text::timestamptz, $8::text::jsonb)",
                "018f0000-0000-7000-8000-000000000001", 1_i64 << 40, 7, "grüße", [0, 255], true, "2026-01-02T03:04:05.006007Z", "{\"a\": 1}"
            ],
            ["SELECT n, small, name, raw, yes, id::text AS id, at, doc FROM t"],
            ["INSERT INTO t (name, n) VALUES ($1, $2) RETURNING name, n", null, null],
            ["SELECT name FROM t WHERE n = 0"],
        ]),
    )
    .await;
    let results = &answer["results"];
    assert_eq!(results[1]["rows"], json!([]), "{answer}");
    assert_eq!(
        results[2]["rows"][0],
        json!([
            1_i64 << 40,
            7,
            "grüße",
            [0, 255],
            true,
            "018f0000-0000-7000-8000-000000000001",
            "DbValue::Datetime((2026, 1, 2, 3, 4, 5, 6007000))",
            format!("DbValue::Jsonb({:?})", br#"{"a":1}"#)
        ])
    );
    assert_eq!(results[2]["columns"][2], json!(["name", "DbDataType::Str"]));
    assert_eq!(results[3]["rows"], json!([[null, null]]));
    assert_eq!(results[4], json!({ "columns": [], "rows": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_the_server_says() {
    let address = require!(postgres).create_database().await.unwrap();
    let server = Server::start(|_| {}).await;
    let answer = run(
        &server,
        &address,
        json!([
            ["SELECT * FROM nowhere"],
            ["CREATE TABLE t (id int PRIMARY KEY)"],
            ["INSERT INTO t VALUES (1)"],
            ["INSERT INTO t VALUES (1)"],
            ["INSERT INTO t VALUES ($1)", "a text"],
            ["SELECT 1.5::numeric"],
        ]),
    )
    .await;
    let error = |at: usize| answer["results"][at]["error"].as_str().unwrap_or_default().to_owned();
    assert!(error(0).contains("42P01") && error(0).contains("nowhere"), "{}", error(0));
    assert!(error(3).contains("23505") && error(3).contains("t_pkey"), "{}", error(3));
    assert!(error(4).contains("QueryFailed"), "{}", error(4));
    assert!(error(5).contains("cast it to text"), "{}", error(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn long_results_stream_and_many_share_a_connection() {
    let address = require!(postgres).create_database().await.unwrap();
    let server = Server::start(|_| {}).await;
    let answer = run(&server, &address, json!([["SELECT n FROM generate_series(1, 30000) AS n"]])).await;
    let rows = answer["results"][0]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 30_000);
    assert!(rows.iter().enumerate().all(|(at, row)| row[0] == at + 1));
    let statements: Vec<_> = (0..50).map(|n| json!(["SELECT $1::bigint", n])).collect();
    let answer = server.post("/pg", &json!({ "address": address, "statements": statements, "parallel": true })).await;
    for n in 0..50 {
        assert_eq!(answer["results"][n]["rows"], json!([[n]]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_changed_is_nobody_elses() {
    let address = require!(postgres).create_database().await.unwrap();
    let server = Server::start(|_| {}).await;
    let changed = run(
        &server,
        &address,
        json!([["SET search_path TO nowhere"], ["CREATE TEMP TABLE mine (x int)"], ["SELECT count(*) FROM mine"]]),
    )
    .await;
    assert_eq!(changed["results"][2]["rows"], json!([[0]]));
    for _ in 0..5 {
        let answer = run(&server, &address, json!([["SHOW search_path"], ["SELECT count(*) FROM mine"]])).await;
        assert_eq!(answer["results"][0]["rows"], json!([["\"$user\", public"]]));
        assert!(answer["results"][1]["error"].as_str().unwrap().contains("42P01"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_changed_under_a_prepared_statement_is_no_error() {
    let address = require!(postgres).create_database().await.unwrap();
    let server = Server::start(|_| {}).await;
    run(&server, &address, json!([["CREATE TABLE t (a int)"], ["INSERT INTO t VALUES (1)"], ["SELECT * FROM t"]]))
        .await;
    let answer = run(
        &server,
        &address,
        json!([["SELECT * FROM t"], ["ALTER TABLE t ADD b text DEFAULT 'x'"], ["SELECT * FROM t"]]),
    )
    .await;
    assert_eq!(answer["results"][0]["rows"], json!([[1]]));
    assert_eq!(answer["results"][2]["rows"], json!([[1, "x"]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_server_is_a_failed_connection_until_it_is_back() {
    require!(postgres);
    let mut own = tokio::task::spawn_blocking(Postgres::start).await.unwrap().unwrap();
    let address = own.create_database().await.unwrap();
    let server = Server::start(|_| {}).await;
    assert_eq!(run(&server, &address, json!([["SELECT 1"]])).await["results"][0]["rows"], json!([[1]]));
    let sleeping = {
        let (port, address) = (server.port, address.clone());
        tokio::spawn(async move {
            let wish = json!({ "address": address, "statements": [["SELECT pg_sleep(60)::text"]] }).to_string();
            crate::support::Client::connect(port).await.ask("POST", "/pg", wish.as_bytes()).await.json()
        })
    };
    const ASLEEP: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let start = Instant::now();
    while run(&server, &address, json!([[ASLEEP]])).await["results"][0]["rows"] != json!([[1]]) {
        assert!(start.elapsed() < PATIENCE, "the query does not run");
    }
    tokio::task::block_in_place(|| own.kill()).unwrap();
    let lost = sleeping.await.unwrap();
    assert!(lost["results"][0]["error"].as_str().unwrap().contains("ConnectionFailed"), "{lost}");
    let down = run(&server, &address, json!([["SELECT 1"]])).await;
    assert!(down["open"].as_str().unwrap().contains("ConnectionFailed"), "{down}");
    tokio::task::block_in_place(|| own.start_again()).unwrap();
    let start = Instant::now();
    while run(&server, &address, json!([["SELECT 1"]])).await["results"][0]["rows"] != json!([[1]]) {
        assert!(start.elapsed() < PATIENCE, "the pool does not recover");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_answers_nothing_is_given_up() {
    // Accepts connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("postgres://user@127.0.0.1:{}/db", silent.local_addr().unwrap().port());
    let server = Server::start(|_| {}).await;
    let answer = run(&server, &address, json!([])).await;
    assert!(answer["open"].as_str().unwrap().contains("no connection within 5 s"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_addresses_are_reached() {
    let manifest = MANIFEST.replace("postgres://*:*", "postgres://127.0.0.1:5432");
    let server = Server::start_with(&manifest, |_| {}).await;
    for (address, why) in [
        ("postgres://user@127.0.0.1:5433/db", "not permitted"),
        ("postgres://user@localhost/db", "not permitted"),
        ("host=127.0.0.1 hostaddr=127.0.0.2 user=user", "not permitted"),
        ("host=127.0.0.1,10.0.0.1 user=user", "not permitted"),
        ("host=/var/run/postgresql user=user", "Unix sockets"),
        ("nonsense", "ConnectionFailed"),
    ] {
        let answer = run(&server, address, json!([])).await;
        assert!(answer["open"].as_str().unwrap().contains(why), "{address}: {answer}");
    }
}
