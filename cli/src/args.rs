//! The definition of the command line with its help texts. This module performs nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use renga_shared::auth::Scope;
use renga_shared::domain::ClientState;
use secrecy::SecretString;

/// The scopes of the API.
pub(crate) const SCOPES: [&str; 4] = [
    Scope::ContextsRead.name(),
    Scope::ContextsWrite.name(),
    Scope::ExecutionsRead.name(),
    Scope::ExecutionsWrite.name(),
];

const EXAMPLES: &str = "\
A first session, the first line in a terminal of its own:
  renga-deployer up --dev                    the whole system here; leave it running
  renga-deployer run alpine -- echo hello    launch, follow, end with the container's code
  renga-deployer run -d -p 8000 alpine -- httpd -f -p 8000
  renga-deployer ps                          what runs
  renga-deployer ports 5d2c                  an id's beginning or end is enough
  renga-deployer logs -f 5d2c
  renga-deployer stop 5d2c && renga-deployer rm 5d2c

Where the service is and who asks, the first of:
  --url, --token
  RENGA_DEPLOYER_URL, RENGA_DEPLOYER_TOKEN
  what the last `renga-deployer login` kept, for the service that it was for
  what the last `renga-deployer up --dev` wrote to its state folder
A URL without a path means its /v1.

Exit codes:
  0    done                125  `run`: the deployer could not run it
  1    failed              130  left with Ctrl-C
  2    wrong usage or configuration
  `run` otherwise ends with the container's own code.";

const RUN_HELP: &str = "\
Examples:
  renga-deployer run alpine -- echo hello
  renga-deployer run --env GREETING=hello alpine -- sh -c 'echo $GREETING'
  id=$(renga-deployer run --detach -p 8888 jupyter/base-notebook)
  renga-deployer ports \"$id\"

The first Ctrl-C (or SIGTERM) asks for the execution to be stopped and goes on following
it; the second leaves it as it is. When the reader of the output goes away (`… | head`),
`run` leaves too, and the execution goes on.

Exit codes: the container's own; 125 when the deployer could not run it or was not
reached; 130 when left with Ctrl-C; 2 for wrong usage.";

/// Runs container images where there is room for them, and keeps a record: the service and its client in one program.
#[derive(Debug, Parser)]
#[command(name = "renga-deployer", version, after_help = EXAMPLES, max_term_width = 120, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// How results are shown: a table, or what the API answered
    #[arg(long, short, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub(crate) output: Output,
    /// The service's address [env: RENGA_DEPLOYER_URL]
    #[arg(long, global = true)]
    pub(crate) url: Option<String>,
    /// The bearer token; other users of this machine may see it here, so prefer the variable [env: RENGA_DEPLOYER_TOKEN]
    #[arg(long, global = true, hide_env_values = true)]
    pub(crate) token: Option<SecretString>,
    /// The folder with the development issuer's key and what `up --dev` wrote
    /// [env: RENGA_DEPLOYER_STATE] [default: $XDG_STATE_HOME/renga-deployer or ~/.local/state/renga-deployer]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(crate) state_dir: Option<PathBuf>,
}

