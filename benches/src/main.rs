//! `renga-benches`: measures the whole system and its yardsticks in one run. docs/performance.md explains how.

mod database;
mod load;
mod process;
mod report;
mod rows;
mod simulated_kubelet;
mod simulated_nodes;
mod yardsticks;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Measure everything (the default), or the groups that are named
    Run {
        /// A group, such as `read`; repeatable. What there is: see `rows/mod.rs`
        #[arg(long)]
        only: Vec<String>,
    },
    /// Be a yardstick server
    Yardstick {
        server: yardsticks::Server,
        #[arg(long)]
        listen: SocketAddr,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Arguments::parse().command.unwrap_or(Command::Run { only: Vec::new() }) {
        Command::Run { only } => rows::run(&only).await,
        Command::Yardstick { server, listen } => yardsticks::serve(server, listen).await.map(|()| ExitCode::SUCCESS),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("renga-benches: {error:#}");
        ExitCode::FAILURE
    })
}
