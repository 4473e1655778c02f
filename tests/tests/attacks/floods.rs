//! Requests that are too large, too slow or endless: the server cuts them off, and other clients are not affected.

use anyhow::{Context as _, Result, ensure};
use renga_tests::deployment::Deployment;
use serde_json::json;
use tokio::time::timeout;

use crate::wire::{Wire, ends};
use crate::{CONTEXTS, SOON, Table, is_well};

#[tokio::test]
async fn the_size_of_a_head_is_limited() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let long = "x".repeat(1 << 20);
    let start = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n";
    let mut table = Table::default();
    for (name, head, possible) in [
        ("100,000 headers", format!("{start}{}\r\n", "a: b\r\n".repeat(100_000)), &[431][..]),
        ("101 headers", format!("{start}{}\r\n", "a: b\r\n".repeat(100)), &[431]),
        ("a header of 1 MiB", format!("{start}x: {long}\r\n\r\n"), &[431]),
        ("a header's name of 1 MiB", format!("{start}{long}: x\r\n\r\n"), &[431]),
        ("a path of 1 MiB", format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"), &[414, 431]),
        ("a query of 1 MiB", format!("GET /healthz?{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"), &[414, 431]),
        ("a method of 1 MiB", format!("{long} /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"), &[400, 431]),
        ("a host of 1 MiB", format!("GET /healthz HTTP/1.1\r\nHost: {long}\r\n\r\n"), &[431]),
        (
            "headers without an end",
            format!("{start}{}", format!("x: {}\r\n", "y".repeat(1_000)).repeat(16_000)),
            &[431],
        ),
        ("a line without an end", format!("{start}x: {}", "y".repeat(16 << 20)), &[431]),
    ] {
        table.case(name, ends(&deployment, head.as_bytes(), possible).await);
    }
    is_well(&deployment).await?;
    deployment.leave().await?;
    table.end()
}

#[tokio::test]
async fn the_size_of_a_body_is_limited() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let token = deployment.issuer.token("alice");
    let body = " ".repeat(64 << 20);
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000)).repeat(1_024);
    let mut table = Table::default();
    for (name, line, status) in [
        ("read", format!("POST {CONTEXTS} HTTP/1.1\r\nAuthorization: Bearer {token}"), 413),
        ("no token", format!("POST {CONTEXTS} HTTP/1.1"), 401),
        ("not read", "GET /healthz HTTP/1.1".to_owned(), 200),
        ("nothing there", "POST /nothing HTTP/1.1".to_owned(), 404),
        ("another method", format!("PUT {CONTEXTS} HTTP/1.1"), 405),
    ] {
        for (framing, body) in [
            ("Transfer-Encoding: chunked", &chunk),
            ("Content-Length: 1099511627776", &body),
            ("Content-Length: 67108864", &body),
        ] {
            let request = format!("{line}\r\nHost: localhost\r\n{framing}\r\n\r\n{body}");
            table.case(format!("{name}, {framing}"), ends(&deployment, request.as_bytes(), &[status]).await);
        }
    }
    is_well(&deployment).await?;
    deployment.leave().await?;
    table.end()
}

#[tokio::test]
async fn a_truncated_body_creates_nothing() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let token = deployment.issuer.token("alice");
    let mut table = Table::default();
    for (framing, body) in [
        ("Content-Length: 100", r#"{"image": "busybox"}"#),
        ("Content-Length: 1099511627776", r#"{"image": "busybox"}"#),
        ("Transfer-Encoding: chunked", "14\r\n{\"image\": \"busybox\"}\r\n"),
        ("Transfer-Encoding: chunked", "ffff\r\n{\"image\": \"busybox\"}"),
        ("Transfer-Encoding: chunked", "14\r\n{\"image\": \"busybox\"}\r\n0\r\n"),
    ] {
        let result = async {
            let mut wire = Wire::connect(&deployment).await?;
            let head = format!("POST {CONTEXTS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n");
            wire.send(format!("{head}{framing}\r\n\r\n{body}").as_bytes()).await?;
            wire.end().await?;
            if let Some(reply) = wire.reply().await? {
                ensure!(reply.status == 400, "{reply:?}");
                ensure!(wire.reply().await?.is_none(), "the connection goes on");
            }
            Ok(())
        };
        table.case(format!("{framing}, {body}"), result.await);
    }
    let listed = deployment.client.get(CONTEXTS).await?;
    ensure!(listed == json!({"contexts": []}), "half a body made {listed}");
    deployment.leave().await?;
    table.end()
}

#[tokio::test]
async fn slow_clients_do_not_delay_others() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let head = format!("POST {CONTEXTS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ");
    let head = format!("{head}{}\r\n", deployment.issuer.token("alice"));
    let body = r#"{"image": "busybox"}"#;
    let small = format!("{head}Content-Length: {}\r\n\r\n", body.len());
    let mut slow = Vec::new();
    // Of each kind, more connections than all instances take requests; each has the bytes that it sends next.
    for _ in 0..130 {
        for (start, next) in [
            (String::new(), "x"),
            ("POST /v1/contexts HTTP/1.1\r\nHost: local".into(), "x"),
            (format!("{head}Transfer-Encoding: chunked\r\n\r\n"), "1\r\n \r\n"),
            (format!("{head}Content-Length: 1000000\r\n\r\n"), " "),
        ] {
            let mut wire = Wire::connect(&deployment).await?;
            wire.send(start.as_bytes()).await?;
            slow.push((wire, next));
        }
    }
    let mut good = Vec::new();
    for _ in 0..130 {
        let mut wire = Wire::connect(&deployment).await?;
        wire.send(small.as_bytes()).await?;
        good.push(wire);
    }
    for byte in body.as_bytes().chunks(1) {
        for (wire, next) in &mut slow {
            wire.send(next.as_bytes()).await?;
        }
        for wire in &mut good {
            wire.send(byte).await?;
        }
        is_well(&deployment).await?;
        let made = timeout(SOON, deployment.client.context(json!({"image": "busybox"}))).await;
        made.context("nothing can be made any more")??;
    }
    for mut wire in good {
        let reply = wire.reply().await?.context("no answer to a slow request")?;
        ensure!(reply.status == 201, "{reply:?}");
    }
    deployment.leave().await
}
