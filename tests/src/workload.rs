//! Executions on Docker that prove whether they ran: each writes a line to a file on the host when it runs, with its
//! token.
//!
//! Processes may be killed while the executions are under way. In the end each has run once and with its user's token,
//! its state and its logs say so, and neither a container nor a sealed token is left. An execution that was stopped or
//! deleted before its start has run at most once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{ListContainersOptions, RemoveContainerOptions};
use renga_reconciler::db::NativeDatabase;
use renga_reconciler::engine::DEPLOYMENT_LABEL;
use renga_shared::environment::Environment;
use renga_shared::sql::{Database as _, deployment as deployment_rows};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Client, Execution};
use crate::deployment::{Deployment, until};
use crate::servers::{self, BUSYBOX};

/// Maximum time until everything has ended after the last kill.
const SETTLES_WITHIN: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(100);

/// The intended end of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It prints five lines and exits with its own exit code.
    Finish,
    /// It is stopped as soon as it runs.
    Stop,
    /// It is stopped at once.
    StopAtOnce,
    /// It is deleted as soon as it runs.
    Delete,
    /// It is deleted at once.
    DeleteAtOnce,
}

/// All fates.
pub const FATES: [Fate; 5] = [Fate::Finish, Fate::Stop, Fate::Delete, Fate::StopAtOnce, Fate::DeleteAtOnce];

/// Executions under way.
pub struct Workload {
    client: Client,
    folder: PathBuf,
    /// The context whose executions finish, and the context whose executions run until they are stopped.
    contexts: [String; 2],
    runs: Vec<(Fate, Execution)>,
    wishes: JoinSet<Result<()>>,
}

const FINISH: &str = "echo run $RENGA_ACCESS_TOKEN >> /proof/$NUMBER; i=0; while [ $i -lt 5 ]; do i=$((i+1)); echo line $i; sleep 0.05; done; \
                      exit $((NUMBER % 7))";
// Process 1 ignores TERM until the trap is set, so a process that ends by TERM has written its whole output.
const FOREVER: &str =
    "echo run $RENGA_ACCESS_TOKEN >> /proof/$NUMBER; echo started; trap 'exit 143' TERM; while :; do sleep 0.1; done";

impl Workload {
    /// Creates the contexts. `deployment` must have a `DEPLOYER_SEAL_KEY`, and `folder` in `DEPLOYER_HOST_PATHS`.
    ///
    /// # Errors
    /// Fails if the API refuses.
    pub async fn new(deployment: &Deployment, folder: &Path) -> Result<Self> {
        let client = deployment.client.patient(SETTLES_WITHIN);
        let spec = |script: &str| {
            json!({
                "image": BUSYBOX,
                "command": ["sh", "-c", script],
                "volumes": [
                    { "name": "proof", "hostPath": { "path": folder } },
                    // Creating this volume is a separate call to the engine.
                    { "name": "scratch", "emptyDir": {} },
                ],
                "volumeMounts": [
                    { "name": "proof", "mountPath": "/proof" },
                    { "name": "scratch", "mountPath": "/scratch" },
                ],
            })
        };
        let contexts = [client.context(spec(FINISH)).await?, client.context(spec(FOREVER)).await?];
        Ok(Self { client, folder: folder.to_owned(), contexts, runs: Vec::new(), wishes: JoinSet::new() })
    }

    /// Creates one more execution.
    ///
    /// # Errors
    /// Fails if the API refuses.
    pub async fn post(&mut self, fate: Fate) -> Result<Execution> {
        let number = self.runs.len().to_string();
        let context = &self.contexts[usize::from(fate != Fate::Finish)];
        let execution = self.client.execute(context, json!({ "environment": { "NUMBER": number } })).await?;
        self.runs.push((fate, execution.clone()));
        let client = self.client.clone();
        let asked = execution.clone();
        let proof = self.folder.join(&number);
        match fate {
            Fate::Finish => {}
            Fate::StopAtOnce => drop(client.stop(&asked).await?),
            Fate::DeleteAtOnce => drop(client.delete(&asked).await?),
            Fate::Stop | Fate::Delete => drop(self.wishes.spawn(async move {
                phase(&client, &asked, |phase| phase == "running").await?;
                begun(&proof).await?;
                if fate == Fate::Stop {
                    client.stop(&asked).await?
                } else {
                    client.delete(&asked).await?
                };
                Ok(())
            })),
        }
        Ok(execution)
    }

    /// Returns the number of all executions.
    pub fn count(&self) -> usize {
        self.runs.len()
    }

    /// Returns the number of executions that have not ended.
    ///
    /// # Errors
    /// Fails if the API does not respond.
    pub async fn under_way(&self) -> Result<usize> {
        let mut count = 0;
        for state in ["pending", "running"] {
            let listed = self.client.get(&format!("/v1/executions?state={state}")).await?;
            count += listed["executions"].as_array().map_or(0, Vec::len);
        }
        Ok(count)
    }

