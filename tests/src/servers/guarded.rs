//! A server process that cannot outlive the test process that started it, however the test process ends.
//!
//! A small shell, the guard, stands between the two. It starts the server on request, and holds the read end of a pipe.
//! Only the test process has the write end. When the test process ends, even by a kill or a crash, the kernel closes
//! the pipe. The guard then ends the server by its pid and cleans up. The guard has its own process group, so that
//! Ctrl-C at the terminal does not end it before that.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// `$1` is the signal that ends the server when the pipe closes, the rest is the server's command line.
const GUARD: &str = r#"
last=$1; shift; child=
while read -r order signal; do
    case $order in
        start) "$@" </dev/null >&2 & child=$!; echo "$child" ;;
        alive) if kill -0 "$child" 2>/dev/null; then echo yes; else echo no; fi ;;
        end) kill -s "$signal" "$child"; wait "$child"; child=; echo ended ;;
    esac
done
if [ -n "$child" ]; then kill -s "$last" "$child"; wait "$child"; fi
"#;

/// The outer script. `$1` is the clean-up after the guard and its server; the rest is the guard's command line.
const CLEANER: &str = r#"cleanup=$1; shift; "$@"; eval "$cleanup""#;

/// Describes how to run a server.
pub(super) struct Recipe {
    /// A command that runs the guard, and so the server, in an environment of its own (namespaces); may be empty.
    pub(super) inside: Vec<String>,
    /// The server's command line.
    pub(super) command: Vec<String>,
    /// The file for the server's output.
    pub(super) log: PathBuf,
    /// The signal that ends the server for good, as `kill` names it.
    pub(super) last_signal: &'static str,
    /// Shell commands that run after the server has ended for good.
    pub(super) cleanup: String,
}

/// A server with its guard. Dropping it ends the server and waits until the clean-up is done.
#[derive(Debug)]
pub(super) struct Guarded {
    guard: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// The server's pid as the guard sees it, while the server runs.
    pid: Option<u32>,
    log: PathBuf,
}

impl Guarded {
    /// Starts the guard and the server under it. The server may not be ready yet.
    pub(super) fn start(recipe: Recipe) -> Result<Self> {
        let log = File::create(&recipe.log).with_context(|| format!("create {}", recipe.log.display()))?;
        let mut guard = Command::new("bash")
            .args(["-c", CLEANER, "cleaner", &recipe.cleanup])
            .args(&recipe.inside)
            .args(["bash", "-c", GUARD, "guard", recipe.last_signal])
            .args(&recipe.command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("start bash to guard a server: is bash installed?")?;
        let orders = guard.stdin.take();
        let answers = BufReader::new(guard.stdout.take().context("the guard has no standard output")?);
        let mut guarded = Self { guard, orders, answers, pid: None, log: recipe.log };
        guarded.start_again()?;
        Ok(guarded)
    }

    /// Starts the server after [`Guarded::end`].
    pub(super) fn start_again(&mut self) -> Result<()> {
        ensure!(self.pid.is_none(), "the server runs already");
        let answer = self.ask("start")?;
        self.pid = Some(answer.parse().with_context(|| format!("the guard answered {answer:?}, not a pid"))?);
        Ok(())
    }

    /// Sends the server a signal (as `kill` names it) that ends it, and waits for its end.
    pub(super) fn end(&mut self, signal: &str) -> Result<()> {
        ensure!(self.pid.take().is_some(), "the server does not run");
        let answer = self.ask(&format!("end {signal}"))?;
        ensure!(answer == "ended", "the guard answered {answer:?}");
        Ok(())
    }

    /// Returns whether the server still runs.
    pub(super) fn is_alive(&mut self) -> Result<bool> {
        Ok(self.ask("alive")? == "yes")
    }

    /// Returns the last lines that the server wrote, for an error message.
    pub(super) fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    fn ask(&mut self, order: &str) -> Result<String> {
        let orders = self.orders.as_mut().context("the guard's pipe is closed")?;
        writeln!(orders, "{order}").context("the guard is gone")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).context("read the guard's answer")?;
        if answer.is_empty() {
            bail!("the guard ended: {}", self.last_words());
        }
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.orders = None;
        if let Err(error) = self.guard.wait() {
            eprintln!("could not wait for a server's guard: {error}");
        }
    }
}

/// Creates a folder for a server's files. The server's clean-up removes it, because the guard outlives this process.
pub(super) fn scratch_folder(name: &str) -> Result<PathBuf> {
    let folder =
        tempfile::Builder::new().prefix(&format!("renga-test-{name}-")).tempdir().context("make a temporary folder")?;
    Ok(folder.keep())
}

/// Returns the first executable file called `name` in the folders of `PATH`, then in `folders`.
pub(super) fn find_program(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(folders.iter().cloned())
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Returns whether this process has root's rights, which some servers need to start.
pub(super) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
