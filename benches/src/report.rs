//! The report: a table for people, `target/bench/summary.json` for programs.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// A measurement with its yardstick and its bar.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// The name of the measurement, with its unit.
    pub(crate) name: String,
    /// The measured value; `None` if the measurement failed.
    pub(crate) figure: Option<f64>,
    /// The yardstick's value in the same run, in the same unit.
    pub(crate) yardstick: Option<f64>,
    /// The required value.
    pub(crate) bar: String,
    /// Whether the bar is met.
    pub(crate) met: bool,
    /// The yardstick, further observations, or the reason why there is no figure.
    pub(crate) note: String,
}

/// The value that a figure must reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    /// At least this value.
    AtLeast(f64),
    /// Less than this value.
    Below(f64),
    /// At least this multiple of the yardstick.
    AtLeastTimes(f64),
    /// At most this multiple of the yardstick.
    AtMostTimes(f64),
    /// No requirement; the row is for information.
    None,
}

impl Row {
    /// Returns a measured row.
    pub(crate) fn new(name: &str, figure: f64, yardstick: Option<f64>, bar: Bar, note: impl Into<String>) -> Self {
        let times = yardstick.map_or(f64::NAN, |yardstick| figure / yardstick);
        // Comparisons with NaN are false, so such a row does not meet its bar.
        let (bar, met) = match bar {
            Bar::AtLeast(least) => (format!(">= {}", short(least)), figure >= least),
            Bar::Below(most) => (format!("< {}", short(most)), figure < most),
            Bar::AtLeastTimes(least) => (format!(">= {least} x yardstick"), times >= least),
            Bar::AtMostTimes(most) => (format!("<= {most} x yardstick"), times <= most),
            Bar::None => ("none".to_owned(), figure.is_finite()),
        };
        Self { name: name.to_owned(), figure: Some(figure), yardstick, bar, met, note: note.into() }
    }

    /// Returns the row for a group that could not be measured, with the error.
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

/// Formats a value with three or four digits, because a noisy machine gives no more.
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
    fn bars_are_met_by_values_that_reach_them() {
        assert!(met(0.35, Some(1.0), Bar::AtLeastTimes(0.35)));
        assert!(!met(0.34, Some(1.0), Bar::AtLeastTimes(0.35)));
        assert!(met(1.1, Some(1.0), Bar::AtMostTimes(1.1)));
        assert!(!met(150.0, None, Bar::Below(150.0)));
        assert!(met(2_500.0, None, Bar::AtLeast(2_500.0)));
        assert!(!met(f64::NAN, None, Bar::None) && !met(f64::NAN, None, Bar::Below(1.0)));
        assert!(!met(1.0, None, Bar::AtMostTimes(1.1)), "without the yardstick nothing is met");
    }

    #[test]
    fn a_failed_measurement_has_its_reason() {
        let row = Row::failed("list", &anyhow::anyhow!("no server"));
        assert!(!row.met && row.figure.is_none());
        assert!(table(&[row]).contains("could not be measured: no server"));
    }
}
