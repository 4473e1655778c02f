//! The engines of a deployment: `DEPLOYER_ENGINE_<NAME>=<URL>`, and for those who have many a file, `DEPLOYER_ENGINES_FILE`:
//!
//! ```yaml
//! engines:
//!   gpu-1:
//!     url: docker+tcp://gpu-1:2376?certs=/etc/renga/gpu-1
//!     max: 8                          # the most executions at once
//!     claims: [role:gpu-users]        # who may use it: users with one of these
//!     labels: {zone: eu, disk: ssd}   # what contexts may require or prefer
//! ```
//!
//! The same as a URL: `…&max=8&claims=role:gpu-users&labels=zone=eu,disk=ssd`, with `%2C` and the like for what has a meaning there.
//! What else a URL may have is its kind's.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use renga_shared::domain::EngineName;
use renga_shared::environment::{BadVariable, Environment};
use renga_shared::placement::Claim;
use serde_json::Value;

use super::EngineUrl;

/// The variables that name an engine begin with this.
const PREFIX: &str = "DEPLOYER_ENGINE_";
const FILE: &str = "DEPLOYER_ENGINES_FILE";
const FIELDS: [&str; 4] = ["url", "max", "claims", "labels"];
const SOCKET: &str = "/var/run/docker.sock";

/// An engine as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Where it is.
    pub url: EngineUrl,
    /// What its operator allows.
    pub options: Options,
    /// All of it as one URL, from which [`EngineConfig::parse`] makes the same.
    pub text: String,
}

/// What an engine's operator allows, whatever its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The most executions at once.
    pub max: Option<u32>,
    /// A user must have one of these; empty: everybody may use it.
    pub claims: Vec<Claim>,
    /// Labels that contexts may require or prefer.
    pub labels: BTreeMap<String, String>,
}

impl EngineConfig {
    /// Reads a URL with its options.
    ///
    /// # Errors
    /// Everything that is wrong with it, and what would be right.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let mut options = Options::default();
        let (place, query) = text.split_once('?').unwrap_or((text, ""));
        let mut others = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let list = || value.split(',').map(str::trim).filter(|part| !part.is_empty());
            let read = match name {
                "max" => max(value).map(|max| options.max = Some(max)),
                "claims" => claims(list()).map(|claims| options.claims = claims),
                "labels" => labels(list()).map(|labels| options.labels = labels),
                _ => {
                    others.push(option);
                    Ok(())
                }
            };
            problems.extend(read.err().map(|problem| format!("its option {name} {problem}")));
        }
        let url = if others.is_empty() { place.to_owned() } else { format!("{place}?{}", others.join("&")) };
        match EngineUrl::parse(&url) {
            Ok(url) if problems.is_empty() => Ok(Self { url, options, text: text.to_owned() }),
            parsed => {
                problems.extend(parsed.err().map(|error| error.to_string()));
                Err(problems)
            }
        }
    }
}

fn max(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "must be how many executions may run at once: a whole number, at least 0".to_owned())
}

fn claims<'a>(given: impl Iterator<Item = &'a str>) -> Result<Vec<Claim>, String> {
    let read = |text| decoded(text).and_then(|text| Claim::parse(&text).map_err(|error| format!("is wrong: {error}")));
    given.map(read).collect()
}

fn labels<'a>(given: impl Iterator<Item = &'a str>) -> Result<BTreeMap<String, String>, String> {
    let plain = |text: &str| !text.is_empty() && !text.contains(['&', ',', '=', '?', '#', ' ']);
    given
        .map(|label| {
            let (key, value) = label.split_once('=').unwrap_or((label, ""));
            // Unescaped, these would be parts of the URL. Escaped, a value may hold them.
            if !plain(key) || value.contains(['=', '?', '#', ' ']) {
                return Err(format!("must be KEY=VALUE without blanks and & , = ? #, not {key:?} with {value:?}"));
            }
            let key = decoded(key)?;
            if !plain(&key) {
                return Err(format!("must have keys without blanks and & , = ? #, not {key:?}"));
            }
            Ok((key, decoded(value)?))
        })
        .collect()
}

/// What has a meaning in a URL's options, and so is escaped in the values that a file gives.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%').add(b'&').add(b',').add(b'=').add(b'?').add(b'#').add(b' ').add(b'+');

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

fn decoded(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(Cow::into_owned).map_err(|_| "must be UTF-8 where it is escaped".to_owned())
}

