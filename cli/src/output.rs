//! Printed output: tables, ages, JSON. Colours are used only on a terminal, and not with `NO_COLOR`.

use std::io::Write as _;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use renga_shared::api::parse_rfc3339;
use renga_shared::domain::Timestamp;
use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use crate::ended::output_error;

/// Prints `text` and a line feed.
pub(crate) fn line(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(output_error)
}

/// Prints a JSON document.
pub(crate) fn json(value: &Value) -> Result<()> {
    line(&format!("{value:#}"))
}

/// Returns text from others with control characters replaced, because these could move a terminal's cursor.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A cell of a table.
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// Returns a cell with `text`, made safe to print.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self { text: plain(text.as_ref()), style: Style::new() }
    }

    /// Returns the cell in a colour.
    pub(crate) fn coloured(mut self, colour: AnsiColor) -> Self {
        self.style = colour.on_default();
        self
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

/// Prints a table with aligned columns.
pub(crate) fn table<const COLUMNS: usize>(head: [&str; COLUMNS], rows: Vec<[Cell; COLUMNS]>) -> Result<()> {
    line(&aligned(head, rows))
}

fn aligned<const COLUMNS: usize>(head: [&str; COLUMNS], rows: Vec<[Cell; COLUMNS]>) -> String {
    let bold = |text: &str| Cell { text: text.to_owned(), style: Style::new().bold() };
    let rows: Vec<_> = std::iter::once(head.map(bold)).chain(rows).collect();
    let mut widths = [0; COLUMNS];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.width());
        }
    }
    let line = |row: &[Cell; COLUMNS]| {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            line.push_str(&format!("{}{}{}", cell.style.render(), cell.text, cell.style.render_reset()));
            if at + 1 < COLUMNS {
                line.push_str(&" ".repeat(width - cell.text.width() + 3));
            }
        }
        line
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Returns the time from `rfc3339` to `now`, in words.
pub(crate) fn ago(rfc3339: &str, now: Timestamp) -> String {
    match parse_rfc3339(rfc3339) {
        Some(then) => format!("{} ago", span(now.since(then))),
        None => "-".to_owned(),
    }
}

/// Returns a duration in its largest unit.
pub(crate) fn span(span: Duration) -> String {
    const UNITS: [(u64, &str); 5] =
        [(31_536_000, "year"), (86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let seconds = span.as_secs();
    let (unit, name) = UNITS.into_iter().find(|(unit, _)| seconds >= *unit).unwrap_or((1, "second"));
    let count = seconds / unit;
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_visible_width() {
        let rows = vec![
            ["é".into(), Cell::from("x").coloured(AnsiColor::Red), "last".into()],
            ["long".into(), "".into(), "".into()],
        ];
        let shown = anstream::adapter::strip_str(&aligned(["A", "B", "C"], rows)).to_string();
        assert_eq!(shown, "A      B   C\né      x   last\nlong       ");
    }

    #[test]
    fn ages_are_in_words() {
        let now = parse_rfc3339("2026-01-02T00:00:00Z").unwrap();
        for (then, words) in [
            ("2026-01-02T00:00:01Z", "0 seconds ago"),
            ("2026-01-01T23:59:59Z", "1 second ago"),
            ("2026-01-01T23:58:01Z", "1 minute ago"),
            ("2026-01-01T21:00:00+00:00", "3 hours ago"),
            ("2024-01-01T00:00:00Z", "2 years ago"),
            ("soon", "-"),
        ] {
            assert_eq!(ago(then, now), words);
        }
    }

    #[test]
    fn text_from_others_cannot_move_the_cursor() {
        assert_eq!(Cell::new("a\u{1b}[2Jb\n").text, "a\u{fffd}[2Jb\u{fffd}");
    }
}
