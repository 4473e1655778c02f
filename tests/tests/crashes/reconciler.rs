//! The reconciler is killed around every call to the engine, around every write, and at random times.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use renga_shared::auth::SealKeys;
use renga_shared::environment::SEAL_KEY;
use renga_tests::deployment::{Deployment, PATIENCE};
use renga_tests::process::{self, Process};
use renga_tests::require;
use renga_tests::workload::{FATES, Fate, Workload, remove_containers};

use crate::{log_tail, random_kills, say, seed};

/// Failpoints around each call that changes something on an engine.
const AROUND_CALLS: [&str; 10] = [
    "before_prepare",
    "before_create",
    "before_open_to_all",
    "after_create",
    "before_start",
    "after_start",
    "before_stop",
    "after_stop",
    "before_remove",
    "after_remove",
];
/// Number of passages of a call at which a process is killed: at the first, at the second, and so on.
const PASSAGES: usize = 2;
/// Failpoints around each write. The first writes belong to the start of the process.
const AROUND_WRITES: [&str; 2] = ["before_write", "after_write"];
const WRITES: usize = 30;
/// Number of kills that are not random, on both databases together.
pub(crate) const FIXED_KILLS: usize = 2 * (AROUND_WRITES.len() * WRITES + AROUND_CALLS.len() * PASSAGES);
/// Number of executions that are under way while a process is killed again and again.
const UNDER_WAY: usize = 24;

#[tokio::test]
async fn killed_around_every_call_and_write_on_sqlite() -> Result<()> {
    require!(docker);
    run("SQLite", None, killed_around_every_call_and_write).await
}

#[tokio::test]
async fn killed_around_every_call_and_write_on_postgres() -> Result<()> {
    require!(docker);
    let database = require!(postgres).create_database().await?;
    run("PostgreSQL", Some(database), killed_around_every_call_and_write).await
}

#[tokio::test]
async fn killed_anywhere_on_sqlite() -> Result<()> {
    require!(docker);
    run("SQLite", None, killed_anywhere).await
}

#[tokio::test]
async fn killed_anywhere_on_postgres() -> Result<()> {
    require!(docker);
    let database = require!(postgres).create_database().await?;
    run("PostgreSQL", Some(database), killed_anywhere).await
}

async fn run(
    name: &'static str,
    database: Option<String>,
    test: impl AsyncFnOnce(&Crashes) -> Result<()>,
) -> Result<()> {
    let crashes = Crashes::begin(name, database).await?;
    let outcome = test(&crashes).await;
    if outcome.is_err() {
        // Containers that a failed test leaves would run for ever.
        remove_containers(&crashes.deployment.environment).await?;
    }
    outcome
}

async fn killed_around_every_call_and_write(crashes: &Crashes) -> Result<()> {
    let mut workload = Workload::new(&crashes.deployment, crashes.proof.path()).await?;
    let mut kills = 0;
    for point in AROUND_WRITES {
        for passage in 1..=WRITES {
            // The first writes need no executions. The later ones also come from executions that are still under way.
            if passage % 3 == 0 {
                workload.post(FATES[passage / 3 % FATES.len()]).await?;
            }
            crashes.kill_at(point, passage, &mut workload).await?;
            kills += 1;
        }
    }
    for point in AROUND_CALLS {
        for passage in 1..=PASSAGES {
            workload.post(FATES[kills % FATES.len()]).await?;
            crashes.kill_at(point, passage, &mut workload).await?;
            kills += 1;
        }
    }
    crashes.end("around calls and writes", kills, workload).await
}

async fn killed_anywhere(crashes: &Crashes) -> Result<()> {
    let mut workload = Workload::new(&crashes.deployment, crashes.proof.path()).await?;
    let (random, kills) = (seed(crashes.name), random_kills() * 3 / 10);
    for kill in 0..kills {
        // New executions replace those that have ended, so that as many as before are under way.
        while workload.under_way().await? < UNDER_WAY.min(workload.count() + 4) {
            workload.post(FATES[workload.count() % FATES.len()]).await?;
        }
        let process = crashes.start(None)?;
        tokio::time::sleep(Duration::from_millis(200 + random.number() % 1_300)).await;
        process.kill().await.with_context(|| format!("kill {kill}"))?;
    }
    crashes.end("anywhere", kills, workload).await
}

/// A deployment whose reconciler is killed. Its API runs in this process.
struct Crashes {
    name: &'static str,
    deployment: Deployment,
    proof: tempfile::TempDir,
    begin: Instant,
}

impl Crashes {
    async fn begin(name: &'static str, database: Option<String>) -> Result<Self> {
        let begin = Instant::now();
        let proof = tempfile::tempdir()?;
        let folder = proof.path().display().to_string();
        let seal_key = SealKeys::new_key([7; 32]);
        let mut variables = vec![
            (SEAL_KEY, seal_key.as_str()),
            ("DEPLOYER_ENGINE_DOCKER", "docker:///var/run/docker.sock"),
            ("DEPLOYER_HOST_PATHS", &folder),
            ("DEPLOYER_LEASE", "2"),
        ];
        if let Some(database) = &database {
            variables.push(("SQLALCHEMY_DATABASE_URI", database));
        }
        let deployment = Deployment::without_reconciler(&variables).await?;
        Ok(Self { name, deployment, proof, begin })
    }

    fn log(&self) -> PathBuf {
        self.deployment.folder().join("reconciler.log")
    }

    /// Starts a reconciler that dies at these failpoints.
    fn start(&self, failpoints: Option<String>) -> Result<Process> {
        let mut environment = self.deployment.environment.clone();
        if let Some(failpoints) = failpoints {
            environment.set("FAILPOINTS", failpoints);
        }
        Process::start(process::crashing_reconciler()?, &[], &environment, &self.log())
    }

    /// Runs a reconciler until it dies at the `passage`th passage of `point`. Posts executions until it gets there.
    async fn kill_at(&self, point: &str, passage: usize, workload: &mut Workload) -> Result<()> {
        let mut process = self.start(Some(format!("{point}={}*off->return", passage - 1)))?;
        let begin = Instant::now();
        loop {
            if let Some(status) = process.ended_within(Duration::from_secs(3)).await? {
                let aborted = status.signal() == Some(6);
                ensure!(aborted, "not killed at {point} but ended with {status}:\n{}", process.text()?);
                return Ok(());
            }
            ensure!(begin.elapsed() < PATIENCE, "{point} was not passed {passage} times:\n{}", process.text()?);
            for fate in [Fate::Finish, Fate::Stop, Fate::Delete] {
                workload.post(fate).await?;
            }
        }
    }

    /// Starts a last reconciler, and waits until all executions have ended as they should.
    async fn end(&self, how: &str, kills: usize, workload: Workload) -> Result<()> {
        let executions = workload.count();
        let last = self.start(None)?;
        let settled = workload.settle(&self.deployment).await;
        settled.with_context(|| log_tail(&self.log()))?;
        last.kill().await?;
        let (name, took) = (self.name, self.begin.elapsed().as_secs());
        say(&format!("{name}: reconciler killed {kills} times {how}, {executions} executions, {took} s"));
        Ok(())
    }
}
