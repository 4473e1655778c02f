//! Logs of objects: complete, unchanged, each entry once.

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use renga_reconciler::engine::LogEntry;
use renga_shared::sql::logs::LogStream;
use renga_tests::scripts::Script;

use crate::bed::{Bed, PATIENCE};

fn bytes(entries: &[LogEntry], stream: LogStream) -> Vec<u8> {
    entries.iter().filter(|entry| entry.stream == stream).flat_map(|entry| entry.bytes.to_vec()).collect()
}

/// Returns `text` as containerd logs it: without the carriage returns before line feeds.
fn without_carriage_returns(text: &[u8]) -> Vec<u8> {
    let mut kept = text.to_vec();
    while let Some(at) = kept.windows(2).position(|two| two == b"\r\n") {
        kept.remove(at);
    }
    kept
}

fn is_in_order(entries: &[LogEntry]) -> bool {
    entries.is_sorted_by_key(|entry| entry.nanos)
}

/// Fails unless logs that are read again from any entry's time have exactly the entries from that time on.
async fn is_resumed_anywhere(bed: &Bed, object: &str, all: &[LogEntry]) -> Result<()> {
    ensure!(is_in_order(all), "times decrease");
    for entry in all {
        let first = all.partition_point(|before| before.nanos < entry.nanos);
        let rest = bed.written(object, entry.nanos).await?;
        ensure!(
            rest == all[first..],
            "from {} on there are {} entries, not {}",
            entry.nanos,
            rest.len(),
            all.len() - first
        );
    }
    let last = all.last().context("nothing was written")?;
    ensure!(bed.written(object, last.nanos + 1).await?.is_empty(), "what was written before is told again");
    Ok(())
}

pub(crate) async fn both_streams_are_told_in_order(bed: &Bed) -> Result<()> {
    let launch = bed.launch(&Script::PrintAndExit3)?;
    let object = bed.run(&launch).await?;
    let followed = bed.written(&object, 0).await?;
    if bed.which.tells_streams() {
        ensure!(bytes(&followed, LogStream::Stdout) == "hello\nwörld\n".as_bytes(), "{followed:?}");
        ensure!(bytes(&followed, LogStream::Stderr) == b"oops\n", "{followed:?}");
    } else {
        // The node's runtime may log the two streams in another order; each stream keeps its own order.
        let mut lines: Vec<&[u8]> = followed.iter().map(|entry| &entry.bytes[..]).collect();
        let oops = lines.iter().position(|line| *line == b"oops\n").context("standard error is missing")?;
        lines.remove(oops);
        ensure!(lines == ["hello\n".as_bytes(), "wörld\n".as_bytes()], "{followed:?}");
        ensure!(followed.iter().all(|entry| entry.stream == LogStream::Stdout), "{followed:?}");
    }
    let exit = bed.ended(&launch).await?;
    let started = exit.started.context("it was started")?.0 * 1_000;
    let times: Vec<i64> = followed.iter().map(|entry| entry.nanos).collect();
    ensure!(is_in_order(&followed), "times decrease: {times:?}");
    // The engine may read the clocks for starts and for logs in another order than the events happen.
    let second = 1_000_000_000;
    let (from, to) = (started - second, exit.finished.0 * 1_000 + second);
    ensure!(times.iter().all(|nanos| (from..=to).contains(nanos)), "written while it ran: {times:?} {exit:?}");
    ensure!(bed.written(&object, 0).await? == followed, "read again it is the same");
    Ok(())
}

pub(crate) async fn bytes_are_told_as_they_are(bed: &Bed) -> Result<()> {
    let every_byte: Vec<u8> = (0..=255).chain(*b"\n\n").collect();
    // Engines split long lines. Characters of three bytes cross every boundary between the pieces.
    let long_line = "€".repeat(6_700) + "\nnext\n";
    let two_long_lines = "0123456789abcde\t".repeat(1_100) + "\n" + &"0123456789abcde\t".repeat(1_024) + "\n";
    ensure!(long_line.len() > 20_000 && two_long_lines.len() > 2 * 16 * 1_024);
    for text in [
        every_byte,
        long_line.into_bytes(),
        two_long_lines.into_bytes(),
        b"no line end".to_vec(),
        b"a line\nand no line end".to_vec(),
        b"\n".to_vec(),
        "\r\n\u{1b}[1mprogress\r".into(),
    ] {
        let launch = bed.launch(&Script::Write(text.clone()))?;
        let object = bed.run(&launch).await?;
        let all = bed.written(&object, 0).await?;
        let told = bytes(&all, LogStream::Stdout);
        let text = if bed.which.keeps_carriage_returns() { text } else { without_carriage_returns(&text) };
        let differs = told.iter().zip(&text).position(|(told, wrote)| told != wrote);
        ensure!(told == text, "{} bytes became {}, other from {differs:?} on", text.len(), told.len());
        ensure!(bed.ended(&launch).await?.code == 0);
        is_resumed_anywhere(bed, &object, &all).await?;
    }
    Ok(())
}

pub(crate) async fn are_resumed_without_loss(bed: &Bed) -> Result<()> {
    let launch = bed.launch(&Script::Count(20))?;
    let object = bed.run(&launch).await?;
    let all = bed.written(&object, 0).await?;
    let expected: String = (1..=20).map(|line| format!("line {line}\n")).collect();
    ensure!(bytes(&all, LogStream::Stdout) == expected.as_bytes(), "{all:?}");
    is_resumed_anywhere(bed, &object, &all).await
}

pub(crate) async fn are_resumed_while_it_runs(bed: &Bed) -> Result<()> {
    let lines = 60;
    let launch = bed.launch(&Script::Count(lines))?;
    let object = bed.run(&launch).await?;
    let mut all: Vec<LogEntry> = Vec::new();
    loop {
        // Continues like a reconciler that takes over from another one.
        let (before, since) = (all.len(), all.last().map_or(0, |last| last.nanos));
        all.retain(|entry| entry.nanos < since);
        let had = all.len();
        let engine = bed.again()?;
        let mut some = engine.logs(&object, since).take(7);
        while let Some(entry) = tokio::time::timeout(PATIENCE, some.try_next()).await?? {
            ensure!(entry.nanos >= since, "from {since} on was asked for: {entry:?}");
            all.push(entry);
        }
        if all.len() - had < 7 {
            break;
        }
        ensure!(all.len() > before, "nothing new is told from {since} on");
    }
    let expected: String = (1..=lines).map(|line| format!("line {line}\n")).collect();
    ensure!(bytes(&all, LogStream::Stdout) == expected.as_bytes(), "{all:?}");
    ensure!(bed.ended(&launch).await?.code == 0);
    Ok(())
}

pub(crate) async fn follow_until_the_end(bed: &Bed) -> Result<()> {
    let launch = bed.launch(&Script::Sleep)?;
    let object = bed.run(&launch).await?;
    let mut logs = bed.engine.logs(&object, 0);
    let first = tokio::time::timeout(PATIENCE, logs.try_next()).await??.context("they ended while it runs")?;
    ensure!(first.bytes == "started\n" && first.stream == LogStream::Stdout, "told while it runs: {first:?}");
    ensure!(futures::poll!(logs.next()).is_pending(), "it runs and is silent");
    let (stopped, end) =
        tokio::join!(bed.engine.stop(&object, PATIENCE), tokio::time::timeout(PATIENCE, logs.try_next()));
    stopped?;
    ensure!(end.context("they do not end with the object")??.is_none(), "it wrote nothing more");
    Ok(())
}
