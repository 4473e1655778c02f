//! Configuration by environment variables, whatever gives them: the process's environment, or Spin's variables.
//!
//! Obligations: an empty value is an unset one; everything that is wrong is reported at once, with the variable, the value
//! and what is allowed; a secret's value is never shown.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::auth::SealKeys;
use crate::sql::uri::DatabaseUri;

/// The variable with the keys that tokens are sealed with until their containers are launched.
pub const SEAL_KEY: &str = "DEPLOYER_SEAL_KEY";

/// Environment variables by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

/// A variable whose value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadVariable {
    name: String,
    value: Option<String>,
    allowed: String,
}

impl BadVariable {
    /// Variable `name`, whose `value` (`None` for a secret) is not `allowed`.
    pub fn new(name: &str, value: Option<&str>, allowed: impl Into<String>) -> Self {
        Self { name: name.to_owned(), value: value.map(str::to_owned), allowed: allowed.into() }
    }
}

impl fmt::Display for BadVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} is {value:?}: {}", self.name, self.allowed),
            None => write!(f, "{}: {}", self.name, self.allowed),
        }
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect())
    }
}

impl Environment {
    /// The variable's value, unless it is unset or empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Sets a variable, as a default that something else has decided; unsets it with an empty value.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        if value.trim().is_empty() {
            self.0.remove(name);
        } else {
            self.0.insert(name.to_owned(), value);
        }
    }

    /// The variables whose names begin with `prefix`, in order.
    pub fn beginning_with(&self, prefix: &str) -> impl Iterator<Item = (&str, &str)> {
        let prefix = prefix.to_owned();
        self.0
            .iter()
            .filter(move |(name, _)| name.len() > prefix.len() && name.starts_with(&prefix))
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The variable's value as `read` understands it; `None` if it is unset or wrong. `allowed` says what would be right.
    pub fn parse<T>(
        &self,
        name: &str,
        allowed: &str,
        read: impl FnOnce(&str) -> Option<T>,
        problems: &mut Vec<BadVariable>,
    ) -> Option<T> {
        let text = self.text(name)?.trim();
        let value = read(text);
        if value.is_none() {
            problems.push(BadVariable::new(name, Some(text), format!("it must be {allowed}")));
        }
        value
    }

    /// A boolean as the 2018 service took it: `True`, `false`, `1`, `"0"`, `yes`, `off`.
    pub fn boolean(&self, name: &str, default: bool, problems: &mut Vec<BadVariable>) -> bool {
        self.parse(name, "True or False", boolean, problems).unwrap_or(default)
    }

    /// A span in seconds.
    pub fn seconds(&self, name: &str, default: Duration, problems: &mut Vec<BadVariable>) -> Duration {
        let seconds = |text: &str| {
            let seconds: f64 = unquoted(text).parse().ok()?;
            Duration::try_from_secs_f64(seconds).ok().filter(|span| *span <= Duration::from_secs(86_400))
        };
        self.parse(name, "a number of seconds, at most 86400", seconds, problems).unwrap_or(default)
    }

    /// `SQLALCHEMY_DATABASE_URI`. Its value may hold a password and is not shown.
    pub fn database(&self, problems: &mut Vec<BadVariable>) -> DatabaseUri {
        const NAME: &str = "SQLALCHEMY_DATABASE_URI";
        let default = || DatabaseUri::Sqlite("deployer.db".to_owned());
        match self.text(NAME).map(DatabaseUri::parse) {
            None => default(),
            Some(Ok(uri)) => uri,
            Some(Err(error)) => {
                problems.push(BadVariable::new(NAME, None, error.to_string()));
                default()
            }
        }
    }

    /// `DEPLOYER_SEAL_KEY`. Its value is not shown.
    pub fn seal_keys(&self, problems: &mut Vec<BadVariable>) -> Option<SealKeys> {
        let keys = SealKeys::parse(self.text(SEAL_KEY)?);
        keys.map_err(|error| problems.push(BadVariable::new(SEAL_KEY, None, error.to_string()))).ok()
    }
}

/// The old service was given booleans and numbers through YAML and shells, quotes and all.
fn unquoted(text: &str) -> &str {
    text.trim_matches(['"', '\''])
}

fn boolean(text: &str) -> Option<bool> {
    match unquoted(text).to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_variable_value_and_cure() {
        let environment =
            environment(&[("A", "maybe"), ("B", "-1"), ("SQLALCHEMY_DATABASE_URI", "mysql://u:secret@h/d")]);
        let mut problems = Vec::new();
        assert!(environment.boolean("A", true, &mut problems), "the default stands in");
        environment.seconds("B", Duration::ZERO, &mut problems);
        environment.database(&mut problems);
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(told[0], "A is \"maybe\": it must be True or False");
        assert_eq!(told[1], "B is \"-1\": it must be a number of seconds, at most 86400");
        assert!(told[2].starts_with("SQLALCHEMY_DATABASE_URI: ") && !told[2].contains("secret"), "{}", told[2]);
    }

    #[test]
    fn an_empty_value_is_an_unset_one() {
        let mut environment = environment(&[("A", " "), ("B", "b")]);
        assert_eq!(environment.text("A"), None);
        environment.set("B", "");
        assert_eq!(environment.text("B"), None);
    }

    #[test]
    fn booleans_are_what_the_old_service_took() {
        let mut problems = Vec::new();
        for (text, expected) in [("True", true), ("false", false), ("1", true), ("\"0\"", false), ("", true)] {
            let environment = environment(&[("A", text)]);
            assert_eq!(environment.boolean("A", true, &mut problems), expected, "{text:?}");
        }
        assert_eq!(problems, []);
    }
}