    /// Waits until each execution has ended. Fails unless each has its intended end, none ran twice, and no container
    /// is left.
    ///
    /// # Errors
    /// Fails with the execution and its mistake.
    pub async fn settle(mut self, deployment: &Deployment) -> Result<()> {
        while let Some(wish) = self.wishes.join_next().await {
            wish??;
        }
        for (number, (fate, execution)) in self.runs.iter().enumerate() {
            let end = match fate {
                Fate::Delete | Fate::DeleteAtOnce => ["removed"].as_slice(),
                _ => &["exited", "failed", "lost", "removed"],
            };
            let seen = phase(&self.client, execution, |phase| end.contains(&phase)).await?;
            let ran = std::fs::read_to_string(self.folder.join(number.to_string())).unwrap_or_default();
            let checked = self.check(number, *fate, execution, &seen, ran.lines().count()).await;
            checked.with_context(|| format!("{fate:?}, run {number}: {seen:#}"))?;
            // The message does not show the line, because another token would be a secret, too.
            let with_token = ran.lines().all(|line| line.strip_prefix("run ") == Some(self.client.token()));
            ensure!(with_token, "{fate:?}, run {number}: it ran without its token");
        }
        no_token_is_left(deployment).await?;
        no_container_is_left(&deployment.environment).await
    }

    async fn check(&self, number: usize, fate: Fate, execution: &Execution, seen: &Value, ran: usize) -> Result<()> {
        let status = &seen["status"];
        let ended = (status["phase"].as_str().unwrap_or_default(), status["reason"].as_str().unwrap_or_default());
        match (fate, ended) {
            (Fate::Finish, ("exited", _)) => {
                ensure!(ran == 1, "it ran {ran} times");
                ensure!(status["exit_code"] == number % 7, "not its exit code");
                let logs = self.client.logs(execution, "").await?;
                ensure!(logs == "line 1\nline 2\nline 3\nline 4\nline 5\n", "its logs are {logs:?}");
            }
            (Fate::Stop | Fate::StopAtOnce, ("exited", "Stopped")) => {
                ensure!(ran == 1 || (ran == 0 && fate == Fate::StopAtOnce), "it ran {ran} times");
                let logs = self.client.logs(execution, "").await?;
                // A process that gets TERM before it sets its trap is killed.
                let (code, whole) = (&status["exit_code"], logs == "started\n");
                ensure!(
                    (*code == 143 && whole) || (*code == 137 && (whole || logs.is_empty())),
                    "its logs are {logs:?}"
                );
                ensure!(ran == 1 || logs.is_empty(), "it ran {ran} times");
            }
            (Fate::StopAtOnce, ("failed", "StoppedBeforeStart")) => ensure!(ran == 0, "it ran {ran} times"),
            (Fate::Delete, ("removed", _)) => ensure!(ran == 1, "it ran {ran} times"),
            (Fate::DeleteAtOnce, ("removed", _)) => ensure!(ran <= 1, "it ran {ran} times"),
            _ => bail!("not the right end"),
        }
        Ok(())
    }
}

/// Waits until the execution's phase fits, and returns the execution.
async fn phase(client: &Client, execution: &Execution, fits: impl Fn(&str) -> bool) -> Result<Value> {
    let deadline = Instant::now() + SETTLES_WITHIN;
    loop {
        let seen = client.get(&execution.path).await?;
        if fits(seen["status"]["phase"].as_str().unwrap_or_default()) {
            return Ok(seen);
        }
        ensure!(Instant::now() < deadline, "{} does not come to its end: {seen:#}", execution.path);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until a command has written its line. The execution may be recorded as running a moment before that.
async fn begun(proof: &Path) -> Result<()> {
    let deadline = Instant::now() + SETTLES_WITHIN;
    while std::fs::metadata(proof).map_or(0, |line| line.len()) == 0 {
        ensure!(Instant::now() < deadline, "no command wrote to {}", proof.display());
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Fails if a sealed token is left: each execution was launched, or never will be.
async fn no_token_is_left(deployment: &Deployment) -> Result<()> {
    let db = deployment.database()?;
    let left = db.query("SELECT id FROM executions WHERE sealed_token IS NOT NULL", Vec::new()).await?;
    db.close().await;
    ensure!(left.is_empty(), "{} sealed tokens are left", left.len());
    Ok(())
}

/// Waits until the machine's Docker Engine has no container of the deployment with this configuration.
///
/// # Errors
/// Fails if there still is one after a while.
pub async fn no_container_is_left(deployment: &Environment) -> Result<()> {
    let (docker, filters) = containers(deployment).await?;
    until("no container to be left", async || {
        let left = docker.list_containers(Some(filters.clone())).await?;
        Ok(if left.is_empty() { Ok(()) } else { Err(json!(format!("{left:?}"))) })
    })
    .await
}

/// Removes the containers of the deployment with this configuration from the machine's Docker Engine.
///
/// # Errors
/// Fails if the engine refuses.
pub async fn remove_containers(deployment: &Environment) -> Result<()> {
    let (docker, filters) = containers(deployment).await?;
    for container in docker.list_containers(Some(filters)).await? {
        let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
        match docker.remove_container(&container.id.unwrap_or_default(), Some(options)).await {
            // A reconciler that has just ended may have begun to remove the container.
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Returns the engine, and the options that list this deployment's containers.
async fn containers(deployment: &Environment) -> Result<(Docker, ListContainersOptions)> {
    let db = NativeDatabase::open(&deployment.database(&mut Vec::new()))?;
    let id = deployment_rows::known_id(&db).await?.context("the deployment has no id")?;
    db.close().await;
    let filters = HashMap::from([("label".to_owned(), vec![format!("{DEPLOYMENT_LABEL}={id}")])]);
    let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
    Ok((servers::docker().await?, options))
}
