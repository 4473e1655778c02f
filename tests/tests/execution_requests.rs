//! Executions over HTTP without a reconciler: requests, responses and waiting. The tests themselves record what a
//! reconciler would.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::join_all;
use renga_shared::api::{parse_rfc3339, rfc3339};
use renga_tests::client::{Answer, Client, Execution};
use renga_tests::deployment::{Deployment, until};
use renga_tests::hand::{Hand, serve};
use renga_tests::on_each_database;
use reqwest::Method;
use serde_json::{Value, json};

on_each_database! {
    are_asked_for_and_shown,
    are_asked_for_as_clients_of_the_2018_service_do,
    name_an_engine_that_there_is,
    are_refused_with_every_mistake_at_once,
    are_asked_for_once_for_a_key,
    are_listed_by_context_label_and_state,
    are_listed_by_page_while_more_are_asked_for,
    belong_to_their_context,
    are_deleted_once_and_for_all,
    are_stopped_before_they_start,
    are_waited_for,
    have_ports_that_are_waited_for,
    show_what_became_of_them,
}

const SPEC: &str = "busybox";

async fn context(client: &Client) -> Result<String> {
    client.context(json!({ "image": SPEC })).await
}

async fn post(client: &Client, context: &str, body: Value) -> Result<Answer> {
    client.post(&format!("/v1/contexts/{context}/executions"), &body).await
}

fn execution(body: &Value) -> Execution {
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let (id, context) = (text("identifier"), text("context_id"));
    Execution { path: format!("/v1/contexts/{context}/executions/{id}"), id, context }
}

async fn are_asked_for_and_shown(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let context = context(client).await?;
    let environment = json!({"A": "ä", "B": 1, "C": true, "D": 1.5, "RENGA_CONTEXT_ID": "mine"});
    let made =
        post(client, &context, json!({"engine": "auto", "namespace": "team", "environment": environment})).await?;
    let body = made.json(201)?;
    let (id, created) = (body["identifier"].clone(), body["created"].as_str().unwrap_or_default());
    assert_eq!(parse_rfc3339(created).map(rfc3339).as_deref(), Some(created));
    let expected = json!({
        "identifier": id, "context_id": context, "created": created, "engine": null, "namespace": "team",
        "environment": {
            "A": "ä", "B": "1", "C": "true", "D": "1.5", "DEPLOYER_BASE_URL": "/", "RENGA_CONTEXT_ID": context,
        },
        "state": "pending",
        "status": {
            "phase": "pending", "reason": null, "message": null, "exit_code": null, "started": null, "finished": null,
            "engine": null, "engine_id": null, "placement": null,
        },
    });
    assert_eq!(body, expected);
    let path = execution(&body).path;
    assert_eq!(made.header("location"), path);
    for path in [path.clone(), format!("{path}/"), path.replace("/v1/", "/api/deployer/")] {
        assert_eq!(client.get(&path).await?, expected);
        let head = client.ask(Method::HEAD, &path).await?;
        assert_eq!((head.status.as_u16(), head.body.as_str()), (200, ""));
    }
    let other_base = client.post(&format!("/api/deployer/contexts/{context}/executions/"), &json!({})).await?;
    assert!(other_base.header("location").starts_with("/api/deployer/contexts/"), "{other_base:?}");
    assert_eq!(other_base.json(201)?["namespace"], "default");
    Ok(())
}

async fn are_asked_for_as_clients_of_the_2018_service_do(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    serve(&deployment.database()?, "docker", "docker", Ok("1")).await?;
    let context = context(client).await?;
    for body in [json!({"engine": "docker"}), json!({"engine": "docker", "environment": {"A": "1"}})] {
        let made = post(client, &context, body.clone()).await?.json(201)?;
        assert_eq!((&made["engine"], &made["namespace"]), (&json!("docker"), &json!("default")));
    }
    // A request without a body, with and without a media type.
    let path = format!("/v1/contexts/{context}/executions");
    client.ask(Method::POST, &path).await?.json(201)?;
    let request = client.request(Method::POST, &path).header("content-type", "application/json");
    client.send(request).await?.json(201)?;
    Ok(())
}

async fn name_an_engine_that_there_is(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let context = context(client).await?;
    let refused = async |engine: &str| -> Result<String> {
        let answer = post(client, &context, json!({ "engine": engine })).await?;
        assert_eq!(answer.bad_fields(400)?, ["/engine"]);
        Ok(answer.problem(400)?["errors"][0]["detail"].as_str().unwrap_or_default().to_owned())
    };
    assert!(refused("docker").await?.contains("none is served"));
    let db = deployment.database()?;
    serve(&db, "rack-1", "docker", Ok("1")).await?;
    serve(&db, "rack-2", "docker", Err("down")).await?;
    for engine in ["rack-1", "rack-2", "docker"] {
        assert_eq!(post(client, &context, json!({ "engine": engine })).await?.json(201)?["engine"], engine);
    }
    let told = refused("k8s").await?;
    assert!(told.contains("rack-1 (docker), rack-2 (docker)"), "{told}");
    refused("Not An Engine").await?;
    Ok(())
}

