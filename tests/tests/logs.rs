//! Logs over HTTP: stored logs are read, and new logs are followed. The tests write the logs themselves.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use renga_shared::api::LogRecord;
use renga_shared::sql::Database as _;
use renga_shared::sql::logs::LogStream::{Stderr, Stdout};
use renga_tests::client::Execution;
use renga_tests::deployment::{Deployment, PATIENCE, until};
use renga_tests::hand::Hand;
use renga_tests::{on_each_database, require};
use reqwest::{Method, Response, StatusCode};
use serde_json::json;

on_each_database! {
    are_read_as_they_were_written,
    are_read_from_their_end,
    say_what_was_cut,
    are_gone_on_with_at_a_position,
    are_followed_as_they_are_written,
    are_followed_until_the_execution_ends,
    are_read_by_many_who_are_slow,
}

const SECOND: i64 = 1_000_000_000;
const START: i64 = 1_500_000_000 * SECOND;

async fn execution(deployment: &Deployment) -> Result<(Execution, Hand)> {
    let execution = deployment.client.run(json!({"image": "busybox"})).await?;
    let hand = Hand::on(deployment.database()?, &execution).await?;
    hand.run("[]").await?;
    Ok((execution, hand))
}

async fn bytes(deployment: &Deployment, execution: &Execution, query: &str) -> Result<Vec<u8>> {
    let answer = deployment.client.request(Method::GET, &format!("{}/logs{query}", execution.path)).send().await?;
    ensure!(answer.status() == StatusCode::OK, "{answer:?}");
    Ok(answer.bytes().await?.to_vec())
}

