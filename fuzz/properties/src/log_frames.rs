//! Logs: stored frames are decoded as they were encoded, wherever chunks begin and end; Docker's output becomes the
//! same bytes in the same order; damaged data adds nothing.

use bollard::container::LogOutput;
use bytes::Bytes;
use renga_reconciler::engine::docker::entries;
use renga_reconciler::engine::{EngineError, LogEntry};
use renga_shared::api::rfc3339_nanos;
use renga_shared::sql::logs::{Frame, LogStream};

/// Checks the properties in the module's doc. The first byte selects bytes that may be frames, frames to encode, or
/// Docker's output.
pub fn hold(input: &[u8]) {
    let Some((form, rest)) = input.split_first() else { return };
    match form % 3 {
        0 => read(rest),
        1 => written(rest),
        _ => given(rest),
    }
}

/// Checks that the decoded frames, encoded again, are a prefix of the input.
fn read(bytes: &[u8]) {
    let mut again = Vec::new();
    for frame in Frame::decode(bytes) {
        frame.encode(&mut again);
    }
    assert!(bytes.starts_with(&again), "{bytes:?} begins otherwise than {again:?}");
}

/// A piece of the input: flags, a number and bytes.
struct Piece<'a> {
    flags: u8,
    number: i64,
    bytes: &'a [u8],
}

/// Returns the pieces of the input: one byte of flags, one of length, eight of the number, then the bytes.
fn pieces(mut input: &[u8]) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    while let Some(([flags, length, number @ ..], rest)) = input.split_first_chunk::<10>() {
        let (bytes, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        pieces.push(Piece { flags: *flags, number: i64::from_be_bytes(*number), bytes });
        input = rest;
    }
    pieces
}

fn stream(piece: &Piece<'_>) -> LogStream {
    if piece.flags & 1 == 0 { LogStream::Stdout } else { LogStream::Stderr }
}

fn written(input: &[u8]) {
    let pieces = pieces(input);
    let frames: Vec<_> =
        pieces.iter().map(|piece| Frame { stream: stream(piece), nanos: piece.number, bytes: piece.bytes }).collect();
    let mut chunks = vec![Vec::new()];
    let mut whole = Vec::new();
    let mut ends = Vec::new();
    for (frame, piece) in frames.iter().zip(&pieces) {
        if piece.flags & 2 != 0 {
            chunks.push(Vec::new());
        }
        chunks.iter_mut().next_back().into_iter().for_each(|chunk| frame.encode(chunk));
        frame.encode(&mut whole);
        ends.push(whole.len());
    }
    assert_eq!(chunks.concat(), whole);
    assert!(Frame::decode(&whole).eq(frames.iter().copied()), "one chunk");
    assert!(chunks.iter().flat_map(|chunk| Frame::decode(chunk)).eq(frames.iter().copied()), "several chunks");
    // For a cut at any place, exactly the whole frames before it are decoded.
    let cuts = pieces.iter().map(|piece| piece.number.unsigned_abs() % (whole.len() as u64 + 1));
    for cut in cuts.filter_map(|cut| usize::try_from(cut).ok()) {
        let kept = ends.iter().filter(|end| **end <= cut).count();
        assert!(Frame::decode(&whole[..cut]).eq(frames[..kept].iter().copied()), "cut at {cut}");
    }
}

fn given(input: &[u8]) {
    let Some((flags, rest)) = input.split_first() else { return };
    let loses_line_ends = flags & 1 != 0;
    let pieces = pieces(rest);
    let outputs = pieces.iter().map(|piece| {
        let mut message = Vec::new();
        if piece.flags & 4 == 0 {
            message.extend(format!("{} ", rfc3339_nanos(piece.number)).bytes());
        }
        message.extend(piece.bytes);
        let message = Bytes::from(message);
        match (piece.flags & 8, stream(piece)) {
            (0, LogStream::Stdout) => LogOutput::StdOut { message },
            (0, LogStream::Stderr) => LogOutput::StdErr { message },
            _ => LogOutput::Console { message },
        }
    });
    match entries(outputs, loses_line_ends) {
        Ok(entries) => {
            assert!(entries.is_sorted_by_key(|entry| entry.nanos), "{entries:?}");
            // A message without a generated timestamp may begin with a timestamp of its own.
            if pieces.iter().all(|piece| piece.flags & 4 == 0) {
                compare(&pieces, &entries, loses_line_ends);
            }
        }
        Err(EngineError::Retry(_)) => {
            assert!(pieces.iter().any(|piece| piece.flags & 12 != 0), "what is a log is refused");
        }
        Err(other) => panic!("{other}"),
    }
}

/// Checks for the same bytes in the same order. Line ends may be added only if Docker loses them.
fn compare(pieces: &[Piece<'_>], entries: &[LogEntry], loses_line_ends: bool) {
    let mut expected = pieces.iter().filter(|piece| !piece.bytes.is_empty()).peekable();
    for entry in entries {
        let next = expected.next_if(|piece| stream(piece) == entry.stream && piece.bytes == entry.bytes);
        assert!(next.is_some() || (loses_line_ends && entry.bytes == "\n"), "{entry:?} was not given");
    }
    assert!(expected.next().is_none(), "something is missing in {entries:?}");
}
