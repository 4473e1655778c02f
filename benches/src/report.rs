//! What was measured: a table for people, `target/bench/summary.json` for programs.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// One measurement beside its yardstick and its bar.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was measured, with its unit.
    pub(crate) name: String,
    /// What came out; `None` when it could not be measured.
    pub(crate) figure: Option<f64>,
    /// What the yardstick did in the same run, in the same unit.
    pub(crate) yardstick: Option<f64>,
    /// What is to be reached.
    pub(crate) bar: String,
    /// Whether it is reached.
    pub(crate) met: bool,
    /// What the yardstick is, what else was seen, or why there is no figure.
    pub(crate) note: String,
}

/// What a figure has to reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    /// At least so much.
    AtLeast(f64),
    /// Less than so much.
    Below(f64),
    /// At least so many times the yardstick.
    AtLeastTimes(f64),
    /// At most so many times the yardstick.
    AtMostTimes(f64),
    /// Nothing: it is there to be seen.
    None,
}

impl Row {
    /// A measured row.
    pub(crate) fn new(name: &str, figure: f64, yardstick: Option<f64>, bar: Bar, note: impl Into<String>) -> Self {
        let times = yardstick.map_or(f64::NAN, |yardstick| figure / yardstick);
        // Comparisons with what is not a number are false: such a row does not meet its bar.
        let (bar, met) = match bar {
            Bar::AtLeast(least) => (format!(">= {}", short(least)), figure >= least),
            Bar::Below(most) => (format!("< {}", short(most)), figure < most),
            Bar::AtLeastTimes(least) => (format!(">= {least} x yardstick"), times >= least),
            Bar::AtMostTimes(most) => (format!("<= {most} x yardstick"), times <= most),
            Bar::None => ("none".to_owned(), figure.is_finite()),
        };
        Self { name: name.to_owned(), figure: Some(figure), yardstick, bar, met, note: note.into() }
    }

    /// A group of rows that could not be measured, and why.
    pub(crate) fn failed(name: &str, error: &anyhow::Error) -> Self {
        Self {
            name: name.to_owned(),
            figure: None,
            yardstick: None,
            bar: "to be measured".to_owned(),
            met: false,
            note: format!("could not be measured: {error:#}"),
        }
    }

    fn times(&self) -> Option<f64> {
        Some(self.figure? / self.yardstick?)
    }
}

/// Writes the summary and prints the table.
pub(crate) fn publish(rows: &[Row], folder: &Path) -> Result<()> {
    let file = folder.join("summary.json");
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&file, format!("{:#}\n", serde_json::json!(rows))))
        .with_context(|| format!("write {}", file.display()))?;
    println!("{}", table(rows));
    let missed: Vec<&str> = rows.iter().filter(|row| !row.met).map(|row| row.name.as_str()).collect();
    match missed.as_slice() {
        [] => println!("Every bar is met."),
        missed => println!("Missed: {}.", missed.join("; ")),
    }
    println!("Written to {}.", file.display());
    Ok(())
}

fn table(rows: &[Row]) -> String {
    let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), short);
    let mut lines = vec![["", "figure", "yardstick", "ratio", "bar", "met"].map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        let ratio = row.times().map_or_else(String::new, |times| format!("{times:.2}x"));
        let met = if row.met { "yes" } else { "NO" };
        [row.name.clone(), shown(row.figure), shown(row.yardstick), ratio, row.bar.clone(), met.to_owned()]
    }));
    let mut widths = [0; 6];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let [name, figure, yardstick, ratio, bar, _] = widths;
    let mut text = String::new();
    for (number, [a, b, c, d, e, f]) in lines.iter().enumerate() {
        text += &format!("{a:name$}  {b:>figure$}  {c:>yardstick$}  {d:>ratio$}  {e:bar$}  {f}\n");
        if let Some(row) = number.checked_sub(1).and_then(|number| rows.get(number))
            && !row.note.is_empty()
        {
            text += &format!("    {}\n", row.note);
        }
    }
    text
}

/// Three or four digits are all that a noisy machine gives.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small >= 1.0 && small.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(figure: f64, yardstick: Option<f64>, bar: Bar) -> bool {
        Row::new("x", figure, yardstick, bar, "").met
    }

    #[test]
    fn bars_are_met_by_what_reaches_them() {
        assert!(met(0.35, Some(1.0), Bar::AtLeastTimes(0.35)));
        assert!(!met(0.34, Some(1.0), Bar::AtLeastTimes(0.35)));
        assert!(met(1.1, Some(1.0), Bar::AtMostTimes(1.1)));
        assert!(!met(150.0, None, Bar::Below(150.0)));
        assert!(met(2_500.0, None, Bar::AtLeast(2_500.0)));
        assert!(!met(f64::NAN, None, Bar::None) && !met(f64::NAN, None, Bar::Below(1.0)));
        assert!(!met(1.0, None, Bar::AtMostTimes(1.1)), "without the yardstick nothing is met");
    }

    #[test]
    fn what_could_not_be_measured_says_so() {
        let row = Row::failed("list", &anyhow::anyhow!("no server"));
        assert!(!row.met && row.figure.is_none());
        assert!(table(&[row]).contains("could not be measured: no server"));
    }
}