/// How results are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// For programs: what the API answered
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the service here: the API and the reconciler in one process
    Up(Up),
    /// Bring the database's schema up to date, then exit
    Migrate,
    /// Log in at the platform's token issuer, for the commands below
    Login(Login),
    /// Forget the login
    Logout,
    /// Print a token of the development issuer of `up --dev`, or explain a token
    #[command(args_conflicts_with_subcommands = true)]
    Token(Token),
    /// Run an image: create a context and an execution of it, follow its logs, end with its code
    #[command(after_help = RUN_HELP)]
    Run(Run),
    /// List executions: those that wait or run, newest first
    Ps(Ps),
    /// Print what an execution wrote
    Logs(Logs),
    /// Show where an execution's ports are
    Ports(One),
    /// Stop executions; their logs stay
    Stop(Several),
    /// Remove executions: container and logs. What runs is stopped first
    Rm(Several),
    /// List the engines and whether they answer
    Engines,
    /// Print a completion script, e.g. `source <(renga-deployer completion bash)`
    Completion {
        /// For which shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Configured by environment variables, such as:
  SQLALCHEMY_DATABASE_URI  where executions are recorded [sqlite:///deployer.db]
  DEPLOYER_ENGINE_<NAME>   an engine [docker:///var/run/docker.sock]
  DEPLOYER_JWT_KEY         the public key that tokens are verified with [those that the issuer publishes]
  DEPLOYER_JWT_ISSUER      the token issuer [http://localhost:8080/auth/realms/Renga]
  DEPLOYER_SEAL_KEY        hands callers' tokens to their containers; --dev makes one
  RUST_LOG                 what is logged [info]

Ctrl-C stops it cleanly within 10 s; containers go on and are found again at the next start.
A second Ctrl-C ends it at once.")]
pub(crate) struct Up {
    /// For a laptop: verify tokens of a development issuer whose key is made on first use, listen on loopback only,
    /// and let the client commands find it
    #[arg(long)]
    pub(crate) dev: bool,
    /// Where to listen [default: host and port of DEPLOYER_URL, http://localhost:5000]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// The components [default: spin.toml here, or in a folder above this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,
    /// Variables and databases of the components [default: runtime-config.toml beside the manifest]
    #[arg(long, value_name = "FILE")]
    pub(crate) runtime_config: Option<PathBuf>,
    /// The image of the command that --dev suggests
    #[arg(long, value_name = "IMAGE", default_value = "busybox", env = "RENGA_DEPLOYER_TRY_IMAGE")]
    pub(crate) try_image: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  curl -H \"Authorization: Bearer $(renga-deployer token --ttl 10m)\" http://localhost:5000/v1/contexts")]
pub(crate) struct Token {
    #[command(subcommand)]
    pub(crate) check: Option<TokenCommand>,
    /// Whose token: contexts and executions belong to their subject
    #[arg(long, default_value = "developer")]
    pub(crate) sub: String,
    /// What it may do: repeat, or separate by spaces [default: all four deployer scopes]
    #[arg(long, value_name = "SCOPE")]
    pub(crate) scope: Vec<String>,
    /// How long it is valid, such as 90s, 10m, 1h, 7days
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Duration,
}

/// What else there is to do with a token.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Explain whether the service would accept a token, and why not, without showing it
    #[command(after_help = "\
The token is read from standard input where that is not a terminal, or else is that of the
client commands: --token, RENGA_DEPLOYER_TOKEN, the login. What the service expects is read
from its own variables: DEPLOYER_JWT_KEY, DEPLOYER_JWT_ISSUER, DEPLOYER_JWT_AUDIENCE,
DEPLOYER_TOKEN_SCOPE_KEY. Without a key, those that the issuer publishes are fetched.

Exit codes: 0 accepted, 1 not accepted, 2 wrong usage or configuration.

Example:
  renga-deployer token | DEPLOYER_JWT_KEY=\"$KEY\" renga-deployer token check")]
    Check,
}

#[derive(Debug, Args)]
#[command(after_help = "\
With a browser on this machine, by authorization code with PKCE on a loopback port; the client
must allow http://127.0.0.1/* as a redirect URI. Without one, by device code: --device.
The tokens are kept in the state folder, readable by their owner alone, are sent to the service
of --url alone, and are renewed when they are about to expire.")]
pub(crate) struct Login {
    /// The issuer, as the service has it [env: DEPLOYER_JWT_ISSUER] [default: http://localhost:8080/auth/realms/Renga]
    #[arg(long, value_name = "URL")]
    pub(crate) issuer: Option<String>,
    /// The public client to log in as [env: DEPLOYER_CLIENT_ID] [default: demo-client]
    #[arg(long, value_name = "ID")]
    pub(crate) client_id: Option<String>,
    /// A scope to ask for (repeatable) [default: those that the client has by default]
    #[arg(long, value_name = "SCOPE")]
    pub(crate) scope: Vec<String>,
    /// Log in on another device, with a code
    #[arg(long)]
    pub(crate) device: bool,
    /// Do not open a browser: only show the address
    #[arg(long)]
    pub(crate) no_browser: bool,
}

