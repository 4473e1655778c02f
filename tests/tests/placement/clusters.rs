//! Two real clusters: placement by kind, failover to the cluster that responds, and the allowed namespaces of each.

use anyhow::{Result, ensure};
use renga_tests::deployment::{Deployment, until};
use renga_tests::kubernetes::Executions;
use renga_tests::require;
use renga_tests::scripts::{Script, TestEngine};
use renga_tests::servers::Cluster;
use serde_json::{Value, json};

use super::{both_are_up, reason_of};

#[tokio::test]
async fn an_execution_runs_on_the_cluster_that_responds() -> Result<()> {
    let mut first = require!(dedicated_kubernetes);
    let second = require!(kubernetes);
    let (one, two) = (Executions::new(&first, "placed").await?, Executions::new(second, "placed").await?);
    let url_one = format!("{}&namespaces=team&labels=first", one.url());
    let deployment =
        Deployment::start(&[("DEPLOYER_ENGINE_ONE", &url_one), ("DEPLOYER_ENGINE_TWO", &two.url())]).await?;
    let client = &deployment.client;
    let engines = until("both clusters to be up, with their room", async || {
        let seen = client.get("/v1/engines").await?;
        let ready = |engine: &Value| engine["up"] == true && engine["offer"]["room"]["total"]["pods"].is_number();
        let all = seen["engines"].as_array().is_some_and(|all| all.len() == 2 && all.iter().all(ready));
        Ok(if all { Ok(seen) } else { Err(seen) })
    })
    .await?;
    let offer = &engines["engines"][0]["offer"];
    ensure!(offer["labels"]["kind"] == "k8s" && offer["labels"]["arch"].is_string(), "{engines:#}");
    ensure!(offer["room"]["free"]["cpu"].as_i64() <= offer["room"]["total"]["cpu"].as_i64(), "{engines:#}");

    let mut spec = TestEngine::Kubernetes.specification(&Script::PrintAndExit3);
    spec["labels"] = json!(["renga.placement.prefers.first="]);
    let context = client.context(spec).await?;
    let ended = ["exited", "failed", "lost"];
    let execution = client.execute(&context, json!({ "engine": "k8s" })).await?;
    let seen = client.wait_for(&execution, &ended).await?;
    ensure!(seen["status"]["engine"] == "one" && seen["status"]["exit_code"] == 3, "{seen:#}");

    // The reconciler may not know yet that the first cluster is gone. In either case, nothing was created there.
    first.kill_api_server().await?;
    let execution = client.execute(&context, json!({ "engine": "k8s" })).await?;
    let seen = client.wait_for(&execution, &ended).await?;
    ensure!(seen["status"]["engine"] == "two" && seen["status"]["exit_code"] == 3, "{seen:#}");
    ensure!(reason_of(&seen["status"]["placement"], "one")? == "EngineUnavailable", "{seen:#}");

    // A namespace that an engine does not allow is refused at once, even while the engine is unreachable.
    let path = format!("/v1/contexts/{context}");
    for (engine, namespace) in [("one", "kube-system"), ("two", "team"), ("k8s", "kube-system")] {
        let request = json!({ "engine": engine, "namespace": namespace });
        let problem = client.post(&format!("{path}/executions"), &request).await?.problem(403)?;
        let detail = problem["detail"].as_str().unwrap_or_default();
        ensure!(detail.contains(engine) && detail.contains(namespace), "{problem}");
        client.post(&format!("{path}/placement"), &request).await?.problem(403)?;
    }
    let allowed = client.post(&format!("{path}/placement"), &json!({ "engine": "k8s", "namespace": "team" })).await?;
    let placement = allowed.json(200)?;
    ensure!(reason_of(&placement, "two")? == "NamespaceNotAllowed", "{placement:#}");
    deployment.stop().await
}

/// Makes a cluster reject Services in a namespace, and waits until it does.
async fn forbid_services(cluster: &Cluster, namespace: &str) -> Result<()> {
    let rule = json!({ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["services"] });
    cluster
        .apply(&json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": { "name": namespace },
            "spec": {
                "matchConstraints": { "resourceRules": [rule] },
                "validations": [{ "expression": "false", "message": "there are no services here" }],
            },
        }))
        .await?;
    let here = json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } } });
    cluster
        .apply(&json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": { "name": namespace },
            "spec": { "policyName": namespace, "validationActions": ["Deny"], "matchResources": here },
        }))
        .await?;
    let in_namespace = format!("--namespace={namespace}");
    let try_one = ["create", "service", "clusterip", "any", "--tcp=80", &in_namespace, "--dry-run=server"];
    until("services to be forbidden", async || {
        Ok(match cluster.kubectl(&try_one).await {
            Err(error) if format!("{error:#}").contains("no services here") => Ok(()),
            other => Err(json!(format!("{other:?}"))),
        })
    })
    .await
}

#[tokio::test]
async fn objects_of_a_partly_refused_launch_are_removed() -> Result<()> {
    let cluster = require!(kubernetes);
    let executions = Executions::new(cluster, "no-services").await?;
    forbid_services(cluster, &executions.namespace).await?;
    let url = format!("{}&labels=first", executions.url());
    let deployment = Deployment::start(&[("DEPLOYER_ENGINE_ONE", &url), ("DEPLOYER_ENGINE_TWO", "fake://")]).await?;
    let client = &deployment.client;
    both_are_up(client).await?;
    let nothing_is_left = async || -> Result<()> {
        let jobs = cluster.get(&["jobs", "--namespace", &executions.namespace]).await?;
        ensure!(jobs["items"] == json!([]), "{jobs:#}");
        Ok(())
    };
    let spec = json!({
        "image": "fake/steps", "command": ["exit:3"], "ports": ["8080"], "labels": ["renga.placement.prefers.first="],
    });
    let context = client.context(spec).await?;
    let ended = ["exited", "failed", "lost"];
    let execution = client.execute(&context, json!({})).await?;
    let seen = client.wait_for(&execution, &ended).await?;
    ensure!(seen["status"]["engine"] == "two" && seen["status"]["exit_code"] == 3, "{seen:#}");
    let tried = &seen["status"]["placement"]["tried"][0];
    ensure!(tried["engine"] == "one" && tried["outcome"] == "refused", "{seen:#}");
    nothing_is_left().await?;

    let execution = client.execute(&context, json!({ "engine": "one" })).await?;
    let seen = client.wait_for(&execution, &ended).await?;
    ensure!(seen["status"]["phase"] == "failed" && seen["status"]["reason"] == "EngineRefused", "{seen:#}");
    let message = seen["status"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("there are no services here"), "{seen:#}");
    nothing_is_left().await?;
    deployment.stop().await
}
