//! The logs of a container, from beginning to end, each byte once.
//!
//! Each read requests the whole logs and skips unneeded entries here, for three reasons:
//! - Docker sends a line of more than 16 KiB in pieces that all have the time of the first, however much later they
//!   were written. So a request with `since` would omit newer pieces. Here times never decrease.
//! - An engine before 23 stops following when the container ends, even if it has not sent all output. So the logs are
//!   read again afterwards, and known entries are skipped; the order is always the same.
//! - An engine before 23 drops the line end of a line that it stored in pieces. It is added when the next line begins.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::query_parameters::{InspectContainerOptions, LogsOptions};
use bytes::Bytes;
use chrono::DateTime;
use futures::stream::{BoxStream, StreamExt as _};
use futures::{Stream, TryStreamExt as _};
use renga_shared::domain::Why;
use renga_shared::sql::logs::LogStream;

use super::client::{ANSWER_WITHIN, Client};
use super::failure::Failure;
use crate::engine::{EngineError, LogEntry};

/// The size of the pieces in which Docker stores a line, in bytes.
const PIECE: usize = 16 * 1024;
/// Maximum number of reads in a row without news while the container runs, and the pause between two of them.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// Streams the logs of `object` from `since` on.
pub(super) fn follow(
    client: Arc<Client>,
    object: String,
    since: i64,
) -> impl Stream<Item = Result<LogEntry, EngineError>> + Send + 'static {
    let follower = Follower {
        client,
        object,
        since,
        pass: None,
        read: 0,
        idle: 0,
        lines: Lines::default(),
        next: VecDeque::new(),
    };
    futures::stream::try_unfold(follower, |mut follower| async move {
        Ok(follower.next().await?.map(|entry| (entry, follower)))
    })
}

struct Follower {
    client: Arc<Client>,
    object: String,
    since: i64,
    /// The present read.
    pass: Option<Pass>,
    /// The number of outputs read so far, over all passes.
    read: usize,
    /// The number of passes in a row that brought nothing although the container runs.
    idle: u32,
    lines: Lines,
    next: VecDeque<LogEntry>,
}

/// One read of the logs, from their beginning.
struct Pass {
    outputs: BoxStream<'static, Result<LogOutput, Failure>>,
    /// The number of outputs still to skip, because earlier passes read them.
    skip: usize,
    /// Whether the container ran when the pass began. The stream may then end before the logs do.
    running: bool,
    news: bool,
}

