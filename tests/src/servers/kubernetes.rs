//! Kubernetes clusters for tests: real clusters of one node each, created by `scripts/cluster.sh`.
//!
//! `make servers` prepares the programs. Each test process starts its own cluster when the first test requests it. Each
//! test uses its own namespace there; a test that stops parts of a cluster starts a dedicated one.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::guarded::{Guarded, Recipe, scratch_folder};
use crate::deployment::workspace;

/// A start takes 5 s on an idle machine, and a minute on a busy one.
const READY_WITHIN: Duration = Duration::from_secs(180);

/// The port of every cluster's API server, at its node's address.
const API_PORT: u16 = 6443;

static SHARED: OnceCell<Cluster> = OnceCell::const_new();
static NAMESPACES: AtomicU32 = AtomicU32::new(0);

/// Returns the cluster that all tests of this process share. The first call starts it.
///
/// # Errors
/// Fails if the cluster is not prepared or does not start, or without root. Every later call tries again.
pub async fn kubernetes() -> Result<&'static Cluster> {
    SHARED.get_or_try_init(Cluster::start).await
}

/// A running cluster. It has the test image, and no registry, no DNS and no storage provisioner.
///
/// Methods that take a part of the cluster away need `&mut self`, so they cannot be called on the shared cluster.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    node_name: String,
    node_address: Ipv4Addr,
    machine_address: Ipv4Addr,
    /// Ends the cluster when it is dropped.
    process: Guarded,
}

impl Cluster {
    /// Starts a separate cluster, for a test that stops parts of it. Most tests share the cluster of [`kubernetes`].
    ///
    /// # Errors
    /// Fails if the cluster is not prepared, if this process is not root, or if the cluster does not start.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts only a control plane: pods are accepted and stay pending, also on nodes that the test simulates.
    ///
    /// # Errors
    /// Fails if the cluster is not prepared, if this process is not root, or if the cluster does not start.
    pub async fn start_without_node() -> Result<Self> {
        Self::start_with(&["--control-plane-only"]).await
    }

    async fn start_with(options: &[&str]) -> Result<Self> {
        let scratch = scratch_folder("kubernetes")?;
        let folder = scratch.join("cluster");
        let script = workspace().join("scripts/cluster.sh").display().to_string();
        let place = folder.display().to_string();
        let cleanup = format!("'{script}' clean '{place}'; rm -rf '{}'", scratch.display());
        let mut command = vec![script, "serve".to_owned(), place];
        command.extend(options.iter().map(|&option| option.to_owned()));
        let log = scratch.join("log");
        // The kernel ends the other processes with the first one. The cluster's data is not needed again.
        let recipe = Recipe { inside: Vec::new(), command, log, last_signal: "KILL", cleanup };
        let mut process = tokio::task::spawn_blocking(|| Guarded::start(recipe)).await??;

        let start = Instant::now();
        while !folder.join("ready").exists() {
            ensure!(process.is_alive()?, "a Kubernetes cluster did not start: {}", process.last_words());
            ensure!(
                start.elapsed() < READY_WITHIN,
                "a Kubernetes cluster was not ready within {READY_WITHIN:?}: {}",
                process.last_words()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let settings = std::fs::read_to_string(folder.join("settings")).context("read a cluster's settings")?;
        let node_name = setting(&settings, "NAME")?.to_owned();
        let node_address = setting(&settings, "NODE_IP")?.parse().context("a cluster's node has an IPv4 address")?;
        let machine_address = setting(&settings, "MACHINE_IP")?.parse().context("this machine has one, too")?;
        Ok(Self { folder, node_name, node_address, machine_address, process })
    }

    /// Returns the administrator's kubeconfig with a token.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.conf")
    }

    /// Returns the administrator's kubeconfig with a client certificate.
    #[must_use]
    pub fn certificate_kubeconfig(&self) -> PathBuf {
        self.folder.join("admin-cert.conf")
    }

    /// Returns the URL of the API server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}:{API_PORT}", self.node_address)
    }

    /// Returns the node's address. This machine reaches the node, and the node ports, pods and services behind it.
    #[must_use]
    pub fn node_address(&self) -> Ipv4Addr {
        self.node_address
    }

    /// Returns this machine's address as the cluster sees it. A server that pods must reach listens there.
    #[must_use]
    pub fn machine_address(&self) -> Ipv4Addr {
        self.machine_address
    }

