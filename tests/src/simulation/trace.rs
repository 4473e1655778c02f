//! The last of what happened, kept in case it is asked for: what the simulation did, and what the product said.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write as _;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// How much is kept.
const KEPT: usize = 4_000;

thread_local! {
    static LINES: RefCell<VecDeque<String>> = const { RefCell::new(VecDeque::new()) };
}

/// Notes a line.
pub(super) fn say(line: String) {
    LINES.with_borrow_mut(|lines| {
        if lines.len() >= KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    });
}

/// The last lines, of those that speak of `of` or of no execution; oldest first.
pub(super) fn last(of: Option<&str>, count: usize) -> String {
    let told = |line: &&String| of.is_none_or(|id| line.contains(id) || !line.contains("-7"));
    LINES.with_borrow(|lines| {
        let mut last: Vec<&str> = lines.iter().rev().filter(told).take(count).map(String::as_str).collect();
        last.reverse();
        last.join("\n")
    })
}

/// Keeps what the product says.
pub(super) struct Listener;

impl<S: Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        say(format!("    {} {}", event.metadata().level(), message.0));
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String does not fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}
