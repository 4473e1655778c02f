//! Docker Engines for tests: the machine's own, and dedicated ones that a test may stop, kill and restart.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bollard::{ClientVersion, Docker};

use super::busybox;
use super::guarded::{Guarded, Recipe, find_program, is_root, scratch_folder};

/// Docker Engine's own clean start takes two seconds on a busy machine; it gives its containerd up to 60.
const READY_WITHIN: Duration = Duration::from_secs(60);
const REQUEST_TIMEOUT_SECONDS: u64 = 120;

/// Returns a client of the engine at `DOCKER_HOST` or `/var/run/docker.sock`, which responds and has the test image.
///
/// # Errors
/// Fails if no engine responds there, or if the image cannot be built.
pub async fn docker() -> Result<Docker> {
    let place = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
    let client = async { Docker::connect_with_defaults()?.negotiate_version().await };
    let docker = client
        .await
        .with_context(|| format!("no Docker Engine answers at {place}: start one, or run `make servers`"))?;
    busybox(&docker).await?;
    Ok(docker)
}

/// A Docker Engine for one test, with its own containers, images, socket and addresses.
///
/// It runs in its own PID and mount namespaces. When it is dropped, or the test process ends in any way, the kernel
/// ends all its containers, even those that would survive its daemon (`--live-restore`). Proxy processes publish its
/// containers' ports on the machine's addresses. It creates no packet-filter rules, because all engines on a machine
/// share their chains.
#[derive(Debug)]
pub struct DedicatedDocker {
    socket: PathBuf,
    process: Guarded,
}

static STARTED: AtomicU32 = AtomicU32::new(0);

impl DedicatedDocker {
    /// Starts an engine with further options for `dockerd`, waits until it responds, and adds the test image.
    ///
    /// # Errors
    /// Fails if Docker Engine is not installed, if this process is not root, or if the engine does not start.
    pub async fn start(options: &[&str]) -> Result<Self> {
        let mut recipe = recipe()?;
        recipe.command.extend(options.iter().map(|&option| option.to_owned()));
        let socket = recipe.log.with_file_name("docker.sock");
        let process = tokio::task::spawn_blocking(|| Guarded::start(recipe)).await??;
        let mut engine = Self { socket, process };
        engine.wait_until_ready().await?;
        busybox(&engine.client()?).await?;
        Ok(engine)
    }

    /// Returns the path of the engine's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns a client of the engine, whether the engine runs or not.
    ///
    /// # Errors
    /// Fails if the socket does not exist yet.
    pub fn client(&self) -> Result<Docker> {
        // Every engine since 20.10 supports this version. A stopped engine cannot be asked for its versions.
        let oldest = ClientVersion { major_version: 1, minor_version: 41 };
        Ok(Docker::connect_with_unix(&self.socket.display().to_string(), REQUEST_TIMEOUT_SECONDS, &oldest)?)
    }

    /// Stops the daemon gracefully. Its containers stop with it, except with `--live-restore`.
    ///
    /// # Errors
    /// Fails if the daemon does not run.
    pub fn stop(&mut self) -> Result<()> {
        self.process.end("TERM")
    }

    /// Kills the daemon as a crash would. Its containers live on until the daemon is started again.
    ///
    /// # Errors
    /// Fails if the daemon does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process.end("KILL")
    }

    /// Starts the daemon again after [`DedicatedDocker::stop`] or [`DedicatedDocker::kill`], and waits for it.
    ///
    /// # Errors
    /// Fails if the daemon runs already, or does not start.
    pub async fn start_again(&mut self) -> Result<()> {
        self.process.start_again()?;
        self.wait_until_ready().await
    }

    /// Stops the daemon and starts it again.
    ///
    /// # Errors
    /// Fails if the daemon does not run, or does not start again.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start_again().await
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < READY_WITHIN {
            if let Ok(client) = self.client()
                && client.ping().await.is_ok()
            {
                return Ok(());
            }
            ensure!(self.process.is_alive()?, "a dedicated Docker Engine did not start: {}", self.process.last_words());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("a dedicated Docker Engine did not answer within {READY_WITHIN:?}: {}", self.process.last_words())
    }
}

fn recipe() -> Result<Recipe> {
    ensure!(is_root(), "a dedicated Docker Engine needs root: run the tests as root");
    let sbin = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    let find = |name: &str| {
        find_program(name, &sbin)
            .map(|path| path.display().to_string())
            .with_context(|| format!("{name} is not installed: run `make servers`"))
    };
    let (dockerd, ip, unshare) = (find("dockerd")?, find("ip")?, find("unshare")?);

    let folder = scratch_folder("docker")?;
    // Unique among the test processes of the machine, and short enough for an interface's name.
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let name = format!("rt{}n{number}", std::process::id());
    let cleanup = format!(
        "'{ip}' link delete {name} 2>/dev/null; \
         find /sys/fs/cgroup -depth -type d \\( -name {name} -o -path '*/{name}/*' \\) -exec rmdir {{}} + 2>/dev/null; \
         rm -rf '{}'",
        folder.display()
    );
    make_bridge(&ip, &name, number).inspect_err(|_| drop(std::fs::remove_dir_all(&folder)))?;

    let at = |file: &str| folder.join(file).display().to_string();
    let command = vec![
        dockerd,
        format!("--host=unix://{}", at("docker.sock")),
        format!("--data-root={}", at("data")),
        format!("--exec-root={}", at("exec")),
        format!("--pidfile={}", at("pid")),
        format!("--bridge={name}"),
        format!("--cgroup-parent=/{name}"),
        "--iptables=false".to_owned(),
        "--ip6tables=false".to_owned(),
    ];
    // containerd always keeps its shims' sockets in /run/containerd. A private one is gone with the namespace.
    let private_run = "mkdir -p /run/containerd && mount -t tmpfs tmpfs /run/containerd && exec \"$@\"";
    let mut inside = vec![unshare];
    inside.extend(["--pid", "--mount", "--fork", "--kill-child", "--mount-proc"].map(str::to_owned));
    inside.extend(["sh", "-c", private_run, "sh"].map(str::to_owned));
    Ok(Recipe { inside, command, log: folder.join("log"), last_signal: "KILL", cleanup })
}

/// Creates a bridge with a subnet of 256 addresses in 10.213.0.0/16 that no other interface has.
fn make_bridge(ip: &str, name: &str, number: u32) -> Result<()> {
    let run = |arguments: &[&str]| -> Result<String> {
        let run = Command::new(ip).args(arguments).output().with_context(|| format!("run {ip}"))?;
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        ensure!(run.status.success(), "{ip} {} failed: {said}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&run.stdout).into_owned())
    };
    let taken = run(&["-o", "-4", "address"])?;
    // Engines that start at the same moment see the same free subnets, so each begins its search at another one.
    let first = std::process::id() + number;
    let slice =
        (0..256).map(|step| (first + step) % 256).find(|slice| !taken.contains(&format!(" 10.213.{slice}."))).context(
            "every 10.213.*.0/24 is taken by an interface: delete left-over rt* bridges with `ip link delete`",
        )?;
    run(&["link", "add", name, "type", "bridge"])?;
    let set_up = run(&["address", "add", &format!("10.213.{slice}.1/24"), "dev", name])
        .and_then(|_| run(&["link", "set", name, "up"]));
    if set_up.is_err() {
        run(&["link", "delete", name])?;
    }
    set_up.map(drop)
}