    /// Returns the node's name.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// Returns the folder of the cluster's state, with the log of each part, such as `kube-apiserver.log`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs kubectl as the administrator, and returns its output.
    ///
    /// # Errors
    /// Fails with kubectl's message if kubectl fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        kubectl(&self.kubeconfig(), arguments, "").await
    }

    /// Runs kubectl with another kubeconfig of this cluster, and returns its output.
    ///
    /// # Errors
    /// Fails with kubectl's message if kubectl fails.
    pub async fn kubectl_as(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<String> {
        kubectl(kubeconfig, arguments, "").await
    }

    /// Returns an object or a list of objects, as the administrator reads it: `["pod", "name", "--namespace=some"]`.
    ///
    /// # Errors
    /// Fails if there is none.
    pub async fn get(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [&["get", "--output=json"], arguments].concat();
        Ok(serde_json::from_str(&self.kubectl(&arguments).await?)?)
    }

    /// Creates or changes an object, as the administrator.
    ///
    /// # Errors
    /// Fails if the cluster refuses the object.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        self.apply_text(&object.to_string()).await
    }

    /// Creates or changes the objects of a manifest, as the administrator.
    ///
    /// # Errors
    /// Fails if the cluster refuses an object.
    pub async fn apply_text(&self, manifest: &str) -> Result<()> {
        kubectl(&self.kubeconfig(), &["apply", "--filename=-"], manifest).await.map(drop)
    }

    /// Kills the process in a pod's container, as its crash would.
    ///
    /// # Errors
    /// Fails if the container does not run.
    pub async fn kill_container(&self, namespace: &str, pod: &str) -> Result<()> {
        let id = "jsonpath={.status.containerStatuses[0].containerID}";
        let id = self.kubectl(&["get", "pod", pod, "--namespace", namespace, "--output", id]).await?;
        let parent = std::fs::read_to_string(self.folder.join("pid")).context("read a cluster's process")?;
        let parent = parent.trim();
        let first = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        let socket = format!("/proc/{}/root/run/containerd/containerd.sock", first.trim());
        let id = id.trim_start_matches("containerd://");
        let mut kill = Command::new("ctr");
        kill.args(["--address", &socket, "--namespace", "k8s.io", "task", "kill", "--signal", "SIGKILL", id]);
        let run = kill.output().await.context("run ctr")?;
        ensure!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr).trim_end());
        Ok(())
    }

    /// Adds an image to the node. The file `tar` is the image's file system.
    ///
    /// # Errors
    /// Fails if the cluster has ended, or has no node.
    pub async fn import_image(&self, name: &str, tar: &Path) -> Result<()> {
        self.script(&["image", &self.place(), name, &tar.display().to_string()]).await
    }

    /// Creates a namespace whose name begins with `purpose`, and waits until pods can be created in it.
    ///
    /// # Errors
    /// Fails if the cluster refuses the namespace, or creates no service account in it.
    pub async fn new_namespace(&self, purpose: &str) -> Result<String> {
        let name = format!("{purpose}-{}", NAMESPACES.fetch_add(1, Ordering::Relaxed));
        self.kubectl(&["create", "namespace", &name]).await?;
        let in_it = format!("--namespace={name}");
        self.kubectl(&["wait", "--for=create", "serviceaccount/default", &in_it, "--timeout=60s"]).await?;
        Ok(name)
    }

    /// Returns a kubeconfig for a service account, with a token that the cluster issues for an hour. Creates the
    /// account if there is none; the test has to grant its rights.
    ///
    /// # Errors
    /// Fails if the cluster refuses.
    pub async fn service_account_kubeconfig(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        let in_it = format!("--namespace={namespace}");
        self.apply(&json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": account, "namespace": namespace },
        }))
        .await?;
        let token = self.kubectl(&["create", "token", account, &in_it, "--duration=1h"]).await?;
        let own = self.kubectl(&["config", "view", "--raw", "--output=json"]).await?;
        let mut config: Value = serde_json::from_str(&own)?;
        config["users"][0]["user"] = json!({ "token": token.trim_end() });
        config["contexts"][0]["context"]["namespace"] = json!(namespace);
        let file = self.folder.join(format!("{namespace}-{account}.conf"));
        std::fs::write(&file, config.to_string()).with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    }

    /// Kills the API server as a crash would. The pods on the node go on.
    ///
    /// # Errors
    /// Fails if the cluster has ended.
    pub async fn kill_api_server(&mut self) -> Result<()> {
        self.part("kube-apiserver", "kill").await
    }

    /// Starts the API server after [`Cluster::kill_api_server`], and waits until it is ready.
    ///
    /// # Errors
    /// Fails if the API server does not become ready.
    pub async fn start_api_server(&mut self) -> Result<()> {
        self.part("kube-apiserver", "start").await?;
        self.wait_for_api_server().await
    }

    /// Kills the API server and starts it again.
    ///
    /// # Errors
    /// Fails if the API server does not become ready.
    pub async fn restart_api_server(&mut self) -> Result<()> {
        self.kill_api_server().await?;
        self.start_api_server().await
    }

    /// Pauses the API server: its connections stay open, and it responds to nothing.
    ///
    /// # Errors
    /// Fails if the API server does not run.
    pub async fn pause_api_server(&mut self) -> Result<()> {
        self.part("kube-apiserver", "pause").await
    }

    /// Continues the API server after [`Cluster::pause_api_server`], and waits until it is ready.
    ///
    /// # Errors
    /// Fails if the API server does not run.
    pub async fn continue_api_server(&mut self) -> Result<()> {
        self.part("kube-apiserver", "continue").await?;
        self.wait_for_api_server().await
    }

    /// Cuts the network between this machine and the cluster: packets are lost, and the cluster goes on.
    ///
    /// # Errors
    /// Fails if the cluster has ended.
    pub async fn cut_off(&mut self) -> Result<()> {
        self.script(&["network", &self.place(), "cut"]).await
    }

    /// Restores the network after [`Cluster::cut_off`].
    ///
    /// # Errors
    /// Fails if the cluster does not respond.
    pub async fn reconnect(&mut self) -> Result<()> {
        self.script(&["network", &self.place(), "mend"]).await?;
        self.wait_for_api_server().await
    }

    /// Kills the kubelet: the node reports nothing more, and its pods go on. Kubernetes takes the node for lost after
    /// 50 s, and its pods 5 min later.
    ///
    /// # Errors
    /// Fails if the cluster has ended.
    pub async fn lose_node(&mut self) -> Result<()> {
        self.part("kubelet", "kill").await
    }

    /// Kills the kubelet and deletes the node, like an administrator whose node will not come back. Kubernetes deletes
    /// its pods within a minute.
    ///
    /// # Errors
    /// Fails if the cluster refuses.
    pub async fn delete_node(&mut self) -> Result<()> {
        self.lose_node().await?;
        self.kubectl(&["delete", "node", self.node_name()]).await.map(drop)
    }

    /// Starts the kubelet after [`Cluster::lose_node`] or [`Cluster::delete_node`], and waits until the node is ready.
    ///
    /// # Errors
    /// Fails if the node does not become ready.
    pub async fn return_node(&mut self) -> Result<()> {
        self.part("kubelet", "start").await?;
        let node = format!("node/{}", self.node_name);
        self.kubectl(&["wait", "--for=create", &node, "--timeout=60s"]).await?;
        self.kubectl(&["wait", "--for=condition=Ready", &node, "--timeout=60s"]).await.map(drop)
    }

    async fn wait_for_api_server(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let Err(error) = self.kubectl(&["get", "--raw=/readyz", "--request-timeout=2s"]).await else {
                return Ok(());
            };
            ensure!(self.process.is_alive()?, "the cluster has ended: {}", self.process.last_words());
            if start.elapsed() > READY_WITHIN {
                return Err(error.context(format!("the API server was not ready within {READY_WITHIN:?}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn place(&self) -> String {
        self.folder.display().to_string()
    }

    async fn part(&self, part: &str, order: &str) -> Result<()> {
        self.script(&["part", &self.place(), part, order]).await
    }

    async fn script(&self, arguments: &[&str]) -> Result<()> {
        let script = workspace().join("scripts/cluster.sh");
        let run = Command::new(script).args(arguments).output().await.context("run scripts/cluster.sh")?;
        ensure!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr).trim_end());
        Ok(())
    }
}

/// Returns the value of a line `NAME='value'` that `scripts/cluster.sh` writes.
fn setting<'a>(settings: &'a str, name: &str) -> Result<&'a str> {
    let mut lines = settings.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    Ok(value.with_context(|| format!("a cluster's settings have no {name}"))?.trim_matches('\''))
}

async fn kubectl(kubeconfig: &Path, arguments: &[&str], input: &str) -> Result<String> {
    let mut running = Command::new(workspace().join(".cache/kubernetes/kubebox"))
        .arg("kubectl")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("run kubectl: `make servers` makes it")?;
    let mut stdin = running.stdin.take().context("kubectl has a standard input")?;
    // kubectl may end without reading its input; its own message is then the better error.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let ended = running.wait_with_output().await.context("run kubectl")?;
    if !ended.status.success() {
        bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&ended.stderr).trim_end());
    }
    Ok(String::from_utf8(ended.stdout)?)
}