/// The engines that are configured; without any, Docker if its socket is there, and Kubernetes if a cluster is configured.
pub fn engines(environment: &Environment, problems: &mut Vec<BadVariable>) -> BTreeMap<EngineName, EngineConfig> {
    let mut engines = BTreeMap::new();
    let before = problems.len();
    for (variable, given) in environment.beginning_with(PREFIX) {
        let name = variable[PREFIX.len()..].to_ascii_lowercase().replace('_', "-");
        let name = EngineName::parse(&name).map_err(|error| problems.push(bad(variable, given, error.to_string())));
        let config = EngineConfig::parse(given);
        let config =
            config.map_err(|found| problems.extend(found.into_iter().map(|found| bad(variable, given, found))));
        if let (Ok(name), Ok(config)) = (name, config) {
            engines.insert(name, config);
        }
    }
    if let Some(path) = environment.text(FILE) {
        let read = std::fs::read_to_string(path)
            .map_err(|error| vec![format!("it must name a readable file: {error}")])
            .and_then(|text| in_file(&text));
        match read {
            Ok(found) => {
                for (name, config) in found {
                    if engines.insert(name.clone(), config).is_some() {
                        problems.push(bad(FILE, path, format!("engines.{name} is also given by a variable {PREFIX}…")));
                    }
                }
            }
            Err(found) => problems.extend(found.into_iter().map(|found| bad(FILE, path, found))),
        }
    }
    if engines.is_empty() && problems.len() == before {
        let parsed = |(name, url)| Some((EngineName::parse(name).ok()?, EngineConfig::parse(url).ok()?));
        engines.extend(found_here(environment).into_iter().filter_map(parsed));
    }
    engines
}

fn bad(variable: &str, given: &str, reason: String) -> BadVariable {
    BadVariable::new(variable, Some(given), reason)
}

/// What a machine has of itself. Docker where there is nothing, whose status then says what is missing.
fn found_here(environment: &Environment) -> Vec<(&'static str, &'static str)> {
    let home = environment.text("HOME").map(|home| Path::new(home).join(".kube/config"));
    let cluster = ["KUBECONFIG", "KUBERNETES_SERVICE_HOST"].iter().any(|name| environment.text(name).is_some())
        || home.is_some_and(|config| config.is_file());
    let mut found = Vec::new();
    if Path::new(SOCKET).exists() || !cluster {
        found.push(("docker", "docker:///var/run/docker.sock"));
    }
    if cluster {
        found.push(("k8s", "k8s://"));
    }
    found
}

/// The engines of a file, or everything that is wrong with it.
fn in_file(text: &str) -> Result<BTreeMap<EngineName, EngineConfig>, Vec<String>> {
    let file: Value = serde_saphyr::from_str(text).map_err(|error| vec![format!("it must be YAML: {error}")])?;
    let Some(Value::Object(given)) = file.get("engines") else {
        return Err(vec!["it must have a field engines, with an engine under each name".to_owned()]);
    };
    let mut problems: Vec<String> = file
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(field, _)| *field != "engines")
        .map(|(field, _)| format!("it has the unknown field {field}; there is only engines"))
        .collect();
    let mut engines = BTreeMap::new();
    for (name, given) in given {
        let mut told = |problem: String| problems.push(format!("engines.{name}{problem}"));
        let parsed = EngineName::parse(name).map_err(|error| told(format!(": {error}")));
        match as_url(given).and_then(|url| EngineConfig::parse(&url)) {
            Ok(config) => _ = parsed.map(|name| engines.insert(name, config)),
            Err(found) => found.into_iter().for_each(|found| told(format!(": {found}"))),
        }
    }
    if problems.is_empty() { Ok(engines) } else { Err(problems) }
}

