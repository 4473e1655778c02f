//! Parses the API's logs: lines that begin with their times.

use bytes::Bytes;
use renga_shared::domain::Timestamp;

/// The maximum size of a piece of a line in bytes, as in container runtimes.
const PIECE: usize = 16 * 1024;
/// The maximum length of a time, in bytes: `2006-01-02T15:04:05.999999999+07:00`.
const LONGEST_TIME: usize = 40;
/// The prefix of the kubelet's message about logs that it does not have.
const REFUSAL: &[u8] = b"unable to retrieve container logs";

/// A line or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) nanos: i64,
    pub(super) bytes: Bytes,
}

/// A parser of one response, fed in pieces.
#[derive(Debug, Default)]
pub(super) struct Lines {
    part: Part,
    /// The bytes read of the present part.
    read: Vec<u8>,
    /// The line's time, or the newest one so far if that is later, because two streams may be slightly out of order.
    nanos: i64,
    began: bool,
    refusal: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Time,
    Text,
    /// The rest of a line whose beginning was not requested.
    Rest,
}

impl Lines {
    /// Parses more of the response, and returns the lines and pieces that are complete.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for byte in bytes {
            self.read.push(*byte);
            match self.part {
                Part::Time if *byte == b' ' || *byte == b'\n' || self.read.len() > LONGEST_TIME => self.time(),
                Part::Text if *byte == b'\n' || self.read.len() == PIECE => {
                    lines.push(self.piece());
                    if *byte == b'\n' {
                        self.part = Part::Time;
                    }
                }
                Part::Rest if *byte == b'\n' => {
                    self.refuse();
                    self.read.clear();
                    self.part = Part::Time;
                }
                Part::Rest => self.read.truncate(PIECE),
                Part::Time | Part::Text => {}
            }
        }
        lines
    }

    /// Ends the response, and returns the rest of a line without a line end.
    pub(super) fn end(&mut self) -> Option<Line> {
        match self.part {
            Part::Text if !self.read.is_empty() => Some(self.piece()),
            Part::Rest | Part::Time => {
                self.refuse();
                None
            }
            Part::Text => None,
        }
    }

    /// Returns the kubelet's message if it came instead of logs.
    pub(super) fn refusal(&mut self) -> Option<String> {
        if self.part == Part::Rest {
            self.refuse();
        }
        self.refusal.take()
    }

    fn time(&mut self) {
        let text = std::str::from_utf8(&self.read).ok().and_then(|text| text.strip_suffix(' '));
        match text.and_then(nanos) {
            Some(nanos) => {
                self.nanos = if self.began { nanos.max(self.nanos) } else { nanos };
                self.began = true;
                self.read.clear();
                self.part = Part::Text;
            }
            None if self.began => self.part = Part::Text,
            None => self.part = Part::Rest,
        }
    }

    fn refuse(&mut self) {
        if self.read.starts_with(REFUSAL) {
            self.refusal = Some(String::from_utf8_lossy(&self.read).trim_end().to_owned());
        }
    }

    fn piece(&mut self) -> Line {
        Line { nanos: self.nanos, bytes: std::mem::take(&mut self.read).into() }
    }
}

fn nanos(text: &str) -> Option<i64> {
    let at = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    at.timestamp_nanos_opt().filter(|nanos| *nanos >= Timestamp::default().0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(second: u32) -> String {
        format!("1970-01-01T00:00:0{second}.000000001Z ")
    }

    fn read(text: &str) -> Vec<(i64, String)> {
        let mut all = Vec::new();
        // The size of the input's pieces must not matter.
        for size in [1, 7, text.len().max(1)] {
            let mut lines = Lines::default();
            let mut told: Vec<Line> = text.as_bytes().chunks(size).flat_map(|bytes| lines.take(bytes)).collect();
            told.extend(lines.end());
            let told: Vec<(i64, String)> = told
                .into_iter()
                .map(|line| (line.nanos / 1_000_000_000, String::from_utf8(line.bytes.to_vec()).unwrap()))
                .collect();
            assert!(all.is_empty() || all == told, "{told:?}");
            all = told;
        }
        all
    }

    #[test]
    fn lines_have_their_times() {
        let text = format!("{}one\n{}\n{}no end", time(1), time(2), time(3));
        assert_eq!(read(&text), [(1, "one\n".into()), (2, "\n".into()), (3, "no end".into())]);
        assert_eq!(read(""), []);
    }

    #[test]
    fn times_never_decrease() {
        let text = format!("{}a\n{}b\n{}c\n", time(3), time(2), time(4));
        assert_eq!(read(&text), [(3, "a\n".into()), (3, "b\n".into()), (4, "c\n".into())]);
    }

    #[test]
    fn long_lines_are_split() {
        let text = format!("{}{}\n{}x\n", time(1), "y".repeat(PIECE), time(2));
        let told = read(&text);
        assert_eq!(told.iter().map(|(_, text)| text.len()).collect::<Vec<_>>(), [PIECE, 1, 2]);
    }

    #[test]
    fn the_rest_of_an_earlier_line_is_skipped() {
        assert_eq!(read(&format!("the rest\n{}next\n", time(1))), [(1, "next\n".into())]);
    }

    #[test]
    fn a_kubelet_error_is_not_a_line() {
        for end in ["", "\n"] {
            let mut lines = Lines::default();
            assert_eq!(
                lines.take(format!("unable to retrieve container logs for containerd://0123{end}").as_bytes()),
                []
            );
            assert_eq!(lines.end(), None);
            assert!(lines.refusal().unwrap().contains("0123"));
        }
    }
}
