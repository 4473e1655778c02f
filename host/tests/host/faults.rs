//! What a client sees when the component misbehaves, and that nobody else notices.

use std::time::{Duration, Instant};

use crate::support::{Answer, PATIENCE, Server, until};

fn assert_problem(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.json()["status"], status);
    for internal in ["wasm", "trap", "panic", "guest", "backtrace"] {
        assert!(!answer.text().to_lowercase().contains(internal), "{internal} in {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_is_a_problem_and_the_next_request_is_fine() {
    let server = Server::start(|_| {}).await;
    let mut client = server.connect().await;
    assert_problem(&client.get("/trap").await, 500);
    assert_eq!(client.get("/hello").await.text(), "hello");
    let post = client.ask("POST", "/trap", b"x").await;
    assert_problem(&post, 500);
    assert_eq!(client.get("/hello").await.text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_shared_a_broken_instance_are_asked_again() {
    // One instance at a time, so that all are in the same one when it breaks.
    let server = Server::start(|settings| settings.limits.instances = 1).await;
    assert_eq!(server.get("/hello").await.text(), "hello");
    let mut waiting = Vec::new();
    for _ in 0..6 {
        let mut client = server.connect().await;
        client.send(b"GET /alone HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        waiting.push(client);
    }
    let mut posting = server.connect().await;
    posting.send(b"POST /alone HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n").await;
    until(&server, "/waiting", "7").await;
    assert_problem(&server.get("/trap").await, 500);
    for mut client in waiting {
        assert_eq!(client.head().await.status, 200);
        assert_eq!(client.chunk().await.unwrap(), b"alone");
    }
    // What may not be done twice is not, and its client is told.
    assert_eq!(posting.head().await.status, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_in_the_middle_of_a_body_cuts_it_off() {
    let server = Server::start(|_| {}).await;
    let answer = server.get("/trap-in-stream").await;
    assert_eq!(answer.status, 200);
    assert!(!answer.complete, "the body seems whole: {}", answer.text());
    assert!(answer.text().starts_with("part"));
    assert_eq!(server.get("/hello").await.text(), "hello");
}

// One thread for all instances: a runaway that kept it would be the only one that is ever answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_runaway_is_stopped_and_holds_up_nobody() {
    let server = Server::start(|settings| settings.limits.cpu_slice = Duration::from_secs(2)).await;
    let mut runaways = Vec::new();
    for _ in 0..2 {
        let mut client = server.connect().await;
        client.send(b"POST /spin-forever HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n").await;
        runaways.push(client);
    }
    for _ in 0..5 {
        assert_eq!(server.get("/hello").await.text(), "hello");
    }
    for client in &mut runaways {
        assert!(client.is_silent(), "it was not running away any more");
    }
    for mut client in runaways {
        assert_eq!(client.head().await.status, 504);
    }
    assert_eq!(server.get("/hello").await.text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_work_that_lets_others_go_on_is_no_runaway() {
    let server = Server::start(|settings| settings.limits.cpu_slice = Duration::from_millis(200)).await;
    let mut client = server.connect().await;
    for _ in 0..10 {
        assert_eq!(client.get("/compute?ms=50").await.status, 200);
    }
    // A stream that goes on for many slices computes little.
    assert!(client.get("/slow-stream?chunks=60&ms=15").await.complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_hangs_is_given_up_at_its_limit() {
    let server = Server::start(|settings| {
        settings.limits.first_byte = Duration::from_millis(300);
        settings.limits.instances = 2;
    })
    .await;
    assert_problem(&server.get("/hang").await, 504);
    // There are no more than two instances. Until those that hang are gone there may be none for the next.
    for _ in 0..4 {
        let status = server.get("/hang").await.status;
        assert!(matches!(status, 503 | 504), "{status}");
    }
    let start = Instant::now();
    while server.get("/hello").await.status != 200 {
        assert!(start.elapsed() < PATIENCE, "the instances that hang stay");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_free_instance_a_client_is_told_to_come_back() {
    let server = Server::start(|settings| {
        settings.limits.first_byte = Duration::from_secs(2);
        settings.limits.instances = 1;
        settings.limits.open_per_instance = 1;
    })
    .await;
    // The only instance has as much open as it may, for as long as this answer streams.
    let mut first = server.connect().await;
    first.send(b"GET /slow-stream?chunks=1000000&ms=5 HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(first.head().await.status, 200);
    let second = server.get("/hello").await;
    assert_problem(&second, 503);
    assert_eq!(second.header("retry-after"), Some("1"));
    drop(first);
    let start = Instant::now();
    while server.get("/hello").await.status != 200 {
        assert!(start.elapsed() < PATIENCE, "no instance becomes free");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_limited_for_each_instance() {
    let server = Server::start(|settings| settings.limits.instance_memory = 64 << 20).await;
    assert_eq!(server.get("/alloc?mib=32").await.text(), (32 << 20).to_string());
    assert_eq!(server.get("/alloc?mib=80").await.text(), "refused");
    assert_eq!(server.get("/hello").await.text(), "hello");
}
