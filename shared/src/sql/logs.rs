//! The table `log_chunks`: what executions wrote, in order, and the frames inside a chunk.
//!
//! A chunk holds frames, each with its stream and time, so that one form serves plain text, `timestamps` and `since`.
//! `start` is a chunk's offset in all that the execution ever wrote: where a chunk begins after the end of the one
//! before, the difference is what the cap cut out, and nothing else has to remember it.

use super::statement::{Statement, checked, statements};
use super::{Database, DatabaseError, Row};
use crate::domain::ExecutionId;

/// Where a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What was written at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Where.
    pub stream: LogStream,
    /// When, by the engine's clock: nanoseconds since the Unix epoch.
    pub nanos: i64,
    /// The bytes, as they were.
    pub bytes: &'a [u8],
}

/// The bytes before each frame's own: stream, time, length.
const HEAD: usize = 1 + 8 + 4;

impl<'a> Frame<'a> {
    /// Appends this frame to the frames of a chunk.
    pub fn encode(&self, frames: &mut Vec<u8>) {
        // A frame is at most what an engine passes on at once; one over 4 GiB cannot come to be.
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        frames.push(match self.stream {
            LogStream::Stdout => 1,
            LogStream::Stderr => 2,
        });
        frames.extend_from_slice(&self.nanos.to_be_bytes());
        frames.extend_from_slice(&length.to_be_bytes());
        frames.extend_from_slice(&self.bytes[..length as usize]);
    }

    /// The frames of a chunk, in order. A damaged tail is left out.
    pub fn decode(mut frames: &'a [u8]) -> impl Iterator<Item = Self> {
        std::iter::from_fn(move || {
            let (head, rest) = frames.split_first_chunk::<HEAD>()?;
            let stream = match head[0] {
                1 => LogStream::Stdout,
                2 => LogStream::Stderr,
                _ => return None,
            };
            let nanos = i64::from_be_bytes(head[1..9].try_into().ok()?);
            let length = u32::from_be_bytes(head[9..].try_into().ok()?) as usize;
            let (bytes, rest) = rest.split_at_checked(length)?;
            frames = rest;
            Some(Self { stream, nanos, bytes })
        })
    }
}

/// A chunk of an execution's logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Counts the chunks of an execution, from 1.
    pub sequence: i64,
    /// The offset of its first byte in all that the execution wrote.
    pub start: i64,
    /// How many bytes the execution wrote in it: the frames' heads do not count.
    pub length: i64,
    /// When the last of it was written: nanoseconds since the Unix epoch.
    pub last_nanos: i64,
    /// The frames; see [`Frame::decode`].
    pub frames: Vec<u8>,
}

/// Whether the execution `{uuid 1}` is `$holder`'s. One that another has taken over has logs that the other writes.
macro_rules! held_by {
    ($holder:literal) => {
        concat!("EXISTS (SELECT 1 FROM executions WHERE id = {uuid 1} AND ", checked!("holder = ", $holder), ")")
    };
}

// Only who looks after the execution writes its logs, and nobody once it is to be removed.
static APPEND: Statement = Statement::new(concat!(
    "INSERT INTO log_chunks (execution_id, sequence, start, length, last_at, frames) \
     SELECT {uuid 1}, {int 2}, {int 3}, {int 4}, {int 5}, {blob 6} FROM executions \
     WHERE id = {uuid 1} AND ",
    checked!("holder = {text 7} AND wanted <> 'removed'"),
    " ON CONFLICT DO NOTHING RETURNING sequence"
));

static AFTER: Statement = Statement::new(
    "SELECT sequence, start, length, last_at, frames FROM log_chunks \
     WHERE execution_id = {uuid 1} AND sequence > {int 2} ORDER BY sequence LIMIT {int 3}",
);

static BEFORE: Statement = Statement::new(
    "SELECT sequence, start, length, last_at, frames FROM log_chunks \
     WHERE execution_id = {uuid 1} AND sequence < {int 2} ORDER BY sequence DESC LIMIT {int 3}",
);

static REACHING: Statement = Statement::new(
    "SELECT sequence, start, length, last_at, frames FROM log_chunks \
     WHERE execution_id = {uuid 1} AND start + length > {int 2} ORDER BY sequence LIMIT {int 3}",
);

static SIZES: Statement =
    Statement::new("SELECT sequence, length, last_at FROM log_chunks WHERE execution_id = {uuid 1} ORDER BY sequence");

static CUT: Statement = Statement::new(concat!(
    "DELETE FROM log_chunks WHERE execution_id = {uuid 1} AND sequence > {int 2} AND sequence <= {int 3} AND ",
    held_by!("{text 4}"),
    " RETURNING sequence"
));

