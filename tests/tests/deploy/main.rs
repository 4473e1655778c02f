//! The manifests of `deploy/`: a real API server accepts them, they give the necessary rights and no others, and the
//! reconciler works with them as a pod.

mod image;
mod installed;
mod manifests;
mod pods;
mod rights;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use renga_tests::deployment::workspace;
use renga_tests::servers::Cluster;

/// The namespaces of the manifests: one for the reconciler, one for the executions.
const DEPLOYER: &str = "renga";
const EXECUTIONS: &str = "renga-executions";

fn manifests() -> PathBuf {
    workspace().join("deploy")
}

/// Applies a kustomization. Fails if the API server does not know a field.
async fn apply(cluster: &Cluster, folder: &Path, further: &[&str]) -> Result<String> {
    let folder = folder.display().to_string();
    let arguments = ["apply", "--server-side", "--validate=strict", "--kustomize", &folder];
    cluster.kubectl(&[&arguments, further].concat()).await.with_context(|| format!("apply {folder}"))
}

/// Creates the namespaces that contain everything else.
async fn make_namespaces(cluster: &Cluster) -> Result<()> {
    for file in ["base/namespaces.yaml", "spinkube/namespace.yaml"] {
        let file = manifests().join(file).display().to_string();
        cluster.kubectl(&["apply", "--server-side", "--validate=strict", "--filename", &file]).await?;
    }
    Ok(())
}
