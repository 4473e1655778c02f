//! The reconciler in pods, with the service account and the limits of the manifests, on real executions.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use renga_tests::client::Execution;
use renga_tests::deployment::until;
use renga_tests::require;
use renga_tests::servers::{BUSYBOX, Cluster};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::installed::Installed;
use super::{DEPLOYER, EXECUTIONS};

/// Number of lines that an execution writes. It runs long enough that its reconciler can be killed meanwhile.
const LINES: usize = 60;

#[tokio::test]
async fn two_replicas_launch_and_take_over_from_each_other() -> Result<()> {
    let postgres = require!(postgres);
    let installed = Installed::prepare(require!(dedicated_kubernetes), postgres).await?;
    let client = &installed.deployment.client;

    let early = client.ask(Method::GET, "/v1/contexts").await?;
    ensure!(early.status == StatusCode::SERVICE_UNAVAILABLE, "before the migration: {early:?}");
    installed.migrate().await?;
    ensure!(client.get("/v1/contexts").await?["contexts"] == json!([]));

    installed.apply("base", &json!({})).await?;
    installed.rolled_out().await?;
    let pods = installed.pods().await?;
    ensure!(pods.len() == 2, "{pods:#?}");
    answers_as_the_manifests_say(&installed, &pods[0]).await?;

    let execution = client.run(json!({"image": BUSYBOX, "command": ["sh", "-c", "echo hello; exit 3"]})).await?;
    let ended = client.wait_for(&execution, &["exited", "failed", "lost"]).await?;
    ensure!(ended["status"]["exit_code"] == 3, "{ended:#}");
    ensure!(ended["status"]["engine"] == "k8s", "{ended:#}");
    ensure!(client.logs(&execution, "").await? == "hello\n");
    gets_its_callers_token(&installed).await?;

    let counting = format!("i=1; while [ $i -le {LINES} ]; do echo line $i; i=$((i+1)); sleep 0.2; done; exit 5");
    let execution = client.run(json!({"image": BUSYBOX, "command": ["sh", "-c", counting]})).await?;
    client.wait_for(&execution, &["running"]).await?;
    let job = format!("renga-{}", execution.id);
    installed.cluster.get(&["job", &job, "--namespace", EXECUTIONS]).await?;
    let holder = installed.pod_that_holds(&execution.id).await?;
    installed.in_deployer(&["delete", "pod", &holder, "--wait=false"]).await?;
    let next = installed.pod_that_holds(&execution.id).await?;
    ensure!(next != holder, "{holder} was deleted, and holds it still");
    ends_with_all_its_lines(&installed, &execution).await?;

    // A killed reconciler has no time to hand over its executions.
    let execution = client.run(json!({"image": BUSYBOX, "command": ["sh", "-c", counting]})).await?;
    client.wait_for(&execution, &["running"]).await?;
    let holder = installed.pod_that_holds(&execution.id).await?;
    installed.cluster.kill_container(DEPLOYER, &holder).await?;
    ends_with_all_its_lines(&installed, &execution).await?;

    // New pods replace the ones that were deleted and killed.
    installed.rolled_out().await?;
    installed.end().await
}

/// Fails unless the pod's health, metrics and logs show that it works within its limits and rights.
async fn answers_as_the_manifests_say(installed: &Installed, pod: &Value) -> Result<()> {
    let address = pod["status"]["podIP"].as_str().context("a pod that is ready has an address")?;
    let operator = renga_tests::client::Client::new(&format!("http://{address}:5001"), "none is needed");
    for (path, said) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = operator.ask(Method::GET, path).await?;
        ensure!(answer.status == StatusCode::OK && answer.body == said, "{path}: {answer:?}");
    }
    until("the cluster to answer its reconciler", async || {
        let metrics = operator.ask(Method::GET, "/metrics").await?.body;
        let up = metrics.lines().any(|line| line.starts_with("renga_reconciler_engine_up") && line.ends_with(" 1"));
        Ok(if up { Ok(()) } else { Err(json!(metrics)) })
    })
    .await?;
    let name = pod["metadata"]["name"].as_str().context("a pod has a name")?;
    // The log is JSON, one object per line, because the output is not a terminal.
    let logs = installed.logs(name).await?;
    ensure!(logs.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{logs}");
    Ok(())
}