impl Follower {
    async fn next(&mut self) -> Result<Option<LogEntry>, EngineError> {
        loop {
            while let Some(entry) = self.next.pop_front() {
                if entry.nanos >= self.since {
                    return Ok(Some(entry));
                }
            }
            let mut pass = match self.pass.take() {
                Some(pass) => pass,
                None => match self.begin().await? {
                    Some(pass) => pass,
                    None => return Ok(None),
                },
            };
            match pass.outputs.next().await {
                Some(Ok(_)) if pass.skip > 0 => {
                    pass.skip -= 1;
                    self.pass = Some(pass);
                }
                Some(Ok(output)) => {
                    self.read += 1;
                    self.idle = 0;
                    pass.news = true;
                    self.lines.take(output, &mut self.next)?;
                    self.pass = Some(pass);
                }
                Some(Err(failure)) if is_gone(&failure) => return Ok(None),
                Some(Err(failure)) => return Err(self.client.heard(failure).into()),
                None if pass.running => self.pause(pass.news).await?,
                None => {
                    self.lines.end(&mut self.next);
                    if self.next.is_empty() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Starts a new pass, or returns `None` if the container is gone.
    async fn begin(&mut self) -> Result<Option<Pass>, EngineError> {
        let connection = self.client.connection().await?;
        let inspect = connection.docker.inspect_container(&self.object, None::<InspectContainerOptions>);
        let container = match self.client.answer(ANSWER_WITHIN, inspect).await {
            Ok(container) => container,
            Err(failure) if is_gone(&failure) => return Ok(None),
            Err(failure) => return Err(failure.into()),
        };
        let running = container.state.and_then(|state| state.running).unwrap_or_default();
        self.lines.loses_line_ends = connection.loses_line_ends();
        let options = LogsOptions {
            follow: running,
            stdout: true,
            stderr: true,
            timestamps: true,
            tail: "all".into(),
            ..LogsOptions::default()
        };
        let outputs = connection.for_streams().logs(&self.object, Some(options)).map_err(Failure::from).boxed();
        Ok(Some(Pass { outputs, skip: self.read, running, news: false }))
    }

    async fn pause(&mut self, news: bool) -> Result<(), EngineError> {
        if news {
            return Ok(());
        }
        self.idle += 1;
        if self.idle > TRIES {
            let text = "The engine does not give the logs of its container, which runs.";
            return Err(EngineError::Retry(Why::new("LogsInterrupted", text)));
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}

/// Whether the container does not exist or is being removed.
fn is_gone(failure: &Failure) -> bool {
    matches!(failure, Failure::Answered { status: 404 | 409, .. })
}

/// Returns the entries of a container's whole logs, read with timestamps. `loses_line_ends`: the engine is before 23.
///
/// # Errors
/// Fails with [`EngineError::Retry`] if an output is not a log entry.
pub fn entries(
    outputs: impl IntoIterator<Item = LogOutput>,
    loses_line_ends: bool,
) -> Result<Vec<LogEntry>, EngineError> {
    let mut lines = Lines { loses_line_ends, ..Lines::default() };
    let mut entries = VecDeque::new();
    for output in outputs {
        lines.take(output, &mut entries)?;
    }
    lines.end(&mut entries);
    Ok(entries.into())
}

/// Converts Docker's outputs into entries.
#[derive(Debug, Default)]
struct Lines {
    loses_line_ends: bool,
    /// The newest time so far.
    newest: i64,
    stdout: Option<Piece>,
    stderr: Option<Piece>,
}

/// The last piece of a line that has not ended.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// The time that all pieces of the line have.
    nanos: i64,
    length: usize,
    /// Whether the line has an earlier piece.
    continues: bool,
}

impl Lines {
    fn take(&mut self, output: LogOutput, entries: &mut VecDeque<LogEntry>) -> Result<(), EngineError> {
        let (stream, message) = match output {
            LogOutput::StdOut { message } => (LogStream::Stdout, message),
            LogOutput::StdErr { message } => (LogStream::Stderr, message),
            // The engine's own messages, which it puts into the same stream.
            LogOutput::StdIn { message } | LogOutput::Console { message } => return Err(unreadable(&message)),
        };
        let (time, bytes) = split(&message).ok_or_else(|| unreadable(&message))?;
        let unended = *self.piece(stream);
        if self.loses_line_ends && unended.is_some_and(|piece| piece.nanos != time) {
            entries.push_back(LogEntry { stream, nanos: self.newest, bytes: Bytes::from_static(b"\n") });
        }
        self.newest = self.newest.max(time);
        *self.piece(stream) = if bytes.ends_with(b"\n") {
            None
        } else {
            let continues = unended.is_some_and(|piece| piece.nanos == time);
            Some(Piece { nanos: time, length: bytes.len(), continues })
        };
        if !bytes.is_empty() {
            entries.push_back(LogEntry { stream, nanos: self.newest, bytes });
        }
        Ok(())
    }

    /// Ends the input. Where line ends are lost, a last line in pieces may have ended with or without one. A line end
    /// is assumed, because that is almost always right.
    fn end(&mut self, entries: &mut VecDeque<LogEntry>) {
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let last = self.piece(stream).take();
            if self.loses_line_ends && last.is_some_and(|piece| piece.continues && piece.length < PIECE) {
                entries.push_back(LogEntry { stream, nanos: self.newest, bytes: Bytes::from_static(b"\n") });
            }
        }
    }

    fn piece(&mut self, stream: LogStream) -> &mut Option<Piece> {
        match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        }
    }
}

/// Splits `2006-01-02T15:04:05.999999999Z text` into nanoseconds since the Unix epoch and the text.
fn split(message: &Bytes) -> Option<(i64, Bytes)> {
    let end = message.iter().take(40).position(|byte| *byte == b' ')?;
    let time = std::str::from_utf8(&message[..end]).ok()?;
    let nanos = DateTime::parse_from_rfc3339(time).ok()?.timestamp_nanos_opt()?;
    Some((nanos, message.slice(end + 1..)))
}

fn unreadable(message: &[u8]) -> EngineError {
    let said = String::from_utf8_lossy(message);
    let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
    EngineError::Retry(Why::new("LogsUnreadable", format!("The engine cannot give the logs: {said}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(loses_line_ends: bool, outputs: &[(LogStream, u8, &str)]) -> Vec<(i64, LogStream, String)> {
        let outputs = outputs.iter().map(|(stream, second, text)| {
            let message = Bytes::from(format!("1970-01-01T00:00:0{second}.000000001Z {text}"));
            match stream {
                LogStream::Stdout => LogOutput::StdOut { message },
                LogStream::Stderr => LogOutput::StdErr { message },
            }
        });
        let entries = super::entries(outputs, loses_line_ends).unwrap();
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        entries.iter().map(|entry| (entry.nanos / 1_000_000_000, entry.stream, text(&entry.bytes))).collect()
    }

    #[test]
    fn times_never_decrease_and_lost_line_ends_are_restored() {
        use LogStream::{Stderr, Stdout};
        let written = [
            (Stdout, 1, "long "),
            (Stderr, 3, "err\n"),
            (Stdout, 1, "line"),
            (Stdout, 4, "next\n"),
            (Stdout, 5, "end"),
        ];
        let text = |text: &str| text.to_owned();
        assert_eq!(
            entries(true, &written),
            [
                (1, Stdout, text("long ")),
                (3, Stderr, text("err\n")),
                (3, Stdout, text("line")),
                (3, Stdout, text("\n")),
                (4, Stdout, text("next\n")),
                (5, Stdout, text("end")),
            ]
        );
        assert_eq!(entries(false, &written).len(), 5);
        let last = [(Stdout, 1, "long "), (Stdout, 1, "line")];
        assert_eq!(entries(true, &last).last().unwrap().2, "\n");
        assert_eq!(entries(false, &last).last().unwrap().2, "line");
    }

    #[test]
    fn malformed_output_is_an_error() {
        let mut lines = Lines::default();
        for message in ["Error grabbing logs: EOF", "", "yesterday text"] {
            let output = LogOutput::StdOut { message: Bytes::from(message) };
            assert!(matches!(lines.take(output, &mut VecDeque::new()), Err(EngineError::Retry(_))), "{message}");
        }
    }
}