async fn are_refused_with_every_mistake_at_once(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let context = context(client).await?;
    let bad = json!({"engine": 1, "namespace": "A_b", "environment": {"A=B": "1", "C": []}, "image": "busybox"});
    let path = format!("/v1/contexts/{context}/executions");
    let request = client.request(Method::POST, &path).header("Idempotency-Key", "a b").json(&bad);
    let expected = ["/engine", "/environment/A=B", "/environment/C", "/image", "/namespace", "Idempotency-Key"];
    assert_eq!(client.send(request).await?.bad_fields(400)?, expected);
    let request = client.request(Method::POST, &path).body("{");
    client.send(request).await?.problem(400)?;
    let request = client.request(Method::POST, &path).header("content-type", "text/plain").body("{}");
    client.send(request).await?.problem(415)?;
    let request = client.request(Method::POST, &path).body("x".repeat((1 << 20) + 1));
    client.send(request).await?.problem(413)?;
    assert_eq!(client.get(&path).await?, json!({"executions": []}), "nothing was asked for");
    let bad = client.ask(Method::GET, &format!("{path}?limit=x&state=gone&cursor=&label=")).await?;
    assert_eq!(bad.bad_fields(400)?, ["?cursor", "?label", "?limit", "?state"]);
    let id = "0190a0b0-c0d0-7000-8000-00000000000a";
    let bad = client.ask(Method::GET, &format!("{path}/{id}/logs?tail=-1&since=now&follow=x&timestamps=x")).await?;
    assert_eq!(bad.bad_fields(400)?, ["?follow", "?since", "?tail", "?timestamps"]);
    Ok(())
}