impl Token {
    /// Returns the requested scopes.
    pub(crate) fn scopes(&self) -> Vec<&str> {
        if self.scope.is_empty() {
            SCOPES.to_vec()
        } else {
            self.scope.iter().flat_map(|given| given.split_whitespace()).collect()
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The image, such as alpine or registry.example.org/group/image:tag
    pub(crate) image: String,
    /// Do not wait: print the execution's id and leave
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Run nothing: show which engine would be chosen, and why each other one would not (creates the context alone)
    #[arg(long, conflicts_with = "detach")]
    pub(crate) dry_run: bool,
    /// A variable for the container: K=V, or K alone for the value it has here (repeatable)
    #[arg(long, short, value_name = "K[=V]")]
    pub(crate) env: Vec<String>,
    /// A port that it serves: 8888 or 53/udp (repeatable)
    #[arg(long, short, value_name = "PORT")]
    pub(crate) port: Vec<String>,
    /// Where to run it [default: the deployer chooses]
    #[arg(long)]
    pub(crate) engine: Option<String>,
    /// The most processors that it may use: 2 or 500m
    #[arg(long, value_name = "QUANTITY")]
    pub(crate) cpus: Option<String>,
    /// The most memory that it may use: 512Mi or 2Gi
    #[arg(long, short, value_name = "QUANTITY")]
    pub(crate) memory: Option<String>,
    /// How many of NVIDIA's graphics processors it needs
    #[arg(long, value_name = "COUNT")]
    pub(crate) gpus: Option<u32>,
    /// A label of the context: KEY=VALUE or KEY (repeatable); renga.placement.requires.zone=eu asks for engines with the
    /// label zone=eu
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    pub(crate) label: Vec<String>,
    /// The namespace to run it in [default: default]
    #[arg(long, short)]
    pub(crate) namespace: Option<String>,
    /// What to run instead of the image's own command
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Those that ended as well
    #[arg(long, short)]
    pub(crate) all: bool,
    /// Only those in this state (repeatable)
    #[arg(long, value_parser = state_names(), value_name = "STATE")]
    pub(crate) state: Vec<ClientState>,
    /// Only those whose context has this label: KEY=VALUE or KEY
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    pub(crate) label: Option<String>,
}

/// Returns a parser of the API's state names.
fn state_names() -> impl TypedValueParser<Value = ClientState> {
    PossibleValuesParser::new(ClientState::ALL.iter().map(|state| state.as_str())).try_map(|name| name.parse())
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The execution: its id, or the beginning or end of it
    pub(crate) id: String,
    /// Go on as it writes, until it ends
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only the last N lines
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) tail: Option<u32>,
    /// Only what was written since: 10m, 2h, or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// When each line was written
    #[arg(long, short)]
    pub(crate) timestamps: bool,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// The execution: its id, or the beginning or end of it
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Several {
    /// The executions: their ids, or the beginnings or ends of them
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parsed(line: &[&str]) -> Result<Command, String> {
        let line = std::iter::once("renga-deployer").chain(line.iter().copied());
        Arguments::try_parse_from(line).map(|arguments| arguments.command).map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn arguments_after_two_hyphens_are_the_containers() {
        let line = ["run", "-e", "A=1", "--port", "53/udp", "alpine", "-d", "--", "sh", "-c", "echo -n x"];
        let Ok(Command::Run(run)) = parsed(&line) else { panic!("not understood") };
        assert_eq!((run.image.as_str(), run.detach), ("alpine", true));
        assert_eq!((run.env, run.port), (vec!["A=1".to_owned()], vec!["53/udp".to_owned()]));
        assert_eq!(run.command, ["sh", "-c", "echo -n x"]);
        assert!(parsed(&["run", "alpine", "echo"]).unwrap_err().contains("[-- <COMMAND>...]"), "the cure is named");
    }

    #[test]
    fn scopes_may_be_repeated_or_separated_by_spaces() {
        let scopes = |line: &[&str]| match parsed(line) {
            Ok(Command::Token(token)) => token.scopes().join(","),
            other => panic!("{other:?}"),
        };
        assert_eq!(scopes(&["token", "--scope", "a b", "--scope", "c"]), "a,b,c");
        assert_eq!(scopes(&["token"]), SCOPES.join(","));
    }

    #[test]
    fn durations_are_human_readable() {
        let Ok(Command::Token(token)) = parsed(&["token", "--ttl", "1h 30m"]) else { panic!("not understood") };
        assert_eq!(token.ttl, Duration::from_secs(5400));
        assert!(parsed(&["token", "--ttl", "soon"]).is_err());
    }

    #[test]
    fn a_token_that_was_typed_is_not_shown() {
        let line = ["renga-deployer", "--token", "marked-token", "ps"];
        let arguments = Arguments::try_parse_from(line).unwrap();
        assert!(arguments.global.token.is_some());
        assert!(!format!("{arguments:?}").contains("marked-token"));
    }

    #[test]
    fn global_options_may_follow_the_command() {
        let arguments =
            Arguments::try_parse_from(["renga-deployer", "ps", "-o", "json", "--url", "http://localhost:1"]).unwrap();
        assert_eq!(
            (arguments.global.output, arguments.global.url.as_deref()),
            (Output::Json, Some("http://localhost:1"))
        );
    }
}
