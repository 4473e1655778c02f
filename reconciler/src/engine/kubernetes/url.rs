//! The address of a cluster, and the options for its use by a deployment.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use renga_shared::placement::Namespaces;

use crate::engine::BadEngineUrl;

/// Time limit for a connection to the API server.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const OPTIONS: &str = "namespace=NAME, namespaces=A,B or *, security=baseline or restricted, kubeconfig=PATH";

/// The address of a cluster, and the options for its use by a deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubernetesUrl {
    context: Option<String>,
    kubeconfig: Option<PathBuf>,
    /// The namespace of executions that ask for `default`. `None`: the context's own namespace.
    pub(super) namespace: Option<String>,
    pub(super) further: Further,
    /// Whether executions are restricted further than Pod Security `baseline` requires.
    pub(super) restricted: bool,
}

/// The namespaces that executions may ask for by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Further {
    Only(BTreeSet<String>),
    All,
}

impl Default for Further {
    fn default() -> Self {
        Self::Only(BTreeSet::new())
    }
}

impl KubernetesUrl {
    /// Parses `k8s://` or `k8s://CONTEXT`, with the options `namespace`, `namespaces`, `security` and `kubeconfig`.
    ///
    /// # Errors
    /// Returns what is wrong with the URL, and the correct form.
    pub fn parse(url: &str) -> Result<Self, BadEngineUrl> {
        let rest = url.strip_prefix("k8s://").ok_or_else(|| BadEngineUrl("it must begin with k8s://".into()))?;
        let (context, options) = rest.split_once('?').unwrap_or((rest, ""));
        let context = context.strip_suffix('/').unwrap_or(context);
        let mut read = Self { context: Some(context.to_owned()).filter(|name| !name.is_empty()), ..Self::default() };
        for option in options.split('&').filter(|option| !option.is_empty()) {
            read.option(option).map_err(BadEngineUrl)?;
        }
        Ok(read)
    }

    fn option(&mut self, option: &str) -> Result<(), String> {
        let unknown = || format!("it has the unknown option {option:?}; there are {OPTIONS}");
        match option.split_once('=').ok_or_else(unknown)? {
            ("namespace", name) => self.namespace = Some(namespace(name)?),
            ("namespaces", "*") => self.further = Further::All,
            ("namespaces", names) => {
                self.further = Further::Only(names.split(',').map(namespace).collect::<Result<_, _>>()?);
            }
            ("security", "baseline") => self.restricted = false,
            ("security", "restricted") => self.restricted = true,
            ("security", _) => return Err("its option security must be baseline or restricted".into()),
            ("kubeconfig", path) if path.starts_with('/') => self.kubeconfig = Some(path.into()),
            ("kubeconfig", _) => return Err("its option kubeconfig must be the absolute path of a file".into()),
            _ => return Err(unknown()),
        }
        Ok(())
    }

    /// Returns the namespaces that executions may ask for, as far as they are known without the context.
    pub(super) fn namespaces(&self) -> Namespaces {
        match &self.further {
            Further::All => Namespaces::Any,
            Further::Only(names) => Namespaces::Only(self.namespace.iter().chain(names).cloned().collect()),
        }
    }

    /// Loads the configuration of a client. Reads the files each time, because they may have changed.
    pub(super) async fn config(&self) -> Result<Config, String> {
        let mut config = self.load().await?;
        config.connect_timeout = Some(CONNECT_WITHIN);
        Ok(config)
    }

    async fn load(&self) -> Result<Config, String> {
        let in_a_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        if in_a_pod && self.context.is_none() && self.kubeconfig.is_none() {
            return Config::incluster().map_err(|error| format!("this pod has no service account: {}", cause(&error)));
        }
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let loaded = match &self.kubeconfig {
            Some(path) => match Kubeconfig::read_from(path) {
                Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await,
                Err(error) => Err(error),
            },
            None => Config::from_kubeconfig(&options).await,
        };
        loaded.map_err(|error| {
            let cure = "give ?kubeconfig=PATH, set KUBECONFIG, or run in a pod with a service account";
            format!("no cluster is configured: {}; {cure}", cause(&error))
        })
    }
}

impl std::fmt::Display for KubernetesUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "k8s://{}", self.context.as_deref().unwrap_or_default())
    }
}

/// Returns an error's message with the messages of all its causes.
fn cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let inner = error.to_string();
        // Some layers already include their source's message.
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        source = error.source();
    }
    text
}

fn namespace(name: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let right =
        (1..=63).contains(&name.len()) && name.chars().all(fits) && !name.starts_with('-') && !name.ends_with('-');
    if right { Ok(name.to_owned()) } else { Err(format!("{name:?} in it cannot be a namespace's name")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        assert_eq!(KubernetesUrl::parse("k8s://"), Ok(KubernetesUrl::default()));
        let full = "k8s://gpu-cluster/?namespace=jobs&namespaces=a,b&security=restricted&kubeconfig=/etc/kube/config";
        assert_eq!(
            KubernetesUrl::parse(full),
            Ok(KubernetesUrl {
                context: Some("gpu-cluster".into()),
                kubeconfig: Some("/etc/kube/config".into()),
                namespace: Some("jobs".into()),
                further: Further::Only(["a".to_owned(), "b".to_owned()].into()),
                restricted: true,
            })
        );
        assert_eq!(KubernetesUrl::parse("k8s://?namespaces=*").unwrap().further, Further::All);
    }

    #[test]
    fn errors_for_bad_urls_name_the_correct_form() {
        for (url, cure) in [
            ("docker://", "must begin with k8s://"),
            ("k8s://?namespac=a", "unknown option \"namespac=a\"; there are namespace=NAME"),
            ("k8s://?restricted", "unknown option \"restricted\""),
            ("k8s://?namespace=A", "\"A\" in it cannot be a namespace's name"),
            ("k8s://?namespaces=a,,b", "\"\" in it cannot be"),
            ("k8s://?security=privileged", "must be baseline or restricted"),
            ("k8s://?kubeconfig=config", "absolute path"),
        ] {
            let error = KubernetesUrl::parse(url).unwrap_err().to_string();
            assert!(error.contains(cure), "{url}: {error}");
        }
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_is_reported() {
        let url = KubernetesUrl::parse("k8s://?kubeconfig=/no/such/file").unwrap();
        let error = url.config().await.unwrap_err();
        assert!(error.contains("/no/such/file") && error.contains("set KUBECONFIG"), "{error}");
    }
}
