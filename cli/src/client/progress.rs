//! The progress of a command, on standard error: one line that changes on a terminal; elsewhere a new line at
//! intervals.

use std::cell::RefCell;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::output::plain;

/// The minimum interval between lines if the output is not a terminal.
const OCCASION: Duration = Duration::from_secs(10);
/// The maximum length in characters. A longer line would wrap, and could not be erased.
const LONGEST: usize = 78;

/// The progress line.
pub(crate) struct Progress {
    terminal: bool,
    shown: RefCell<Shown>,
}

#[derive(Default)]
struct Shown {
    text: String,
    on_screen: bool,
    at: Option<Instant>,
}

impl Progress {
    /// Returns a progress line on the process's standard error.
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), shown: RefCell::default() }
    }

    /// Shows `text` until another text is shown.
    pub(crate) fn show(&self, text: &str) {
        let text: String = plain(text).chars().take(LONGEST).collect();
        let mut shown = self.shown.borrow_mut();
        if shown.text == text {
            return;
        }
        if self.terminal {
            write(&format!("\r\x1b[2K{text}"));
            shown.on_screen = true;
        } else {
            if shown.at.is_some_and(|at| at.elapsed() < OCCASION) {
                return;
            }
            write(&format!("{text}\n"));
            shown.at = Some(Instant::now());
        }
        shown.text = text;
    }

    /// Erases the line.
    pub(crate) fn clear(&self) {
        let mut shown = self.shown.borrow_mut();
        if shown.on_screen {
            write("\r\x1b[2K");
            shown.on_screen = false;
            shown.text.clear();
        }
    }

    /// Prints a message that stays.
    pub(crate) fn say(&self, text: &str) {
        self.clear();
        write(&format!("renga-deployer: {text}\n"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn write(text: &str) {
    // A closed standard error must not end the command.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
