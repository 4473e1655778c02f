//! Two users who try to access each other's contexts and executions, with every request of the API.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use renga_tests::client::{Answer, Client, Execution};
use renga_tests::deployment::Deployment;
use renga_tests::hand::Hand;
use renga_tests::on_each_database;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{CONTEXTS, NOWHERE, Table, is_well};

on_each_database! {
    what_is_somebody_elses_is_not_there,
    lists_hold_ones_own,
    keys_of_others_are_free,
    what_is_not_there_takes_as_long,
}

/// A second id that no context and no execution has.
const NOTHING: &str = "0190a0b0-c0d0-7000-8000-00000000000b";

/// Returns every request for an execution of a context, and for the context itself.
fn every_request(context: &str, execution: &str) -> Vec<(Method, String)> {
    let context = format!("{CONTEXTS}/{context}");
    let execution = format!("{context}/executions/{execution}");
    let mut requests = vec![
        (Method::GET, context.clone()),
        (Method::GET, format!("{context}/executions")),
        (Method::GET, format!("{context}/executions?limit=1&state=pending&label=a")),
        (Method::GET, format!("{context}/executions?limit=0")),
        (Method::POST, format!("{context}/executions")),
    ];
    for method in [Method::GET, Method::HEAD, Method::DELETE, Method::PUT, Method::OPTIONS] {
        requests.push((method, execution.clone()));
    }
    for (method, rest) in [
        (Method::GET, "logs"),
        (Method::GET, "logs?follow=true"),
        (Method::GET, "logs?tail=x"),
        (Method::HEAD, "logs"),
        (Method::GET, "ports"),
        (Method::POST, "stop"),
    ] {
        requests.push((method, format!("{execution}/{rest}")));
    }
    requests
}

/// Returns the status, the headers without `Date`, and the body of a response.
fn shown(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let mut headers: Vec<(String, String)> = answer
        .headers
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    headers.sort();
    (answer.status.as_u16(), headers, answer.body.clone())
}

