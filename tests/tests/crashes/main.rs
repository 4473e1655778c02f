//! Real processes that are killed at every failpoint, and at random times: nothing is lost, and nothing runs twice.
//!
//! `RENGA_KILLS=1000` kills more often; `RENGA_SEED` repeats the random choices.

mod host;
mod reconciler;

use std::io::Write as _;
use std::path::Path;

use renga_reconciler::random::Random;

/// Number of kills of all tests together. `RENGA_KILLS` can raise it.
const KILLS: usize = 220;

/// Returns the number of random kills of all tests together.
fn random_kills() -> usize {
    let wanted = std::env::var("RENGA_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    wanted.saturating_sub(reconciler::FIXED_KILLS).max(KILLS - reconciler::FIXED_KILLS)
}

/// Returns random numbers that `RENGA_SEED` can repeat.
fn seed(name: &str) -> Random {
    let given = std::env::var("RENGA_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| Random::from_system().number() >> 32);
    say(&format!("{name}: RENGA_SEED={seed}"));
    Random::from_seed(seed)
}

/// Writes to standard error. `eprintln!` is not used, because libtest hides its output if the test passes.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "crashes: {text}");
}

fn log_tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
