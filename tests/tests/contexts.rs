//! Contexts over HTTP.

use anyhow::{Result, ensure};
use futures::future::join_all;
use renga_shared::api::{parse_rfc3339, rfc3339};
use renga_shared::sql::{Database as _, Dialect};
use renga_tests::client::Client;
use renga_tests::deployment::Deployment;
use renga_tests::on_each_database;
use reqwest::Method;
use serde_json::{Value, json};

on_each_database! {
    are_made_and_read,
    are_made_as_clients_of_the_2018_service_do,
    are_refused_with_every_mistake_at_once,
    do_not_name_what_is_the_deployers_own,
    are_read_from_json_alone,
    are_limited_in_size,
    are_listed_newest_first_by_page_while_more_are_made,
    are_found_by_label,
    are_made_once_for_a_key,
    are_found_by_an_id_that_is_one,
}

const CONTEXTS: &str = "/v1/contexts";

async fn are_made_and_read(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let spec = json!({
        "image": "registry.example:5000/team/app:1.0", "command": "sh -c 'echo \"a b\"'",
        "ports": ["8888", 9000, "53/udp"], "labels": ["team=ä", "plain"],
        "env": [{"name": "A", "value": "1"}, {"name": "B"}],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch", "readOnly": true}],
        "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
    });
    let made = client.post(CONTEXTS, &spec).await?;
    let body = made.json(201)?;
    let id = body["identifier"].as_str().unwrap_or_default();
    assert_eq!(made.header("location"), format!("{CONTEXTS}/{id}"));
    assert_eq!(body["spec"], spec);
    let created = body["created"].as_str().unwrap_or_default();
    assert_eq!(parse_rfc3339(created).map(rfc3339).as_deref(), Some(created), "microseconds, +00:00");
    assert_eq!(body, json!({"identifier": id, "spec": spec, "created": created}), "nothing else");

    for base in [CONTEXTS, "/api/deployer/contexts"] {
        for path in [format!("{base}/{id}"), format!("{base}/{id}/")] {
            let read = client.ask(Method::GET, &path).await?;
            assert_eq!(read.json(200)?, body, "{path}");
            let head = client.ask(Method::HEAD, &path).await?;
            assert_eq!((head.status, head.body.as_str()), (read.status, ""));
            assert_eq!(head.header("content-length"), read.body.len().to_string());
            assert_eq!(head.header("content-type"), "application/json");
        }
    }
    let least =
        client.post("/api/deployer/contexts/", &json!({"image": "busybox", "ports": [""], "labels": []})).await?;
    let body = least.json(201)?;
    assert_eq!(body["spec"], json!({"image": "busybox", "command": null}), "defaults are left out, the command is not");
    let id = body["identifier"].as_str().unwrap_or_default();
    assert_eq!(least.header("location"), format!("/api/deployer/contexts/{id}"));
    Ok(())
}

async fn are_made_as_clients_of_the_2018_service_do(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let spec = json!({
        "image": "rocker/rstudio", "command": null, "ports": ["8787", 8080, ""], "env": [], "volumes": null,
        "labels": ["renga.notebook.token", "renga.context.inputs.data=7", "renga.execution_context.vertex_id=12"],
    });
    let request = client.request(Method::POST, "/api/deployer/contexts").header("Renga-Projects-Project", "4242");
    let made = client.send(request.json(&spec)).await?.json(201)?;
    let labels = &spec["labels"];
    let expected = json!({"image": "rocker/rstudio", "command": null, "ports": ["8787", 8080], "labels": labels});
    assert_eq!(made["spec"], expected);
    let listed = client.get("/api/deployer/contexts?label=renga.context.inputs.data").await?;
    assert_eq!(listed, json!({"contexts": [made]}));
    Ok(())
}

async fn are_refused_with_every_mistake_at_once(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let bad = json!({
        "image": "Not An Image", "command": "echo 'a", "ports": ["80", 80, 70000], "labels": ["=a"],
        "env": [{"name": "A=B"}], "volumes": [{"name": "v", "hostPath": {"path": "a/../b"}}],
        "volumeMounts": [{"name": "w", "mountPath": "/m"}], "resources": {"limits": {"cpu": "lots"}}, "privileged": true,
    });
    let request = client.request(Method::POST, CONTEXTS).header("Renga-Projects-Project", "x");
    let answer = client.send(request.header("Idempotency-Key", "a b").json(&bad)).await?;
    assert_eq!(
        answer.bad_fields(400)?,
        [
            "/command",
            "/env/0/name",
            "/image",
            "/labels/0",
            "/ports/1",
            "/ports/2",
            "/privileged",
            "/resources/limits/cpu",
            "/volumeMounts/0/name",
            "/volumes/0/hostPath/path",
            "Idempotency-Key",
            "renga-projects-project",
        ]
    );
    for not_an_object in [json!(null), json!([]), json!("busybox")] {
        assert_eq!(client.post(CONTEXTS, &not_an_object).await?.bad_fields(400)?, [""]);
    }
    assert_eq!(client.get(CONTEXTS).await?, json!({"contexts": []}), "nothing was made");
    Ok(())
}

