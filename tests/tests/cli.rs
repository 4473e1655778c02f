//! `renga-deployer` as a person uses it: the real program starts everything, and its commands run real containers.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bollard::Docker;
use renga_shared::environment::Environment;
use renga_tests::client::Client;
use renga_tests::deployment::{PATIENCE, until, workspace};
use renga_tests::process::{self, Process};
use renga_tests::require;
use renga_tests::servers::BUSYBOX;
use renga_tests::workload::{no_container_is_left, remove_containers};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::Instant;

/// Maximum duration of a stop.
const STOPS_WITHIN: Duration = Duration::from_secs(10);
/// A script that counts until it gets TERM, and then prints `told`.
const COUNT: &str = "trap 'echo told; exit 143' TERM; i=0; while :; do i=$((i+1)); echo $GREETING $i; sleep 0.1; done";

#[tokio::test]
async fn the_commands_that_up_prints_work_as_printed() -> Result<()> {
    require!(docker);
    at_a_terminal(async |terminal| {
        let up = terminal.up().await?;
        let text = up.text()?;
        let mut printed = text.lines().map(str::trim).skip_while(|line| !line.starts_with("To try it")).skip(1);
        let mut next = || printed.find(|line| !line.is_empty()).context("not enough is printed");
        let (run, curl) = (next()?, next()?);
        ensure!(run.ends_with(&format!(" run {BUSYBOX} -- echo hello")), "{run}");
        ensure!(curl.starts_with("curl "), "{curl}");
        // A second terminal does not have the first one's variables.
        let (code, out, err) = told(shell(run)).await?;
        ensure!((code, out.as_str()) == (0, "hello\n"), "{code} {out} {err}");
        let (code, out, err) = told(shell(curl)).await?;
        ensure!(code == 0, "{code} {out} {err}");
        let listed: Value = serde_json::from_str(&out)?;
        ensure!(listed["executions"][0]["status"]["exit_code"] == 0, "{listed}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn run_ends_with_the_exit_code_of_the_container() -> Result<()> {
    require!(docker);
    at_a_terminal(async |terminal| {
        let _up = terminal.up().await?;
        let (code, out, err) = terminal.perform(&["run", BUSYBOX, "--", "sh", "-c", "echo x; exit 3"]).await?;
        ensure!((code, out.as_str()) == (3, "x\n"), "{code} {out} {err}");
        let line = ["run", "--env", "GREETING=good day", BUSYBOX, "--", "sh", "-c", "echo $GREETING"];
        let (code, out, err) = terminal.perform(&line).await?;
        ensure!((code, out.as_str()) == (0, "good day\n"), "{code} {out} {err}");
        let (code, out, err) = terminal.perform(&["run", BUSYBOX, "--", "no-such-command"]).await?;
        ensure!(code == 125 && out.is_empty() && err.contains("no-such-command"), "{code} {out} {err}");

        let mut run = terminal.command(&["run", "-e", "GREETING=n", BUSYBOX, "--", "sh", "-c", COUNT])?.spawn()?;
        let mut lines = lines_of(&mut run)?;
        ensure!(next(&mut lines).await? == "n 1");
        interrupt(&run)?;
        let rest = rest(&mut lines).await?;
        ensure!(rest.last().is_some_and(|last| last == "told"), "{rest:?}");
        ensure!(ended(run).await?.0 == 143);
        let all = terminal.json(&["ps", "--all"]).await?;
        ensure!(all[0]["status"]["phase"] == "exited" && all[0]["status"]["reason"] == "Stopped", "{all:#}");
        ensure!(all.as_array().is_some_and(|all| all.len() == 4), "{all:#}");
        ensure!(terminal.json(&["ps"]).await? == json!([]));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_container_can_call_the_service_with_its_callers_token() -> Result<()> {
    require!(docker);
    at_a_terminal(async |terminal| {
        let up = terminal.up().await?;
        let (code, out, err) =
            terminal.perform(&["run", BUSYBOX, "--", "sh", "-c", "echo $RENGA_ACCESS_TOKEN"]).await?;
        ensure!(code == 0, "{err}");
        let client = Client::new(&format!("http://{}", terminal.address), out.trim_end());
        let listed = client.get("/v1/executions").await?;
        ensure!(listed["executions"].as_array().is_some_and(|all| all.len() == 1), "{listed}");
        ensure!(!listed.to_string().contains(out.trim_end()), "the token is shown: {listed}");
        ensure!(up.text()?.matches("containers get their caller's token").count() == 1, "{}", up.text()?);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_detached_execution_is_listed_reached_followed_stopped_and_removed() -> Result<()> {
    require!(docker);
    at_a_terminal(async |terminal| {
        let _up = terminal.up().await?;
        until("the engine to be up", async || {
            let engines = terminal.json(&["engines"]).await?;
            Ok(if engines[0]["up"] == true { Ok(()) } else { Err(engines) })
        })
        .await?;
        let (_, engines, _) = terminal.perform(&["engines"]).await?;
        ensure!(engines.lines().count() == 2 && engines.contains("docker") && engines.contains("up for"), "{engines}");
        ensure!(engines.contains("0 running") && engines.contains("cpu ") && engines.contains("memory "), "{engines}");

        let (code, placement, err) = terminal.perform(&["run", "--dry-run", "--cpus", "500m", BUSYBOX]).await?;
        ensure!(code == 0 && placement.lines().count() == 2 && placement.contains("Chosen"), "{placement}{err}");
        let placement = terminal.json(&["run", "--dry-run", "--memory", "900Ti", "--label", "a=b", BUSYBOX]).await?;
        ensure!(placement["engine"].is_null() && placement["engines"][0]["reason"] == "TooLarge", "{placement:#}");
        ensure!(terminal.json(&["ps", "--all"]).await? == json!([]), "a dry run runs nothing");

        let serve = "echo served > /tmp/index.html; exec httpd -f -p 8080 -h /tmp";
        let line = ["run", "--detach", "--port", "8080", BUSYBOX, "--", "sh", "-c", serve];
        let (code, server, err) = terminal.perform(&line).await?;
        ensure!(code == 0, "{err}");
        let server = server.trim_end();
        let ports = terminal.json(&["ports", server]).await?;
        let port = &ports[0];
        ensure!(port["specified"] == "8080" && port["protocol"] == "TCP", "{ports}");
        let (host, exposed) = (port["host"].as_str(), port["exposed"].as_str());
        let address = format!("http://{}:{}", host.unwrap_or_default(), exposed.unwrap_or_default());
        let (_, shown, _) = terminal.perform(&["ports", server]).await?;
        ensure!(shown.contains("8080/tcp") && shown.contains(&address), "{shown}");
        let page = Client::new(&address, "none is needed");
        until("the container to answer", async || match page.ask(Method::GET, "/").await {
            Ok(answer) if answer.body == "served\n" => Ok(Ok(())),
            // Until the container listens, the engine's proxy accepts connections and closes them.
            seen => Ok(Err(json!(format!("{seen:?}")))),
        })
        .await?;

        let line = ["run", "-d", "-e", "GREETING=n", "--engine", "docker", BUSYBOX, "--", "sh", "-c", COUNT];
        let created = terminal.json(&line).await?;
        let counter = created["execution"].as_str().context("no execution")?;
        let mut follower = terminal.command(&["logs", "-f", counter])?.spawn()?;
        let mut lines = lines_of(&mut follower)?;
        ensure!(next(&mut lines).await? == "n 1");
        let (_, shown, _) = terminal.perform(&["ps"]).await?;
        for id in [server, counter] {
            let row = shown.lines().find(|row| row.split_whitespace().next().is_some_and(|short| id.ends_with(short)));
            let row = row.with_context(|| format!("no {id} in {shown}"))?;
            ensure!(row.contains(BUSYBOX) && row.contains("running for") && row.contains("docker"), "{row}");
        }
        let (code, _, err) = terminal.perform(&["stop", counter]).await?;
        ensure!(code == 0, "{err}");
        let rest = rest(&mut lines).await?;
        ensure!(rest.last().is_some_and(|last| last == "told"), "{rest:?}");
        ensure!(ended(follower).await?.0 == 0);
        let (_, logs, _) = terminal.perform(&["logs", "--tail", "1", counter]).await?;
        ensure!(logs == "told\n", "a stop keeps the logs, not {logs:?}");

        let removed = terminal.json(&["rm", server, counter]).await?;
        ensure!(removed.as_array().is_some_and(|removed| removed.len() == 2), "{removed}");
        let (code, out, err) = terminal.perform(&["logs", counter]).await?;
        ensure!(code == 1 && out.is_empty() && !err.is_empty(), "{code} {out} {err}");
        ensure!(terminal.json(&["ports", server]).await? == json!([]));
        let all = terminal.json(&["ps", "--all", "--state", "unavailable"]).await?;
        ensure!(all.as_array().is_some_and(|all| all.len() == 2), "{all:#}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn containers_outlive_up_and_are_adopted_by_the_next() -> Result<()> {
    let docker = require!(docker);
    at_a_terminal(async |terminal| {
        let mut first = terminal.up().await?;
        let line = ["run", "-d", "-e", "GREETING=n", BUSYBOX, "--", "sh", "-c", COUNT];
        let created = terminal.json(&line).await?;
        let id = created["execution"].as_str().context("no execution")?;
        let mut follower = terminal.command(&["logs", "-f", id])?.spawn()?;
        let mut lines = lines_of(&mut follower)?;
        ensure!(next(&mut lines).await? == "n 1");
        let before = terminal.json(&["ps"]).await?[0].clone();
        let container = before["status"]["engine_id"].as_str().context("no engine_id")?;

        let asked = Instant::now();
        first.signal("INT")?;
        let status = first.ended_within(STOPS_WITHIN).await?;
        let status = status.with_context(|| format!("it did not end within {STOPS_WITHIN:?}: {:?}", first.text()))?;
        ensure!(status.code() == Some(0), "{status} after {:?}:\n{}", asked.elapsed(), first.text()?);
        ensure!(runs(&docker, container).await?, "the container ended with `up`");

        let _second = terminal.up().await?;
        let after = terminal.json(&["ps"]).await?[0].clone();
        for fact in ["phase", "engine_id", "started"] {
            ensure!(after["status"][fact] == before["status"][fact], "{fact}: {before:#} {after:#}");
        }
        ensure!(after["status"]["phase"] == "running", "{after:#}");
        // The follower from before also gets the lines that the container writes from now on.
        let (_, seen, _) = terminal.perform(&["logs", "--tail", "1", id]).await?;
        let now = number(seen.trim_end())?;
        let mut numbers = vec![1];
        while numbers.last().is_none_or(|last| *last < now + 5) {
            numbers.push(number(&next(&mut lines).await?)?);
        }
        let (code, _, err) = terminal.perform(&["stop", id]).await?;
        ensure!(code == 0, "{err}");
        let mut rest = rest(&mut lines).await?;
        ensure!(rest.pop().is_some_and(|last| last == "told"));
        for line in &rest {
            numbers.push(number(line)?);
        }
        ensure!(numbers.iter().copied().eq(1..=numbers.len()), "lost or doubled: {numbers:?}");
        ensure!(ended(follower).await?.0 == 0);
        let (code, _, err) = terminal.perform(&["rm", id]).await?;
        ensure!(code == 0, "{err}");
        no_container_is_left(&terminal.environment).await
    })
    .await
}

/// A person's terminal, with its own folder and address.
struct Terminal {
    environment: Environment,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

/// Runs a test, then removes its containers.
async fn at_a_terminal(test: impl AsyncFnOnce(&Terminal) -> Result<()>) -> Result<()> {
    let terminal = Terminal::open()?;
    let outcome = test(&terminal).await;
    // Containers that have not ended by now would run for ever.
    let removed = remove_containers(&terminal.environment).await;
    outcome.and(removed)
}

impl Terminal {
    fn open() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = |file: &str| folder.path().join(file).display().to_string();
        let environment = [
            ("SQLALCHEMY_DATABASE_URI", format!("sqlite:///{}", at("deployer.db"))),
            ("RENGA_DEPLOYER_STATE", at("state")),
            ("DEPLOYER_METRICS_ADDRESS", "127.0.0.1:0".to_owned()),
        ];
        let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(Self { environment, address: process::free_address()?, folder })
    }

    /// Starts the service, and waits until it prints that it is up.
    async fn up(&self) -> Result<Process> {
        let listen = self.address.to_string();
        let line = ["up", "--dev", "--listen", &listen, "--try-image", BUSYBOX];
        let mut up =
            Process::start(process::deployer()?, &line, &self.environment, &self.folder.path().join("up.log"))?;
        until("`up` to be up", async || {
            let text = up.text()?;
            if text.contains("Ctrl-C stops it") {
                return Ok(Ok(()));
            }
            ensure!(up.ended_within(Duration::ZERO).await?.is_none(), "it ended:\n{text}");
            Ok(Err(json!(text)))
        })
        .await?;
        Ok(up)
    }

    /// Returns the program with this command line, as in another terminal.
    fn command(&self, line: &[&str]) -> Result<Command> {
        let mut command = bare(process::deployer()?.as_os_str());
        command.args(line).envs(self.environment.beginning_with("RENGA_"));
        Ok(command)
    }

    /// Runs a command line. Returns its exit code, its standard output and its standard error.
    async fn perform(&self, line: &[&str]) -> Result<(i32, String, String)> {
        told(self.command(line)?).await.with_context(|| format!("{line:?}"))
    }

    /// Runs a command line with JSON output. Returns the JSON, or fails if the exit code is not 0.
    async fn json(&self, line: &[&str]) -> Result<Value> {
        let (code, out, err) = self.perform(&[&["--output", "json"], line].concat()).await?;
        ensure!(code == 0, "{line:?} ended with {code}: {err}");
        serde_json::from_str(&out).with_context(|| format!("{line:?} printed {out:?}"))
    }
}

/// Returns a command for a program that gets only `PATH` of this process's environment.
fn bare(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir(workspace()).kill_on_drop(true);
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn shell(line: &str) -> Command {
    let mut command = bare("sh");
    command.args(["-c", line]);
    command
}

async fn told(mut command: Command) -> Result<(i32, String, String)> {
    ended(command.spawn()?).await
}

async fn ended(child: Child) -> Result<(i32, String, String)> {
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.context("it does not end")??;
    let code = output.status.code().with_context(|| format!("it ended with {}", output.status))?;
    Ok((code, String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
}

fn interrupt(child: &Child) -> Result<()> {
    let pid = child.id().context("it has ended")?.to_string();
    ensure!(std::process::Command::new("kill").args(["-s", "INT", &pid]).status()?.success());
    Ok(())
}

fn lines_of(child: &mut Child) -> Result<Lines<BufReader<ChildStdout>>> {
    Ok(BufReader::new(child.stdout.take().context("its output is read already")?).lines())
}

/// Returns the next line, as soon as it is written.
async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<String> {
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.context("no line is written")??;
    line.context("the output ended")
}

/// Returns all lines until the output ends.
async fn rest(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<Vec<String>> {
    let read = async {
        let mut rest = Vec::new();
        while let Some(line) = lines.next_line().await? {
            rest.push(line);
        }
        Ok(rest)
    };
    tokio::time::timeout(PATIENCE, read).await.context("the output does not end")?
}

/// Returns the number in a line of [`COUNT`].
fn number(line: &str) -> Result<usize> {
    let number = line.strip_prefix("n ").and_then(|number| number.parse().ok());
    number.with_context(|| format!("{line:?} is no line of the container's"))
}

async fn runs(docker: &Docker, container: &str) -> Result<bool> {
    let seen = docker.inspect_container(container, None).await?;
    Ok(seen.state.and_then(|state| state.running) == Some(true))
}
