//! A namespace of a cluster as the deployer gets it, with just the service account and the rights of `deploy/rbac`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::deployment::workspace;
use crate::servers::{Cluster, Gate};

/// The service account that `deploy/rbac` creates.
const ACCOUNT: &str = "renga-deployer";

/// A namespace in which executions run, with the deployer's service account.
#[derive(Debug)]
pub struct Executions {
    /// The namespace's name.
    pub namespace: String,
    /// The kubeconfig of the deployer's account, with a token.
    pub kubeconfig: PathBuf,
}

impl Executions {
    /// Creates a namespace whose name begins with `purpose`.
    ///
    /// # Errors
    /// Fails if the cluster refuses it.
    pub async fn new(cluster: &Cluster, purpose: &str) -> Result<Self> {
        let namespace = cluster.new_namespace(purpose).await?;
        let kubeconfig = cluster.service_account_kubeconfig(&namespace, ACCOUNT).await?;
        grant(cluster, &namespace, &namespace).await?;
        Ok(Self { namespace, kubeconfig })
    }

    /// Returns the engine's URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_by(&self.kubeconfig)
    }

    /// Returns the engine's URL with another kubeconfig.
    #[must_use]
    pub fn url_by(&self, kubeconfig: &Path) -> String {
        format!("k8s://?namespace={}&kubeconfig={}", self.namespace, kubeconfig.display())
    }

    /// Opens a gate before the API server, and returns it with a kubeconfig that uses it.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub async fn gate(&self, cluster: &Cluster) -> Result<(Gate, PathBuf)> {
        let server: SocketAddr = cluster.url().trim_start_matches("https://").parse()?;
        let gate = Gate::before_address(server, Ipv4Addr::LOCALHOST).await?;
        let mut config: Value = serde_json::from_slice(&std::fs::read(&self.kubeconfig)?)?;
        let cluster = &mut config["clusters"][0]["cluster"];
        cluster["server"] = json!(format!("https://{}", gate.socket()));
        cluster["tls-server-name"] = json!(server.ip());
        let file = self.kubeconfig.with_extension("gate.conf");
        std::fs::write(&file, config.to_string()).with_context(|| format!("write {}", file.display()))?;
        Ok((gate, file))
    }
}

/// Gives the deployer's account in the namespace `own` the rights of `deploy/rbac` in the namespace `executions`.
///
/// # Errors
/// Fails if the cluster refuses.
pub async fn grant(cluster: &Cluster, own: &str, executions: &str) -> Result<()> {
    for file in ["executions.yaml", "cluster.yaml"] {
        let manifest = std::fs::read_to_string(workspace().join("deploy/rbac").join(file))?;
        let manifest = manifest
            .replace("namespace: renga-executions\n", &format!("namespace: {executions}\n"))
            .replace("namespace: renga\n", &format!("namespace: {own}\n"))
            // All tests share the roles of the cluster, so each binds its own account.
            .replace(
                "kind: ClusterRoleBinding\nmetadata:\n  name: renga-deployer",
                &format!("kind: ClusterRoleBinding\nmetadata:\n  name: renga-deployer-{own}"),
            );
        cluster.apply_text(&manifest).await?;
    }
    Ok(())
}
