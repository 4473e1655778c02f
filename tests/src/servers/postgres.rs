//! A throwaway PostgreSQL for tests.
//!
//! `RENGA_TEST_POSTGRES` may hold the URI of a server whose user may create databases. The tests then use that server.
//! Otherwise each test process starts its own cluster, with the server's default durability (`fsync` on), when the
//! first test requests it. Every test gets its own database in it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;

use super::guarded::{Guarded, Recipe, find_program, is_root, scratch_folder};

const USER: &str = "renga";
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running PostgreSQL server.
#[derive(Debug)]
pub struct Postgres {
    /// The server's URI, without the database's name.
    base: String,
    /// The process and the data folder, unless the server was given.
    process: Option<(Guarded, PathBuf)>,
}

static SHARED: OnceCell<Postgres> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// Returns the server that all tests of this process share: the given one, or one that the first call starts.
///
/// # Errors
/// Fails if PostgreSQL is not installed or does not start. Every later call tries again.
pub async fn postgres() -> Result<&'static Postgres> {
    SHARED
        .get_or_try_init(|| async {
            match std::env::var("RENGA_TEST_POSTGRES") {
                Ok(uri) => Postgres::given(&uri),
                Err(_) => tokio::task::spawn_blocking(Postgres::start).await?,
            }
        })
        .await
}

impl Postgres {
    fn given(uri: &str) -> Result<Self> {
        let parsed: tokio_postgres::Config =
            uri.parse().with_context(|| format!("RENGA_TEST_POSTGRES={uri} is not a postgres:// URI"))?;
        ensure!(
            !parsed.get_hosts().is_empty(),
            "RENGA_TEST_POSTGRES={uri} names no host: use postgres://USER@HOST:PORT"
        );
        let after_scheme = uri.find("://").map_or(0, |at| at + 3);
        let base = uri[after_scheme..].find('/').map_or(uri, |at| &uri[..after_scheme + at]);
        Ok(Self { base: base.to_owned(), process: None })
    }

    /// Starts a separate server, for a test that stops or restarts it. Most tests share the server of [`postgres`].
    ///
    /// Blocks for the second or two that this takes.
    ///
    /// # Errors
    /// Fails if PostgreSQL is not installed or does not start.
    pub fn start() -> Result<Self> {
        let binaries = Binaries::find()?;
        // Another test process may take the free port before the server listens on it. The next try uses another port.
        let mut last_words = String::new();
        for _ in 0..3 {
            let folder = scratch_folder("postgres")?;
            let data = folder.join("data");
            let user = binaries.own(&folder)?;
            binaries.make_cluster(user, &data)?;
            let port = free_port()?;
            let mut process = binaries.serve(user, &folder, &data, port)?;
            if wait_until_ready(&mut process, &data)? {
                let base = format!("postgres://{USER}@127.0.0.1:{port}");
                return Ok(Self { base, process: Some((process, data)) });
            }
            last_words = process.last_words();
        }
        bail!("PostgreSQL did not start: {last_words}")
    }

    /// Creates an empty database and returns its URI.
    ///
    /// # Errors
    /// Fails if the server does not respond or refuses.
    pub async fn create_database(&self) -> Result<String> {
        // Several test processes may share a given server.
        let name = format!("test_{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::Relaxed));
        let (client, connection) = tokio_postgres::connect(&format!("{}/postgres", self.base), NoTls)
            .await
            .with_context(|| format!("connect to {}", self.base))?;
        let connection = tokio::spawn(connection);
        client
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .with_context(|| format!("create database {name}"))?;
        drop(client);
        connection.await??;
        Ok(format!("{}/{name}", self.base))
    }

    /// Ends the server at once, as a crash would. Its files stay.
    ///
    /// # Errors
    /// Fails if the server was given, or has ended.
    pub fn kill(&mut self) -> Result<()> {
        // QUIT is PostgreSQL's own crash. After KILL, the server's other processes would have to notice by themselves.
        let (process, _) = self.process.as_mut().context("a given server is not ours to end")?;
        process.end("QUIT")
    }

    /// Starts the server again after [`Postgres::kill`], at the same address with the same data, and waits for it.
    ///
    /// # Errors
    /// Fails if the server was given, runs already, or does not become ready.
    pub fn start_again(&mut self) -> Result<()> {
        let (process, data) = self.process.as_mut().context("a given server is not ours to start")?;
        process.start_again()?;
        let ready = wait_until_ready(process, data)?;
        ensure!(ready, "PostgreSQL did not start again: {}", process.last_words());
        Ok(())
    }
}

/// Paths of PostgreSQL's programs.
struct Binaries {
    initdb: PathBuf,
    postgres: PathBuf,
}

impl Binaries {
    fn find() -> Result<Self> {
        // Debian installs the programs outside PATH, in one folder per version.
        let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
            .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
            .unwrap_or_default();
        folders.sort();
        folders.reverse();
        let find = |name: &str| {
            find_program(name, &folders)
                .with_context(|| format!("{name} is neither in PATH nor in /usr/lib/postgresql/*/bin: install PostgreSQL, or run `make servers`"))
        };
        Ok(Self { initdb: find("initdb")?, postgres: find("postgres")? })
    }

    /// As root: gives the folder to another user and returns that user, because PostgreSQL refuses to run as root.
    fn own(&self, folder: &Path) -> Result<Option<&'static str>> {
        if !is_root() {
            return Ok(None);
        }
        for user in ["postgres", "nobody"] {
            if Command::new("chown").arg(user).arg(folder).output().context("run chown")?.status.success() {
                return Ok(Some(user));
            }
        }
        bail!("PostgreSQL does not run as root, and there is neither a user postgres nor nobody to run it as")
    }

    fn make_cluster(&self, user: Option<&str>, data: &Path) -> Result<()> {
        let mut line = as_user(user);
        line.push(self.initdb.display().to_string());
        line.extend(["-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"].map(str::to_owned));
        line.push(data.display().to_string());
        let made =
            Command::new(&line[0]).args(&line[1..]).output().with_context(|| format!("run {}", line.join(" ")))?;
        ensure!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        Ok(())
    }

    fn serve(&self, user: Option<&str>, folder: &Path, data: &Path, port: u16) -> Result<Guarded> {
        let mut command = as_user(user);
        command.push(self.postgres.display().to_string());
        command.extend(["-D".to_owned(), data.display().to_string(), "-p".to_owned(), port.to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=300"] {
            command.extend(["-c".to_owned(), setting.to_owned()]);
        }
        Guarded::start(Recipe {
            inside: Vec::new(),
            command,
            log: folder.join("log"),
            last_signal: "QUIT",
            cleanup: format!("rm -rf '{}'", folder.display()),
        })
    }
}

/// Uses `setpriv`, because it becomes the server and so the guard's child (`su` and `runuser` would stay between).
fn as_user(user: Option<&str>) -> Vec<String> {
    user.map_or_else(Vec::new, |user| ["setpriv", "--reuid", user, "--clear-groups", "--"].map(str::to_owned).to_vec())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).context("find a free port")?.local_addr()?.port())
}

/// Waits until PostgreSQL accepts connections: its pid file then has `ready`. Returns false if it ended instead.
fn wait_until_ready(process: &mut Guarded, data: &Path) -> Result<bool> {
    let file = data.join("postmaster.pid");
    let start = Instant::now();
    while start.elapsed() < READY_WITHIN {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if text.lines().nth(7).is_some_and(|status| status.trim() == "ready") {
            return Ok(true);
        }
        if !process.is_alive()? {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("PostgreSQL was not ready within {READY_WITHIN:?}: {}", process.last_words())
}
