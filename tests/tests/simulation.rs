//! The reconciler, simulated: see [`renga_tests::simulation`].
//!
//! `RENGA_SIM_SEED=N` plays one run again, `RENGA_SIM_STEPS=N` takes more steps (in all, 100,000 are the default).

use renga_reconciler::random::Random;
use renga_tests::simulation;

/// How many runs share the steps: one for each core of a small machine, twice.
const RUNS: u64 = 4;
const STEPS: u64 = 100_000;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

fn run(seed: u64, steps: u64) {
    let began = std::time::Instant::now();
    match simulation::run(seed, steps) {
        Ok(summary) => {
            eprintln!("seed {seed}: {summary:?} in {:?}", began.elapsed());
            let ends = [summary.exited, summary.failed, summary.lost, summary.removed, summary.delayed_removals];
            let some = [ends.as_slice(), &[summary.kills, summary.rests]].concat();
            assert!(summary.late_starts <= 1 + steps / 50_000, "starts come too late again and again: {summary:?}");
            assert!(steps < 10_000 || some.iter().all(|count| *count > 0), "much never happened: {summary:?}");
        }
        Err(broken) => panic!("{broken}"),
    }
}

/// Fresh seeds at every run: what once went wrong is played again by its seed, and then belongs into a test of its own.
#[test]
fn nothing_is_lost_or_run_twice_whatever_goes_wrong() {
    let steps = variable("RENGA_SIM_STEPS").unwrap_or(STEPS);
    if let Some(seed) = variable("RENGA_SIM_SEED") {
        return run(seed, steps / RUNS);
    }
    let random = Random::from_system();
    let runs: Vec<_> = (0..RUNS)
        .map(|_| {
            // Short enough to be typed.
            let seed = random.number() % 1_000_000_000;
            std::thread::spawn(move || run(seed, steps / RUNS))
        })
        .collect();
    for run in runs {
        run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

/// Otherwise a seed would be worth nothing.
#[test]
fn the_same_seed_gives_the_same_run() {
    let one = simulation::run(7, 2_000).unwrap();
    let other = simulation::run(7, 2_000).unwrap();
    assert_eq!((one.digest, one.deeds, one.executions), (other.digest, other.deeds, other.executions));
}
