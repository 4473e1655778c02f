//! `runtime-config.toml`, as Spin reads it: where variables get their values, and where the databases are.
//!
//! `spin up --runtime-config-file` and this host use the same file, so names are mapped in one place only. Providers
//! and databases of other kinds are rejected by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::manifest::Manifest;

/// The prefix of Spin's environment provider if none is configured. It is always tried last.
const DEFAULT_PREFIX: &str = "SPIN_VARIABLE";

/// A parsed `runtime-config.toml`.
#[derive(Debug, Clone, Default)]
pub struct RuntimeConfig {
    prefixes: Vec<String>,
    sqlite: BTreeMap<String, PathBuf>,
}

/// Why a runtime configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct RuntimeConfigError {
    path: PathBuf,
    problem: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    variables_provider: Vec<Provider>,
    #[serde(default)]
    sqlite_database: BTreeMap<String, Database>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Provider {
    Env { prefix: Option<String> },
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Database {
    Spin { path: PathBuf },
}

impl RuntimeConfig {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or has a setting that this host does not support as Spin does.
    pub fn load(path: &Path) -> Result<Self, RuntimeConfigError> {
        let fail = |problem: String| RuntimeConfigError { path: path.to_owned(), problem };
        let text = std::fs::read_to_string(path).map_err(|error| fail(format!("the file cannot be read: {error}")))?;
        text.parse().map_err(fail)
    }

    /// Returns the files of the SQLite databases by label. Relative paths start at the working directory, as in Spin.
    #[must_use]
    pub fn sqlite(&self) -> &BTreeMap<String, PathBuf> {
        &self.sqlite
    }

    /// Returns the names of the environment variables that may hold `variable`, in the order of look-up.
    pub fn environment_names(&self, variable: &str) -> impl Iterator<Item = String> {
        let name = variable.to_ascii_uppercase();
        self.prefixes.iter().map(String::as_str).chain([DEFAULT_PREFIX]).map(move |prefix| format!("{prefix}_{name}"))
    }
}

impl std::str::FromStr for RuntimeConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        Ok(Self {
            prefixes: file
                .variables_provider
                .into_iter()
                .map(|Provider::Env { prefix }| prefix.unwrap_or_else(|| DEFAULT_PREFIX.to_owned()))
                .collect(),
            sqlite: file.sqlite_database.into_iter().map(|(label, Database::Spin { path })| (label, path)).collect(),
        })
    }
}

/// Returns the values of the manifest's variables from the environment. As in Spin, each provider is tried in turn and
/// the first match wins. Variables without a value are left out, so their defaults apply.
pub fn variables_from_env(
    manifest: &Manifest,
    providers: &RuntimeConfig,
    env: &impl Fn(&str) -> Option<String>,
) -> BTreeMap<String, String> {
    manifest
        .variables
        .keys()
        .filter_map(|name| Some((name.clone(), providers.environment_names(name).find_map(|key| env(&key))?)))
        .collect()
}
