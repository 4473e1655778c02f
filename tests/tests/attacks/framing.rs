//! Request smuggling: a second request that is hidden in the first is never answered.

use anyhow::{Result, ensure};
use renga_tests::deployment::Deployment;

use crate::wire::{Reply, Wire};
use crate::{CONTEXTS, Table, is_well};

/// The request that an attacker hides in another request. Only its response contains the API's version.
const HIDDEN: &str = "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Expected result of a request.
#[derive(Clone, Copy)]
enum Fate {
    /// One response with status 400, then the connection is closed.
    Refused,
    /// Responses with these statuses, then the connection is closed.
    Closed(&'static [u16]),
    /// One response with this status, and the connection stays usable.
    Kept(u16),
}

impl Fate {
    fn check(self, replies: &[Reply], closed: bool) -> Result<()> {
        let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
        let told = || format!("{statuses:?}, closed: {closed}");
        for reply in replies {
            ensure!(
                !String::from_utf8_lossy(&reply.body).contains("\"api\""),
                "the hidden request was answered: {}",
                told()
            );
        }
        let expected = match self {
            Self::Refused => statuses == [400] && closed,
            Self::Closed(expected) => statuses == expected && closed,
            Self::Kept(status) => statuses == [status] && !closed,
        };
        ensure!(expected, "{}", told());
        Ok(())
    }
}

/// Sends each request on its own connection and checks its result.
async fn check(cases: Vec<(String, String, Fate)>) -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let token = deployment.issuer.token("alice");
    let mut table = Table::default();
    for (name, request, fate) in cases {
        let request = request.replace("{token}", &token);
        let result = match Wire::connect(&deployment).await?.exchange(request.as_bytes()).await {
            Ok((replies, closed)) => fate.check(&replies, closed),
            Err(error) => Err(error),
        };
        table.case(name, result);
    }
    is_well(&deployment).await?;
    deployment.leave().await?;
    table.end()
}

/// Returns a request that creates a context, with `lines` in its head and `body` after it.
fn post(lines: &str, body: &str) -> String {
    format!("POST {CONTEXTS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {{token}}\r\n{lines}\r\n\r\n{body}")
}

#[tokio::test]
async fn a_length_together_with_chunks_hides_no_request() -> Result<()> {
    let mut cases = Vec::new();
    // The chunks are empty or contain no JSON.
    let (empty, within) = (format!("0\r\n\r\n{HIDDEN}"), format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len()));
    for (name, body) in [("after the chunks", &empty), ("in a chunk", &within)] {
        for length in [0, 4, body.len(), body.len() - HIDDEN.len(), 1 << 19] {
            for lines in [
                format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"),
                format!("Transfer-Encoding: chunked\r\nContent-Length: {length}"),
                format!("transfer-encoding: CHUNKED\r\ncontent-length: {length}"),
                format!("Transfer-Encoding:\tchunked\t\r\nContent-Length: {length}"),
                format!("Transfer-Encoding: identity, chunked\r\nContent-Length: {length}"),
                format!("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\nContent-Length: {length}"),
            ] {
                cases.push((format!("{name}: {lines}"), post(&lines, body), Fate::Refused));
            }
        }
    }
    check(cases).await
}

#[tokio::test]
async fn a_disguised_transfer_encoding_hides_no_request() -> Result<()> {
    let body = format!("0\r\n\r\n{HIDDEN}");
    let mut cases = Vec::new();
    for disguise in [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;a=b",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: ",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: ",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding\r\n : chunked",
        " Transfer-Encoding: chunked",
        "X: x\r\n Transfer-Encoding: chunked",
        "X: x\r\n\tTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding: chunked\0",
        "Transfer-Encoding\0: chunked",
        "X: x\rTransfer-Encoding: chunked",
        "Transfer-Encoding: chunk\u{e9}d",
    ] {
        let lines = format!("Content-Length: {}\r\n{disguise}", body.len());
        cases.push((disguise.escape_debug().to_string(), post(&lines, &body), Fate::Refused));
        cases.push((format!("{} alone", disguise.escape_debug()), post(disguise, &body), Fate::Refused));
    }
    // HTTP/1.0 has no chunked encoding.
    let old = post("Transfer-Encoding: chunked", &body).replace("HTTP/1.1\r\nHost", "HTTP/1.0\r\nHost");
    cases.push(("HTTP/1.0".into(), old, Fate::Refused));
    // Headers with similar names are ignored: the length counts, the whole body is not JSON, and nothing is hidden.
    for other in
        ["Transfer_Encoding: chunked", "X-Transfer-Encoding: chunked", "TransferEncoding: chunked", "TE: chunked"]
    {
        let lines = format!("Content-Length: {}\r\n{other}", body.len());
        cases.push((other.to_owned(), post(&lines, &body), Fate::Kept(400)));
    }
    check(cases).await
}

