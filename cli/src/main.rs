//! `renga-deployer`: parse, run, report.

mod answer;
mod args;
mod client;
mod commands;
mod discovery;
mod ended;
mod issuer;
mod login;
mod output;
mod signals;
mod state;
mod token_check;
mod up;

use std::process::ExitCode;

use clap::Parser as _;
use ended::{Ended, Failure};
use mimalloc::MiMalloc;

// Requests allocate on one thread and free on another. The gain is in docs/performance.md.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let arguments = args::Arguments::parse();
    let ended = commands::perform(arguments);
    if let Err(failure) = &ended
        && !failure.is_closed_output()
    {
        eprintln!("renga-deployer: {failure:#}");
    }
    ExitCode::from(match ended {
        Ok(Ended::Done) => 0,
        Ok(Ended::Container(code)) => u8::try_from(code).unwrap_or(255),
        Ok(Ended::Left) => 130,
        Ok(Ended::Refused) => 1,
        // A reader that closes the output, as in `… | head`, has all it needs.
        Err(failure) if failure.is_closed_output() => 0,
        Err(Failure::Failed(_)) => 1,
        Err(Failure::Usage(_)) => 2,
        Err(Failure::Run(_)) => 125,
    })
}
