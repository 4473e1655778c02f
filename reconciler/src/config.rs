//! The reconciler's configuration: environment variables, by their old names where they had one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use renga_shared::domain::{EngineName, Quantity};
use renga_shared::environment::{BadVariable, Environment};
use renga_shared::sql::uri::DatabaseUri;

use crate::db::WriteTurns;
use crate::engine::config::{EngineConfig, engines};
use crate::engine::kubernetes::{IngressHost, KubernetesSettings};
use crate::tasks::Settings;

/// What a reconciler needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// `SQLALCHEMY_DATABASE_URI`.
    pub database: DatabaseUri,
    /// The turns of those who write to a SQLite file in this process: `up` shares them with the API.
    pub write_turns: Option<WriteTurns>,
    /// `DEPLOYER_ENGINE_<NAME>` and `DEPLOYER_ENGINES_FILE`: the engines by name.
    pub engines: BTreeMap<EngineName, EngineConfig>,
    /// `DEPLOYER_HOST_PATHS`: folders of the engine's host that volumes may use, separated by colons.
    pub host_paths: Vec<PathBuf>,
    /// `DEPLOYER_DOCKER_CONTAINER_IP`: where ports are published.
    pub container_ip: IpAddr,
    /// What only clusters need: `DEPLOYER_K8S_CONTAINER_IP` and `DEPLOYER_K8S_INGRESS`.
    pub kubernetes: KubernetesSettings,
    /// `DEPLOYER_METRICS_ADDRESS`: where `/healthz`, `/readyz` and `/metrics` are served.
    pub metrics_address: SocketAddr,
    /// `SQLALCHEMY_TRACK_MODIFICATIONS`: whether changes are appended to the audit table.
    pub track_modifications: bool,
    /// What the tasks are told.
    pub tasks: Settings,
}

/// Everything that is wrong with a configuration, a line each.
#[derive(Debug)]
pub struct BadConfig(pub Vec<BadVariable>);

impl fmt::Display for BadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} mistake(s):", self.0.len())?;
        for variable in &self.0 {
            write!(f, "\n  {variable}")?;
        }
        Ok(())
    }
}

/// The configuration in the process's environment.
pub fn from_environment() -> Result<Config, BadConfig> {
    let environment = environment_of_process().map_err(BadConfig)?;
    Config::read(&environment)
}

