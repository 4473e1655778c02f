//! What a client of a well-behaved component sees.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Client, PATIENCE, Server, until};

#[tokio::test(flavor = "multi_thread")]
async fn requests_on_one_connection_are_answered_in_turn() {
    let server = Server::start(|_| {}).await;
    let mut client = server.connect().await;
    for _ in 0..3 {
        let answer = client.get("/hello").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    }
    let head = client.ask("HEAD", "/hello", b"").await;
    assert_eq!(head.status, 200);
    assert_eq!(client.get("/hello").await.text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_reused_until_it_is_retired() {
    let server = Server::start(|settings| settings.limits.requests_before_retirement = 3).await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(server.get("/seen").await.text());
    }
    assert_eq!(seen, ["1", "2", "3", "1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_instance_is_given_up() {
    let server = Server::start(|settings| settings.limits.idle_instance = Duration::from_millis(50)).await;
    let start = Instant::now();
    assert_eq!(server.get("/seen").await.text(), "1");
    while server.get("/seen").await.text() != "1" {
        assert!(start.elapsed() < PATIENCE, "the instance stays");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways() {
    let server = Server::start(|_| {}).await;
    let mut client = server.connect().await;
    client.send(b"POST /echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n").await;
    client.send(b"5\r\nfirst\r\n").await;
    let head = client.head().await;
    assert_eq!(head.status, 200);
    // The first chunk is back before the second is sent: nothing waits for the whole.
    assert_eq!(client.chunk().await.unwrap(), b"first");
    client.send(b"6\r\nsecond\r\n").await;
    assert_eq!(client.chunk().await.unwrap(), b"second");
    client.send(b"0\r\n\r\n").await;
    assert_eq!(client.chunk().await.unwrap(), b"");
    assert_eq!(client.get("/hello").await.text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_requests_come_to_instances_that_know_the_caller() {
    let server = Server::start(|_| {}).await;
    let mut client = server.connect().await;
    let mut new_instances = 0;
    for round in 0..3 {
        for caller in 0..60 {
            let seen = client.get_as("/seen", &format!("caller-{caller}")).await.text();
            new_instances += usize::from(seen == "1");
            assert!(round == 0 || seen != "1", "an instance that {caller} has never met");
        }
    }
    // All in one group is as likely as sixty throws of a die of eight that are alike.
    assert!((2..=8).contains(&new_instances), "{new_instances}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whose_instances_are_elsewhere_is_answered_there() {
    let server = Server::start(|settings| settings.limits.instances = 1).await;
    let mut client = server.connect().await;
    for caller in 0..60 {
        let seen = client.get_as("/seen", &format!("caller-{caller}")).await;
        assert_eq!((seen.status, seen.text()), (200, (caller + 1).to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_arrives_whole() {
    let server = Server::start(|_| {}).await;
    let body: Vec<u8> = (0..3 << 20).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let port = server.port;
    let (sent, mut client) = (body.clone(), Client::connect(port).await);
    let answer = tokio::spawn(async move { client.ask("POST", "/sink", &sent).await }).await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, body.len().to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_is_on_the_wire_as_soon_as_it_is_written() {
    let server = Server::start(|settings| settings.limits.instances = 1).await;
    let mut client = server.connect().await;
    client.send(b"GET /gated-stream?chunks=3 HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(client.head().await.status, 200);
    for number in 0..3 {
        // The next chunk is not written before this one has arrived.
        assert_eq!(client.chunk().await.unwrap(), format!("chunk {number}\n").as_bytes());
        server.get("/open").await;
    }
    assert_eq!(client.chunk().await.unwrap(), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_waits_for_the_clients_acknowledgement() {
    let server = Server::start(|_| {}).await;
    let mut client = server.connect().await;
    let mut took = Vec::new();
    for _ in 0..100 {
        let start = Instant::now();
        assert!(client.get("/slow-stream?chunks=2&ms=1").await.complete);
        took.push(start.elapsed());
    }
    took.sort_unstable();
    // Without TCP_NODELAY nearly all would wait the 40 ms that a client may take to acknowledge the first chunk. The
    // quickest quarter is looked at, so that a busy machine does not matter.
    assert!(took[25] < Duration::from_millis(35), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_the_stream() {
    let server = Server::start(|settings| settings.limits.instances = 1).await;
    let mut client = server.connect().await;
    client.send(b"GET /slow-stream?chunks=1000000&ms=5 HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(client.head().await.status, 200);
    client.chunk().await.unwrap();
    assert_eq!(server.get("/streams").await.text(), "1");
    drop(client);
    until(&server, "/streams", "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_holds_the_component_back() {
    const MIB: usize = 64;
    let server = Server::start(|settings| settings.limits.instances = 1).await;
    let mut client = server.connect().await;
    client.send(format!("GET /flood?mib={MIB} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await;
    assert_eq!(client.head().await.status, 200);
    let mut written = 0;
    // A component that nobody held back would be done long before.
    for _ in 0..200 {
        written = server.get("/written").await.text().parse().unwrap();
    }
    assert!(written < MIB << 19, "{written} bytes are on their way to a client that reads nothing");
    let mut received = 0;
    loop {
        match client.chunk().await.unwrap().len() {
            0 => break,
            length => received += length,
        }
    }
    assert_eq!(received, MIB << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_reads_slowly_holds_the_client_back() {
    const MOST: usize = 256 << 20;
    let server = Server::start(|_| {}).await;
    let mut client = server.connect().await;
    client.send(format!("POST /deaf HTTP/1.1\r\nhost: localhost\r\ncontent-length: {MOST}\r\n\r\n").as_bytes()).await;
    let sent = client.push(MOST).await;
    assert!(sent < MOST / 4, "{sent} bytes were taken from a client whose request nobody reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_given_up() {
    let server = Server::start(|settings| {
        settings.limits.instances = 1;
        settings.limits.client_silence = Duration::from_secs(1);
    })
    .await;
    let mut client = server.connect().await;
    client.send(b"GET /flood?mib=1024 HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(client.head().await.status, 200);
    assert_eq!(server.get("/streams").await.text(), "1");
    until(&server, "/streams", "0").await;
    drop(client);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_are_served_at_once() {
    let server = Server::start(|_| {}).await;
    let mut clients = Vec::new();
    for _ in 0..500 {
        clients.push(server.connect().await);
    }
    for _ in 0..2 {
        for client in &mut clients {
            client.send(b"GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        }
        for client in &mut clients {
            assert_eq!(client.head().await.status, 200);
            assert_eq!(client.chunk().await.unwrap(), b"hello");
            assert_eq!(client.chunk().await.unwrap(), b"");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_wait_for_one_to_end() {
    let server = Server::start(|settings| settings.limits.connections = 2).await;
    let (mut first, second) = (server.connect().await, server.connect().await);
    let mut third = server.connect().await;
    third.send(b"GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    for _ in 0..20 {
        assert_eq!(first.get("/hello").await.status, 200);
    }
    assert!(third.is_silent());
    drop(second);
    assert_eq!(third.head().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_sees_what_spin_would_tell_it() {
    let server = Server::start(|_| {}).await;
    let mut client = server.connect().await;
    client
        .send(
            b"GET /headers?x=1 HTTP/1.1\r\nhost: example.test:8080\r\nspin-client-addr: 1.2.3.4:5\r\nx-mine: yes\r\n\
            spin-path-info: /forged\r\nconnection: keep-alive\r\n\r\n",
        )
        .await;
    let head = client.head().await;
    assert_eq!(head.status, 200);
    let seen: serde_json::Value = serde_json::from_slice(&client.chunk().await.unwrap()).unwrap();
    assert_eq!(seen["uri"], "http://example.test:8080/headers?x=1");
    let headers = &seen["headers"];
    assert_eq!(headers["spin-full-url"], "http://example.test:8080/headers?x=1");
    assert_eq!(headers["spin-path-info"], "/headers");
    assert_eq!(headers["spin-matched-route"], "/...");
    assert_eq!(headers["x-mine"], "yes");
    assert!(headers["spin-client-addr"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(headers["connection"], serde_json::Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_match_as_the_manifest_says() {
    let manifest = crate::support::MANIFEST.replace(
        r#"route = "/...""#,
        "route = \"/hello\"\ncomponent = \"guest\"\n[[trigger.http]]\nroute = \"/seen/...\"",
    );
    let server = Server::start_with(&manifest, |_| {}).await;
    assert_eq!(server.get("/hello").await.status, 200);
    assert_eq!(server.get("/hello/").await.text(), "no such path");
    // The component answers these with its own 404; the host's is a problem.
    assert_eq!(server.get("/seen/below").await.text(), "no such path");
    for path in ["/", "/seenmore", "/hello/more"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 404);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_long_or_not_http_is_refused() {
    let server = Server::start(|_| {}).await;
    let mut client = server.connect().await;
    let long = "x".repeat(200 << 10);
    client.send(format!("GET /hello HTTP/1.1\r\nhost: localhost\r\nx-long: {long}\r\n\r\n").as_bytes()).await;
    assert_eq!(client.head().await.status, 431);
    let mut client = server.connect().await;
    client.send(b"this is not HTTP\r\n\r\n").await;
    assert_eq!(client.head().await.status, 400);
    let mut client = server.connect().await;
    client.send(b"GET /hello HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.head().await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_head_does_not_hold_a_connection() {
    let server = Server::start(|settings| settings.limits.header_read = Duration::from_millis(200)).await;
    let mut client = server.connect().await;
    client.send(b"GET /hello HTTP/1.1\r\nhost: local").await;
    assert!(client.closed().await);
    let mut says_nothing = server.connect().await;
    assert!(says_nothing.closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stands_still_is_given_up() {
    let server = Server::start(|settings| settings.limits.body_read = Duration::from_millis(200)).await;
    // A small one is waited for by the host, a large one by the component.
    for length in [10, 1_000_000] {
        let mut client = server.connect().await;
        let head = format!("POST /sink HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\nhalf");
        client.send(head.as_bytes()).await;
        let answer = client.head().await;
        assert_eq!(answer.status, 400, "{length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_body_is_there_before_an_instance_is_troubled_with_it() {
    let server = Server::start(|_| {}).await;
    assert_eq!(server.get("/seen").await.text(), "1");
    let mut client = server.connect().await;
    client.send(b"POST /sink HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nhalf").await;
    assert_eq!(server.get("/seen").await.text(), "2", "the instance has not seen the other request");
    client.send(b"e more").await;
    assert_eq!(client.head().await.status, 200);
    assert_eq!(client.chunk().await.unwrap(), b"10");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_ends_before_the_host_stops() {
    let mut server = Server::start(|_| {}).await;
    let mut idle = server.connect().await;
    assert_eq!(idle.get("/hello").await.status, 200);
    let mut client = server.connect().await;
    client.send(b"GET /slow-stream?chunks=5&ms=100 HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(client.head().await.status, 200);
    server.begin_stop();
    assert!(idle.closed().await, "a connection between two requests is not waited for");
    for number in 0..5 {
        assert_eq!(client.chunk().await.unwrap(), format!("chunk {number}\n").as_bytes());
    }
    assert_eq!(client.chunk().await.unwrap(), b"");
    let port = server.port;
    server.stopped().await;
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_ends_is_cut_off_when_the_host_stops() {
    let mut server = Server::start(|settings| settings.limits.graceful_stop = Duration::from_millis(200)).await;
    let mut client = server.connect().await;
    client.send(b"GET /slow-stream?chunks=1000000&ms=20 HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(client.head().await.status, 200);
    server.begin_stop();
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_are_the_components_own() {
    let server = Server::start(|settings| _ = settings.variables.insert("greeting".into(), "good day".into())).await;
    assert_eq!(server.get("/var?name=greeting").await.text(), "good day, world");
    assert!(server.get("/var?name=port").await.text().contains("Undefined"));
    assert!(server.get("/var?name=Bad-Name").await.text().contains("InvalidName"));
    assert_eq!(server.get("/env").await.text(), "[]");
    assert_eq!(server.post("/sql", &json!({ "database": "other" })).await["open"], "Error::AccessDenied");
}
