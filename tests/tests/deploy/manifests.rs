//! The manifests are validated by an API server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use renga_host::{Manifest, RuntimeConfig, variables_from_env};
use renga_tests::deployment::workspace;
use renga_tests::require;
use renga_tests::servers::{Cluster, NotRun as _, report_not_run};
use serde_json::Value;
use tokio::process::Command;

use super::{DEPLOYER, apply, make_namespaces, manifests};

/// The operator of SpinKube. Its Go module has the `SpinApp` definition, under the path from before it moved.
const OPERATOR: &str = "github.com/spinkube/spin-operator@v0.6.1";
const DEFINITION: &str = "config/crd/bases/core.spinkube.dev_spinapps.yaml";

#[tokio::test]
async fn every_manifest_is_accepted_by_a_strict_api_server() -> Result<()> {
    let cluster = require!(kubernetes);
    let Ok(definition) = spin_app_definition().await.map_err(|error| {
        report_not_run("deploy::manifests::every_manifest_is_accepted_by_a_strict_api_server", &format!("{error:#}"));
    }) else {
        return <Result<()>>::not_run();
    };
    cluster.kubectl(&["apply", "--server-side", "--filename", &definition.display().to_string()]).await?;
    let defined = ["wait", "--for=condition=Established", "crd/spinapps.core.spinkube.dev", "--timeout=60s"];
    cluster.kubectl(&defined).await?;
    make_namespaces(cluster).await?;

    let kustomizations = kustomizations(&manifests())?;
    ensure!(kustomizations.len() >= 5, "only {kustomizations:?} were found");
    for folder in &kustomizations {
        let applied = apply(cluster, folder, &["--dry-run=server"]).await?;
        ensure!(!applied.contains("Warning"), "{applied}");
    }
    refuses_what_it_does_not_know(cluster).await?;
    keeps_out_what_is_not_restricted(cluster).await?;
    every_variable_reaches_the_spin_app(cluster).await
}

/// Proves the checks above: the API server rejects a misspelt field, in a Deployment and in a `SpinApp`.
async fn refuses_what_it_does_not_know(cluster: &Cluster) -> Result<()> {
    for (part, right, wrong) in [
        ("base", "      serviceAccountName:", "      serviceAcountName:"),
        ("spinkube", "    valueFrom:", "    valueform:"),
    ] {
        let written = cluster.kubectl(&["kustomize", &manifests().join(part).display().to_string()]).await?;
        ensure!(written.contains(right), "{part} has no {right}");
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), written.replacen(right, wrong, 1))?;
        let path = file.path().display().to_string();
        let arguments = ["apply", "--server-side", "--validate=strict", "--dry-run=server", "--filename", &path];
        let refused = cluster.kubectl(&arguments).await.err().context("a misspelt field was accepted")?.to_string();
        ensure!(refused.contains(wrong.trim().trim_end_matches(':')), "{refused}");
    }
    Ok(())
}

/// Fails unless the deployer's namespace admits only restricted pods, such as those of the manifests.
async fn keeps_out_what_is_not_restricted(cluster: &Cluster) -> Result<()> {
    let pod = ["run", "ordinary", "--image=ordinary:1", "--namespace", DEPLOYER, "--dry-run=server"];
    let refused = cluster.kubectl(&pod).await.err().context("an ordinary pod was admitted")?.to_string();
    ensure!(refused.contains("violates PodSecurity \"restricted"), "{refused}");
    Ok(())
}

/// Fails unless the `SpinApp` has the variables of `spin.toml`, from the sources that `runtime-config.toml` names.
async fn every_variable_reaches_the_spin_app(cluster: &Cluster) -> Result<()> {
    let written = apply(cluster, &manifests().join("spinkube"), &["--dry-run=server", "--output=json"]).await?;
    let list: Value = serde_json::from_str(&written)?;
    let objects = list["items"].as_array().context("a list of objects")?;
    let one = |kind: &str| objects.iter().find(|object| object["kind"] == kind).with_context(|| format!("no {kind}"));
    let (app, config) = (one("SpinApp")?, one("ConfigMap")?);

    let mut given = BTreeMap::new();
    for variable in app["spec"]["variables"].as_array().context("a SpinApp with variables")? {
        let (map, secret) = (&variable["valueFrom"]["configMapKeyRef"], &variable["valueFrom"]["secretKeyRef"]);
        let source = match (map["key"].as_str(), secret["key"].as_str()) {
            (Some(key), None) => {
                ensure!(map["name"] == config["metadata"]["name"], "{variable} is of another ConfigMap than {config}");
                ensure!(config["data"][key].is_string(), "{variable} is not in {config}");
                key
            }
            (None, Some("database-uri")) => "SQLALCHEMY_DATABASE_URI",
            (None, Some("seal-key")) => "DEPLOYER_SEAL_KEY",
            _ => bail!("where does {variable} come from?"),
        };
        given.insert(variable["name"].as_str().unwrap_or_default().to_owned(), source.to_owned());
    }

    let manifest = Manifest::load(&workspace().join("spin.toml"))?;
    let runtime = RuntimeConfig::load(&workspace().join("runtime-config.toml"))?;
    let wanted = variables_from_env(&manifest, &runtime, &|name| Some(name.to_owned()));
    ensure!(wanted.keys().eq(given.keys()), "spin.toml has {:?}, the SpinApp {:?}", wanted.keys(), given.keys());
    let there = |name: &str| given.values().any(|source| source == name).then(|| name.to_owned());
    let found = variables_from_env(&manifest, &runtime, &there);
    ensure!(found == given, "runtime-config.toml takes {found:?}, the SpinApp {given:?}");
    Ok(())
}

/// Returns `folder` and all folders below it that have a kustomization.
fn kustomizations(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(kustomizations(&path)?);
        }
    }
    if folder.join("kustomization.yaml").exists() {
        found.push(folder.to_owned());
    }
    Ok(found)
}

/// Returns the path of the `SpinApp` definition. Go caches the module and verifies its checksum.
async fn spin_app_definition() -> Result<PathBuf> {
    let download = Command::new("go")
        .args(["mod", "download", "-json", OPERATOR])
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .output()
        .await
        .context("run go, which brings the definition of a SpinApp")?;
    let said: Value = serde_json::from_slice(&download.stdout)
        .with_context(|| format!("go mod download {OPERATOR}: {}", String::from_utf8_lossy(&download.stderr)))?;
    match said["Dir"].as_str() {
        Some(folder) => Ok(Path::new(folder).join(DEFINITION)),
        None => bail!("go mod download {OPERATOR}: {}", said["Error"]),
    }
}
