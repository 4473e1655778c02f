//! `renga-reconciler` as separate processes: several on one database, and what an operator needs of each.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use renga_shared::environment::Environment;
use renga_tests::client::{Client, Execution};
use renga_tests::deployment::{Deployment, until, workspace};
use renga_tests::process::{self, Process};
use renga_tests::require;
use renga_tests::scripts::{Script, TestEngine};
use renga_tests::servers::BUSYBOX;
use renga_tests::workload::{no_container_is_left, remove_containers};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::time::Instant;

/// Maximum time until a reconciler is ready.
const READY_WITHIN: Duration = Duration::from_secs(2);
/// Maximum duration of a stop.
const STOPS_WITHIN: Duration = Duration::from_secs(10);
/// The lease in the test in which one expires, and the maximum time until that is noticed on a busy machine.
const LEASE: Duration = Duration::from_secs(2);
const LEASE_SEEN_WITHIN: Duration = Duration::from_secs(4);
/// Maximum number of executions that are created until both reconcilers have some.
const ENOUGH: usize = 40;
/// Number of lines that a counting execution writes: it runs for longer than a lease.
const LINES: usize = 80;

/// Defines each test once per database. Reports loudly what the machine does not have.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod sqlite { $(#[tokio::test] async fn $test() -> anyhow::Result<()> {
            super::require!(docker);
            super::run(None, super::$test).await
        })+ }
        mod postgres { $(#[tokio::test] async fn $test() -> anyhow::Result<()> {
            super::require!(docker);
            let database = super::require!(postgres).create_database().await?;
            super::run(Some(database), super::$test).await
        })+ }
    };
}

on_both! {
    share_the_work_and_take_over_from_one_that_was_killed,
    hand_over_at_once_when_they_are_stopped,
    end_in_time_although_a_container_takes_longer_to_stop,
}

async fn run(database: Option<String>, test: impl AsyncFnOnce(&Deployment) -> Result<()>) -> Result<()> {
    let mut variables = vec![TestEngine::Docker.variable()];
    if let Some(database) = &database {
        variables.push(("SQLALCHEMY_DATABASE_URI", database));
    }
    let deployment = Deployment::unmigrated(&variables).await?;
    let outcome = test(&deployment).await;
    // Containers that a failed test leaves would run for ever.
    let removed = remove_containers(&deployment.environment).await;
    outcome.and(removed)
}

async fn share_the_work_and_take_over_from_one_that_was_killed(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let mut environment = deployment.environment.clone();
    environment.set("DEPLOYER_LEASE", LEASE.as_secs().to_string());
    // Both reconcilers find a database without a schema.
    let begin = |name: &str| Reconciler::begin(&environment, &deployment.folder().join(name));
    let (first, second) = (begin("first.log")?, begin("second.log")?);
    let (first, second) = (first.ready().await?, second.ready().await?);

    let count = format!("i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; sleep 0.1; done");
    let context = client.context(json!({ "image": BUSYBOX, "command": ["sh", "-c", count] })).await?;
    let mut executions = Vec::new();
    until("both reconcilers to have started executions", async || {
        let counts = [first.started().await?, second.started().await?];
        if counts.iter().all(|count| *count > 0) {
            return Ok(Ok(()));
        }
        ensure!(executions.len() < ENOUGH, "one does nothing: {counts:?}");
        let execution = client.execute(&context, json!({})).await?;
        client.wait_for(&execution, &["running"]).await?;
        executions.push(execution);
        Ok(Err(json!(counts)))
    })
    .await?;

    first.process.kill().await?;
    let killed = Instant::now();
    until("the other to take over", async || {
        let text = second.process.text()?;
        Ok(if text.contains("took over") { Ok(()) } else { Err(json!(text)) })
    })
    .await?;
    ensure!(killed.elapsed() < LEASE_SEEN_WITHIN, "it took {:?}", killed.elapsed());

    // Each line is there once and in order, so each execution ran once and was reconciled to its end.
    let expected: String = (1..=LINES).map(|line| format!("line {line}\n")).collect();
    for execution in &executions {
        let ended = client.wait_for(execution, &["exited", "failed", "lost"]).await?;
        ensure!(ended["status"]["reason"] == "Completed", "{ended:#}");
        let logs = client.logs(execution, "").await?;
        ensure!(logs == expected, "{logs:?}");
    }
    let after = client.run(TestEngine::Docker.specification(&Script::PrintAndExit3)).await?;
    client.wait_for(&after, &["exited"]).await?;
    no_container_is_left(&deployment.environment).await?;
    second.process.kill().await
}