async fn are_read_as_they_were_written(deployment: &Deployment) -> Result<()> {
    let (execution, mut hand) = execution(deployment).await?;
    assert_eq!(bytes(deployment, &execution, "").await?, b"", "nothing is written yet");
    let whale = "🐋".as_bytes();
    hand.write(&[(Stdout, START, b"one\ntw"), (Stderr, START + 1, b"oops"), (Stdout, START + SECOND, b"o\n")]).await?;
    hand.write(&[(Stderr, START + 2 * SECOND, b" again\n"), (Stdout, START + 3 * SECOND, &whale[..2])]).await?;
    hand.write(&[(Stdout, START + 4 * SECOND, &whale[2..]), (Stdout, START + 5 * SECOND, b"\n\xff\x00 end")]).await?;
    let all = [&b"one\ntwoopso\n again\n"[..], whale, b"\n\xff\x00 end"].concat();
    assert_eq!(bytes(deployment, &execution, "").await?, all);
    // `since` has a precision of microseconds, and includes an entry of exactly that time.
    for (since, expected) in [
        ("2017-07-14T02:40:00Z", &all[..]),
        ("2017-07-14T04:40:01+02:00", &all[10..]),
        ("2017-07-14T04:40:01%2B02:00", &all[10..]),
        ("2017-07-14T02:40:04.000001Z", &all[all.len() - 7..]),
        ("2099-01-01T00:00:00Z", b""),
    ] {
        let read = bytes(deployment, &execution, &format!("?since={since}")).await?;
        assert_eq!(read, expected, "{since}: {}", String::from_utf8_lossy(&read));
    }
    // Each line of either stream begins with a timestamp, once.
    let timed = "2017-07-14T02:40:00.000000000Z one\n2017-07-14T02:40:00.000000000Z tw\
                 2017-07-14T02:40:00.000000001Z oopso\n again\n2017-07-14T02:40:03.000000000Z ";
    let read = bytes(deployment, &execution, "?timestamps=true").await?;
    assert_eq!(String::from_utf8_lossy(&read[..timed.len()]), timed);
    let (last, rest) = ("2017-07-14T02:40:05.000000000Z ", &read[timed.len()..]);
    assert_eq!(rest, [whale, b"\n", last.as_bytes(), b"\xff\x00 end"].concat());

    let head = deployment.client.ask(Method::HEAD, &format!("{}/logs?follow=true", execution.path)).await?;
    assert_eq!((head.status.as_u16(), head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-type"), "text/plain; charset=utf-8");
    Ok(())
}

async fn are_read_from_their_end(deployment: &Deployment) -> Result<()> {
    let (execution, mut hand) = execution(deployment).await?;
    let read = async |query: &str| deployment.client.logs(&execution, query).await;
    assert_eq!(read("?tail=5").await?, "");
    // Lines that begin in one chunk and end in another, more chunks than are read at once, and empty lines.
    let mut all = String::new();
    for number in 1..=40 {
        let text = format!("{number}\n\nline {number}");
        hand.print(&text).await?;
        all.push_str(&text);
    }
    let lines: Vec<&str> = all.split_inclusive('\n').collect();
    for tail in [0, 1, 2, 3, 7, 40, lines.len() - 1, lines.len(), lines.len() + 1, 1_000_000] {
        let expected = lines[lines.len().saturating_sub(tail)..].concat();
        assert_eq!(read(&format!("?tail={tail}")).await?, expected, "the last {tail}");
    }
    hand.print("\n").await?;
    assert_eq!(read("?tail=1").await?, "line 40\n", "an end of line ends a line and begins none");
    assert_eq!(read("?tail=2").await?, "\nline 40\n");
    hand.exit(0).await?;
    assert_eq!(read("?tail=1&follow=true").await?, "line 40\n");
    assert_eq!(read("?tail=3&since=2017-07-14T02:40:00Z").await?, "line 3940\n\nline 40\n");
    assert_eq!(read("?tail=3&since=2099-07-14T02:40:00Z").await?, "");
    assert_eq!(read("?tail=1&timestamps=1").await?, "2017-07-14T02:40:00.000000040Z line 40\n");
    Ok(())
}

async fn say_what_was_cut(deployment: &Deployment) -> Result<()> {
    let (execution, mut hand) = execution(deployment).await?;
    hand.print("first\nhalf a li").await?;
    hand.cut(1_000);
    hand.print("ne\nlast\n").await?;
    let cut = "first\nhalf a li\n[renga: 1000 bytes of log were cut here]\nne\nlast\n";
    assert_eq!(deployment.client.logs(&execution, "").await?, cut);
    assert_eq!(deployment.client.logs(&execution, "?tail=1").await?, "last\n");
    Ok(())
}

async fn are_gone_on_with_at_a_position(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let (execution, mut hand) = execution(deployment).await?;
    let path = format!("{}/logs", execution.path);
    let records = async |query: &str| {
        let request = client.request(Method::GET, &format!("{path}{query}")).header("Accept", "application/x-ndjson");
        let answer = client.send(request).await?;
        assert_eq!(answer.header("content-type"), "application/x-ndjson");
        let record = |line: &str| {
            let record: LogRecord = serde_json::from_str(line)?;
            anyhow::Ok((record.next, String::from_utf8(record.text().context("no base64")?)?))
        };
        answer.body.lines().map(record).collect::<Result<Vec<_>>>()
    };
    assert_eq!(records("").await?, []);
    hand.print("one\ntwo\n").await?;
    hand.print("thr").await?;
    assert_eq!(records("").await?, [(8, "one\ntwo\n".to_owned()), (11, "thr".to_owned())]);
    assert_eq!(records("?offset=11").await?, []);
    hand.print("ee\n").await?;
    hand.cut(1_000);
    hand.print("last\n").await?;
    let cut = "\n[renga: 1000 bytes of log were cut here]\nlast\n";
    let after = |text: &str| vec![(14, text.to_owned()), (1_019, cut.to_owned())];
    assert_eq!(records("?offset=11").await?, after("ee\n"));
    // In the middle of what was written at once.
    assert_eq!(records("?offset=12").await?, after("e\n"));
    assert_eq!(client.logs(&execution, "?offset=4").await?, format!("two\nthree\n{cut}"));
    // Where nothing is any more, and where nothing is yet.
    let rest = "\n[renga: 600 bytes of log were cut here]\nlast\n".to_owned();
    assert_eq!(records("?offset=414").await?, [(1_019, rest)]);
    assert_eq!(records("?offset=1019").await?, []);
    assert_eq!(records("?offset=99999").await?, []);
    // A line that goes on has had its time.
    let timed = records("?offset=11&timestamps=true").await?;
    assert_eq!(timed[0], (14, "ee\n".to_owned()));
    assert!(timed[1].1.ends_with("Z last\n"), "{timed:?}");
    let both = client.ask(Method::GET, &format!("{path}?offset=1&tail=1")).await?;
    assert_eq!(both.bad_fields(400)?, ["?offset"]);
    assert_eq!(client.ask(Method::GET, &format!("{path}?offset=-1")).await?.bad_fields(400)?, ["?offset"]);
    Ok(())
}

async fn follow(deployment: &Deployment, execution: &Execution, query: &str) -> Result<Response> {
    let path = format!("{}/logs?follow=true{query}", execution.path);
    let answer = deployment.client.request(Method::GET, &path).send().await?;
    ensure!(answer.status() == StatusCode::OK, "{answer:?}");
    Ok(answer)
}

/// Returns the next chunk, or `None` at the end.
async fn next(answer: &mut Response) -> Result<Option<String>> {
    let chunk = tokio::time::timeout(PATIENCE, answer.chunk()).await.context("nothing arrives")??;
    Ok(chunk.map(|chunk| String::from_utf8_lossy(&chunk).into_owned()))
}

async fn are_followed_as_they_are_written(deployment: &Deployment) -> Result<()> {
    let (execution, mut hand) = execution(deployment).await?;
    hand.print("one\ntwo\n").await?;
    let mut all = follow(deployment, &execution, "").await?;
    let mut last = follow(deployment, &execution, "&tail=1&timestamps=1").await?;
    let mut none = follow(deployment, &execution, "&tail=0").await?;
    assert_eq!(next(&mut all).await?.as_deref(), Some("one\ntwo\n"));
    assert_eq!(next(&mut last).await?.as_deref(), Some("2017-07-14T02:40:00.000000001Z two\n"));
    // Each line arrives before the next is written, so nothing is held back.
    for number in 3..10 {
        let line = format!("{number}\n");
        hand.print(&line).await?;
        assert_eq!(next(&mut all).await?, Some(line.clone()));
        let timed = format!("2017-07-14T02:40:00.{:09}Z {line}", number - 1);
        assert_eq!(next(&mut last).await?, Some(timed));
        assert_eq!(next(&mut none).await?, Some(line));
    }
    hand.exit(0).await?;
    for answer in [&mut all, &mut last, &mut none] {
        assert_eq!(next(answer).await?, None, "it has ended");
    }
    Ok(())
}

async fn are_followed_until_the_execution_ends(deployment: &Deployment) -> Result<()> {
    let (exited, mut hand) = execution(deployment).await?;
    hand.print("hello\n").await?;
    hand.exit(0).await?;
    assert_eq!(deployment.client.logs(&exited, "?follow=1").await?, "hello\n");

    let failed = deployment.client.run(json!({"image": "busybox"})).await?;
    let mut answer = follow(deployment, &failed, "").await?;
    Hand::on(deployment.database()?, &failed).await?.fail("ImageNotFound").await?;
    assert_eq!(next(&mut answer).await?, None);

    let (deleted, mut hand) = execution(deployment).await?;
    hand.print("hello\n").await?;
    let mut answer = follow(deployment, &deleted, "").await?;
    assert_eq!(next(&mut answer).await?.as_deref(), Some("hello\n"));
    deployment.client.delete(&deleted).await?;
    assert_eq!(next(&mut answer).await?, None);
    Ok(())
}

/// These logs exceed an instance's memory, so the test fails if the API buffers them for slow readers.
async fn are_read_by_many_who_are_slow(deployment: &Deployment) -> Result<()> {
    const CHUNK: usize = 512 << 10;
    const CHUNKS: usize = 60;
    let (execution, mut hand) = execution(deployment).await?;
    let line = format!("{}\n", "x".repeat(1_023));
    let chunk = line.repeat(CHUNK / line.len());
    for _ in 0..CHUNKS {
        hand.print(&chunk).await?;
    }
    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.push(follow(deployment, &execution, "").await?);
    }
    for answer in &mut answers {
        let mut length = 0;
        while length < CHUNK * CHUNKS {
            let text = next(answer).await?.context("it ended early")?;
            ensure!(text.bytes().all(|byte| byte == b'x' || byte == b'\n'));
            length += text.len();
        }
        assert_eq!(length, CHUNK * CHUNKS);
    }
    hand.exit(0).await?;
    for answer in &mut answers {
        assert_eq!(next(answer).await?, None);
    }
    Ok(())
}

/// Returns the number of transactions that PostgreSQL has counted in a database.
async fn statements(watcher: &renga_reconciler::db::NativeDatabase, database: &str) -> Result<i64> {
    let name = database.rsplit('/').next().unwrap_or_default();
    let sql = "SELECT xact_commit FROM pg_stat_database WHERE datname = $1::text";
    Ok(watcher.query(sql, vec![name.into()]).await?.first_mut().context("no such database")?.integer()?)
}

/// Nothing is written meanwhile, so that the API cannot detect the closed connection by a failed write.
#[tokio::test]
async fn logs_are_not_queried_after_the_follower_has_left() -> Result<()> {
    let postgres = require!(postgres);
    let database = postgres.create_database().await?;
    let watcher = postgres.create_database().await?;
    let deployment = Deployment::without_reconciler(&[("SQLALCHEMY_DATABASE_URI", &database)]).await?;
    let watcher = renga_reconciler::db::NativeDatabase::open(&renga_shared::sql::uri::DatabaseUri::parse(&watcher)?)?;
    let (execution, _hand) = execution(&deployment).await?;
    let answer = follow(&deployment, &execution, "").await?;
    let mut before = statements(&watcher, &database).await?;
    until("the follower to be looked for", async || {
        let now = statements(&watcher, &database).await?;
        Ok(if now > before + 20 { Ok(()) } else { Err(json!(now)) })
    })
    .await?;
    drop(answer);
    // A follower runs a dozen statements per second, and the server counts them within a second.
    until("nobody to look any more", async || {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let now = statements(&watcher, &database).await?;
        let still = std::mem::replace(&mut before, now) == now;
        Ok(if still { Ok(()) } else { Err(json!(now)) })
    })
    .await
}
