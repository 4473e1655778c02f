//! Request heads that violate HTTP.

use anyhow::{Context as _, Result, ensure};
use renga_tests::deployment::Deployment;
use serde_json::Value;

use crate::wire::{Reply, Wire, ends};
use crate::{CONTEXTS, NOWHERE, Table, is_well};

/// Sends bytes on a new connection. Returns the responses, and whether the connection was closed.
async fn send(deployment: &Deployment, bytes: &[u8]) -> Result<(Vec<Reply>, bool)> {
    Wire::connect(deployment).await?.exchange(bytes).await
}

#[tokio::test]
async fn a_malformed_head_ends_the_connection() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let mut table = Table::default();
    let good = "Host: localhost\r\n";
    for (name, head) in [
        ("no path", format!("GET HTTP/1.1\r\n{good}")),
        ("no version", format!("GET /healthz\r\n{good}")),
        ("two spaces", format!("GET  /healthz HTTP/1.1\r\n{good}")),
        ("a space in the path", format!("GET /health z HTTP/1.1\r\n{good}")),
        ("a space after the version", format!("GET /healthz HTTP/1.1 \r\n{good}")),
        ("a version in lower case", format!("GET /healthz http/1.1\r\n{good}")),
        ("version 1.2", format!("GET /healthz HTTP/1.2\r\n{good}")),
        ("version 0.9", format!("GET /healthz HTTP/0.9\r\n{good}")),
        ("version 3.0", format!("GET /healthz HTTP/3.0\r\n{good}")),
        ("a NUL in the path", format!("GET /v1/contexts/\0 HTTP/1.1\r\n{good}")),
        ("a NUL in the query", format!("GET {CONTEXTS}?label=\0 HTTP/1.1\r\n{good}")),
        ("a NUL in the method", format!("GE\0T /healthz HTTP/1.1\r\n{good}")),
        ("a method that is no word", format!("G{{E}}T /healthz HTTP/1.1\r\n{good}")),
        ("a carriage return in the path", format!("GET /health\rz HTTP/1.1\r\n{good}")),
        ("a header's name with a NUL", format!("GET /healthz HTTP/1.1\r\n{good}x\0y: z\r\n")),
        ("a header's name with a space", format!("GET /healthz HTTP/1.1\r\n{good}x y: z\r\n")),
        ("a header without a name", format!("GET /healthz HTTP/1.1\r\n{good}: z\r\n")),
        ("a header without a colon", format!("GET /healthz HTTP/1.1\r\n{good}xyz\r\n")),
        ("a header with a NUL", format!("GET /healthz HTTP/1.1\r\n{good}x: \0\r\n")),
        ("a header with a bell", format!("GET /healthz HTTP/1.1\r\n{good}x: \x07\r\n")),
        ("a folded header", format!("GET /healthz HTTP/1.1\r\n{good}x: y\r\n z\r\n")),
        ("a space before the colon", format!("GET /healthz HTTP/1.1\r\n{good}x : y\r\n")),
        ("a header's name in other letters", format!("GET /healthz HTTP/1.1\r\n{good}ä: z\r\n")),
        ("carriage returns alone", "GET /healthz HTTP/1.1\rHost: localhost\r\r".to_owned()),
    ] {
        table.case(name, ends(&deployment, format!("{head}\r\n").as_bytes(), &[400]).await);
    }
    is_well(&deployment).await?;
    deployment.leave().await?;
    table.end()
}

#[tokio::test]
async fn other_protocols_end_the_connection() -> Result<()> {
    // A TLS ClientHello, which a browser sends first if it expects TLS.
    let hello = [&[0x16, 3, 1, 0, 0x2f, 1, 0, 0, 0x2b, 3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0, 0, 0]].concat();
    let deployment = Deployment::without_reconciler(&[]).await?;
    let mut table = Table::default();
    for (name, bytes) in [
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec()),
        ("TLS", hello),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("PostgreSQL", b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec()),
        (
            "the PROXY protocol",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        ),
        ("an answer", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ("zeros", vec![0; 10 << 20]),
        ("text", b"x".repeat(10 << 20)),
    ] {
        let result = async {
            let (replies, closed) = send(&deployment, &bytes).await?;
            let refused = replies.iter().all(|reply| (400..500).contains(&reply.status));
            ensure!(refused && replies.len() <= 1 && closed, "{replies:?}, closed: {closed}");
            Ok(())
        };
        table.case(name, result.await);
    }
    is_well(&deployment).await?;
    deployment.leave().await?;
    table.end()
}

