//! Bodies that are not JSON, JSON that no server should have to read, and headers that accompany bodies.

use anyhow::{Context as _, Result, ensure};
use renga_tests::client::Answer;
use renga_tests::deployment::Deployment;
use renga_tests::on_each_database;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{CONTEXTS, Table, is_well};

on_each_database! {
    contexts_are_made_of_what_is_read_whole,
    executions_are_made_of_what_is_read_whole,
    headers_are_read_or_refused,
}

/// Maximum length of a response in bytes: not much more than the longest allowed request body.
const LONGEST_ANSWER: usize = 2 << 20;

async fn post(deployment: &Deployment, path: &str, body: Vec<u8>) -> Result<Answer> {
    deployment.client.send(deployment.client.request(Method::POST, path).body(body)).await
}

/// Fails unless the response has this status, is not too long and, if it is an error, is a problem document.
fn check(answer: &Answer, status: u16) -> Result<()> {
    ensure!(answer.status == status, "{} {:.300}", answer.status, answer.body);
    ensure!(answer.body.len() <= LONGEST_ANSWER, "the answer has {} bytes", answer.body.len());
    if status == 201 { answer.json(201).map(drop) } else { answer.problem(status).map(drop) }
}

/// Returns bodies that no endpoint accepts as JSON, with their names.
fn no_json() -> Vec<(&'static str, Vec<u8>)> {
    const MIB: usize = 1 << 20;
    vec![
        ("10,000 lists in each other", [vec![b'['; 10_000], vec![b']'; 10_000]].concat()),
        ("1 MiB of [", vec![b'['; MIB]),
        ("1 MiB of {\"a\":", br#"{"a":"#.repeat(MIB / 5)),
        ("1 MiB of quotes", vec![b'"'; MIB]),
        ("1 MiB of backslashes", [vec![b'"'], vec![b'\\'; MIB - 1]].concat()),
        ("1 MiB of spaces", vec![b' '; MIB]),
        ("1 MiB of digits", vec![b'9'; MIB]),
        ("1 MiB of zeros after a point", [b"0.".to_vec(), vec![b'0'; MIB - 3], b"e".to_vec()].concat()),
        ("1 MiB of NULs", vec![0; MIB]),
        ("a field twice", br#"{"image":"a","environment":{"A":1,"\u0041":2},"x":1,"x":1}"#.to_vec()),
        ("half of a pair", br#"{"image":"\ud800","namespace":"\udc00"}"#.to_vec()),
        ("half of a pair as a name", br#"{"\ud800":1}"#.to_vec()),
        ("a pair the wrong way round", br#"{"a":"\udc0b\ud83d"}"#.to_vec()),
        ("bytes that are no text", b"{\"image\":\"\xff\xfe\"}".to_vec()),
        ("half a character", b"{\"image\":\"\xc3\"}".to_vec()),
        ("an overlong slash", b"{\"image\":\"\xc0\xaf\"}".to_vec()),
        ("UTF-16", "{\"image\":\"a\"}".encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("a mark of byte order", b"\xef\xbb\xbf{\"image\":\"a\"}".to_vec()),
        ("a control character", b"{\"image\":\"a\nb\"}".to_vec()),
        ("more after the end", br#"{"image":"a"}{"image":"b"}"#.to_vec()),
        ("a NUL after the end", b"{\"image\":\"a\"}\0".to_vec()),
        ("a number beyond all", br#"{"image":"a","x":1e400}"#.to_vec()),
        ("NaN", br#"{"x":NaN}"#.to_vec()),
        ("compressed", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xabV\xcaML\x4fU\xb2RJT\xaa\x05\0".to_vec()),
    ]
}

async fn contexts_are_made_of_what_is_read_whole(deployment: &Deployment) -> Result<()> {
    let mut table = Table::default();
    for (name, body) in no_json() {
        table.case(name, check(&post(deployment, CONTEXTS, body).await?, 400));
    }
    let with = |field: &str, value: &str| format!(r#"{{"image":"busybox","{field}":{value}}}"#);
    let many = |element: &str, count: usize| format!("[{}]", vec![element; count].join(","));
    let (nested, escapes) = (many("[[[[[]]]]]", 10), "\\u0041".repeat(170_000));
    for (name, body, status) in [
        ("1 MiB of ports", with("ports", &many("1", 520_000)), 400),
        ("100,000 ports that are none", with("ports", &many("\"\"", 100_000)), 400),
        ("1,000 ports that are none", with("ports", &many("\"\"", 1_000)), 201),
        ("100,000 empty entries of env", with("env", &many("{}", 100_000)), 400),
        ("100,000 entries of env", with("env", &many(r#"{"name":"A","value":""}"#, 100_000)), 413),
        ("1,000 bad entries of env", with("env", &many(r#"{"x":1,"y":2,"z":[3]}"#, 1_000)), 400),
        ("100,000 labels", with("labels", &many("\"a\"", 100_000)), 400),
        ("100,000 words", with("command", &many("\"a\"", 100_000)), 400),
        ("100,000 words in a text", with("command", &format!("\"{}\"", "a ".repeat(100_000))), 400),
        ("100,000 quotes in a text", with("command", &format!("\"{}\"", "'' ".repeat(100_000))), 400),
        ("100,000 volumes", with("volumes", &many("{}", 100_000)), 400),
        (
            "200,000 unknown fields",
            format!("{{{}}}", (0..80_000).map(|n| format!("\"{n}\":1")).collect::<Vec<_>>().join(",")),
            400,
        ),
        ("an unknown field of 1 MiB", with(&"x".repeat(1_000_000), "1"), 400),
        ("a field of escapes", with(&escapes, "1"), 400),
        ("an image of escapes", format!(r#"{{"image":"{escapes}"}}"#), 400),
        ("a word of escapes", with("command", &format!("[\"{escapes}\"]")), 400),
        ("pointers of tildes", with(&"~/".repeat(500_000), "1"), 400),
        ("lists in a list", with("command", &nested), 400),
        ("a port beyond 64 bits", with("ports", "[99999999999999999999]"), 400),
        ("a port of -0", with("ports", "[-0]"), 400),
        ("a port of 1e3", with("ports", "[1e3]"), 400),
        ("a port of 80.5", with("ports", "[80.5]"), 400),
        ("a great memory", with("resources", r#"{"limits":{"memory":"99999999999999999999Ei"}}"#), 400),
        ("a negative cpu", with("resources", r#"{"limits":{"cpu":-1}}"#), 400),
        ("a cpu of 1e308", with("resources", r#"{"limits":{"cpu":1e308}}"#), 400),
        ("a NUL in an image", r#"{"image":"busy\u0000box"}"#.to_owned(), 400),
        ("a NUL in a command", with("command", r#""echo \u0000""#), 400),
        ("a NUL in a word", with("command", r#"["\u0000"]"#), 400),
        ("a NUL in a label", with("labels", r#"["a=\u0000"]"#), 400),
        ("a NUL in a variable", with("env", r#"[{"name":"A","value":"\u0000"}]"#), 400),
        ("a NUL in a variable's name", with("env", r#"[{"name":"\u0000","value":""}]"#), 400),
        ("a NUL in a volume", with("volumes", r#"[{"name":"a","hostPath":{"path":"/\u0000"}}]"#), 400),
        ("a NUL in a field's name", with(r"\u0000", "1"), 400),
        ("a prototype", with("__proto__", r#"{"admin":true}"#), 400),
        ("a whole pair and a last character", with("labels", r#"["\ud83d\udc0b=\uffff"]"#), 201),
        ("an SQL fragment", with("labels", r#"["'); DROP TABLE contexts; --"]"#), 201),
    ] {
        table.case(name, check(&post(deployment, CONTEXTS, body.into_bytes()).await?, status));
    }
    let listed = deployment.client.get(CONTEXTS).await?;
    let rows = listed["contexts"].as_array().map_or(0, Vec::len);
    table.case("what was made", (rows == 3).then_some(()).with_context(|| format!("{rows} contexts")));
    is_well(deployment).await?;
    table.end()
}

async fn executions_are_made_of_what_is_read_whole(deployment: &Deployment) -> Result<()> {
    let context = deployment.client.context(json!({"image": "busybox"})).await?;
    let path = format!("{CONTEXTS}/{context}/executions");
    let mut table = Table::default();
    for (name, body) in no_json() {
        table.case(name, check(&post(deployment, &path, body).await?, 400));
    }
    let environment = |fields: &str| format!(r#"{{"environment":{{{fields}}}}}"#);
    let named = |count: usize| (0..count).map(|n| format!("\"A{n}\":1")).collect::<Vec<_>>().join(",");
    for (name, body, status) in [
        ("100,000 variables", environment(&named(100_000)), 413),
        ("80,000 variables", environment(&named(80_000)), 400),
        ("80,000 bad variables", environment(&named(80_000).replace(":1", ":[]")), 400),
        ("a variable of 1 MB", environment(&format!(r#""A":"{}""#, "x".repeat(1_000_000))), 400),
        ("a name of 1 MB", environment(&format!(r#""{}":1"#, "x".repeat(1_000_000))), 400),
        ("a number beyond 64 bits", environment(r#""A":99999999999999999999"#), 400),
        ("a number near none", environment(r#""A":5e-324"#), 201),
        ("a number of -0", environment(r#""A":-0"#), 201),
        ("a list", environment(r#""A":[1]"#), 400),
        ("an object", environment(r#""A":{"B":1}"#), 400),
        ("null", environment(r#""A":null"#), 400),
        ("a NUL in a variable", environment(r#""A":"\u0000""#), 400),
        ("a NUL in a name", environment(r#""\u0000":"""#), 400),
        ("no name", environment(r#""":"""#), 400),
        ("a name with =", environment(r#""A=B":"""#), 400),
        ("a NUL in a namespace", r#"{"namespace":"\u0000"}"#.to_owned(), 400),
        ("a path as namespace", r#"{"namespace":"../kube-system"}"#.to_owned(), 400),
        ("a namespace of 1 MB", format!(r#"{{"namespace":"{}"}}"#, "x".repeat(1_000_000)), 400),
        ("a NUL in an engine", r#"{"engine":"\u0000"}"#.to_owned(), 400),
        ("a path as engine", r#"{"engine":"../docker"}"#.to_owned(), 400),
        ("an engine of 1 MB", format!(r#"{{"engine":"{}"}}"#, "x".repeat(1_000_000)), 400),
        ("what is ours to say", r#"{"identifier":"x","state":"exited","owner":"bob"}"#.to_owned(), 400),
    ] {
        table.case(name, check(&post(deployment, &path, body.into_bytes()).await?, status));
    }
    let listed = deployment.client.get(&path).await?;
    let rows = listed["executions"].as_array().map_or(0, Vec::len);
    table.case("what was made", (rows == 2).then_some(()).with_context(|| format!("{rows} executions")));
    is_well(deployment).await?;
    table.end()
}

async fn headers_are_read_or_refused(deployment: &Deployment) -> Result<()> {
    let (long, limit) = ("k".repeat(256), "k".repeat(255));
    let mut table = Table::default();
    for (name, value, status) in [
        ("renga-projects-project", "9223372036854775807", 201),
        ("renga-projects-project", "-9223372036854775808", 201),
        ("renga-projects-project", "9223372036854775808", 400),
        ("renga-projects-project", "1000000000000000000000000000000", 400),
        ("renga-projects-project", "1.0", 400),
        ("renga-projects-project", "0x10", 400),
        ("renga-projects-project", "", 400),
        ("renga-projects-project", "\u{ff11}", 400),
        ("renga-projects-project", "1; DROP TABLE contexts", 400),
        ("idempotency-key", &limit, 201),
        ("idempotency-key", "'; DROP TABLE contexts; --'", 400),
        ("idempotency-key", "';DROP/**/TABLE/**/contexts;--", 201),
        ("idempotency-key", &long, 400),
        ("idempotency-key", "", 400),
        ("idempotency-key", "ä", 400),
        ("idempotency-key", "a\tb", 400),
        ("content-encoding", "gzip", 201),
        ("content-type", "application/json; charset=utf-16", 201),
        ("content-type", "application/json\u{e9}", 415),
        ("accept", "text/html", 201),
        ("accept-encoding", "br, gzip, *", 201),
        ("range", "bytes=0-1", 201),
        ("x-http-method-override", "DELETE", 201),
        ("x-original-url", "/healthz", 201),
        ("x-rewrite-url", "/healthz", 201),
        ("spin-path-info", "/healthz", 201),
        ("upgrade", "h2c", 201),
        ("forwarded", "for=evil;host=evil.test", 201),
        ("x-forwarded-host", "evil.test", 201),
        ("x-forwarded-prefix", "/evil.test", 201),
    ] {
        let request = deployment.client.request(Method::POST, CONTEXTS).header(name, value.as_bytes());
        let answer = deployment.client.send(request.body(r#"{"image":"busybox"}"#)).await?;
        let result = check(&answer, status).and_then(|()| {
            ensure!(!answer.header("location").contains("evil"), "it leads to {}", answer.header("location"));
            ensure!(!answer.headers.contains_key("upgrade"), "{answer:?}");
            Ok(())
        });
        table.case(format!("{name}: {value}"), result);
    }
    let twice = deployment.client.request(Method::POST, CONTEXTS).header("renga-projects-project", "1");
    let twice =
        deployment.client.send(twice.header("renga-projects-project", "x").json(&json!({"image": "a"}))).await?;
    ensure!(matches!(twice.status.as_u16(), 201 | 400), "{twice:?}");
    let listed: Value = deployment.client.get("/v1/contexts?limit=1").await?;
    ensure!(listed["contexts"].as_array().map(Vec::len) == Some(1), "{listed}");
    is_well(deployment).await?;
    table.end()
}
