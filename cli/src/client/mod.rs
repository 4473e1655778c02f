//! The client commands: one file per family, over [`http::Api`].

pub(crate) mod bodies;
mod end;
mod follow;
pub(crate) mod http;
mod lists;
mod logs;
mod names;
mod progress;
mod run;
mod target;

pub(crate) use target::{DEVELOPER, Target, service};

use anyhow::Result;
use renga_shared::domain::Timestamp;

use crate::args::{Command, Output};
use crate::ended::{Ended, Failure};
use http::Api;

/// The inputs of a command besides its arguments.
pub(crate) struct Surroundings<'a> {
    /// The output format.
    pub(crate) output: Output,
    /// The time when the command began.
    pub(crate) now: Timestamp,
    /// Returns the current time.
    pub(crate) clock: fn() -> Timestamp,
    /// A random number that makes the idempotency keys of this call unique.
    pub(crate) random: u64,
    /// Reads an environment variable.
    pub(crate) get: &'a dyn Fn(&str) -> Option<String>,
}

/// Performs a client command.
pub(crate) async fn perform(
    command: Command,
    target: Result<Target>,
    surroundings: &Surroundings<'_>,
) -> Result<Ended, Failure> {
    if let Command::Run(run) = command {
        return run::run(target, run, surroundings).await;
    }
    let api = Api::new(target?, surroundings.clock)?;
    let Surroundings { output, now, .. } = *surroundings;
    match command {
        Command::Ps(ps) => lists::ps(&api, &ps, output, now).await?,
        Command::Ports(one) => lists::ports(&api, &one.id, output).await?,
        Command::Engines => lists::engines(&api, output, now).await?,
        Command::Logs(logs) => logs::logs(&api, &logs, now).await?,
        Command::Stop(several) => end::stop(&api, &several.ids, output).await?,
        Command::Rm(several) => end::rm(&api, &several.ids, output).await?,
        Command::Run(_)
        | Command::Up(_)
        | Command::Migrate
        | Command::Login(_)
        | Command::Logout
        | Command::Token(_)
        | Command::Completion { .. } => {
            unreachable!("performed before, or without a service")
        }
    }
    Ok(Ended::Done)
}