/// Creates an execution of this user that is running and has logs.
async fn running(deployment: &Deployment, client: &Client) -> Result<Execution> {
    let execution = client.run(json!({"image": "busybox", "labels": ["a=b"]})).await?;
    let mut hand = Hand::on(deployment.database()?, &execution).await?;
    hand.run(r#"[{"specified":"80","host":"127.0.0.1","exposed":"1","protocol":"TCP"}]"#).await?;
    hand.print("a secret\n").await?;
    Ok(execution)
}

/// Returns the context, the executions, the ports and the logs that a user sees of their own.
async fn seen(client: &Client, execution: &Execution) -> Result<Value> {
    let (context, ports) = (format!("{CONTEXTS}/{}", execution.context), format!("{}/ports", execution.path));
    let (all, logs) = (client.get("/v1/executions").await?, client.logs(execution, "").await?);
    Ok(json!([client.get(&context).await?, all, client.get(&ports).await?, logs]))
}

/// Fails unless the response equals `missing`, the response to the same request for ids that do not exist.
fn is_nothing(method: &Method, answer: &Answer, missing: &Answer) -> Result<()> {
    // The allowed methods of a path are not secret.
    ensure!(*method == Method::OPTIONS || answer.status.is_client_error(), "{answer:?}");
    ensure!(shown(answer) == shown(missing), "{answer:?} is not what nothing answers: {missing:?}");
    Ok(())
}

async fn what_is_somebody_elses_is_not_there(deployment: &Deployment) -> Result<()> {
    let (alice, bob) = (&deployment.client, &deployment.client_of("bob"));
    let theirs = running(deployment, alice).await?;
    let mine = running(deployment, bob).await?;
    let other = bob.run(json!({"image": "busybox"})).await?;
    let before = (seen(alice, &theirs).await?, seen(bob, &mine).await?);
    let (upper, swapped) = (theirs.id.to_uppercase(), theirs.context.to_uppercase());
    let mut table = Table::default();
    for (name, context, execution) in [
        ("another's", &*theirs.context, &*theirs.id),
        ("another's in upper case", &swapped, &upper),
        ("another's execution under mine", &mine.context, &theirs.id),
        ("mine under another's", &theirs.context, &mine.id),
        ("mine under another of mine", &other.context, &mine.id),
        ("nothing under another's", &theirs.context, NOTHING),
        ("another's under nothing", NOTHING, &theirs.id),
        ("the ids of another's swapped", &theirs.id, &theirs.context),
        ("an execution's id twice", &theirs.id, &theirs.id),
        ("a context's id twice", &theirs.context, &theirs.context),
        ("zeros", "00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000000"),
        ("ones", "ffffffff-ffff-ffff-ffff-ffffffffffff", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    ] {
        let is_mine = bob.ask(Method::GET, &format!("{CONTEXTS}/{context}")).await?.status == 200;
        for ((method, path), (_, nowhere)) in
            every_request(context, execution).into_iter().zip(every_request(NOWHERE, NOWHERE))
        {
            // Requests for the user's own context find something.
            if is_mine && !path.contains(execution) {
                continue;
            }
            let request = |path: &str| bob.request(method.clone(), path).header("Prefer", "wait=20");
            let (answer, missing) = (bob.send(request(&path)).await?, bob.send(request(&nowhere)).await?);
            table.case(format!("{name}: {method} {path}"), is_nothing(&method, &answer, &missing));
        }
    }
    ensure!((seen(alice, &theirs).await?, seen(bob, &mine).await?) == before, "something was changed");
    is_well(deployment).await?;
    table.end()
}

/// Returns the ids in a list response.
fn ids(list: &Value) -> Vec<&str> {
    let rows = list.as_object().into_iter().flat_map(|list| list.values()).filter_map(Value::as_array).flatten();
    rows.filter_map(|row| row["identifier"].as_str()).collect()
}

async fn lists_hold_ones_own(deployment: &Deployment) -> Result<()> {
    let (alice, bob) = (&deployment.client, &deployment.client_of("bob"));
    let mut made = [Vec::new(), Vec::new()];
    // The users create in turn, so that their rows alternate.
    for _ in 0..4 {
        for (client, made) in [alice, bob].into_iter().zip(&mut made) {
            let execution = client.run(json!({"image": "busybox", "labels": ["team=x"]})).await?;
            client.execute(&execution.context, json!({})).await?;
            made.push(execution);
        }
    }
    let [_, mine] = &made;
    let mut table = Table::default();
    let (executions, contexts) = (alice.get("/v1/executions").await?, alice.get(CONTEXTS).await?);
    let foreign: Vec<&str> = ids(&executions).into_iter().chain(ids(&contexts)).collect();
    ensure!(foreign.len() == 12, "{foreign:?}");
    let queries = ["", "label=team", "label=team%3Dx", "state=pending", "limit=1000", "limit=1"];
    let mut queries: Vec<String> = queries.map(str::to_owned).into();
    // The `next` links of the other user's pages.
    for list in ["/v1/contexts?limit=1&label=team", "/v1/executions?limit=3", "/v1/executions?limit=1&state=pending"] {
        let mut path = list.to_owned();
        while let Some(next) = next_page(alice, &path).await? {
            queries.push(next.split_once('?').map(|(_, query)| query.to_owned()).context("a query")?);
            path = next;
        }
    }
    ensure!(queries.len() == 6 + 3 + 2 + 7, "{queries:?}");
    let under_context = format!("{CONTEXTS}/{}/executions", mine[1].context);
    for (list, own) in [(CONTEXTS, 4), ("/v1/executions", 8), (&under_context, 2)] {
        for query in &queries {
            let listed = bob.get(&format!("{list}?{query}")).await?;
            let strange: Vec<&str> = ids(&listed).into_iter().filter(|id| foreign.contains(id)).collect();
            let result = strange.is_empty().then_some(()).with_context(|| format!("{strange:?} are somebody else's"));
            table.case(format!("{list}?{query}"), result);
        }
        let listed = bob.get(list).await?;
        table.case(list, (ids(&listed).len() == own).then_some(()).with_context(|| listed.to_string()));
    }
    table.end()
}

/// Returns the path of the next page, if there is one.
async fn next_page(client: &Client, path: &str) -> Result<Option<String>> {
    let answer = client.ask(Method::GET, path).await?;
    answer.json(200)?;
    let link = answer.header("link").strip_prefix('<');
    Ok(link.and_then(|link| link.split('>').next()).map(str::to_owned))
}

async fn keys_of_others_are_free(deployment: &Deployment) -> Result<()> {
    let (alice, bob) = (&deployment.client, &deployment.client_of("bob"));
    let post = async |client: &Client, path: &str, body: Value| {
        client.send(client.request(Method::POST, path).header("Idempotency-Key", "the-key").json(&body)).await
    };
    let theirs = post(alice, CONTEXTS, json!({"image": "secret/image"})).await?.json(201)?;
    let mine = post(bob, CONTEXTS, json!({"image": "secret/image"})).await?.json(201)?;
    ensure!(theirs["identifier"] != mine["identifier"], "one context for two users");
    post(bob, CONTEXTS, json!({"image": "other"})).await?.problem(409)?;
    let executions =
        |context: &Value| format!("{CONTEXTS}/{}/executions", context["identifier"].as_str().unwrap_or_default());
    let run = post(alice, &executions(&theirs), json!({})).await?.json(201)?;
    // The other user's context is not found, with any key. In the user's own context, the key is new.
    let nowhere = json!({ "identifier": NOWHERE });
    for context in [&theirs, &nowhere] {
        post(bob, &executions(context), json!({})).await?.problem(404)?;
    }
    let own = post(bob, &executions(&mine), json!({})).await?.json(201)?;
    ensure!(run["identifier"] != own["identifier"], "one execution for two users");
    // A key that the user has used before is a conflict, and the response reveals nothing about the context.
    for context in [&theirs, &nowhere] {
        post(bob, &executions(context), json!({})).await?.problem(409)?;
    }
    ensure!(ids(&alice.get("/v1/executions").await?).len() == 1 && ids(&bob.get("/v1/executions").await?).len() == 1);
    Ok(())
}

/// Number of requests for each of the two paths, before their times are compared.
const ROUNDS: usize = 40;
/// Maximum number of comparisons. A real difference shows in each of them, not only while the machine is busy.
const COMPARED: usize = 4;

/// Returns the median response time of each of two paths. The requests alternate, so that other load on the machine
/// affects both.
async fn medians(client: &Client, method: &Method, paths: [&str; 2]) -> Result<[Duration; 2]> {
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for which in [round % 2, 1 - round % 2] {
            let start = Instant::now();
            client.ask(method.clone(), paths[which]).await?;
            took[which].push(start.elapsed());
        }
    }
    Ok(took.map(|mut took| {
        took.sort_unstable();
        took[took.len() / 2]
    }))
}

async fn what_is_not_there_takes_as_long(deployment: &Deployment) -> Result<()> {
    let (alice, bob) = (&deployment.client, &deployment.client_of("bob"));
    // A large context with many executions, because reading them would take a measurable time.
    let spec = json!({"image": "busybox", "command": vec!["x".repeat(1_000); 700], "labels": ["a=b"]});
    let theirs = alice.run(spec).await?;
    for _ in 0..200 {
        alice.execute(&theirs.context, json!({})).await?;
    }
    Hand::on(deployment.database()?, &theirs).await?.run("[]").await?;
    let mut table = Table::default();
    let requests = every_request(&theirs.context, &theirs.id).into_iter().zip(every_request(NOWHERE, NOWHERE));
    for ((method, path), (_, nowhere)) in requests {
        let (mut seen, mut alike) = (Vec::new(), false);
        while !alike && seen.len() < COMPARED {
            let [there, missing] = medians(bob, &method, [&path, &nowhere]).await?;
            alike = (1.0 / 3.0..3.0).contains(&(there.as_secs_f64() / missing.as_secs_f64()));
            seen.push((there, missing));
        }
        let told = || format!("what is another's and what is not there took {seen:?}");
        table.case(format!("{method} {path}"), alike.then_some(()).with_context(told));
    }
    table.end()
}
