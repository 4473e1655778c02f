//! Programs of this workspace as separate processes, for tests that kill them.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail, ensure};
use renga_shared::environment::Environment;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::deployment::{PATIENCE, until, workspace};

/// Returns the path of the program `renga-reconciler`.
///
/// # Errors
/// Fails if it does not build.
pub fn reconciler() -> Result<&'static Path> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    built(&BUILT, "renga-reconciler", &["--bin", "renga-reconciler"])
}

/// Returns the path of the reconciler that ends at the points in `FAILPOINTS`.
///
/// # Errors
/// Fails if it does not build.
pub fn crashing_reconciler() -> Result<&'static Path> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    built(&BUILT, "crashing", &["--example", "crashing", "--features", "renga-reconciler/failpoints"])
}

/// Returns the path of the program `renga-deployer`.
///
/// # Errors
/// Fails if it does not build.
pub fn deployer() -> Result<&'static Path> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    built(&BUILT, "renga-deployer", &["--bin", "renga-deployer"])
}

/// Returns the path of the component in `tests/guest`.
///
/// # Errors
/// Fails if it does not build.
pub fn database_guest() -> Result<&'static Path> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let arguments = ["--release", "--target", "wasm32-wasip2", "-p", "renga-tests-guest"];
    built(&BUILT, "renga_tests_guest", &arguments)
}

/// Returns the cargo that runs the tests, for a separate build.
///
/// The command lacks the variables that cargo sets for its programs. A build script that reads them (such as ring's)
/// would run again, now and in the next build without them, and everything that depends on it would be compiled again.
pub fn cargo() -> std::process::Command {
    let mut cargo = std::process::Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        let given =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_", "CARGO_TARGET_TMPDIR"];
        if name.to_str().is_some_and(|name| given.iter().any(|prefix| name.starts_with(prefix))) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Builds a program or component once per test process, with the cargo that runs the tests. The build is for the whole
/// workspace, as in `make`, so that dependencies keep the features with which they are built already.
fn built(built: &'static OnceLock<PathBuf>, target: &str, arguments: &[&str]) -> Result<&'static Path> {
    if let Some(path) = built.get() {
        return Ok(path);
    }
    let output = cargo()
        .arg("build")
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(workspace())
        .output()
        .context("run cargo")?;
    ensure!(output.status.success(), "{target} does not build:\n{}", String::from_utf8_lossy(&output.stderr));
    let path = String::from_utf8(output.stdout)?
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == target)
        .find_map(|message| {
            let files = message["filenames"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let component = files.filter(|file| file.ends_with(".wasm")).map(PathBuf::from).next();
            message["executable"].as_str().map(PathBuf::from).or(component)
        })
        .with_context(|| format!("cargo built no {target}"))?;
    Ok(built.get_or_init(|| path))
}

/// Runs the rest of the command line. The program leaves no core dump when it aborts. The kernel kills it when the
/// thread that started it ends, however the test process ends.
const GUARD: &str = r#"ulimit -c 0; exec setpriv --pdeathsig KILL -- "$@""#;

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    /// The offset in the log at which this run begins.
    begin: u64,
}

impl Process {
    /// Starts `program` with only these variables, PATH, HOME and TMPDIR. Its output is appended to the file `log`.
    ///
    /// # Errors
    /// Fails if the program cannot be started.
    pub fn start(program: &Path, arguments: &[&str], environment: &Environment, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log).context("open the log of a process")?;
        let begin = file.metadata()?.len();
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "guard"]).arg(program).args(arguments);
        command.env_clear().envs(environment.beginning_with("")).current_dir(workspace());
        for name in ["PATH", "HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        Ok(Self { child, log: log.to_owned(), begin })
    }

    /// Kills the program with KILL, and waits for its end.
    ///
    /// # Errors
    /// Fails if the program had ended before by itself.
    pub async fn kill(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("it ended before it was killed, with {status}:\n{}", self.text()?);
        }
        self.child.kill().await.context("kill a process")
    }

    /// Sends a signal, as `kill` names it.
    ///
    /// # Errors
    /// Fails if the program has ended.
    pub fn signal(&self, name: &str) -> Result<()> {
        let pid = self.child.id().context("it has ended")?;
        let sent = std::process::Command::new("kill").args(["-s", name, &pid.to_string()]).status()?;
        ensure!(sent.success(), "no signal {name} to process {pid}");
        Ok(())
    }

    /// Returns the exit status if the program ends within `patience`.
    ///
    /// # Errors
    /// Fails if the program's state cannot be read.
    pub async fn ended_within(&mut self, patience: std::time::Duration) -> Result<Option<ExitStatus>> {
        match tokio::time::timeout(patience, self.child.wait()).await {
            Ok(status) => Ok(Some(status?)),
            Err(_) => Ok(None),
        }
    }

    /// Waits for the end of the program, and returns its exit status.
    ///
    /// # Errors
    /// Fails if the program does not end within `PATIENCE`.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        let ended = self.ended_within(PATIENCE).await?;
        ended.with_context(|| format!("it did not end:\n{}", self.text().unwrap_or_default()))
    }

    /// Returns the content of a file in `/proc/PID` of the program.
    ///
    /// # Errors
    /// Fails if the program has ended.
    pub fn proc(&self, file: &str) -> Result<String> {
        let pid = self.child.id().context("it has ended")?;
        Ok(std::fs::read_to_string(format!("/proc/{pid}/{file}"))?)
    }

    /// Returns the output of this run.
    ///
    /// # Errors
    /// Fails if the log cannot be read.
    pub fn text(&self) -> Result<String> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.begin))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Waits until a reconciler is ready, and returns the address of its `/metrics`.
    ///
    /// # Errors
    /// Fails if the reconciler is not ready within `PATIENCE`.
    pub async fn metrics_address(&mut self) -> Result<SocketAddr> {
        until("a reconciler to be ready", async || {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}:\n{}", self.text()?);
            }
            let text = self.text()?;
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let address = lines.filter_map(|line| line["address"].as_str()?.parse().ok()).next();
            Ok(address.ok_or(Value::String(text)))
        })
        .await
    }
}

/// Returns an address on which no program listens now.
///
/// # Errors
/// Fails if there is none.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).context("find a free port")?.local_addr()?)
}
