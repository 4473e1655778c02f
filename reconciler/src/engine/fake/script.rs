//! The script of a fake object, read from its command.
//!
//! Only images named `fake/…` have a script. The command's arguments are its steps, in order. Without arguments, and
//! with every other image, an object runs until it is stopped and writes nothing.
//!
//! | step | effect |
//! |---|---|
//! | `out:TEXT`, `err:TEXT` | writes a line |
//! | `raw:HEX` | writes these bytes to standard output, without a line end |
//! | `lines:N` | writes `line 1` to `line N`, 20 ms apart |
//! | `env:NAME` | writes a line with the variable's value |
//! | `sleep:SECONDS` | waits |
//! | `exit:CODE` | ends with this code; a script without it ends with code 0 |
//! | `wait` | runs until it is stopped |
//! | `ignore-term` | ignores TERM, from the start of the script on |
//! | `oom` | is killed because of its memory |
//! | any other | the command does not exist, so the object cannot be started |

use std::time::Duration;

use bytes::Bytes;
use renga_shared::sql::logs::LogStream;

use crate::engine::Launch;

/// The prefix of images that have a script.
const PREFIX: &str = "fake/";
const LINES_APART: Duration = Duration::from_millis(20);
/// The maximum number of lines that one step writes.
const MOST_ENTRIES: u32 = 1_000_000;

/// An object's whole behaviour without outside influence. Times count from its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) writes: Vec<Write>,
    /// The time and kind of its own end, or `None` if it runs until it is stopped.
    pub(super) end: Option<(Duration, End)>,
    pub(super) ignores_term: bool,
}

/// One write of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) after: Duration,
    pub(super) stream: LogStream,
    pub(super) bytes: Bytes,
}

/// The way in which an object ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Code(i64),
    OutOfMemory,
}

impl Script {
    /// Returns the script of a launch. Fails with the first step that does not exist.
    pub(super) fn of(launch: &Launch) -> Result<Self, String> {
        let steps = launch.spec.command.as_ref().map(|command| command.arguments()).unwrap_or_default();
        if !launch.spec.image.as_str().starts_with(PREFIX) || steps.is_empty() {
            return Ok(Self::default());
        }
        Self::read(steps, &|name| launch.variable(name))
    }

    fn read<'a>(steps: &[String], variable: &dyn Fn(&str) -> Option<&'a str>) -> Result<Self, String> {
        let mut script = Self::default();
        let mut after = Duration::ZERO;
        for step in steps {
            let (verb, value) = step.split_once(':').unwrap_or((step, ""));
            let mut write =
                |after, stream, bytes: Vec<u8>| script.writes.push(Write { after, stream, bytes: bytes.into() });
            match (verb, value) {
                ("out", text) => write(after, LogStream::Stdout, format!("{text}\n").into_bytes()),
                ("err", text) => write(after, LogStream::Stderr, format!("{text}\n").into_bytes()),
                ("raw", hex) => write(after, LogStream::Stdout, unhex(hex).ok_or(step)?),
                ("env", name) => {
                    let value = variable(name).unwrap_or_default();
                    write(after, LogStream::Stdout, format!("{value}\n").into_bytes());
                }
                ("lines", count) => {
                    for line in 1..=count.parse::<u32>().map_err(|_| step)?.min(MOST_ENTRIES) {
                        write(after, LogStream::Stdout, format!("line {line}\n").into_bytes());
                        after += LINES_APART;
                    }
                }
                ("sleep", seconds) => {
                    let seconds =
                        seconds.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                    after += seconds.ok_or(step)?;
                }
                ("exit", code) => script.end = Some((after, End::Code(code.parse().map_err(|_| step)?))),
                ("oom", "") => script.end = Some((after, End::OutOfMemory)),
                ("wait", "") => return Ok(script),
                ("ignore-term", "") => script.ignores_term = true,
                _ => return Err(step.clone()),
            }
            if script.end.is_some() {
                return Ok(script);
            }
        }
        script.end = Some((after, End::Code(0)));
        Ok(script)
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(steps: &[&str]) -> Result<Script, String> {
        let steps: Vec<String> = steps.iter().map(|&step| step.to_owned()).collect();
        Script::read(&steps, &|name| (name == "A").then_some("1"))
    }

    #[test]
    fn scripts_are_read() {
        let script =
            read(&["out:a b", "sleep:0.5", "err:ö", "raw:ff00", "env:A", "env:B", "exit:3", "out:never"]).unwrap();
        let written: Vec<(u128, &[u8])> =
            script.writes.iter().map(|write| (write.after.as_millis(), &write.bytes[..])).collect();
        let half = 500;
        assert_eq!(
            written,
            [(0, &b"a b\n"[..]), (half, "ö\n".as_bytes()), (half, b"\xff\0"), (half, b"1\n"), (half, b"\n")]
        );
        assert_eq!(script.end, Some((Duration::from_millis(500), End::Code(3))));
        assert_eq!(read(&["lines:3"]).unwrap().end, Some((Duration::from_millis(60), End::Code(0))));
        assert_eq!(read(&["out:a", "wait", "exit:1"]).unwrap().end, None);
        assert!(read(&["ignore-term", "wait"]).unwrap().ignores_term);
        assert_eq!(read(&["oom"]).unwrap().end, Some((Duration::ZERO, End::OutOfMemory)));
        for unknown in ["no-such-command", "exit:x", "sleep:-1", "raw:f", "oom:1"] {
            assert_eq!(read(&["out:a", unknown]), Err(unknown.to_owned()));
        }
    }
}