/// A specification that mounts this Secret.
fn mounting(secret: &str) -> Value {
    json!({"image": "busybox", "volumes": [{"name": "v", "secret": {"secretName": secret}}]})
}

async fn do_not_name_what_is_the_deployers_own(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let other = "renga-0191b8c0-0000-7000-8000-000000000001";
    let refused = client.post(CONTEXTS, &mounting(other)).await?;
    assert_eq!(refused.bad_fields(400)?, ["/volumes/0/secret/secretName"]);

    // One that was stored before this was refused is not placed either, and says why.
    let made = client.post(CONTEXTS, &mounting("mine")).await?.json(201)?;
    let id = made["identifier"].as_str().unwrap_or_default();
    let (db, spec) = (deployment.database()?, mounting(other).to_string());
    let sql = match db.dialect() {
        Dialect::Sqlite => "UPDATE contexts SET spec = ?2 WHERE id = ?1 RETURNING 1",
        Dialect::Postgres => "UPDATE contexts SET spec = $2::text::jsonb WHERE id = $1::text::uuid RETURNING 1",
    };
    assert_eq!(db.query(sql, vec![id.into(), spec.as_str().into()]).await?.len(), 1);
    db.close().await;
    let told = client.post(&format!("{CONTEXTS}/{id}/placement"), &json!({})).await?.problem(409)?;
    assert_eq!(told["errors"][0]["pointer"], "/spec/volumes/0/secret/secretName", "{told}");
    Ok(())
}

async fn are_read_from_json_alone(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let post = async |kind: Option<&str>, body: &'static [u8]| {
        let request = client.request(Method::POST, CONTEXTS).body(body);
        client.send(kind.into_iter().fold(request, |request, kind| request.header("content-type", kind))).await
    };
    let good = br#"{"image": "busybox"}"#;
    for kind in [None, Some("application/json"), Some("Application/JSON; charset=utf-8"), Some("application/a+json")] {
        post(kind, good).await?.json(201)?;
    }
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "x+json", ""] {
        let problem = post(Some(kind), good).await?.problem(415)?;
        assert_eq!(problem["title"], "Unsupported media type", "{kind:?}");
    }
    for bad in [&b"{"[..], b"{'image': 1}", b"\xff", b"{\"image\": \"a\", \"image\": \"b\"}", b"\xef\xbb\xbf{}", b" "] {
        let problem = post(Some("application/json"), bad).await?.problem(400)?;
        assert_eq!(problem["title"], "Malformed JSON", "{}", String::from_utf8_lossy(bad));
    }
    assert_eq!(post(None, b"").await?.bad_fields(400)?, [""]);
    Ok(())
}

async fn are_limited_in_size(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let long: Vec<Value> = (0..10).map(|n| json!({ "name": format!("V{n}"), "value": "x".repeat(100_000) })).collect();
    let whole = |padding: &str| json!({ "image": "a", "env": long, "command": [padding] }).to_string();
    let around = whole("").len();
    let sized = |bytes: usize| whole(&"x".repeat(bytes - around));
    let most = sized(1 << 20);
    assert_eq!(most.len(), 1 << 20);
    let post = |body: reqwest::Body| client.send(client.request(Method::POST, CONTEXTS).body(body));
    let made = post(most.into()).await?.json(201)?;
    let id = made["identifier"].as_str().unwrap_or_default();
    assert_eq!(client.get(&format!("{CONTEXTS}/{id}")).await?, made);
    assert_eq!(post(sized((1 << 20) + 1).into()).await?.problem(413)?["title"], "Body too large");
    // Without a length, in chunks.
    let chunks = sized((1 << 20) + 1).into_bytes();
    let chunks: Vec<Result<Vec<u8>>> = chunks.chunks(1 << 16).map(|chunk| Ok(chunk.to_vec())).collect();
    post(reqwest::Body::wrap_stream(futures::stream::iter(chunks))).await?.problem(413)?;
    Ok(())
}

async fn make(client: &Client, spec: Value) -> Result<String> {
    client.context(spec).await
}

/// The ids of a list and where the next page is.
async fn page(client: &Client, path: &str) -> Result<(Vec<String>, Option<String>)> {
    let answer = client.ask(Method::GET, path).await?;
    let body = answer.json(200)?;
    let contexts = body["contexts"].as_array().cloned().unwrap_or_default();
    let ids = contexts.iter().map(|context| context["identifier"].as_str().unwrap_or_default().to_owned()).collect();
    let next = match answer.header("link") {
        "" => None,
        link => link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).map(str::to_owned),
    };
    ensure!(next.is_some() == answer.headers.contains_key("link"), "{answer:?}");
    Ok((ids, next))
}

