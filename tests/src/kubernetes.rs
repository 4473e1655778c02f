//! A namespace of a cluster as the deployer is given it: with the account and the rights of `deploy/rbac`, and no others.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::deployment::workspace;
use crate::servers::Cluster;

/// The account that `deploy/rbac` makes.
const ACCOUNT: &str = "renga-deployer";

/// A namespace that executions run in, and the deployer's account in it.
#[derive(Debug)]
pub struct Executions {
    /// Its name.
    pub namespace: String,
    /// The kubeconfig of the deployer's account, with a token.
    pub kubeconfig: PathBuf,
}

impl Executions {
    /// A new namespace whose name begins with `purpose`.
    ///
    /// # Errors
    /// When the cluster refuses it.
    pub async fn new(cluster: &Cluster, purpose: &str) -> Result<Self> {
        let namespace = cluster.new_namespace(purpose).await?;
        let kubeconfig = cluster.service_account_kubeconfig(&namespace, ACCOUNT).await?;
        grant(cluster, &namespace, &namespace).await?;
        Ok(Self { namespace, kubeconfig })
    }

    /// The engine's URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_by(&self.kubeconfig)
    }

    /// The same, by another kubeconfig.
    #[must_use]
    pub fn url_by(&self, kubeconfig: &Path) -> String {
        format!("k8s://?namespace={}&kubeconfig={}", self.namespace, kubeconfig.display())
    }

    /// A kubeconfig that leads to the same API server by another address, where somebody passes on what comes.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig_through(&self, address: SocketAddr, server: &str) -> Result<PathBuf> {
        let mut config: Value = serde_json::from_slice(&std::fs::read(&self.kubeconfig)?)?;
        let cluster = &mut config["clusters"][0]["cluster"];
        cluster["server"] = json!(format!("https://{address}"));
        cluster["tls-server-name"] = json!(server);
        let file = self.kubeconfig.with_extension(format!("{}.conf", address.port()));
        std::fs::write(&file, config.to_string()).with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    }
}

/// Gives the deployer's account in the namespace `own` the rights of `deploy/rbac` in the namespace `executions`.
///
/// # Errors
/// When the cluster refuses.
pub async fn grant(cluster: &Cluster, own: &str, executions: &str) -> Result<()> {
    for file in ["executions.yaml", "cluster.yaml"] {
        let manifest = std::fs::read_to_string(workspace().join("deploy/rbac").join(file))?;
        let manifest = manifest
            .replace("namespace: renga-executions\n", &format!("namespace: {executions}\n"))
            .replace("namespace: renga\n", &format!("namespace: {own}\n"))
            // Roles of the cluster are shared by all tests: each binds its own account.
            .replace(
                "kind: ClusterRoleBinding\nmetadata:\n  name: renga-deployer",
                &format!("kind: ClusterRoleBinding\nmetadata:\n  name: renga-deployer-{own}"),
            );
        cluster.apply_text(&manifest).await?;
    }
    Ok(())
}