/// Fails unless an execution gets its caller's token. The token is in a Secret, which the service account may write.
async fn gets_its_callers_token(installed: &Installed) -> Result<()> {
    let client = &installed.deployment.client;
    let script = "case $RENGA_ACCESS_TOKEN in ey*.ey*.*) exit 4 ;; *) exit 1 ;; esac";
    let execution = client.run(json!({"image": BUSYBOX, "command": ["sh", "-c", script]})).await?;
    let ended = client.wait_for(&execution, &["exited", "failed", "lost"]).await?;
    ensure!(ended["status"]["exit_code"] == 4, "{ended:#}");
    Ok(())
}

async fn ends_with_all_its_lines(installed: &Installed, execution: &Execution) -> Result<()> {
    let client = &installed.deployment.client;
    let ended = client.wait_for(execution, &["exited", "failed", "lost"]).await?;
    ensure!(ended["status"]["exit_code"] == 5, "{ended:#}");
    let expected: String = (1..=LINES).map(|line| format!("line {line}\n")).collect();
    let logs = client.logs(execution, "").await?;
    ensure!(logs == expected, "not all lines, each once and in order:\n{logs}");
    Ok(())
}

/// Returns the fields of a kustomization that replace the API on Spin, because Spin's image is not available here. The
/// replacement reports that it is healthy, and whether it finds the service account's token.
fn stand_in_for_spin() -> Value {
    let script = "mkdir /tmp/www; ls /var/run/secrets/kubernetes.io >/tmp/www/secrets 2>&1; echo ok >/tmp/www/healthz; \
                  exec httpd -f -p 5000 -h /tmp/www";
    let patch = json!([
        { "op": "add", "path": "/spec/template/spec/containers/0/command", "value": ["sh", "-c", script] },
        { "op": "replace", "path": "/spec/replicas", "value": 1 },
    ]);
    let (name, tag) = BUSYBOX.split_once(':').unwrap_or((BUSYBOX, "latest"));
    json!({
        "images": [
            { "name": "registry.example.org/renga-deployer", "newName": "renga-test/deployer", "newTag": "1" },
            { "name": "registry.example.org/renga-deployer-api-on-spin", "newName": name, "newTag": tag },
        ],
        "patches": [{ "target": { "kind": "Deployment" }, "patch": patch.to_string() }],
    })
}

#[tokio::test]
async fn a_sidecar_launches_and_keeps_its_token_to_itself() -> Result<()> {
    let postgres = require!(postgres);
    let installed = Installed::prepare(require!(dedicated_kubernetes), postgres).await?;
    let client = &installed.deployment.client;
    // Without `deploy/migrate`, the reconciler migrates the schema before the API beside it starts.
    installed.apply("overlays/one-pod", &stand_in_for_spin()).await?;
    installed.rolled_out().await?;
    let pods = installed.pods().await?;
    let [pod] = pods.as_slice() else { anyhow::bail!("there is one pod, not {pods:#?}") };

    let started = |list: &str, field: &str| {
        pod["status"][list][0]["state"]["running"][field].as_str().map(str::to_owned).context("it has started")
    };
    let (sidecar, api) = (started("initContainerStatuses", "startedAt")?, started("containerStatuses", "startedAt")?);
    ensure!(sidecar <= api, "the reconciler started at {sidecar}, the API at {api}");
    let secrets = served_by_api(&installed.cluster, "secrets").await?;
    ensure!(secrets.contains("No such file"), "the API finds {secrets}");

    let execution = client.run(json!({"image": BUSYBOX, "command": ["sh", "-c", "echo hello; exit 3"]})).await?;
    let ended = client.wait_for(&execution, &["exited", "failed", "lost"]).await?;
    ensure!(ended["status"]["exit_code"] == 3, "{ended:#}");
    installed.end().await
}

/// Returns a file that the container beside the reconciler serves, through the API's Service.
async fn served_by_api(cluster: &Cluster, file: &str) -> Result<String> {
    let service = cluster.get(&["service", "renga-api", "--namespace", DEPLOYER]).await?;
    let address = service["spec"]["clusterIP"].as_str().context("a Service has an address")?;
    let url = format!("http://{address}/{file}");
    // The network rules of the Service exist a moment after the pod is ready.
    until("the API's Service to answer", async || {
        let asked = renga_tests::client::http().get(&url).timeout(Duration::from_secs(2)).send().await;
        Ok(match asked {
            Ok(answer) => Ok(answer.text().await?),
            Err(error) => Err(json!(error.to_string())),
        })
    })
    .await
}
