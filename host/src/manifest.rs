//! `spin.toml`, manifest version 2: the routes of the components, and what each component may access.
//!
//! A feature that this host does not provide is rejected by name, never ignored, because a component without its file
//! or store would behave differently than under Spin.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use http::HeaderValue;
use serde::Deserialize;

use crate::variables::Template;

/// A parsed and checked `spin.toml`.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub(crate) variables: BTreeMap<String, Variable>,
    pub(crate) routes: Vec<Route>,
    pub(crate) components: BTreeMap<String, Component>,
}

/// Why a manifest cannot be used. The message names the file, the entry and the cure.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct ManifestError {
    path: PathBuf,
    problem: String,
}

/// An application variable: an entry of `[variables]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Variable {
    pub default: Option<String>,
    #[serde(default)]
    pub required: bool,
    /// Whether the value is secret. Unused, because this host shows no values at all.
    #[serde(default, rename = "secret")]
    _secret: bool,
    #[serde(default, rename = "description")]
    _description: String,
}

/// One `[component.<id>]`.
#[derive(Debug, Clone)]
pub(crate) struct Component {
    pub source: PathBuf,
    pub allowed_outbound_hosts: Vec<Template>,
    pub sqlite_databases: Vec<String>,
    pub variables: BTreeMap<String, Template>,
    pub environment: BTreeMap<String, String>,
}

/// One `[[trigger.http]]`.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub path: RoutePath,
    pub component: String,
    /// The route as written, and without its wildcard, for the request headers that give it to the component.
    pub matched: HeaderValue,
    pub prefix: HeaderValue,
}

/// The pattern of a route: one path, or a path and everything under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RoutePath {
    Exact(String),
    /// The prefix without its last slash: `/a/...` is `Under("/a")`.
    Under(String),
}

impl RoutePath {
    fn parse(route: &str) -> Result<Self, String> {
        let refuse = |why: &str| Err(format!("route {route:?}: {why}"));
        if !route.starts_with('/') {
            return refuse("a route starts with /");
        }
        if route.split('/').any(|segment| segment.starts_with(':')) {
            return refuse("named segments (/:name) are not provided by this host");
        }
        match route.strip_suffix("/...") {
            Some(prefix) if prefix.contains("...") => refuse("... is allowed at the end only"),
            Some(prefix) => Ok(Self::Under(prefix.to_owned())),
            None if route.contains("...") => refuse("... stands for whole segments at the end: write /..."),
            None => Ok(Self::Exact(trim_slash(route).to_owned())),
        }
    }

    /// Returns the part that the wildcard matches, or an empty string for an exact match; `None` if the path does not
    /// match.
    fn trailing<'p>(&self, path: &'p str) -> Option<&'p str> {
        match self {
            Self::Exact(exact) => (trim_slash(path) == exact).then_some(""),
            Self::Under(prefix) => {
                let rest = path.strip_prefix(prefix.as_str())?;
                (rest.is_empty() || rest.starts_with('/')).then_some(rest)
            }
        }
    }
}

impl fmt::Display for RoutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) if path.is_empty() => f.write_str("/"),
            Self::Exact(path) => f.write_str(path),
            Self::Under(prefix) => write!(f, "{prefix}/..."),
        }
    }
}