/// The process's environment, with the secrets that `<NAME>_FILE` variables point to.
///
/// # Errors
/// The files that cannot be read, and the variables that are given both ways.
pub fn environment_of_process() -> Result<Environment, Vec<BadVariable>> {
    let given = readable(std::env::vars_os());
    let mut problems = Vec::new();
    let mut from_files = Vec::new();
    for (variable, path) in given.iter().filter(|(name, value)| is_ours(name) && !value.is_empty()) {
        // Other programs have variables that end so too.
        let Some(name) = variable.strip_suffix("_FILE") else { continue };
        if given.get(name).is_some_and(|value| !value.is_empty()) {
            problems.push(BadVariable::new(variable, Some(path), format!("set either it or {name}, not both")));
            continue;
        }
        match std::fs::read_to_string(path) {
            Ok(text) => from_files.push((name.to_owned(), text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => {
                problems.push(BadVariable::new(variable, Some(path), format!("it must name a readable file: {error}")));
            }
        }
    }
    if problems.is_empty() { Ok(given.into_iter().chain(from_files).collect()) } else { Err(problems) }
}

/// Whether a variable is one of the deployer's.
fn is_ours(name: &str) -> bool {
    ["DEPLOYER_", "RENGA_", "SQLALCHEMY_", "KNOWLEDGE_GRAPH_", "RESOURCE_MANAGER_", "WSGI_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// The variables that are UTF-8. The others count as unset, which is said of those that are the deployer's.
fn readable(variables: impl IntoIterator<Item = (OsString, OsString)>) -> BTreeMap<String, String> {
    let mut readable = BTreeMap::new();
    for (name, value) in variables {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => drop(readable.insert(name, value)),
            // The value is not shown: it may be a secret.
            (Ok(name), Err(_)) if is_ours(&name) => {
                tracing::warn!(variable = name, "the variable {name} is not UTF-8 and counts as unset");
            }
            (Err(name), _) if is_ours(&name.to_string_lossy()) => {
                let name = name.to_string_lossy();
                tracing::warn!(variable = %name, "the variable {name} has a name that is not UTF-8 and counts as unset");
            }
            _ => {}
        }
    }
    readable
}

impl Config {
    /// The configuration in `environment`.
    ///
    /// # Errors
    /// All wrong variables at once.
    pub fn read(environment: &Environment) -> Result<Self, BadConfig> {
        let mut problems = Vec::new();
        let stop_grace = environment.seconds("DEPLOYER_STOP_GRACE", Duration::from_secs(10), &mut problems);
        let config = Self {
            database: environment.database(&mut problems),
            write_turns: None,
            engines: engines(environment, &mut problems),
            kubernetes: kubernetes(environment, stop_grace, &mut problems),
            host_paths: environment
                .parse("DEPLOYER_HOST_PATHS", "absolute paths separated by colons", host_paths, &mut problems)
                .unwrap_or_default(),
            container_ip: environment
                .parse(
                    "DEPLOYER_DOCKER_CONTAINER_IP",
                    "an IP address of the Docker host",
                    |text| text.parse().ok(),
                    &mut problems,
                )
                .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            metrics_address: environment
                .parse(
                    "DEPLOYER_METRICS_ADDRESS",
                    "an IP address and port, such as 127.0.0.1:5001",
                    |text| text.parse().ok(),
                    &mut problems,
                )
                .unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 5001))),
            track_modifications: environment.boolean("SQLALCHEMY_TRACK_MODIFICATIONS", false, &mut problems),
            tasks: Settings {
                stop_grace,
                orphan_grace: environment.seconds("DEPLOYER_ORPHAN_GRACE", Duration::from_secs(60), &mut problems),
                lease: environment
                    .parse("DEPLOYER_LEASE", "a number of seconds from 1 to 3600", lease, &mut problems)
                    .unwrap_or(Duration::from_secs(15)),
                log_limit: environment
                    .parse("DEPLOYER_LOG_LIMIT", "a size of at least 64Ki, such as 16Mi", log_limit, &mut problems)
                    .unwrap_or(16 << 20),
                default_base_url: environment.text("DEPLOYER_DEFAULT_BASE_URL").unwrap_or("/").to_owned(),
                seal_keys: environment.seal_keys(&mut problems),
            },
        };
        if problems.is_empty() { Ok(config) } else { Err(BadConfig(problems)) }
    }
}

/// `stop_grace` is the tasks' too: a pod is made with it.
fn kubernetes(environment: &Environment, stop_grace: Duration, problems: &mut Vec<BadVariable>) -> KubernetesSettings {
    let address = "an IP address at which the clusters' nodes are reached";
    let ingress = "an ingress's host, or CLASS@HOST, such as nginx@apps.example.org";
    KubernetesSettings {
        stop_grace,
        container_ip: environment.parse("DEPLOYER_K8S_CONTAINER_IP", address, |text| text.parse().ok(), problems),
        ingress: environment.parse("DEPLOYER_K8S_INGRESS", ingress, IngressHost::parse, problems),
    }
}

fn host_paths(text: &str) -> Option<Vec<PathBuf>> {
    let normal = |path: &Path| {
        path.is_absolute() && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
    };
    let paths: Vec<PathBuf> = text.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    paths.iter().all(|path| normal(path)).then_some(paths)
}

fn lease(text: &str) -> Option<Duration> {
    let length = Duration::try_from_secs_f64(text.parse().ok()?).ok()?;
    (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&length).then_some(length)
}

fn log_limit(text: &str) -> Option<i64> {
    let bytes = Quantity::parse(text).ok()?.as_whole();
    (bytes >= 64 << 10).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn a_variable_that_is_not_utf_8_counts_as_unset() {
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let variables = [
            (text(b"DEPLOYER_URL"), text(b"http://localhost")),
            (text(b"DEPLOYER_SEAL_KEY"), text(b"\xff")),
            (text(b"OTHER"), text(b"a\xffb")),
            (text(b"DEPLOYER_\xff"), text(b"1")),
        ];
        let read = readable(variables);
        assert_eq!(read.into_iter().collect::<Vec<_>>(), [("DEPLOYER_URL".to_owned(), "http://localhost".to_owned())]);
    }
}
