//! The measured programs, each in a process of its own: `renga-deployer up` and the yardsticks.
//!
//! Dropping the value of a process kills this process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use renga_tests::client::Client;
use renga_tests::issuer::Issuer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

const READY_WITHIN: Duration = Duration::from_secs(30);
/// Longer than a graceful stop may take.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// The token's subject, which owns all objects.
pub(crate) const OWNER: &str = "bench";

/// Returns the folder of the workspace.
pub(crate) fn workspace() -> &'static Path {
    renga_tests::deployment::workspace()
}

/// Returns the folder of release builds.
fn release() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    workspace().join(target).join("release")
}

/// The configuration that the compared processes share: database, key, engine, folder.
pub(crate) struct Surroundings {
    /// The value of `SQLALCHEMY_DATABASE_URI`.
    pub(crate) database: String,
    /// A token with all scopes.
    pub(crate) token: String,
    variables: BTreeMap<String, String>,
    folder: TempDir,
}

impl Surroundings {
    /// Returns a configuration with a new SQLite file and the fake engine.
    pub(crate) fn sqlite() -> Result<Self> {
        Self::sqlite_of(&Issuer::new())
    }

    /// Like [`Self::sqlite`], with tokens of this issuer.
    pub(crate) fn sqlite_of(issuer: &Issuer) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder for the database")?;
        let database = format!("sqlite:///{}", folder.path().join("deployer.db").display());
        Ok(Self::new(folder, database, issuer))
    }

    /// Returns a configuration with a new PostgreSQL database and the fake engine.
    pub(crate) async fn postgres() -> Result<Self> {
        let database = renga_tests::servers::postgres().await?.create_database().await?;
        Ok(Self::new(tempfile::tempdir()?, database, &Issuer::new()))
    }

    fn new(folder: TempDir, database: String, issuer: &Issuer) -> Self {
        let variables = [
            ("SQLALCHEMY_DATABASE_URI", database.as_str()),
            ("DEPLOYER_JWT_KEY", &issuer.public_key_pem()),
            ("DEPLOYER_JWT_ISSUER", Issuer::NAME),
            ("DEPLOYER_TOKEN_SCOPE_KEY", "scope"),
            ("DEPLOYER_METRICS_ADDRESS", "127.0.0.1:0"),
            ("DEPLOYER_ENGINE_FAKE", "fake://"),
            ("RUST_LOG", "warn"),
        ];
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { token: issuer.token(OWNER), database, variables, folder }
    }

    /// Sets or replaces this variable.
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// Replaces the fake engine by the machine's Docker Engine.
    pub(crate) fn on_docker(mut self) -> Self {
        self.variables.remove("DEPLOYER_ENGINE_FAKE");
        self.variables.insert("DEPLOYER_ENGINE_DOCKER".into(), "docker:///var/run/docker.sock".into());
        self
    }

    /// Replaces the fake engine by the cluster of this kubeconfig. Executions run in the namespace.
    pub(crate) fn on_kubernetes(mut self, kubeconfig: &Path, namespace: &str) -> Self {
        self.variables.remove("DEPLOYER_ENGINE_FAKE");
        let url = format!("k8s://?kubeconfig={}&namespace={namespace}", kubeconfig.display());
        self.variables.insert("DEPLOYER_ENGINE_K8S".into(), url);
        self
    }

    /// Returns the environment variables that configure the processes.
    pub(crate) fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// Starts `renga-deployer up` and waits until it responds.
    pub(crate) async fn deployer(&self) -> Result<Process> {
        self.deployer_of(&workspace().join("spin.toml")).await
    }

    /// Like [`Self::deployer`], with the component of another manifest.
    pub(crate) async fn deployer_of(&self, manifest: &Path) -> Result<Process> {
        let program = release().join("renga-deployer");
        ensure!(program.exists(), "{} is not built: run `make bench`", program.display());
        let address = free_address().await?;
        let mut command = self.command(&program);
        command.args(["up", "--listen", &address.to_string(), "--manifest"]).arg(manifest);
        command.arg("--runtime-config").arg(workspace().join("runtime-config.toml"));
        command.env("DEPLOYER_URL", format!("http://{address}"));
        self.start(command, address, "deployer.log", "/version").await
    }

    /// Starts a yardstick server and waits until it responds.
    pub(crate) async fn yardstick(&self, name: &str) -> Result<Process> {
        let program = std::env::current_exe().context("find this program")?;
        let address = free_address().await?;
        let mut command = self.command(&program);
        command.args(["yardstick", name, "--listen", &address.to_string()]);
        self.start(command, address, &format!("{name}.log"), "/version").await
    }

    /// Returns a command with only this environment, so that the user's own variables configure nothing.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(&self.variables).current_dir(workspace());
        for name in ["PATH", "HOME", "TMPDIR", "CARGO_TARGET_DIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }

    async fn start(&self, mut command: Command, address: SocketAddr, log: &str, path: &str) -> Result<Process> {
        let log = self.folder.path().join(log);
        let file = std::fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
        let begin = Instant::now();
        let mut child = command.spawn().context("start the program")?;
        loop {
            if answers(address, path).await {
                break;
            }
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = child.try_wait()? {
                bail!("it ended with {status} instead of answering: {}", said());
            }
            ensure!(begin.elapsed() < READY_WITHIN, "GET {path} had no answer in {READY_WITHIN:?}: {}", said());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let first_answer = begin.elapsed();
        Ok(Process { child, base: format!("http://{address}"), token: self.token.clone(), first_answer })
    }
}

/// A running program.
pub(crate) struct Process {
    child: Child,
    token: String,
    /// Its base URL: `http://HOST:PORT`.
    pub(crate) base: String,
    /// The time from its start to its first response.
    pub(crate) first_answer: Duration,
}

impl Process {
    /// Returns the URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Returns a client of its API.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.base, &self.token)
    }

    /// Waits until the program can use its database and an engine is up.
    pub(crate) async fn ready(&self) -> Result<Client> {
        let client = self.client();
        let begin = Instant::now();
        loop {
            let last = match client.get("/v1/engines").await {
                Ok(engines) if engines.to_string().contains("\"up\":true") => return Ok(client),
                Ok(engines) => engines.to_string(),
                Err(error) => format!("{error:#}"),
            };
            ensure!(begin.elapsed() < READY_WITHIN, "it served no engine within {READY_WITHIN:?}: {last}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns the resident memory in MiB.
    pub(crate) fn resident_mib(&self) -> Result<f64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("VmRSS is {line}"))?;
        Ok(kib / 1024.0)
    }

    /// Returns the share of one core that the program uses during `span`, in percent.
    pub(crate) async fn percent_of_core(&self, span: Duration) -> Result<f64> {
        let (ticks, begin) = (self.cpu_ticks()?, Instant::now());
        tokio::time::sleep(span).await;
        let used = self.cpu_ticks()? - ticks;
        Ok(used / TICKS_PER_SECOND / begin.elapsed().as_secs_f64() * 100.0)
    }

    /// Returns the user and system time of all threads, in ticks.
    fn cpu_ticks(&self) -> Result<f64> {
        let stat = self.proc("stat")?;
        // The second field is the program's name in parentheses. It may contain any characters.
        let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
        let field = |number: usize| -> Result<f64> {
            Ok(rest.split_whitespace().nth(number - 3).context("stat is short")?.parse()?)
        };
        Ok(field(14)? + field(15)?)
    }

    fn proc(&self, file: &str) -> Result<String> {
        let pid = self.child.id().context("it has ended")?;
        let path = format!("/proc/{pid}/{file}");
        std::fs::read_to_string(&path).with_context(|| format!("read {path}"))
    }

    /// Stops the program gracefully, or kills it if that takes too long.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().context("it ended by itself")?;
        Command::new("kill").args(["-TERM", &pid.to_string()]).status().await.context("run kill")?;
        match tokio::time::timeout(ENDS_WITHIN, self.child.wait()).await {
            Ok(ended) => drop(ended?),
            Err(_) => self.child.kill().await?,
        }
        Ok(())
    }
}

/// The unit of times in /proc, `USER_HZ`: 100 on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

async fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("find a free port")?;
    Ok(listener.local_addr()?)
}

/// Whether a GET gets a 200. It uses no client library, because the library's work at its first request would be
/// measured too.
async fn answers(address: SocketAddr, path: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await?;
        Ok::<_, std::io::Error>(head == *b"HTTP/1.1 200")
    };
    tokio::time::timeout(READY_WITHIN, ask).await.is_ok_and(|answered| answered.unwrap_or(false))
}
