//! Logs: as they are stored, or as they are written.
//!
//! Only a bounded part is ever in memory. A reader that follows is sent each chunk as soon as it is stored, and the end when
//! the execution has ended, which is recorded only after its last chunk. One that goes away is noticed even while nothing is
//! written. When the database fails for long, the answer breaks off: it never looks complete when it is not.

use std::rc::Rc;
use std::time::Duration;

use http::header;
use renga_shared::api::{LogRecord, LogsQuery, Problem, rfc3339_nanos};
use renga_shared::auth::Scope;
use renga_shared::domain::{ContextId, ExecutionId, Wanted};
use renga_shared::sql::executions::{self, ExecutionRow};
use renga_shared::sql::logs::{self, Chunk, Frame, LogStream};
use renga_shared::sql::{DatabaseError, Visible};
use spin_sdk::wasip3::http_compat::BodyWriter;
use spin_sdk::wit_bindgen::StreamResult;

use crate::answer::{Answer, database};
use crate::executions::find;
use crate::instance::Instance;
use crate::request::Asked;
use crate::routes::ExecutionPath;

/// How many chunks, of 64 KiB or little more, are read at once.
const BATCH: u32 = 8;
/// How long a follower pauses when there is nothing new.
const PAUSE: Duration = Duration::from_millis(150);
/// How often a follower that the database fails tries again, and the pause before.
const TRIES: (u32, Duration) = (15, Duration::from_secs(2));

pub(crate) async fn get(asked: &Asked<'_>, path: &ExecutionPath) -> Result<Answer, Problem> {
    let principal = asked.by(&[Scope::ExecutionsRead]).await?;
    let query = LogsQuery::parse(asked.query).map_err(Problem::bad_fields)?;
    let row = find(asked, &principal, path).await?;
    if row.wanted == Wanted::Removed {
        return Err(Problem::not_found());
    }
    let instance = Instance::get().await?;
    let start = match (query.tail, query.offset) {
        (Some(lines), _) => tail_start(&instance, row.id, lines).await.map_err(database)?,
        (None, Some(offset)) => offset_start(&instance, row.id, offset).await.map_err(database)?,
        (None, None) => Start::default(),
    };
    // Read before the answer begins: a database that is away is still told.
    let first = logs::after(&instance.database, row.id, start.sequence, BATCH).await.map_err(database)?;
    let accepted = asked.header(header::ACCEPT.as_str());
    let records = accepted.iter().any(|kinds| std::str::from_utf8(kinds).is_ok_and(LogRecord::are_accepted));
    let (answer, to) = Answer::stream(if records { LogRecord::MEDIA_TYPE } else { "text/plain; charset=utf-8" });
    let reader = Reader {
        instance,
        context: row.context,
        execution: row.id,
        follow: query.follow,
        sequence: start.sequence,
        text: Text::new(query, &start),
        records,
        to,
    };
    spin_sdk::wasip3::spawn(reader.run(Batch { ended: !query.follow || has_ended(&row), chunks: first }));
    Ok(answer)
}

fn has_ended(row: &ExecutionRow) -> bool {
    row.wanted == Wanted::Removed || row.status.phase().is_terminal()
}

/// Where an answer begins.
#[derive(Default)]
struct Start {
    /// The chunk before the one that it begins in.
    sequence: i64,
    /// How many bytes of the next chunk come before it.
    skip: usize,
    /// The offset up to which the reader has the log; 0 if it has none of it or does not say.
    end: i64,
    /// The chunk before, where all of it was sent: a line of it may go on.
    before: Option<Chunk>,
}

/// Where the reader goes on who has had everything before `offset`, or has seen it cut.
async fn offset_start(instance: &Instance, id: ExecutionId, offset: i64) -> Result<Start, DatabaseError> {
    let reaching = logs::reaching(&instance.database, id, offset).await?;
    if let Some(chunk) = reaching.as_ref().filter(|chunk| chunk.start < offset) {
        let skip = usize::try_from(offset - chunk.start).unwrap_or(usize::MAX);
        return Ok(Start { sequence: chunk.sequence - 1, skip, end: offset, before: None });
    }
    let next = reaching.map_or(i64::MAX, |chunk| chunk.sequence);
    let before = logs::before(&instance.database, id, next, 1).await?.into_iter().next();
    match before {
        // It was written since the first look.
        Some(chunk) if chunk.start + chunk.length > offset => {
            let skip = usize::try_from(offset - chunk.start).unwrap_or(0);
            Ok(Start { sequence: chunk.sequence - 1, skip, end: offset, before: None })
        }
        Some(chunk) => Ok(Start { sequence: chunk.sequence, skip: 0, end: offset, before: Some(chunk) }),
        None => Ok(Start { end: offset, ..Start::default() }),
    }
}

/// Reads backwards until enough line ends have passed.
async fn tail_start(instance: &Instance, id: ExecutionId, lines: usize) -> Result<Start, DatabaseError> {
    let mut before = i64::MAX;
    // The end of the last line ends no line before it.
    let mut wanted = lines;
    let mut last = true;
    loop {
        let chunks = logs::before(&instance.database, id, before, BATCH).await?;
        if chunks.is_empty() {
            return Ok(Start::default());
        }
        for chunk in chunks {
            before = chunk.sequence;
            let text: Vec<u8> = Frame::decode(&chunk.frames).flat_map(|frame| frame.bytes.iter().copied()).collect();
            for (index, byte) in text.iter().enumerate().rev() {
                let ends_a_line = *byte == b'\n' && !last;
                last = false;
                if ends_a_line || wanted == 0 {
                    if wanted <= 1 {
                        let skip = if wanted == 0 { text.len() } else { index + 1 };
                        return Ok(Start { sequence: chunk.sequence - 1, skip, ..Start::default() });
                    }
                    wanted -= 1;
                }
            }
        }
    }
}

