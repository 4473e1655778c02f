//! A server process that cannot outlive the test process that started it, however that one ends.
//!
//! Between the two stands a small shell, the guard. It starts the server when told to, and holds the reading end of a
//! pipe whose writing end only the test process has. When the test process is gone, killed or crashed included, the
//! kernel closes the pipe; the guard then ends the server by its pid and cleans up. The guard runs in a process group
//! of its own, so that Ctrl-C at the terminal does not take it before it has done that.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// `$1` is the signal that ends the server when the pipe closes, the rest its command line.
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

/// `$1` is what to do when the guard and its server are gone, the rest the guard's command line.
const CLEANER: &str = r#"cleanup=$1; shift; "$@"; eval "$cleanup""#;

/// How a server is run.
pub(super) struct Recipe {
    /// A command that runs the guard, and so the server, in surroundings of its own (namespaces); may be empty.
    pub(super) inside: Vec<String>,
    /// The server's command line.
    pub(super) command: Vec<String>,
    /// Where the server's output goes.
    pub(super) log: PathBuf,
    /// The signal that ends the server for good, by `kill`'s name.
    pub(super) last_signal: &'static str,
    /// Shell commands that run when the server has ended for good.
    pub(super) cleanup: String,
}

/// A server under guard. Dropping it ends the server and waits until its cleanup is done.
#[derive(Debug)]
pub(super) struct Guarded {
    guard: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// The server's pid as its guard sees it, while it runs.
    pid: Option<u32>,
    log: PathBuf,
}

impl Guarded {
    /// Starts the guard and, under it, the server. The server may not be ready yet.
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

    /// Sends the server a signal (by `kill`'s name) that ends it, and waits for that end.
    pub(super) fn end(&mut self, signal: &str) -> Result<()> {
        ensure!(self.pid.take().is_some(), "the server does not run");
        let answer = self.ask(&format!("end {signal}"))?;
        ensure!(answer == "ended", "the guard answered {answer:?}");
        Ok(())
    }

    /// Whether the server that was started has not ended by itself.
    pub(super) fn is_alive(&mut self) -> Result<bool> {
        Ok(self.ask("alive")? == "yes")
    }

    /// The last lines that the server wrote, for an error message.
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

/// A folder for a server's files. The server's cleanup removes it: the guard, unlike this process, is always there to.
pub(super) fn scratch_folder(name: &str) -> Result<PathBuf> {
    let folder =
        tempfile::Builder::new().prefix(&format!("renga-test-{name}-")).tempdir().context("make a temporary folder")?;
    Ok(folder.keep())
}

/// The first of `places` (a name to find in `PATH`, or folders that may hold it) where the program is.
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

/// Whether this process has root's rights, which some servers need to start.
pub(super) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
