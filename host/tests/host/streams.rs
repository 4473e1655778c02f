//! What stays open for long holds no place that other requests need.

use std::time::Duration;

use crate::support::{Client, Server, until};

const STREAM: &[u8] = b"GET /slow-stream?chunks=1000000&ms=20 HTTP/1.1\r\nhost: localhost\r\n\r\n";

async fn follow(server: &Server) -> Client {
    let mut client = server.connect().await;
    client.send(STREAM).await;
    assert_eq!(client.head().await.status, 200);
    assert_eq!(client.chunk().await.unwrap(), b"chunk 0\n");
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_keep_no_instance_that_requests_need() {
    let server = Server::start(|settings| {
        settings.limits.instances = 4;
        settings.limits.requests_before_retirement = 3;
        settings.limits.first_byte = Duration::from_secs(2);
    })
    .await;
    let mut followers = Vec::new();
    for number in 0..12 {
        followers.push(follow(&server).await);
        // Enough of them to retire the instance that the follower is in.
        for _ in 0..5 {
            let answer = server.get("/hello").await;
            assert_eq!(answer.status, 200, "beside {} followers: {}", number + 1, answer.text());
        }
    }
    for mut follower in followers {
        for _ in 0..3 {
            assert!(follower.chunk().await.unwrap().starts_with(b"chunk "));
        }
    }
    // Without them instances are retired as ever.
    let mut seen = Vec::new();
    for _ in 0..20 {
        seen.push(server.get("/seen").await.text());
    }
    assert!(seen.iter().filter(|seen| *seen == "1").count() >= 4, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_too_many_is_refused_at_once() {
    let server = Server::start(|settings| {
        settings.limits.instances = 2;
        settings.limits.streams = 6;
        settings.limits.open_per_instance = 8;
    })
    .await;
    let mut followers = Vec::new();
    for _ in 0..6 {
        followers.push(follow(&server).await);
    }
    for _ in 0..20 {
        let mut client = server.connect().await;
        client.send(STREAM).await;
        let refused = client.head().await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
        assert_eq!(server.get("/sized").await.text(), "sized");
    }
    // What was refused is not left running.
    until(&server, "/streams-sized", "6").await;
    drop(followers.pop());
    until(&server, "/streams-sized", "5").await;
    followers.push(follow(&server).await);
    for mut follower in followers {
        assert!(follower.chunk().await.unwrap().starts_with(b"chunk "));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_wait_hold_no_place_that_others_need() {
    let server = Server::start(|settings| {
        settings.limits.instances = 2;
        settings.limits.requests_per_instance = 2;
        settings.limits.requests = 4;
        settings.limits.first_byte = Duration::from_secs(10);
    })
    .await;
    let mut waiting = Vec::new();
    for _ in 0..12 {
        let mut client = server.connect().await;
        client.send(b"GET /wait?ms=5000 HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        waiting.push(client);
    }
    for _ in 0..5 {
        assert_eq!(server.get("/hello").await.text(), "hello");
    }
    assert!(waiting.iter_mut().all(Client::is_silent), "the others were kept waiting as long");
    for mut client in waiting {
        assert_eq!(client.head().await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_again_alone_keeps_no_instance_either() {
    let server = Server::start(|settings| {
        settings.limits.instances = 2;
        settings.limits.first_byte = Duration::from_secs(3);
    })
    .await;
    let mut followers = Vec::new();
    for _ in 0..3 {
        assert_eq!(server.get("/hello").await.status, 200);
        let mut client = server.connect().await;
        client.send(b"GET /stream-alone HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        // Its instance breaks. It is asked again in an instance of its own, and streams there.
        while client.is_silent() {
            server.connect().await.ask("POST", "/trap", b"x").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        followers.push(client);
    }
    assert_eq!(server.get("/hello").await.status, 200);
    assert_eq!(followers[0].head().await.status, 200);
}