#[tokio::test]
async fn invalid_lengths_are_rejected() -> Result<()> {
    let mut cases = Vec::new();
    let body = r#"{"image": "a"}"#;
    let length = body.len();
    for bad in [
        "-1",
        "+14",
        "0x0e",
        "14.0",
        "1e1",
        "",
        "fourteen",
        "14,14",
        "14, 14",
        "14,15",
        "14 14",
        "14;",
        "\"14\"",
        "1_4",
        "\u{661}\u{664}",
        "18446744073709551616",
        "99999999999999999999999999",
        "-0",
        "14\0",
    ] {
        let lines = format!("Content-Length: {bad}");
        cases.push((lines.escape_debug().to_string(), post(&lines, body), Fate::Refused));
    }
    for lines in [
        "Content-Length: 14\r\nContent-Length: 15",
        "Content-Length: 0\r\nContent-Length: 14",
        "Content-Length: 14\r\nContent-Length: x",
        "Content-Length : 14",
        "Content-Length\r\n: 14",
        "Content-Length: 1\r\n 4",
    ] {
        cases.push((lines.escape_debug().to_string(), post(lines, body), Fate::Refused));
    }
    for lines in [
        "Content-Length: 14",
        "Content-Length: 0014",
        "Content-Length:14 \t",
        "Content-Length: 14\r\nContent-Length: 14",
    ] {
        assert_eq!(length, 14);
        cases.push((lines.escape_debug().to_string(), post(lines, body), Fate::Kept(201)));
    }
    // The HTTP library reserves the greatest number for itself, and rejects it as too large.
    cases.push(("2^64 - 1".into(), post("Content-Length: 18446744073709551615", body), Fate::Closed(&[431])));
    // The length is shorter than the body, so the rest of the body is read as a malformed request.
    let short = format!("Content-Length: {}", body.len() - 1);
    cases.push(("a length that is too short".into(), post(&short, body), Fate::Closed(&[400, 400])));
    check(cases).await
}

#[tokio::test]
async fn invalid_chunks_are_rejected() -> Result<()> {
    let mut cases = Vec::new();
    let extension = "x".repeat(100_000);
    for (name, body) in [
        ("no number", "zz\r\n{}\r\n0\r\n\r\n"),
        ("nothing", "\r\n0\r\n\r\n"),
        ("negative", "-1\r\n{}\r\n0\r\n\r\n"),
        ("a plus", "+2\r\n{}\r\n0\r\n\r\n"),
        ("a prefix", "0x2\r\n{}\r\n0\r\n\r\n"),
        ("a space before it", " 2\r\n{}\r\n0\r\n\r\n"),
        ("beyond 64 bits", "10000000000000002\r\n{}\r\n0\r\n\r\n"),
        ("a bare line feed after the number", "2\n{}\r\n0\r\n\r\n"),
        ("a bare line feed in an extension", "2;a\n{}\r\n0\r\n\r\n"),
        ("a carriage return alone", "2\r{}\r\n0\r\n\r\n"),
        ("longer than it says", "2\r\n{}{}\r\n0\r\n\r\n"),
        ("a bare line feed after the chunk", "2\r\n{}\n0\r\n\r\n"),
        ("no end of line after the chunk", "2\r\n{}0\r\n\r\n"),
        ("a huge extension", "2;{x}\r\n{}\r\n0\r\n\r\n"),
        ("many extensions", "1;{x}\r\n{\r\n1;{x}\r\n}\r\n0\r\n\r\n"),
        ("a huge trailer", "2\r\n{}\r\n0\r\nx: {x}\r\n\r\n"),
        ("a trailer that is none", "2\r\n{}\r\n0\r\nx\r\n\r\n"),
        ("a NUL in a trailer", "2\r\n{}\r\n0\r\nx: \0\r\n\r\n"),
    ] {
        let body = body.replace("{x}", &extension);
        cases.push((name.to_owned(), post("Transfer-Encoding: chunked", &body), Fate::Refused));
    }
    let good = r#"{"image":"a"}"#;
    for (name, body) in [
        ("in one", format!("d\r\n{good}\r\n0\r\n\r\n")),
        ("in two", format!("1\r\n{{\r\n00c;a=\"b;c\"\r\n{}\r\n0\r\n\r\n", &good[1..])),
        ("with zeros before it", format!("{}d\r\n{good}\r\n000\r\n\r\n", "0".repeat(50))),
        ("upper case", format!("D\r\n{good}\r\n0\r\n\r\n")),
        (
            "with a trailer that counts for nothing",
            format!("d\r\n{good}\r\n0\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\nAuthorization: x\r\n\r\n"),
        ),
    ] {
        cases.push((name.to_owned(), post("Transfer-Encoding: chunked", &body), Fate::Kept(201)));
    }
    check(cases).await
}

#[tokio::test]
async fn an_unread_body_is_not_a_request() -> Result<()> {
    let mut cases = Vec::new();
    for (name, line, status) in [
        ("a GET", "GET /healthz", 200),
        ("a path with nothing", "POST /nothing", 404),
        ("a method that is not there", "PUT /v1/contexts", 405),
        ("no token", "POST /v1/contexts", 401),
    ] {
        for (framing, body) in [
            (format!("Content-Length: {}", HIDDEN.len()), HIDDEN.to_owned()),
            ("Transfer-Encoding: chunked".to_owned(), format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len())),
        ] {
            let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n{body}");
            // A complete body is skipped, and the connection stays usable.
            cases.push((format!("{name}, {framing}"), request, Fate::Kept(status)));
        }
    }
    check(cases).await
}