static REMOVE: Statement = Statement::new(concat!(
    "DELETE FROM log_chunks WHERE execution_id = {uuid 1} AND ",
    held_by!("{text 2}"),
    " RETURNING 1"
));

statements!(APPEND, AFTER, BEFORE, REACHING, SIZES, CUT, REMOVE);

/// Appends a chunk for `holder`. `false`: there is one with this sequence already, or the execution is no longer
/// `holder`'s, or is to be removed; nothing was written.
pub async fn append(db: &impl Database, holder: &str, id: ExecutionId, chunk: Chunk) -> Result<bool, DatabaseError> {
    let parameters = vec![
        id.into(),
        chunk.sequence.into(),
        chunk.start.into(),
        chunk.length.into(),
        chunk.last_nanos.into(),
        super::Value::Blob(chunk.frames),
        holder.into(),
    ];
    Ok(!db.query(APPEND.sql(db.dialect()), parameters).await?.is_empty())
}

/// Up to `limit` chunks after `sequence`, oldest first.
pub async fn after(
    db: &impl Database,
    id: ExecutionId,
    sequence: i64,
    limit: u32,
) -> Result<Vec<Chunk>, DatabaseError> {
    chunks(db, &AFTER, id, sequence, limit).await
}

/// Up to `limit` chunks before `sequence`, newest first.
pub async fn before(
    db: &impl Database,
    id: ExecutionId,
    sequence: i64,
    limit: u32,
) -> Result<Vec<Chunk>, DatabaseError> {
    chunks(db, &BEFORE, id, sequence, limit).await
}

/// The first chunk that reaches beyond `offset` in all that the execution wrote.
pub async fn reaching(db: &impl Database, id: ExecutionId, offset: i64) -> Result<Option<Chunk>, DatabaseError> {
    Ok(chunks(db, &REACHING, id, offset, 1).await?.into_iter().next())
}

async fn chunks(
    db: &impl Database,
    statement: &Statement,
    id: ExecutionId,
    sequence: i64,
    limit: u32,
) -> Result<Vec<Chunk>, DatabaseError> {
    let parameters = vec![id.into(), sequence.into(), i64::from(limit).into()];
    db.query(statement.sql(db.dialect()), parameters).await?.iter_mut().map(read).collect()
}

/// A stored chunk without what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// As [`Chunk::sequence`].
    pub sequence: i64,
    /// As [`Chunk::length`].
    pub length: i64,
    /// As [`Chunk::last_nanos`].
    pub last_nanos: i64,
}

/// The size of each stored chunk, oldest first: what a collector needs to go on under the cap.
pub async fn sizes(db: &impl Database, id: ExecutionId) -> Result<Vec<Size>, DatabaseError> {
    let rows = db.query(SIZES.sql(db.dialect()), vec![id.into()]).await?;
    let size = |mut row: Row| Ok(Size { sequence: row.integer()?, length: row.integer()?, last_nanos: row.integer()? });
    rows.into_iter().map(size).collect()
}

/// Cuts out the chunks after `first` up to and with `last`, if the execution is `holder`'s.
pub async fn cut(
    db: &impl Database,
    holder: &str,
    id: ExecutionId,
    first: i64,
    last: i64,
) -> Result<(), DatabaseError> {
    let parameters = vec![id.into(), first.into(), last.into(), holder.into()];
    db.query(CUT.sql(db.dialect()), parameters).await?;
    Ok(())
}

/// Removes all logs of an execution, if it is `holder`'s.
pub async fn remove(db: &impl Database, holder: &str, id: ExecutionId) -> Result<(), DatabaseError> {
    db.query(REMOVE.sql(db.dialect()), vec![id.into(), holder.into()]).await?;
    Ok(())
}

fn read(row: &mut Row) -> Result<Chunk, DatabaseError> {
    Ok(Chunk {
        sequence: row.integer()?,
        start: row.integer()?,
        length: row.integer()?,
        last_nanos: row.integer()?,
        frames: row.blob()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_back_and_a_damaged_tail_is_left_out() {
        let written = [
            Frame { stream: LogStream::Stdout, nanos: 1, bytes: b"out \xff\x00" },
            Frame { stream: LogStream::Stderr, nanos: i64::MAX, bytes: b"" },
        ];
        let mut chunk = Vec::new();
        for frame in &written {
            frame.encode(&mut chunk);
        }
        assert_eq!(Frame::decode(&chunk).collect::<Vec<_>>(), written);
        for cut in 0..chunk.len() {
            assert!(Frame::decode(&chunk[..cut]).count() < 2, "cut at {cut}");
        }
    }
}
