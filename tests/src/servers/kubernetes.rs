//! Kubernetes clusters for tests: real ones, of one node each, made by `scripts/cluster.sh`.
//!
//! `make servers` prepares the programs. Each test process starts a cluster of its own when the first test asks for it.
//! A test keeps to a namespace of its own in it; one that stops parts of the cluster starts a dedicated one.

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

/// It is ready in 5 s where nothing else runs, and in a minute where much does.
const READY_WITHIN: Duration = Duration::from_secs(180);

/// The port of every cluster's API server, at its node's address.
const API_PORT: u16 = 6443;

static SHARED: OnceCell<Cluster> = OnceCell::const_new();
static NAMESPACES: AtomicU32 = AtomicU32::new(0);

/// The cluster that all tests of this process share; it is started at the first call.
///
/// # Errors
/// When it is not prepared, this is not root, or it does not start; every later call tries again.
pub async fn kubernetes() -> Result<&'static Cluster> {
    SHARED.get_or_try_init(Cluster::start).await
}

/// A running cluster. It has the test image, and no registry, no DNS and no storage provisioner.
///
/// What takes a part of it away wants it exclusively, so it cannot be done to the shared one.
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
    /// Starts a cluster of its own, for a test that stops parts of it. Most tests share [`kubernetes`]'s.
    ///
    /// # Errors
    /// When it is not prepared, this is not root, or it does not start.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts a control plane alone: pods are accepted and stay pending, on such nodes as the test simulates.
    ///
    /// # Errors
    /// When it is not prepared, this is not root, or it does not start.
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
        // The kernel ends the rest with the first process: nothing of its data is needed again.
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

    /// The kubeconfig of the administrator, with a token.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.conf")
    }

    /// The kubeconfig of the administrator, with a client certificate.
    #[must_use]
    pub fn certificate_kubeconfig(&self) -> PathBuf {
        self.folder.join("admin-cert.conf")
    }

    /// The address of the API server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}:{API_PORT}", self.node_address)
    }

    /// The node's address. This machine reaches it, and services' node ports, pods and services behind it.
    #[must_use]
    pub fn node_address(&self) -> Ipv4Addr {
        self.node_address
    }

    /// This machine's address as the cluster sees it: what a pod is to reach has to listen there.
    #[must_use]
    pub fn machine_address(&self) -> Ipv4Addr {
        self.machine_address
    }

    /// The node's name.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// Where what each part wrote lies, such as `kube-apiserver.log`, and the rest of the cluster's state.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs kubectl as the administrator, and answers what it writes.
    ///
    /// # Errors
    /// When it fails, with what it says.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        kubectl(&self.kubeconfig(), arguments, "").await
    }

    /// Runs kubectl with another kubeconfig of this cluster, and answers what it writes.
    ///
    /// # Errors
    /// When it fails, with what it says.
    pub async fn kubectl_as(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<String> {
        kubectl(kubeconfig, arguments, "").await
    }

    /// An object or list of objects as the administrator reads it, such as `["pod", "name", "--namespace=some"]`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [&["get", "--output=json"], arguments].concat();
        Ok(serde_json::from_str(&self.kubectl(&arguments).await?)?)
    }

    /// Creates or changes an object, as the administrator.
    ///
    /// # Errors
    /// When the cluster refuses it.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        self.apply_text(&object.to_string()).await
    }

    /// Creates or changes the objects of a manifest, as the administrator.
    ///
    /// # Errors
    /// When the cluster refuses one.
    pub async fn apply_text(&self, manifest: &str) -> Result<()> {
        kubectl(&self.kubeconfig(), &["apply", "--filename=-"], manifest).await.map(drop)
    }

    /// Kills what a pod's container runs, as a crash of it would.
    ///
    /// # Errors
    /// When it does not run.
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

    /// Gives the node an image whose file system is the file `tar`.
    ///
    /// # Errors
    /// When the cluster has ended, or has no node.
    pub async fn import_image(&self, name: &str, tar: &Path) -> Result<()> {
        self.script(&["image", &self.place(), name, &tar.display().to_string()]).await
    }

    /// Creates a namespace whose name begins with `purpose`, and waits until pods can be made in it.
    ///
    /// # Errors
    /// When the cluster refuses it, or makes no service account in it.
    pub async fn new_namespace(&self, purpose: &str) -> Result<String> {
        let name = format!("{purpose}-{}", NAMESPACES.fetch_add(1, Ordering::Relaxed));
        self.kubectl(&["create", "namespace", &name]).await?;
        let in_it = format!("--namespace={name}");
        self.kubectl(&["wait", "--for=create", "serviceaccount/default", &in_it, "--timeout=60s"]).await?;
        Ok(name)
    }

    /// A kubeconfig for a service account, with a token of an hour that the cluster issues for it. Creates the account
    /// where there is none; what it may do is the test's to say.
    ///
    /// # Errors
    /// When the cluster refuses.
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

    /// Kills the API server as a crash would. What runs on the node goes on.
    ///
    /// # Errors
    /// When the cluster has ended.
    pub async fn kill_api_server(&mut self) -> Result<()> {
        self.part("kube-apiserver", "kill").await
    }

    /// Starts the API server after [`Cluster::kill_api_server`], and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start_api_server(&mut self) -> Result<()> {
        self.part("kube-apiserver", "start").await?;
        self.wait_for_api_server().await
    }

    /// Kills the API server and starts it again.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn restart_api_server(&mut self) -> Result<()> {
        self.kill_api_server().await?;
        self.start_api_server().await
    }

    /// Stops the API server in its tracks: connections stay, and nothing is answered.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn pause_api_server(&mut self) -> Result<()> {
        self.part("kube-apiserver", "pause").await
    }

    /// Lets the API server go on after [`Cluster::pause_api_server`].
    ///
    /// # Errors
    /// When it does not run.
    pub async fn continue_api_server(&mut self) -> Result<()> {
        self.part("kube-apiserver", "continue").await?;
        self.wait_for_api_server().await
    }

    /// Pulls the cable between this machine and the cluster: what is sent is lost, and the cluster goes on.
    ///
    /// # Errors
    /// When the cluster has ended.
    pub async fn cut_off(&mut self) -> Result<()> {
        self.script(&["network", &self.place(), "cut"]).await
    }

    /// Plugs the cable in again after [`Cluster::cut_off`].
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub async fn reconnect(&mut self) -> Result<()> {
        self.script(&["network", &self.place(), "mend"]).await?;
        self.wait_for_api_server().await
    }

    /// Kills the kubelet: the node says nothing more, and what runs there goes on. Kubernetes takes the node for lost after
    /// 50 s, and its pods 5 min later.
    ///
    /// # Errors
    /// When the cluster has ended.
    pub async fn lose_node(&mut self) -> Result<()> {
        self.part("kubelet", "kill").await
    }

    /// Kills the kubelet and deletes the node, as is done with one that will not come back. Kubernetes deletes its pods
    /// within a minute.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn delete_node(&mut self) -> Result<()> {
        self.lose_node().await?;
        self.kubectl(&["delete", "node", self.node_name()]).await.map(drop)
    }

    /// Starts the kubelet after [`Cluster::lose_node`] or [`Cluster::delete_node`], and waits until the node is ready.
    ///
    /// # Errors
    /// When it does not become ready.
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

/// The value of one of the lines `NAME='value'` that `scripts/cluster.sh` writes.
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
    // It may end without reading it; what it says then is the better error.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let ended = running.wait_with_output().await.context("run kubectl")?;
    if !ended.status.success() {
        bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&ended.stderr).trim_end());
    }
    Ok(String::from_utf8(ended.stdout)?)
}