async fn are_asked_for_once_for_a_key(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    serve(&deployment.database()?, "docker", "docker", Ok("1")).await?;
    let (one, other) = (context(client).await?, context(client).await?);
    let ask = async |context: &str, key: &str, body: Value| {
        let request = client.request(Method::POST, &format!("/v1/contexts/{context}/executions"));
        client.send(request.header("Idempotency-Key", key).json(&body)).await
    };
    let body = json!({"engine": "docker", "environment": {"A": 1}});
    let mut seen = Vec::new();
    for answer in join_all((0..20).map(|_| ask(&one, "once", body.clone()))).await {
        let answer = answer?;
        seen.push((answer.json(201)?, answer.header("location").to_owned()));
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    let same = json!({"environment": {"A": "1"}, "namespace": "default", "engine": "docker"});
    assert_eq!(ask(&one, "once", same).await?.json(201)?, seen[0].0, "the same in other words");
    for (context, body) in [(&other, body.clone()), (&one, json!({"engine": "docker"})), (&one, json!({}))] {
        assert_eq!(ask(context, "once", body).await?.problem(409)?["title"], "Idempotency key reused");
    }
    let listed = client.get("/v1/executions").await?;
    assert_eq!(listed, json!({"executions": [seen[0].0]}), "one row");
    // A repeated request also returns the current state.
    client.delete(&execution(&seen[0].0)).await?;
    assert_eq!(ask(&one, "once", body.clone()).await?.json(201)?["state"], "unavailable");
    assert_ne!(ask(&one, "twice", body).await?.json(201)?["identifier"], seen[0].0["identifier"]);
    Ok(())
}

/// Returns the ids of a list, and the path of the next page.
async fn page(client: &Client, path: &str) -> Result<(Vec<String>, Option<String>)> {
    let answer = client.ask(Method::GET, path).await?;
    let body = answer.json(200)?;
    let rows = body["executions"].as_array().cloned().unwrap_or_default();
    let ids = rows.iter().map(|row| row["identifier"].as_str().unwrap_or_default().to_owned()).collect();
    let link = answer.header("link").strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
    ensure!(link.is_some() == answer.headers.contains_key("link"), "{answer:?}");
    Ok((ids, link.map(str::to_owned)))
}

async fn are_listed_by_context_label_and_state(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let labelled = client.context(json!({"image": "a", "labels": ["team=x"]})).await?;
    let plain = context(client).await?;
    let first = client.execute(&labelled, json!({})).await?;
    let second = client.execute(&plain, json!({})).await?;
    let third = client.execute(&labelled, json!({})).await?;
    client.delete(&first).await?;
    let (first, second, third) = (&first.id, &second.id, &third.id);
    for (path, expected) in [
        ("/v1/executions".to_owned(), vec![third, second, first]),
        ("/api/deployer/executions/".to_owned(), vec![third, second, first]),
        (format!("/v1/contexts/{labelled}/executions"), vec![third, first]),
        (format!("/v1/contexts/{labelled}/executions?state=pending"), vec![third]),
        (format!("/v1/contexts/{plain}/executions?label=team"), vec![]),
        ("/v1/executions?label=team%3Dx".to_owned(), vec![third, first]),
        ("/v1/executions?label=team&state=unavailable".to_owned(), vec![first]),
        ("/v1/executions?state=pending".to_owned(), vec![third, second]),
        ("/v1/executions?state=running".to_owned(), vec![]),
        ("/v1/executions?limit=1".to_owned(), vec![third]),
    ] {
        assert_eq!(page(client, &path).await?.0.iter().collect::<Vec<_>>(), expected, "{path}");
    }
    Ok(())
}

async fn are_listed_by_page_while_more_are_asked_for(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let context = client.context(json!({"image": "a", "labels": ["team=x"]})).await?;
    let mut made = Vec::new();
    for _ in 0..11 {
        made.insert(0, client.execute(&context, json!({})).await?.id);
    }
    let of_context = format!("/v1/contexts/{context}/executions?limit=4&state=pending");
    for first in ["/v1/executions?limit=4&label=team", of_context.as_str()] {
        let (mut seen, mut next) = page(client, first).await?;
        while let Some(path) = next {
            assert!(path.starts_with(first.split('?').next().unwrap_or_default()), "{path} after {first}");
            client.execute(&context, json!({})).await?;
            let ids;
            (ids, next) = page(client, &path).await?;
            seen.extend(ids);
        }
        assert_eq!(seen, made, "each once, in order");
        (made, _) = page(client, "/v1/executions").await?;
    }
    Ok(())
}

async fn belong_to_their_context(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let other = context(client).await?;
    let mine = client.run(json!({"image": "a"})).await?;
    let nowhere = "0190a0b0-c0d0-7000-8000-00000000000a";
    for path in [mine.path.replace(&mine.context, &other), mine.path.replace(&mine.id, nowhere)] {
        for (method, path) in [
            (Method::GET, path.clone()),
            (Method::DELETE, path.clone()),
            (Method::POST, format!("{path}/stop")),
            (Method::GET, format!("{path}/logs")),
            (Method::GET, format!("{path}/ports")),
        ] {
            client.ask(method, &path).await?.problem(404)?;
        }
    }
    for path in [mine.path.replace(&mine.id, "x"), format!("{}/logs", mine.path.replace(&mine.context, "x"))] {
        assert_eq!(client.ask(Method::GET, &path).await?.problem(400)?["title"], "Malformed identifier");
    }
    assert_eq!(client.get(&mine.path).await?["state"], "pending");
    Ok(())
}

async fn are_deleted_once_and_for_all(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let pending = client.run(json!({"image": "a"})).await?;
    let deleted = client.delete(&pending).await?;
    assert_eq!((&deleted["state"], &deleted["status"]["phase"]), (&json!("unavailable"), &json!("pending")));
    assert_eq!(client.delete(&pending).await?, deleted);
    assert_eq!(client.stop(&pending).await?, deleted, "a deletion is not taken back");
    assert_eq!(client.get(&pending.path).await?, deleted);
    assert_eq!(client.get("/v1/executions").await?, json!({"executions": [deleted]}), "the row stays");
    client.ask(Method::GET, &format!("{}/logs", pending.path)).await?.problem(404)?;
    // The response is immediate, although the execution has not started.
    assert_eq!(client.get(&format!("{}/ports", pending.path)).await?, json!({"ports": []}));

    let running = client.run(json!({"image": "a"})).await?;
    let mut hand = Hand::on(deployment.database()?, &running).await?;
    hand.run(r#"[{"specified": "80", "host": "127.0.0.1", "exposed": "4000", "protocol": "TCP"}]"#).await?;
    hand.print("hello\n").await?;
    assert_eq!(client.delete(&running).await?["state"], "unavailable");
    assert_eq!(client.get(&format!("{}/ports", running.path)).await?, json!({"ports": []}), "before it is done");
    client.ask(Method::GET, &format!("{}/logs", running.path)).await?.problem(404)?;
    Ok(())
}

async fn are_stopped_before_they_start(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let pending = client.run(json!({"image": "a"})).await?;
    let stopped = client.stop(&pending).await?;
    assert_eq!(stopped["state"], "pending", "nothing was seen of it yet");
    assert_eq!(client.stop(&pending).await?, stopped);
    assert_eq!(client.get(&format!("{}/ports", pending.path)).await?, json!({"ports": []}), "it will never have any");
    assert_eq!(client.delete(&pending).await?["state"], "unavailable", "what is stopped can be deleted");
    Ok(())
}

/// Waits for the only pending execution, and does to it what a reconciler would.
async fn when_asked_for(deployment: &Deployment, act: impl AsyncFnOnce(Hand) -> Result<()>) -> Result<()> {
    let asked = until("an execution to be asked for", async || {
        let seen = deployment.client.get("/v1/executions?state=pending").await?;
        let first = seen["executions"][0].clone();
        Ok(if first.is_null() { Err(seen) } else { Ok(execution(&first)) })
    })
    .await?;
    act(Hand::on(deployment.database()?, &asked).await?).await
}

async fn are_waited_for(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let context = context(client).await?;
    let path = format!("/v1/contexts/{context}/executions");
    let ask = async |prefer: &str| {
        let request = client.request(Method::POST, &path).header("Prefer", prefer).json(&json!({}));
        client.send(request).await
    };
    // Long enough for a busy machine; the wait ends earlier.
    let (answer, acted) =
        tokio::join!(ask("respond-async, wait=40"), when_asked_for(deployment, async |hand| hand.run("[]").await));
    acted?;
    let answer = answer?;
    assert_eq!(answer.header("preference-applied"), "wait=40");
    assert_eq!(answer.json(201)?["state"], "running");

    let (answer, acted) =
        tokio::join!(ask("wait=40"), when_asked_for(deployment, async |hand| hand.fail("ImageNotFound").await));
    acted?;
    assert_eq!(answer?.json(201)?["status"]["reason"], "ImageNotFound");

    let start = Instant::now();
    let answer = ask("wait=1").await?;
    assert_eq!(answer.json(201)?["state"], "pending");
    assert!(start.elapsed() >= Duration::from_secs(1), "it was waited for");
    for nonsense in ["wait=x", "return=minimal"] {
        let answer = ask(nonsense).await?;
        answer.json(201)?;
        assert_eq!(answer.header("preference-applied"), "");
    }
    Ok(())
}

async fn have_ports_that_are_waited_for(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let asked = client.run(json!({"image": "a", "ports": ["80"]})).await?;
    let path = format!("{}/ports", asked.path);
    let port = json!({"specified": "80", "host": "127.0.0.1", "exposed": "32768", "protocol": "TCP"});
    let hand = Hand::on(deployment.database()?, &asked).await?;
    // The ports are requested before they are recorded.
    let (ports, ran) = tokio::join!(client.get(&path), async {
        hand.explain("PullingImage", "Pulling the image.").await?;
        hand.run(&json!([port]).to_string()).await
    });
    ran?;
    assert_eq!(ports?, json!({"ports": [port]}));
    hand.exit(0).await?;
    assert_eq!(client.get(&path).await?, json!({"ports": []}), "what has ended listens nowhere");

    let never = client.run(json!({"image": "a", "ports": ["80"]})).await?;
    let start = Instant::now();
    assert_eq!(client.get(&format!("{}/ports", never.path)).await?, json!({"ports": []}));
    assert!(start.elapsed() >= Duration::from_secs(10), "old clients ask once, right after they posted");
    Ok(())
}

async fn show_what_became_of_them(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let asked = client.run(json!({"image": "a"})).await?;
    let hand = Hand::on(deployment.database()?, &asked).await?;
    hand.explain("PullingImage", "Pulling image a:latest.").await?;
    let seen = client.get(&asked.path).await?;
    assert_eq!((&seen["state"], &seen["status"]["reason"]), (&json!("pending"), &json!("PullingImage")));
    assert_eq!(seen["status"]["message"], "Pulling image a:latest.");
    hand.run("[]").await?;
    hand.exit(3).await?;
    let expected = json!({
        "phase": "exited", "reason": "ExitedWithError", "message": "It ended.", "exit_code": 3,
        "started": "2017-07-14T02:40:00.000001+00:00", "finished": "2017-07-14T02:40:01.000000+00:00",
        "engine": "rack-1", "engine_id": "an-id", "placement": null,
    });
    let seen = client.get(&asked.path).await?;
    assert_eq!((&seen["state"], &seen["status"]), (&json!("exited"), &expected));
    assert_eq!(client.stop(&asked).await?, seen, "stopping what has ended changes nothing");
    assert_eq!(client.delete(&asked).await?["state"], "unavailable");
    hand.remove().await?;
    let removed = client.get(&asked.path).await?;
    assert_eq!((&removed["state"], &removed["status"]["phase"]), (&json!("unavailable"), &json!("removed")));
    assert_eq!(removed["status"]["exit_code"], 3, "what is known stays known");
    Ok(())
}
