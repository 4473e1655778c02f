//! `spin:variables`: configuration for components.
//!
//! The manifest declares the application's variables; their values come from [`crate::Settings`] or the manifest's
//! defaults and are fixed once the host is loaded. A component sees only what its own `[component.<id>.variables]`
//! makes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::component::{Accessor, HasData};

use crate::bindings::variables::variables::{Error, Host, HostWithStore};
use crate::error::HostError;
use crate::manifest::Manifest;

/// A text with `{{ name }}` in it.
#[derive(Debug, Clone)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Variable(String),
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after.split_once("}}").ok_or_else(|| format!("{text:?}: a {{{{ is not closed"))?;
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Variable(name.trim().to_owned()));
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self(parts))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The text with every variable replaced. The manifest was checked: a name that is missing there cannot occur.
    pub(crate) fn resolve(&self, values: &BTreeMap<String, String>) -> String {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Variable(name) => values.get(name).map_or("", String::as_str),
            })
            .collect()
    }
}

/// Spin's rule for names of variables, so that they can be turned into names of environment variables.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let fail = |why: &str| Err(format!("variable name {name:?}: {why}"));
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return fail("it must start with a lower-case letter");
    }
    if name.contains(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')) {
        return fail("only lower-case letters, digits and underscores are allowed");
    }
    if name.ends_with('_') || name.contains("__") {
        return fail("underscores stand alone, between other characters");
    }
    Ok(())
}

/// The value of every application variable, or an error that lists all that are missing.
pub(crate) fn application_values(
    manifest: &Manifest,
    given: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, HostError> {
    if let Some(name) = given.keys().find(|name| !manifest.variables.contains_key(*name)) {
        return Err(HostError::UnknownVariable(name.clone()));
    }
    let mut missing = Vec::new();
    let mut values = BTreeMap::new();
    for (name, variable) in &manifest.variables {
        match given.get(name).or(variable.default.as_ref()) {
            Some(value) => _ = values.insert(name.clone(), value.clone()),
            None => missing.push(name.clone()),
        }
    }
    if missing.is_empty() { Ok(values) } else { Err(HostError::MissingVariables(missing)) }
}

/// Variables that cannot be read for now, as under Spin when a provider fails, such as a vault that is away. The
/// host's own values never fail by themselves. Clones are the same faults: a test keeps one.
#[derive(Debug, Clone, Default)]
pub struct VariableFaults(Arc<Mutex<BTreeSet<String>>>);

impl VariableFaults {
    /// From now on this variable of a component cannot be read.
    pub fn begin(&self, name: &str) {
        self.lock().insert(name.to_owned());
    }

    /// All can be read again.
    pub fn end(&self) {
        self.lock().clear();
    }

    fn has(&self, name: &str) -> bool {
        self.lock().contains(name)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one component's instances see of the variables.
#[derive(Clone, Default)]
pub(crate) struct Variables {
    values: Arc<BTreeMap<String, String>>,
    faults: VariableFaults,
}

impl Variables {
    pub(crate) fn new(
        templates: &BTreeMap<String, Template>,
        values: &BTreeMap<String, String>,
        faults: &VariableFaults,
    ) -> Self {
        let values = templates.iter().map(|(name, template)| (name.clone(), template.resolve(values))).collect();
        Self { values: Arc::new(values), faults: faults.clone() }
    }

    fn get(&self, name: &str) -> Result<String, Error> {
        check_name(name).map_err(Error::InvalidName)?;
        if self.faults.has(name) {
            return Err(Error::Provider("a fault that was asked for".to_owned()));
        }
        let value = self.values.get(name).cloned();
        value.ok_or_else(|| Error::Undefined(format!("no variable {name:?} for this component")))
    }
}

impl HasData for Variables {
    type Data<'a> = &'a mut Variables;
}

impl Host for Variables {}

impl<T: Send> HostWithStore<T> for Variables {
    async fn get(accessor: &Accessor<T, Self>, name: String) -> wasmtime::Result<Result<String, Error>> {
        Ok(accessor.with(|mut access| access.get().get(&name)))
    }
}