#[tokio::test]
async fn a_request_names_exactly_one_host() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let mut table = Table::default();
    for (name, head, status) in [
        ("none", "GET /healthz HTTP/1.1\r\n", 400),
        ("none, and HTTP/1.0", "GET /healthz HTTP/1.0\r\n", 200),
        ("two", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.test\r\n", 400),
        ("two alike", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n", 400),
        (
            "two, and another in the target",
            "GET http://c.test/healthz HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n",
            400,
        ),
        ("empty", "GET /healthz HTTP/1.1\r\nHost:\r\n", 400),
        ("with a user", "GET /healthz HTTP/1.1\r\nHost: alice@localhost\r\n", 400),
        ("with a user in the target", "GET http://alice@localhost/healthz HTTP/1.1\r\nHost: localhost\r\n", 400),
        ("with a path", "GET /healthz HTTP/1.1\r\nHost: localhost/x\r\n", 400),
        ("a list", "GET /healthz HTTP/1.1\r\nHost: localhost, evil.test\r\n", 400),
        ("a space", "GET /healthz HTTP/1.1\r\nHost: local host\r\n", 400),
        ("a port that is none", "GET /healthz HTTP/1.1\r\nHost: localhost:http\r\n", 400),
        ("a port beyond 16 bits", "GET /healthz HTTP/1.1\r\nHost: localhost:65536\r\n", 400),
        ("bytes that are no text", "GET /healthz HTTP/1.1\r\nHost: \u{e9}\r\n", 400),
        ("a user and a port", "GET /healthz HTTP/1.1\r\nHost: alice@localhost:80\r\n", 400),
        ("an empty port", "GET /healthz HTTP/1.1\r\nHost: localhost:\r\n", 200),
        ("an address", "GET /healthz HTTP/1.1\r\nHost: [::1]:8080\r\n", 200),
        ("another's", "GET /healthz HTTP/1.1\r\nHost: evil.test\r\n", 200),
        ("only in the target", "GET http://evil.test/healthz HTTP/1.1\r\n", 400),
        ("in the target", "GET http://evil.test/healthz HTTP/1.1\r\nHost: localhost\r\n", 200),
        ("in a target that means a proxy", "GET https://evil.test:1/nothing HTTP/1.1\r\nHost: localhost\r\n", 404),
    ] {
        let result = async {
            let (replies, _) = send(&deployment, format!("{head}\r\n").as_bytes()).await?;
            let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
            ensure!(statuses == [status], "{statuses:?}");
            // The response does not contain the attacker's host.
            ensure!(!replies[0].head.contains("evil") && !String::from_utf8_lossy(&replies[0].body).contains("evil"));
            Ok(())
        };
        table.case(name, result.await);
    }
    is_well(&deployment).await?;
    deployment.leave().await?;
    table.end()
}

#[tokio::test]
async fn a_bare_line_feed_ends_a_line() -> Result<()> {
    // RFC 9112, section 2.2: a line feed alone may end a line. It must then end every line, so that no line is hidden.
    let deployment = Deployment::without_reconciler(&[]).await?;
    let mut table = Table::default();
    for (name, head) in [
        ("line feeds alone", "GET /healthz HTTP/1.1\nHost: localhost\n\n"),
        ("both in one head", "GET /healthz HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n"),
        ("empty lines before", "\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ] {
        let result = async {
            let (replies, closed) = send(&deployment, head.as_bytes()).await?;
            let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
            ensure!(statuses == [200] && !closed, "{statuses:?}, closed: {closed}");
            Ok(())
        };
        table.case(name, result.await);
    }
    deployment.leave().await?;
    table.end()
}

#[tokio::test]
async fn an_unknown_method_is_answered_with_the_allowed_methods() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let mut table = Table::default();
    let long = "X".repeat(1_000);
    for method in ["TRACE", "PROPFIND", "MADE-UP", "get", "Get", "M-SEARCH", "LOCK", "PURGE", "!#$%&'*+-.^_`|~", &long]
    {
        let result = async {
            let token = deployment.issuer.token("alice");
            let head = format!("{method} {CONTEXTS}/{NOWHERE} HTTP/1.1\r\nHost: localhost\r\nX-Secret: abcdefgh\r\n");
            let (replies, closed) =
                send(&deployment, format!("{head}Authorization: Bearer {token}\r\n\r\n").as_bytes()).await?;
            let reply = replies.first().context("no answer")?;
            ensure!(reply.status == 405 && replies.len() == 1 && !closed, "{replies:?}, closed: {closed}");
            ensure!(reply.head.to_ascii_lowercase().contains("\r\nallow: get, head, options\r\n"), "{reply:?}");
            let problem: Value = serde_json::from_slice(&reply.body)?;
            ensure!(problem["status"] == 405, "{problem}");
            ensure!(!problem.to_string().contains("abcdefgh"), "the request comes back: {problem}");
            Ok(())
        };
        table.case(method, result.await);
    }
    for target in ["evil.test:443", "localhost:1", CONTEXTS, "*"] {
        let result = async {
            let head = format!("CONNECT {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let (replies, _) = send(&deployment, head.as_bytes()).await?;
            let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
            ensure!(matches!(statuses[..], [400 | 404 | 405]), "{statuses:?}");
            Ok(())
        };
        table.case(format!("CONNECT {target}"), result.await);
    }
    for target in ["*", "", "healthz", "?", "http://", "http:///healthz", "//healthz", "/\\healthz", "/#", "mailto:a@b"]
    {
        let result = async {
            let head = format!("OPTIONS {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let (replies, _) = send(&deployment, head.as_bytes()).await?;
            let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
            ensure!(matches!(statuses[..], [400 | 404]), "{statuses:?}");
            Ok(())
        };
        table.case(format!("OPTIONS {target}"), result.await);
    }
    is_well(&deployment).await?;
    deployment.leave().await?;
    table.end()
}