async fn hand_over_at_once_when_they_are_stopped(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    // The usual lease is far longer than the time limits of this test.
    let begin = |name: &str| Reconciler::begin(&deployment.environment, &deployment.folder().join(name));
    let mut first = begin("first.log")?.ready().await?;
    let context = client.context(TestEngine::Docker.specification(&Script::Sleep)).await?;
    let mut executions: Vec<Execution> = Vec::new();
    for _ in 0..3 {
        executions.push(client.execute(&context, json!({})).await?);
    }
    for execution in &executions {
        client.wait_for(execution, &["running"]).await?;
    }

    let asked = Instant::now();
    let second = begin("second.log")?.ready().await?;
    ensure!(asked.elapsed() < READY_WITHIN, "ready after {:?}", asked.elapsed());
    first.process.signal("TERM")?;
    let status = first.process.ended_within(STOPS_WITHIN).await?.context("it does not end")?;
    ensure!(status.code() == Some(0), "{status}:\n{}", first.process.text()?);
    ensure!(first.process.text()?.contains("handed over 3 executions"), "{}", first.process.text()?);

    let stopped = Instant::now();
    for execution in &executions {
        client.stop(execution).await?;
    }
    for execution in &executions {
        let ended = client.wait_for(execution, &["exited", "failed", "lost"]).await?;
        ensure!(ended["status"]["reason"] == "Stopped", "{ended:#}");
    }
    ensure!(stopped.elapsed() < Duration::from_secs(10), "they were waited for: {:?}", stopped.elapsed());
    no_container_is_left(&deployment.environment).await?;
    second.process.kill().await
}

async fn end_in_time_although_a_container_takes_longer_to_stop(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let log = deployment.folder().join("log");
    let mut patient = deployment.environment.clone();
    patient.set("DEPLOYER_STOP_GRACE", "600");
    let mut first = Reconciler::begin(&patient, &log)?.ready().await?;
    let execution = client.run(TestEngine::Docker.specification(&Script::IgnoreTerm)).await?;
    until("it to ignore TERM", async || {
        let logs = client.logs(&execution, "").await?;
        Ok(if logs == "started\n" { Ok(()) } else { Err(json!(logs)) })
    })
    .await?;
    client.stop(&execution).await?;
    client.wait_for(&execution, &["stopping"]).await?;
    first.process.signal("TERM")?;
    let status = first.process.ended_within(STOPS_WITHIN).await?.context("it does not end")?;
    ensure!(status.code() == Some(0), "{status}:\n{}", first.process.text()?);
    ensure!(client.get(&execution.path).await?["status"]["phase"] == "stopping");

    let second = Reconciler::begin(&deployment.environment, &log)?.ready().await?;
    let ended = client.wait_for(&execution, &["exited", "failed", "lost"]).await?;
    ensure!(ended["status"]["reason"] == "Stopped" && ended["status"]["exit_code"] == 137, "{ended:#}");
    no_container_is_left(&deployment.environment).await?;
    second.process.kill().await
}

#[tokio::test]
async fn serve_their_health_and_the_documented_metrics() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[("DEPLOYER_ENGINE_FAKE", "fake://")]).await?;
    let client = &deployment.client;
    let reconciler = Reconciler::begin(&deployment.environment, &deployment.folder().join("log"))?.ready().await?;
    for (script, phase) in [(Script::PrintAndExit3, "exited"), (Script::Sleep, "running")] {
        let execution = client.run(TestEngine::Fake.specification(&script)).await?;
        client.wait_for(&execution, &[phase]).await?;
    }
    let health = reconciler.operator.ask(Method::GET, "/healthz").await?;
    ensure!(health.status == StatusCode::OK && health.body == "ok\n", "{health:?}");
    let metrics = reconciler.operator.ask(Method::GET, "/metrics").await?;
    ensure!(metrics.header("content-type").starts_with("application/openmetrics-text"), "{metrics:?}");
    let readme = std::fs::read_to_string(workspace().join("README.md"))?;
    let documented: Vec<&str> = readme.split('`').filter(|word| word.starts_with("renga_reconciler_")).collect();
    ensure!(documented.len() >= 6, "only {documented:?} are documented");
    for name in documented {
        let (name, _) = name.split_once('{').unwrap_or((name, ""));
        let found = metrics.body.lines().any(|line| line.starts_with(name));
        ensure!(found, "no {name} in\n{}", metrics.body);
    }
    // The first execution may have ended before the reconciler saw it running.
    ensure!((1..=2).contains(&reconciler.started().await?), "{}", metrics.body);
    Ok(())
}

#[tokio::test]
async fn are_alive_but_not_ready_while_the_database_is_unreachable() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (nobody, address) = (process::free_address()?, process::free_address()?);
    let environment = environment(&[
        ("SQLALCHEMY_DATABASE_URI", &format!("postgresql://ada:hunter2@{nobody}/deployer")),
        ("DEPLOYER_METRICS_ADDRESS", &address.to_string()),
        ("DEPLOYER_ENGINE_FAKE", "fake://"),
    ]);
    let mut process = Process::start(process::reconciler()?, &[], &environment, &folder.path().join("log"))?;
    let operator = Client::new(&format!("http://{address}"), "none is needed");
    until("it to be alive", async || match operator.ask(Method::GET, "/healthz").await {
        Ok(answer) if answer.status == StatusCode::OK => Ok(Ok(())),
        seen => Ok(Err(json!(format!("{seen:?}")))),
    })
    .await?;
    let ready = operator.ask(Method::GET, "/readyz").await?;
    ensure!(ready.status == StatusCode::SERVICE_UNAVAILABLE && ready.body.contains("database"), "{ready:?}");
    process.signal("TERM")?;
    let status = process.ended_within(STOPS_WITHIN).await?.context("it does not end")?;
    ensure!(status.code() == Some(0), "{status}:\n{}", process.text()?);
    ensure!(!process.text()?.contains("hunter2"), "{}", process.text()?);
    Ok(())
}