async fn are_listed_newest_first_by_page_while_more_are_made(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let spec = || json!({"image": "busybox", "labels": ["a=b"]});
    let mut made = Vec::new();
    for _ in 0..11 {
        made.insert(0, make(client, spec()).await?);
    }
    for first in ["/v1/contexts?limit=3", "/api/deployer/contexts/?limit=3&label=a%3Db&unknown=1"] {
        let (mut seen, mut next) = page(client, first).await?;
        let newest = seen.len();
        while let Some(path) = next {
            assert!(path.starts_with(first.split("/contexts").next().unwrap_or_default()), "{path} after {first}");
            make(client, spec()).await?;
            let ids;
            (ids, next) = page(client, &path).await?;
            assert!((1..=newest).contains(&ids.len()), "no page is empty or too long");
            seen.extend(ids);
        }
        assert_eq!(seen, made, "each once, in order, and none that is newer than the first page");
        (made, _) = page(client, CONTEXTS).await?;
    }
    let (all, next) = page(client, &format!("{CONTEXTS}?limit={}", made.len())).await?;
    assert_eq!((all, next), (made, None), "a last page that is full leads nowhere");
    let bad = client.ask(Method::GET, &format!("{CONTEXTS}?limit=0&cursor=x&label=")).await?;
    assert_eq!(bad.bad_fields(400)?, ["?cursor", "?label", "?limit"]);
    Ok(())
}

async fn are_found_by_label(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let both = make(client, json!({"image": "a", "labels": ["team=x", "stage=1=2", "plain"]})).await?;
    let one = make(client, json!({"image": "a", "labels": ["team=y", "team=z", "pla"]})).await?;
    for (label, expected) in [
        ("team", vec![&one, &both]),
        ("team%3Dx", vec![&both]),
        ("stage%3D1%3D2", vec![&both]),
        ("stage=1=2", vec![&both]),
        ("stage", vec![&both]),
        ("plain", vec![&both]),
        ("tea", vec![]),
        ("team%3D", vec![]),
        ("%25", vec![]),
    ] {
        let (found, _) = page(client, &format!("{CONTEXTS}?label={label}")).await?;
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{label}");
    }
    Ok(())
}

async fn are_made_once_for_a_key(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    let post = async |client: &Client, key: &str, spec: Value| {
        client.send(client.request(Method::POST, CONTEXTS).header("Idempotency-Key", key).json(&spec)).await
    };
    let spec = json!({"image": "busybox"});
    let answers = join_all((0..20).map(|_| post(client, "once", spec.clone()))).await;
    let mut bodies = Vec::new();
    for answer in answers {
        let answer = answer?;
        bodies.push((answer.json(201)?, answer.header("location").to_owned()));
    }
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "{bodies:?}");
    // The same in other words is the same.
    assert_eq!(post(client, "once", json!({"command": null, "image": "busybox"})).await?.json(201)?, bodies[0].0);
    let other = post(client, "once", json!({"image": "other"})).await?.problem(409)?;
    assert_eq!(other["title"], "Idempotency key reused");
    let request = client.request(Method::POST, CONTEXTS).header("Idempotency-Key", "once").json(&spec);
    client.send(request.header("Renga-Projects-Project", "1")).await?.problem(409)?;
    let bob = deployment.client_of("bob");
    assert_ne!(post(&bob, "once", spec.clone()).await?.json(201)?["identifier"], bodies[0].0["identifier"]);
    assert_ne!(post(client, "twice", spec).await?.json(201)?["identifier"], bodies[0].0["identifier"]);
    assert_eq!(page(client, CONTEXTS).await?.0.len(), 2);
    Ok(())
}

async fn are_found_by_an_id_that_is_one(deployment: &Deployment) -> Result<()> {
    let client = &deployment.client;
    for (id, status, title) in [
        ("x", 400, "Malformed identifier"),
        ("%00", 400, "Malformed identifier"),
        ("0190a0b0c0d07000800000000000000a", 400, "Malformed identifier"),
        ("0190a0b0-c0d0-7000-8000-00000000000a", 404, "Not found"),
        ("0190A0B0-C0D0-7000-8000-00000000000A", 404, "Not found"),
    ] {
        for path in [format!("{CONTEXTS}/{id}"), format!("{CONTEXTS}/{id}/executions")] {
            assert_eq!(client.ask(Method::GET, &path).await?.problem(status)?["title"], title, "{path}");
        }
        let posted = client.post(&format!("{CONTEXTS}/{id}/executions"), &json!({})).await?;
        assert_eq!(posted.problem(status)?["title"], title);
    }
    Ok(())
}