/// An engine of a file as one URL, so that both are read by the same rules.
fn as_url(given: &Value) -> Result<String, Vec<String>> {
    let Value::Object(fields) = given else { return Err(vec!["it must have a field url".to_owned()]) };
    let known: HashSet<&str> = FIELDS.into();
    let unknown = fields.keys().filter(|field| !known.contains(field.as_str()));
    let mut problems: Vec<String> =
        unknown.map(|field| format!("it has the unknown field {field}; there are {}", FIELDS.join(", "))).collect();
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    };
    let mut options = Vec::new();
    for (field, value) in fields.iter().filter(|(field, _)| *field != "url") {
        let joined = match (field.as_str(), value) {
            ("max", Value::Number(_)) => text(value),
            ("claims", Value::Array(claims)) => {
                let claim = |claim: &Value| text(claim).map(|claim| escaped(&claim));
                claims.iter().map(claim).collect::<Option<Vec<_>>>().map(|all| all.join(","))
            }
            ("labels", Value::Object(labels)) => {
                let pair = |(key, value): (&String, &Value)| {
                    text(value).map(|value| format!("{}={}", escaped(key), escaped(&value)))
                };
                labels.iter().map(pair).collect::<Option<Vec<_>>>().map(|all| all.join(","))
            }
            _ => None,
        };
        match joined {
            Some(joined) => options.push(format!("{field}={joined}")),
            None if known.contains(field.as_str()) => {
                problems
                    .push(format!("its field {field} must be as in: max: 8, claims: [role:a], labels: {{zone: eu}}"));
            }
            None => {}
        }
    }
    let Some(url) = fields.get("url").and_then(Value::as_str) else {
        problems.push("it must have a field url".to_owned());
        return Err(problems);
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    let joint = if url.contains('?') { '&' } else { '?' };
    Ok(if options.is_empty() { url.to_owned() } else { format!("{url}{joint}{}", options.join("&")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (BTreeMap<EngineName, EngineConfig>, Vec<String>) {
        let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut problems = Vec::new();
        let engines = engines(&environment, &mut problems);
        (engines, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn any_number_of_engines_with_their_options() {
        let (engines, problems) = read(&[
            (
                "DEPLOYER_ENGINE_GPU_1",
                "docker+tcp://gpu-1:2376?max=8&certs=/c&claims=role:gpu,group:/a&labels=zone=eu,fast",
            ),
            ("DEPLOYER_ENGINE_HERE", "docker://"),
        ]);
        assert_eq!(problems, [""; 0]);
        let gpu = &engines[&EngineName::parse("gpu-1").unwrap()];
        assert_eq!(gpu.options.max, Some(8));
        assert_eq!(gpu.options.claims.iter().map(Claim::as_str).collect::<Vec<_>>(), ["role:gpu", "group:/a"]);
        let labels = [("fast", ""), ("zone", "eu")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(gpu.options.labels, labels.into());
        assert_eq!(gpu.url, EngineUrl::parse("docker+tcp://gpu-1:2376?certs=/c").unwrap());
        assert_eq!(EngineConfig::parse(&gpu.text).as_ref(), Ok(gpu));
    }

    #[test]
    fn a_file_says_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("engines.yaml");
        let yaml = "engines:\n  gpu-1:\n    url: docker+tcp://gpu-1:2376?certs=/c\n    max: 8\n    \
                    claims: [role:gpu, group:/a]\n    labels: {zone: eu, gpus: 2}\n  plain: {url: 'docker://'}\n";
        std::fs::write(&file, yaml).unwrap();
        let (engines, problems) = read(&[(FILE, file.to_str().unwrap())]);
        assert_eq!(problems, [""; 0]);
        assert_eq!(engines.len(), 2);
        let same = EngineConfig::parse(
            "docker+tcp://gpu-1:2376?certs=/c&claims=role:gpu,group:/a&labels=gpus=2,zone=eu&max=8",
        );
        assert_eq!(engines[&EngineName::parse("gpu-1").unwrap()].options, same.unwrap().options);
    }

    #[test]
    fn what_a_file_says_is_never_read_as_another_option() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("engines.yaml");
        let (claim, label) = ("group:/a, b&max=9&claims=sub:x %41", "a: \"b` # c");
        let yaml = serde_json::json!({
            "engines": {"a": {"url": "docker://", "max": 2, "claims": [claim], "labels": {"zone": label, "plain": "eu"}}},
        });
        std::fs::write(&file, yaml.to_string()).unwrap();
        let (engines, problems) = read(&[(FILE, file.to_str().unwrap())]);
        assert_eq!(problems, [""; 0]);
        let config = &engines[&EngineName::parse("a").unwrap()];
        assert_eq!(config.options.max, Some(2));
        assert_eq!(config.options.claims.iter().map(Claim::as_str).collect::<Vec<_>>(), [claim]);
        let labels = [("plain", "eu"), ("zone", label)].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(config.options.labels, labels.into());
        // From which a retired engine is made again.
        assert_eq!(EngineConfig::parse(&config.text).as_ref(), Ok(config));
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("engines.yaml");
        let yaml = "other: 1\nengines:\n  No_Name: {url: 'docker://'}\n  a: {max: x, size: 1}\n  \
                    b: {url: 'warp://x', claims: [nobody]}\n  c: {url: 'docker://', labels: [1]}\n  d: 1\n";
        std::fs::write(&file, yaml).unwrap();
        let (_, problems) =
            read(&[(FILE, file.to_str().unwrap()), ("DEPLOYER_ENGINE_X", "docker://?max=-1&claims=role:a&labels=a b")]);
        for told in [
            "DEPLOYER_ENGINE_X is",
            "its option max must be",
            "its option labels must be",
            "unknown field other",
            "engines.No_Name: ",
            "engines.a: it has the unknown field size",
            "engines.a: its field max must be",
            "engines.a: it must have a field url",
            "engines.b: it must be docker://",
            "engines.b: its option claims is wrong",
            "engines.c: its field labels must be",
            "engines.d: it must have a field url",
        ] {
            assert!(problems.iter().any(|problem| problem.contains(told)), "{told:?} is not in {problems:#?}");
        }
        std::fs::write(&file, "engines: [").unwrap();
        assert!(read(&[(FILE, file.to_str().unwrap())]).1[0].contains("must be YAML"));
        assert!(read(&[(FILE, "/no/such/file")]).1[0].contains("readable file"));
    }

    #[test]
    fn without_any_there_is_what_the_machine_has() {
        let names =
            |variables: &[(&str, &str)]| read(variables).0.into_keys().map(|name| name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&[("HOME", "/nowhere")]), ["docker"]);
        assert!(names(&[("HOME", "/nowhere"), ("KUBECONFIG", "/etc/kube")]).contains(&"k8s".to_owned()));
    }
}