#[tokio::test]
async fn raises_its_limit_of_open_files_to_the_hard_limit() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let program = process::reconciler()?.to_str().context("a path of text")?;
    let limited = ["-c", "ulimit -S -n 200 && ulimit -H -n 3000 && exec \"$0\"", program];
    let log = deployment.folder().join("limited.log");
    let mut process = Process::start(Path::new("sh"), &limited, &deployment.environment, &log)?;
    process.metrics_address().await?;
    let limits = process.proc("limits")?;
    let files = limits.lines().find(|line| line.starts_with("Max open files")).context("a limit of files")?;
    ensure!(files.split_whitespace().skip(3).take(2).eq(["3000", "3000"]), "{files}");
    Ok(())
}

#[tokio::test]
async fn migrate_and_exit_on_request_also_two_at_once() -> Result<()> {
    let deployment = Deployment::unmigrated(&[]).await?;
    let client = &deployment.client;
    client.ask(Method::GET, "/v1/contexts").await?.problem(503)?;
    let migrate = |name: &str| {
        let log = deployment.folder().join(name);
        Process::start(process::reconciler()?, &["migrate"], &deployment.environment, &log)
    };
    for mut process in [migrate("first.log")?, migrate("second.log")?] {
        let status = process.ended().await?;
        ensure!(status.code() == Some(0), "{status}:\n{}", process.text()?);
        ensure!(process.text()?.contains("is up to date"), "{}", process.text()?);
    }
    until("the API to see the schema", async || {
        let seen = client.ask(Method::GET, "/v1/contexts").await?;
        Ok(if seen.status == StatusCode::OK { Ok(()) } else { Err(json!(format!("{seen:?}"))) })
    })
    .await
}

#[tokio::test]
async fn exit_with_2_and_report_every_configuration_mistake() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let environment = environment(&[
        ("SQLALCHEMY_DATABASE_URI", "mysql://ada:hunter2@db/deployer"),
        ("DEPLOYER_ENGINE_RACK", "ssh://rack"),
        ("DEPLOYER_LEASE", "soon"),
        ("DEPLOYER_LOG_LIMIT", "1"),
        ("DEPLOYER_METRICS_ADDRESS", "here"),
    ]);
    for line in [[].as_slice(), &["migrate"]] {
        let mut process = Process::start(process::reconciler()?, line, &environment, &folder.path().join("log"))?;
        let status = process.ended().await?;
        let text = process.text()?;
        ensure!(status.code() == Some(2), "{status}:\n{text}");
        for variable in environment.beginning_with("").map(|(name, _)| name) {
            ensure!(text.matches(variable).count() == 1, "{variable} is not named once:\n{text}");
        }
        ensure!(text.matches("mistake(s)").count() == 1 && !text.contains("hunter2"), "{text}");
    }
    Ok(())
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A reconciler that has been started.
struct Beginning {
    process: Process,
    begin: Instant,
}

/// A reconciler that is ready.
struct Reconciler {
    process: Process,
    /// A client of the endpoints for operators.
    operator: Client,
}

impl Reconciler {
    fn begin(environment: &Environment, log: &Path) -> Result<Beginning> {
        // The program is built before the time is measured.
        let program = process::reconciler()?;
        let begin = Instant::now();
        Ok(Beginning { process: Process::start(program, &[], environment, log)?, begin })
    }

    /// Returns the number of executions that the reconciler saw start.
    async fn started(&self) -> Result<u64> {
        let metrics = self.operator.ask(Method::GET, "/metrics").await?;
        let count =
            metrics.body.lines().find_map(|line| line.strip_prefix("renga_reconciler_start_latency_seconds_count "));
        Ok(count.with_context(|| metrics.body.clone())?.parse()?)
    }
}

impl Beginning {
    /// Waits until the reconciler is ready. Fails if that takes longer than `READY_WITHIN`.
    async fn ready(mut self) -> Result<Reconciler> {
        let address = self.process.metrics_address().await?;
        let operator = Client::new(&format!("http://{address}"), "none is needed");
        let ready = operator.ask(Method::GET, "/readyz").await?;
        ensure!(ready.status == StatusCode::OK && ready.body == "ready\n", "{ready:?}");
        let took = self.begin.elapsed();
        ensure!(took < READY_WITHIN, "ready after {took:?}:\n{}", self.process.text()?);
        Ok(Reconciler { process: self.process, operator })
    }
}
