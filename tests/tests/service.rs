//! The service itself over HTTP: its paths, its methods and its engines.

use anyhow::Result;
use renga_tests::deployment::Deployment;
use renga_tests::hand::serve;
use renga_tests::on_each_database;
use reqwest::Method;
use serde_json::{Value, json};

on_each_database! {
    is_healthy,
    shows_its_engines,
}

async fn is_healthy(deployment: &Deployment) -> Result<()> {
    let client = deployment.client.with_token("none is needed");
    for base in ["", "/v1", "/api/deployer"] {
        for slash in ["", "/"] {
            let health = client.ask(Method::GET, &format!("{base}/healthz{slash}")).await?;
            assert_eq!(health.json(200)?, json!({"status": "ok"}));
            let version = client.ask(Method::GET, &format!("{base}/version{slash}")).await?;
            assert_eq!(version.json(200)?, json!({"version": env!("CARGO_PKG_VERSION"), "api": "v1"}));
        }
    }
    Ok(())
}

async fn shows_its_engines(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    assert_eq!(client.get("/v1/engines").await?, json!({"engines": []}));
    let db = deployment.database()?;
    serve(&db, "rack-2", "docker", Err("it does not answer")).await?;
    serve(&db, "rack-1", "docker", Ok("29.1")).await?;
    let since = "2017-07-14T02:40:00.000000+00:00";
    // Values that no reconciler has reported yet.
    let offer = json!({
        "retired": false, "max": null, "claims": [], "labels": {}, "namespaces": "any", "volumes": [], "protocols": [],
        "capacity": "unknown", "room": null,
    });
    let idle = json!({ "placed": 0, "running": 0, "pending": 0, "waiting": 0, "offer": offer });
    let engine = |mut told: Value| {
        told.as_object_mut().unwrap().extend(idle.as_object().unwrap().clone());
        told
    };
    let expected = json!({"engines": [
        engine(json!({"name": "rack-1", "kind": "docker", "up": true, "since": since, "reason": null, "version": "29.1"})),
        engine(json!({"name": "rack-2", "kind": "docker", "up": false, "since": since, "reason": "it does not answer", "version": null})),
    ]});
    assert_eq!(client.get("/api/deployer/engines/").await?, expected);
    Ok(())
}

#[tokio::test]
async fn a_path_allows_only_its_methods() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let client = &deployment.client;
    let id = "0190a0b0-c0d0-7000-8000-00000000000a";
    let execution = format!("contexts/{id}/executions/{id}");
    for (path, allowed) in [
        ("contexts".to_owned(), "GET, HEAD, POST, OPTIONS"),
        (format!("contexts/{id}"), "GET, HEAD, OPTIONS"),
        (format!("contexts/{id}/executions"), "GET, HEAD, POST, OPTIONS"),
        (execution.clone(), "GET, HEAD, DELETE, OPTIONS"),
        (format!("{execution}/stop"), "POST, OPTIONS"),
        (format!("{execution}/logs"), "GET, HEAD, OPTIONS"),
        (format!("{execution}/ports"), "GET, HEAD, OPTIONS"),
        ("executions".to_owned(), "GET, HEAD, OPTIONS"),
        ("engines".to_owned(), "GET, HEAD, OPTIONS"),
        ("healthz".to_owned(), "GET, HEAD, OPTIONS"),
        ("version".to_owned(), "GET, HEAD, OPTIONS"),
    ] {
        for path in [format!("/v1/{path}"), format!("/api/deployer/{path}/")] {
            let options = client.ask(Method::OPTIONS, &path).await?;
            assert_eq!((options.status.as_u16(), options.header("allow")), (204, allowed), "{path}");
            assert_eq!(options.body, "");
            for method in [Method::PUT, Method::PATCH, Method::from_bytes(b"BREW")?, Method::DELETE, Method::POST] {
                if !allowed.contains(method.as_str()) {
                    let refused = client.ask(method.clone(), &path).await?;
                    refused.problem(405)?;
                    assert_eq!(refused.header("allow"), allowed, "{method} {path}");
                }
            }
        }
    }
    for path in ["/", "/v1", "/v1/", "/v2/contexts", "/contexts", "/v1//contexts", "/v1/contexts//", "/api/contexts"] {
        for method in [Method::GET, Method::POST, Method::OPTIONS] {
            client.ask(method, path).await?.problem(404)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_service_without_a_key_or_an_issuer_with_keys_reports_a_misconfiguration() -> Result<()> {
    let variables = [("DEPLOYER_JWT_KEY", ""), ("DEPLOYER_JWT_ISSUER", "resource-manager")];
    let deployment = Deployment::unmigrated(&variables).await?;
    for path in ["/v1/contexts", "/healthz"] {
        let answer = deployment.client.ask(Method::GET, path).await?;
        assert_eq!(answer.problem(503)?["title"], "Service misconfigured");
        assert_eq!(answer.header("retry-after"), "60");
    }
    Ok(())
}
