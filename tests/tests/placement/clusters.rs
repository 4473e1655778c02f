//! Two real clusters: any of a kind, the one that answers, and the namespaces that each lets executions ask for.

use anyhow::{Result, ensure};
use renga_tests::deployment::{Deployment, until};
use renga_tests::kubernetes::Executions;
use renga_tests::require;
use renga_tests::scripts::{Script, TestEngine};
use serde_json::json;

use super::reason_of;

#[tokio::test]
async fn of_two_clusters_one_that_answers_runs_it() -> Result<()> {
    let mut first = require!(dedicated_kubernetes);
    let second = require!(kubernetes);
    let (one, two) = (Executions::new(&first, "placed").await?, Executions::new(second, "placed").await?);
    let url_one = format!("{}&namespaces=team&labels=first", one.url());
    let deployment =
        Deployment::start(&[("DEPLOYER_ENGINE_ONE", &url_one), ("DEPLOYER_ENGINE_TWO", &two.url())]).await?;
    let client = &deployment.client;
    let engines = until("both clusters to be up, with their room", async || {
        let seen = client.get("/v1/engines").await?;
        let ready =
            |engine: &serde_json::Value| engine["up"] == true && engine["offer"]["room"]["total"]["pods"].is_number();
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

    // Nobody may have noticed yet that the first one is gone; either way nothing was made there.
    first.kill_api_server().await?;
    let execution = client.execute(&context, json!({ "engine": "k8s" })).await?;
    let seen = client.wait_for(&execution, &ended).await?;
    ensure!(seen["status"]["engine"] == "two" && seen["status"]["exit_code"] == 3, "{seen:#}");
    ensure!(reason_of(&seen["status"]["placement"], "one")? == "EngineUnavailable", "{seen:#}");

    // What an engine's configuration does not allow is refused at once, also while the engine is away.
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
