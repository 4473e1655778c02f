//! Dispatches a parsed command line. This module reads the process's environment, clock and randomness.

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use renga_reconciler::config::environment_of_process;
use renga_shared::config::ApiConfig;
use renga_shared::domain::Timestamp;
use tokio::runtime::Runtime;

use crate::args::{Arguments, Command, Token};
use crate::client::{self, Surroundings, Target};
use crate::ended::{Ended, Failure, output_error};
use crate::issuer::{DEFAULT_ISSUER, DEFAULT_SCOPE_CLAIM, Issuer, Request};
use crate::login;
use crate::output;
use crate::state::{IssuerFacts, StateFolder};
use crate::token_check;
use crate::up;

/// Performs the command.
pub(crate) fn perform(arguments: Arguments) -> Result<Ended, Failure> {
    let Arguments { global, command } = arguments;
    match &command {
        Command::Completion { shell } => {
            let script = completion(*shell);
            std::io::Write::write_all(&mut std::io::stdout(), script.as_bytes()).map_err(output_error)?;
            return Ok(Ended::Done);
        }
        Command::Logout => {
            login::logout(&StateFolder::choose(global.state_dir.as_deref(), &variable)?)?;
            return Ok(Ended::Done);
        }
        Command::Token(token @ Token { check: None, .. }) => {
            let folder = StateFolder::choose(global.state_dir.as_deref(), &variable)?;
            output::line(&print_token(token, &folder)?)?;
            return Ok(Ended::Done);
        }
        _ => {}
    }
    // reqwest is built without a crypto provider, so the process needs this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = Runtime::new().context("cannot start the runtime").map_err(Failure::Failed)?;
    let ended = runtime.block_on(async {
        match command {
            Command::Up(arguments) => {
                let folder = StateFolder::choose(global.state_dir.as_deref(), &variable);
                up::up(&arguments, folder, &variable, now(), StdRng::from_os_rng().random()).await
            }
            Command::Migrate => up::migrate().await,
            Command::Login(arguments) => {
                let folder = StateFolder::choose(global.state_dir.as_deref(), &variable)?;
                let (service, _) = client::service(&global, &variable, Some(&folder), folder.client()?.as_ref())?;
                login::login(&arguments, &service, &folder, &variable, now).await?;
                Ok(Ended::Done)
            }
            Command::Token(_) => {
                let environment = environment_of_process().map_err(|problems| up::wrong(&problems))?;
                let config = ApiConfig::read(&environment).map_err(|problems| up::wrong(&problems))?;
                let token = match token_check::from_input()? {
                    Some(token) => token,
                    None => {
                        let mut credential = Target::choose(&global, &variable, now())?.credential;
                        credential.renew(now(), false).await?;
                        credential.token
                    }
                };
                Ok(if token_check::check(&token, config, now()).await? { Ended::Done } else { Ended::Refused })
            }
            command => {
                let target = Target::choose(&global, &variable, now());
                let random = StdRng::from_os_rng().random();
                let surroundings =
                    Surroundings { output: global.output, now: now(), clock: now, random, get: &variable };
                client::perform(command, target, &surroundings).await
            }
        }
    });
    // Tasks that still run after a second signal are not awaited.
    runtime.shutdown_background();
    ended
}

/// Returns the completion script for a shell.
fn completion(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "renga-deployer", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    // clap_complete writes a hyphenated program's name in two ways, so subcommands get no completions
    // (clap-rs/clap#6421). Once the bug is fixed, this replaces nothing.
    script.replace("renga__subcmd__deployer", "renga__deployer")
}

/// Returns a token of the development issuer that the last `up --dev` accepts.
fn print_token(token: &Token, folder: &StateFolder) -> anyhow::Result<String> {
    let written = folder.client()?.and_then(|client| client.issuer);
    let facts = IssuerFacts {
        issuer: variable("DEPLOYER_JWT_ISSUER")
            .or_else(|| written.as_ref().map(|facts| facts.issuer.clone()))
            .unwrap_or_else(|| DEFAULT_ISSUER.to_owned()),
        scope_claim: variable("DEPLOYER_TOKEN_SCOPE_KEY")
            .or_else(|| written.map(|facts| facts.scope_claim))
            .unwrap_or_else(|| DEFAULT_SCOPE_CLAIM.to_owned()),
    };
    let issuer = Issuer::open(folder, facts)?;
    issuer.token(Request { subject: &token.sub, scopes: &token.scopes(), ttl: token.ttl }, now())
}

/// An environment variable, unless it is unset or empty. One that is not UTF-8 counts as unset, and that is said.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.into_string();
    if value.is_err() {
        eprintln!("renga-deployer: the variable {name} is not UTF-8 and counts as unset");
    }
    value.ok().filter(|value| !value.trim().is_empty())
}

#[allow(clippy::disallowed_methods, reason = "the one place of this program where the machine's clock is read")]
fn now() -> Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::from_epoch(since_epoch.unwrap_or_default())
}