/// Chunks that were read at once.
struct Batch {
    chunks: Vec<Chunk>,
    /// Whether the execution had ended before they were read, so that nothing comes after the last.
    ended: bool,
}

/// Sends an execution's logs.
struct Reader {
    instance: Rc<Instance>,
    context: ContextId,
    execution: ExecutionId,
    follow: bool,
    /// The last chunk that was sent.
    sequence: i64,
    text: Text,
    /// Whether they are sent as records.
    records: bool,
    to: BodyWriter,
}

impl Reader {
    /// Sends everything. Whatever else it returns for, the answer's end is missing, and who reads it sees that.
    async fn run(mut self, first: Batch) {
        let mut batch = first;
        loop {
            for chunk in &batch.chunks {
                let mut text = self.text.of(chunk);
                if self.records && !text.is_empty() {
                    // A record of a number and base64 always has a JSON form.
                    text = serde_json::to_vec(&LogRecord::new(self.text.end, &text)).unwrap_or_default();
                    text.push(b'\n');
                }
                self.sequence = chunk.sequence;
                if !self.to.stream_writer.write_all(text).await.is_empty() {
                    return;
                }
            }
            if batch.chunks.len() < BATCH as usize {
                if batch.ended {
                    return self.finish().await;
                }
                // Writing nothing waits until more would be taken, and tells whether anybody still reads.
                if let (StreamResult::Dropped, _) = self.to.stream_writer.write(Vec::new()).await {
                    return;
                }
                spin_sdk::time::sleep(PAUSE).await;
            }
            match self.next().await {
                Some(next) => batch = next,
                None => return,
            }
        }
    }

    /// Reads the next chunks. `None`: the database fails for too long.
    async fn next(&self) -> Option<Batch> {
        let mut failed = 0;
        loop {
            match self.read().await {
                Ok(batch) => return Some(batch),
                Err(error) => {
                    eprintln!("logs of {}: {error}", self.execution);
                    failed += 1;
                    if !self.follow || failed > TRIES.0 {
                        return None;
                    }
                    spin_sdk::time::sleep(TRIES.1).await;
                }
            }
        }
    }

    async fn read(&self) -> Result<Batch, DatabaseError> {
        let db = &self.instance.database;
        // Looked at before the chunks: when it has ended, they are all there.
        let ended = !self.follow
            || executions::get(db, Visible::All, self.context, self.execution).await?.is_none_or(|row| has_ended(&row));
        let chunks = logs::after(db, self.execution, self.sequence, BATCH).await?;
        Ok(Batch { chunks, ended })
    }

    async fn finish(self) {
        let BodyWriter { stream_writer, result_writer, .. } = self.to;
        drop(stream_writer);
        // Nobody may be there any more to hear it.
        let _ = result_writer.write(Ok(None)).await;
    }
}

/// Turns chunks into what is sent.
struct Text {
    query: LogsQuery,
    /// How many bytes of the first chunk are left out.
    skip: usize,
    /// Where the last chunk ended in all that was written; 0 before the first.
    end: i64,
    /// Whether a new line begins, by stream: a line of one may be cut by the other's.
    begins: [bool; 2],
}

impl Text {
    fn new(query: LogsQuery, start: &Start) -> Self {
        let mut text = Self { query, skip: start.skip, end: start.end, begins: [true; 2] };
        if let Some(before) = start.before.as_ref().filter(|before| before.start + before.length == start.end) {
            Frame::decode(&before.frames).for_each(|frame| text.passed(frame.stream, frame.bytes));
        }
        text
    }

    /// These bytes come before those that are sent.
    fn passed(&mut self, stream: LogStream, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            self.begins[usize::from(stream == LogStream::Stderr)] = *last == b'\n';
        }
    }

    fn of(&mut self, chunk: &Chunk) -> Vec<u8> {
        let mut text = Vec::with_capacity(chunk.frames.len());
        if self.end > 0 && chunk.start > self.end {
            text.extend_from_slice(
                format!("\n[renga: {} bytes of log were cut here]\n", chunk.start - self.end).as_bytes(),
            );
            self.begins = [true; 2];
        }
        self.end = chunk.start + chunk.length;
        for frame in Frame::decode(&chunk.frames) {
            let skipped = self.skip.min(frame.bytes.len());
            self.skip -= skipped;
            self.passed(frame.stream, &frame.bytes[..skipped]);
            let frame = Frame { bytes: &frame.bytes[skipped..], ..frame };
            let before = self.query.since.is_some_and(|since| frame.nanos < since.0.saturating_mul(1_000));
            if !frame.bytes.is_empty() && !before {
                self.append(frame, &mut text);
            }
        }
        text
    }

    fn append(&mut self, frame: Frame<'_>, text: &mut Vec<u8>) {
        if !self.query.timestamps {
            text.extend_from_slice(frame.bytes);
            return;
        }
        let begins = &mut self.begins[usize::from(frame.stream == LogStream::Stderr)];
        for line in frame.bytes.split_inclusive(|byte| *byte == b'\n') {
            if *begins {
                text.extend_from_slice(rfc3339_nanos(frame.nanos).as_bytes());
                text.push(b' ');
            }
            text.extend_from_slice(line);
            *begins = line.ends_with(b"\n");
        }
    }
}