/// Spin's router treats `/a/` and `/a` as one path.
fn trim_slash(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

impl Manifest {
    /// Reads and checks the manifest at `path`. Sources of components are relative to it.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is not a manifest, if it needs a feature that this host does not provide, or
    /// if the WebAssembly file of a component does not exist.
    pub fn load(path: &Path) -> Result<Self, ManifestError> {
        let fail = |problem: String| ManifestError { path: path.to_owned(), problem };
        let text =
            std::fs::read_to_string(path).map_err(|error| fail(format!("the manifest cannot be read: {error}")))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let manifest = Self::parse(&text, folder).map_err(&fail)?;
        for (id, component) in &manifest.components {
            if !component.source.is_file() {
                return Err(fail(format!(
                    "the source of component {id:?}, {}, is not there: build it with `make build`",
                    component.source.display()
                )));
            }
        }
        Ok(manifest)
    }

    fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        if file.spin_manifest_version != 2 {
            return Err(format!(
                "spin_manifest_version = {}: only version 2 is understood",
                file.spin_manifest_version
            ));
        }
        for (name, variable) in &file.variables {
            crate::variables::check_name(name)?;
            if variable.required == variable.default.is_some() {
                return Err(format!("variable {name:?}: give it either a default or `required = true`"));
            }
        }
        if let Some(other) = file.trigger.keys().find(|kind| *kind != "http") {
            return Err(format!("[[trigger.{other}]]: this host provides the http trigger only"));
        }
        let mut components = BTreeMap::new();
        for (id, entry) in file.component {
            let component = entry.check(folder, &file.variables).map_err(|why| format!("component {id:?}: {why}"))?;
            components.insert(id, component);
        }
        let mut routes = Vec::new();
        for trigger in file.trigger.into_values().flatten() {
            if !components.contains_key(&trigger.component) {
                return Err(format!(
                    "route {:?} names component {:?}, which there is no [component.{}] for",
                    trigger.route, trigger.component, trigger.component
                ));
            }
            let path = RoutePath::parse(&trigger.route)?;
            if routes.iter().any(|route: &Route| route.path == path) {
                return Err(format!("route {:?} is there twice", trigger.route));
            }
            let header = |text: String| {
                HeaderValue::try_from(text).map_err(|_| format!("route {:?} is not a path", trigger.route))
            };
            let matched = header(path.to_string())?;
            let prefix = header(path.to_string().trim_end_matches("/...").to_owned())?;
            routes.push(Route { path, component: trigger.component, matched, prefix });
        }
        if routes.is_empty() {
            return Err("no [[trigger.http]]: nothing would be served".to_owned());
        }
        // The most specific route wins: exact before wildcard, then the longer prefix.
        routes.sort_by_key(|route| match &route.path {
            RoutePath::Exact(path) => (0, usize::MAX - path.len()),
            RoutePath::Under(prefix) => (1, usize::MAX - prefix.len()),
        });
        Ok(Self { variables: file.variables, routes, components })
    }

    /// Returns the route that matches `path`, and the part that its wildcard matches.
    pub(crate) fn route<'m, 'p>(&'m self, path: &'p str) -> Option<(&'m Route, &'p str)> {
        self.routes.iter().find_map(|route| Some((route, route.path.trailing(path)?)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    spin_manifest_version: u32,
    #[serde(rename = "application")]
    _application: Application,
    #[serde(default)]
    variables: BTreeMap<String, Variable>,
    trigger: HashMap<String, Vec<Trigger>>,
    component: BTreeMap<String, ComponentEntry>,
}

/// Name and description of the application. No field changes what runs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Application {
    #[serde(rename = "name")]
    _name: String,
    #[serde(default, rename = "version")]
    _version: String,
    #[serde(default, rename = "description")]
    _description: String,
    #[serde(default, rename = "authors")]
    _authors: Vec<String>,
    #[serde(default, rename = "tool")]
    _tool: toml::Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trigger {
    #[serde(default, rename = "id")]
    _id: String,
    route: String,
    component: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ComponentEntry {
    source: toml::Value,
    #[serde(default, rename = "description")]
    _description: String,
    #[serde(default)]
    allowed_outbound_hosts: Vec<String>,
    #[serde(default)]
    sqlite_databases: Vec<String>,
    #[serde(default)]
    variables: BTreeMap<String, String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default, rename = "build")]
    _build: toml::Table,
    #[serde(default, rename = "tool")]
    _tool: toml::Table,
    // Provided by Spin but not by this host. Parsed only to give a better error than "unknown field".
    #[serde(default)]
    files: Vec<toml::Value>,
    #[serde(default)]
    key_value_stores: Vec<toml::Value>,
    #[serde(default)]
    ai_models: Vec<toml::Value>,
    #[serde(default)]
    dependencies: toml::Table,
}

impl ComponentEntry {
    fn check(self, folder: &Path, variables: &BTreeMap<String, Variable>) -> Result<Component, String> {
        let refused = [
            ("files", !self.files.is_empty()),
            ("key_value_stores", !self.key_value_stores.is_empty()),
            ("ai_models", !self.ai_models.is_empty()),
            ("dependencies", !self.dependencies.is_empty()),
        ];
        if let Some((name, _)) = refused.iter().find(|(_, given)| *given) {
            return Err(format!(
                "`{name}` is not provided by this host: remove it, or run the application with `spin up`"
            ));
        }
        let toml::Value::String(source) = self.source else {
            return Err(
                "`source` must be the path of a WebAssembly file; sources from elsewhere are not provided".into()
            );
        };
        let parse = |text: &String| {
            let template = Template::parse(text)?;
            if let Some(name) = template.names().find(|name| !variables.contains_key(*name)) {
                return Err(format!("{text:?} uses the variable {name:?}, which is not under [variables]"));
            }
            Ok(template)
        };
        for name in self.variables.keys() {
            crate::variables::check_name(name)?;
        }
        Ok(Component {
            source: folder.join(source),
            allowed_outbound_hosts: self.allowed_outbound_hosts.iter().map(parse).collect::<Result<_, _>>()?,
            sqlite_databases: self.sqlite_databases,
            variables: self
                .variables
                .iter()
                .map(|(name, text)| Ok((name.clone(), parse(text)?)))
                .collect::<Result<_, String>>()?,
            environment: self.environment,
        })
    }
}
