//! `renga-reconciler`: parse, build, run, report.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use renga_reconciler::{app, config, logging};

/// Makes the executions that the API recorded true on the engines. Configured by environment variables.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run until SIGINT or SIGTERM (the default).
    Run,
    /// Bring the database's schema up to date, then exit.
    Migrate,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::start();
    let config = match config::from_environment() {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(2);
        }
    };
    let ended = match arguments.command {
        Some(Command::Migrate) => app::migrate_once(&config.database).await,
        Some(Command::Run) | None => app::run(config, renga_reconciler::stop_signal()).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("renga-reconciler: {error:#}");
            ExitCode::FAILURE
        }
    }
}
