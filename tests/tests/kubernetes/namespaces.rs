//! Namespaces: those that the engine's configuration allows, and executions in a namespace that does not exist.

use std::time::Duration;

use anyhow::{Result, ensure};
use renga_reconciler::engine::{Engine, EngineError, Launch, ObjectState, object_name};
use renga_tests::kubernetes::grant;
use renga_tests::require;
use renga_tests::scripts::Script;

use crate::Ground;

async fn create(engine: &dyn Engine, launch: &Launch) -> Result<String, EngineError> {
    engine.prepare(launch, &|_| {}).await?;
    engine.create(launch).await
}

#[tokio::test]
async fn executions_run_in_the_allowed_namespaces() -> Result<()> {
    let cluster = require!(kubernetes);
    let further = cluster.new_namespace("further").await?;
    let ground = Ground::with(cluster, "own", &format!("&namespaces={further}")).await?;
    grant(cluster, &ground.executions.namespace, &further).await?;
    for (wanted, expected) in [
        ("default", &ground.executions.namespace),
        (&ground.executions.namespace, &ground.executions.namespace),
        (&further, &further),
    ] {
        let mut launch = ground.script(&Script::Exit(3))?;
        launch.namespace = wanted.to_owned();
        let object = ground.run(&launch).await?;
        cluster.get(&["job", &object_name(launch.id), &format!("--namespace={expected}")]).await?;
        ground.becomes(&launch, |state| matches!(state, ObjectState::Exited(exit) if exit.code == 3)).await?;
        ground.engine.remove(&object).await?;
    }
    let mut launch = ground.script(&Script::Exit(0))?;
    launch.namespace = "kube-system".into();
    let refused = create(&*ground.engine, &launch).await;
    ensure!(matches!(&refused, Err(EngineError::Refused(why)) if why.reason == "NamespaceNotAllowed"), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_missing_namespace_delays_only_its_own_executions() -> Result<()> {
    let cluster = require!(kubernetes);
    let later = format!("later-{}", std::process::id());
    let ground = Ground::with(cluster, "there", &format!("&namespaces={later}")).await?;
    let beside = ground.script(&Script::Exit(0))?;
    ground.run(&beside).await?;
    ground.becomes(&beside, |state| matches!(state, ObjectState::Exited(_))).await?;

    let mut launch = ground.script(&Script::Exit(0))?;
    launch.namespace.clone_from(&later);
    let told = create(&*ground.engine, &launch).await;
    ensure!(matches!(&told, Err(EngineError::Retry(why)) if why.reason == "NamespaceMissing"), "{told:?}");
    ensure!(ground.engine.inspect(launch.id).await?.is_none());

    cluster.kubectl(&["create", "namespace", &later]).await?;
    grant(cluster, &ground.executions.namespace, &later).await?;
    let mut created = create(&*ground.engine, &launch).await;
    for _ in 0..50 {
        if created.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        created = create(&*ground.engine, &launch).await;
    }
    ground.engine.start(&created?).await?;
    ground.becomes(&launch, |state| matches!(state, ObjectState::Exited(_))).await?;
    cluster.kubectl(&["delete", "namespace", &later, "--wait=false"]).await?;
    Ok(())
}
