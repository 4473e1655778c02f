//! The deployer in a dedicated cluster, installed by its manifests. The reconciler runs as pods, with the program that
//! was built here. The API runs in this process; the database is the tests' PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use renga_tests::deployment::{Deployment, until, workspace};
use renga_tests::process;
use renga_tests::servers::{Cluster, Gate, Postgres};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{DEPLOYER, EXECUTIONS, apply, make_namespaces, manifests};

const IMAGE: &str = "renga-test/deployer";
/// The key that seals callers' tokens: 32 zero bytes.
const SEAL_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// Timeout of a rollout: pods start one after the other, on a busy machine.
const ROLLED_OUT_WITHIN: &str = "--timeout=120s";

pub(crate) struct Installed {
    pub(crate) cluster: Cluster,
    pub(crate) deployment: Deployment,
    /// URI of the database, as this process reaches it.
    pub(crate) database: String,
    _gate: Gate,
}

impl Installed {
    /// Prepares a cluster: namespaces, image, Secret. Nothing runs yet, and the database is empty.
    pub(crate) async fn prepare(cluster: Cluster, postgres: &Postgres) -> Result<Self> {
        let database = postgres.create_database().await?;
        let parsed: tokio_postgres::Config = database.parse()?;
        let port = *parsed.get_ports().first().context("the database's URI has a port")?;
        let gate = Gate::before_address(([127, 0, 0, 1], port).into(), cluster.machine_address()).await?;
        let from_pods = database.replacen(&format!("127.0.0.1:{port}"), &gate.socket(), 1);
        ensure!(from_pods != database, "this test needs a PostgreSQL at 127.0.0.1, not {database}");

        let deployment =
            Deployment::unmigrated(&[("SQLALCHEMY_DATABASE_URI", &database), ("DEPLOYER_SEAL_KEY", SEAL_KEY)]).await?;
        make_namespaces(&cluster).await?;
        let tar = deployment.folder().join("image.tar");
        write_image(process::reconciler()?, &tar).await?;
        cluster.import_image(&format!("{IMAGE}:1"), &tar).await?;
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": "renga-reconciler", "namespace": DEPLOYER },
            "stringData": { "database-uri": from_pods, "seal-key": SEAL_KEY },
        });
        cluster.apply(&secret).await?;
        let installed = Self { cluster, deployment, database, _gate: gate };
        copy(&manifests(), &installed.folder().join("deploy"))?;
        Ok(installed)
    }

    fn folder(&self) -> &Path {
        self.deployment.folder()
    }

    /// Applies a part of `deploy/` as operators do: with their own kustomization that names their image and values.
    pub(crate) async fn apply(&self, part: &str, further: &Value) -> Result<()> {
        let mut kustomization = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [format!("../deploy/{part}")],
            "images": [{ "name": "registry.example.org/renga-deployer", "newName": IMAGE, "newTag": "1" }],
        });
        for (field, value) in further.as_object().into_iter().flatten() {
            kustomization[field] = value.clone();
        }
        let own = self.folder().join(part.replace('/', "-"));
        std::fs::create_dir_all(&own)?;
        std::fs::write(own.join("kustomization.yaml"), kustomization.to_string())?;
        apply(&self.cluster, &own, &[]).await.map(drop)
    }

    /// Applies `deploy/migrate` and waits until its Job is complete.
    pub(crate) async fn migrate(&self) -> Result<()> {
        self.apply("migrate", &json!({})).await?;
        let complete = ["wait", "--for=condition=Complete", "job/renga-migrate"];
        let waited = self.in_deployer(&[&complete[..], &[ROLLED_OUT_WITHIN]].concat()).await;
        match waited {
            Ok(_) => Ok(()),
            Err(error) => Err(error.context(self.what_is_there().await)),
        }
    }

    /// Waits until all replicas of the reconciler are ready.
    pub(crate) async fn rolled_out(&self) -> Result<()> {
        let waited = self.in_deployer(&["rollout", "status", "deployment/renga-reconciler", ROLLED_OUT_WITHIN]).await;
        match waited {
            Ok(_) => Ok(()),
            Err(error) => Err(error.context(self.what_is_there().await)),
        }
    }

    /// Runs kubectl in the reconciler's namespace.
    pub(crate) async fn in_deployer(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl(&[arguments, &["--namespace", DEPLOYER]].concat()).await
    }

    /// Returns the reconciler's pods, without the ones that are being deleted.
    pub(crate) async fn pods(&self) -> Result<Vec<Value>> {
        let selector = "--selector=app.kubernetes.io/name=renga-reconciler";
        let pods = self.cluster.get(&["pods", "--namespace", DEPLOYER, selector]).await?;
        let all = pods["items"].as_array().context("a list of pods")?;
        Ok(all.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).cloned().collect())
    }

    /// Returns the logs of the reconciler in a pod.
    pub(crate) async fn logs(&self, pod: &str) -> Result<String> {
        self.in_deployer(&["logs", pod, "--container=reconciler"]).await
    }

    /// Waits until the reconciler of a pod holds the execution, and returns the pod's name.
    pub(crate) async fn pod_that_holds(&self, execution: &str) -> Result<String> {
        until(&format!("some pod to hold {execution}"), async || {
            let Some(holder) = self.holder(execution).await? else { return Ok(Err(json!("nobody holds it"))) };
            for pod in self.pods().await? {
                let name = pod["metadata"]["name"].as_str().context("a pod has a name")?.to_owned();
                // A pod that is starting has no logs yet.
                if self.logs(&name).await.unwrap_or_default().contains(&holder) {
                    return Ok(Ok(name));
                }
            }
            Ok(Err(json!(format!("{holder}, which is no pod's"))))
        })
        .await
    }

    async fn holder(&self, execution: &str) -> Result<Option<String>> {
        let (client, connection) = tokio_postgres::connect(&self.database, tokio_postgres::NoTls).await?;
        let connection = tokio::spawn(connection);
        let rows = client.query("SELECT holder FROM executions WHERE id::text = $1", &[&execution]).await?;
        drop(client);
        connection.await??;
        Ok(rows.first().and_then(|row| row.get(0)))
    }

    /// Returns pods, Jobs, events and logs for an error message.
    async fn what_is_there(&self) -> String {
        let mut told = String::new();
        for arguments in [
            &["get", "pods,jobs", "--output=wide"][..],
            &["get", "events", "--output=custom-columns=ABOUT:.involvedObject.name,REASON:.reason,MESSAGE:.message"],
            &[
                "logs",
                "--selector=app.kubernetes.io/part-of=renga-deployer",
                "--tail=20",
                "--prefix",
                "--all-containers",
            ],
        ] {
            let answer = self.in_deployer(arguments).await;
            told.push_str(&answer.unwrap_or_else(|error| format!("{error:#}")));
            told.push('\n');
        }
        told
    }

    /// Deletes all executions, and stops the deployment. Fails if the executions left anything behind.
    pub(crate) async fn end(self) -> Result<()> {
        self.deployment.client.remove_everything().await?;
        let left = self.cluster.get(&["jobs,pods,services,secrets", "--namespace", EXECUTIONS]).await?;
        let left = left["items"].as_array().context("a list")?;
        ensure!(left.is_empty(), "executions left this behind: {left:#?}");
        self.deployment.leave().await
    }
}

pub(crate) async fn write_image(program: &Path, tar: &Path) -> Result<()> {
    let made = Command::new(workspace().join("scripts/program-image.sh"))
        .arg(program)
        .stdout(Stdio::from(std::fs::File::create(tar)?))
        .stderr(Stdio::piped())
        .spawn()
        .context("run scripts/program-image.sh")?
        // Not `output`, because that would capture standard output, too.
        .wait_with_output()
        .await?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr).trim_end());
    Ok(())
}

/// Copies a folder, because kustomize accepts no absolute paths.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (from, to): (PathBuf, PathBuf) = {
            let entry = entry?;
            (entry.path(), to.join(entry.file_name()))
        };
        if from.is_dir() {
            copy(&from, &to)?;
        } else {
            std::fs::copy(&from, &to)?;
        }
    }
    Ok(())
}
