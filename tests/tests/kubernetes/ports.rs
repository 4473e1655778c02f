//! Ports behind an ingress, and ports that are reported with a configured address instead of the node's.

use anyhow::{Context as _, Result, ensure};
use renga_reconciler::engine::kubernetes::{IngressHost, KubernetesSettings};
use renga_reconciler::engine::{ObjectState, object_name};
use renga_tests::require;
use renga_tests::scripts::{Script, TestEngine};
use serde_json::json;

use crate::{Ground, connect_with};

#[tokio::test]
async fn an_ingress_serves_the_ports_and_is_deleted_with_the_job() -> Result<()> {
    let cluster = require!(kubernetes);
    let mut ground = Ground::new(cluster, "ingress").await?;
    let ingress = IngressHost::parse("nginx@apps.example.org");
    ground.engine =
        connect_with(&ground.executions.url(), KubernetesSettings { ingress, ..KubernetesSettings::default() })?;
    let mut spec = TestEngine::Kubernetes.specification(&Script::Serve);
    spec["ports"] = json!(["8080", 9000]);
    let launch = ground.launch(&spec)?;
    let object = ground.run(&launch).await?;
    ground.becomes(&launch, |state| matches!(state, ObjectState::Running { .. })).await?;
    let path = format!("/interactive/{}", launch.id);
    let told = ground.object(&launch).await?.ports;
    let told: Vec<_> = told.iter().map(|port| (port.host.as_str(), port.path.as_deref())).collect();
    let second = format!("{path}/9000");
    ensure!(told == [("apps.example.org", Some(&*path)), ("apps.example.org", Some(&*second))], "{told:?}");

    let in_it = format!("--namespace={}", ground.executions.namespace);
    let ingress = cluster.get(&["ingress", &object_name(launch.id), &in_it]).await?;
    let rule = &ingress["spec"]["rules"][0];
    ensure!(ingress["spec"]["ingressClassName"] == "nginx" && rule["host"] == "apps.example.org", "{ingress}");
    let first = &rule["http"]["paths"][0];
    ensure!(first["path"] == path.as_str() && first["backend"]["service"]["port"]["number"] == 8080, "{rule}");
    // The address that an ingress controller connects to.
    let service = cluster.get(&["service", &object_name(launch.id), &in_it]).await?;
    ensure!(service["spec"]["type"] == "ClusterIP", "{service}");
    let address = service["spec"]["clusterIP"].as_str().context("a service has an address")?;
    let mut answer = reqwest::get(format!("http://{address}:8080/")).await;
    for _ in 0..50 {
        if answer.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        answer = reqwest::get(format!("http://{address}:8080/")).await;
    }
    ensure!(answer?.text().await? == "served\n");

    ground.engine.remove(&object).await?;
    let left = cluster.get(&["ingresses,services", &in_it]).await?;
    ensure!(left["items"].as_array().is_some_and(Vec::is_empty), "{left}");
    Ok(())
}

#[tokio::test]
async fn a_configured_address_replaces_the_nodes() -> Result<()> {
    let cluster = require!(kubernetes);
    let mut ground = Ground::new(cluster, "address").await?;
    let container_ip = Some(std::net::Ipv4Addr::new(192, 0, 2, 7).into());
    ground.engine =
        connect_with(&ground.executions.url(), KubernetesSettings { container_ip, ..KubernetesSettings::default() })?;
    let launch = ground.script(&Script::Serve)?;
    ground.run(&launch).await?;
    ground.becomes(&launch, |state| matches!(state, ObjectState::Running { .. })).await?;
    let ports = ground.object(&launch).await?.ports;
    ensure!(ports.len() == 1 && ports[0].host == "192.0.2.7" && ports[0].path.is_none(), "{ports:?}");
    Ok(())
}
