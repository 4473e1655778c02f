//! `renga-deployer up` is killed while clients write. A write that was answered is stored; a write that was not is
//! stored completely or not at all; a retry with the same key creates only one row.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use renga_shared::environment::Environment;
use renga_tests::client::Client;
use renga_tests::deployment::{PATIENCE, until};
use renga_tests::issuer::Issuer;
use renga_tests::process::{self, Process, free_address};
use renga_tests::require;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::{log_tail, random_kills, say, seed};

/// Number of clients that write at the same time.
const WRITERS: usize = 6;
/// Length of a value in bytes, so that a row does not fit into one page of a database.
const LONG: usize = 6_000;

#[tokio::test]
async fn killed_during_writes_on_sqlite() -> Result<()> {
    killed_during_writes("SQLite", None).await
}

#[tokio::test]
async fn killed_during_writes_on_postgres() -> Result<()> {
    let database = require!(postgres).create_database().await?;
    killed_during_writes("PostgreSQL", Some(database)).await
}

async fn killed_during_writes(name: &str, database: Option<String>) -> Result<()> {
    let begin = Instant::now();
    let folder = tempfile::tempdir()?;
    let issuer = Issuer::new();
    let environment = environment(folder.path(), &issuer, database);
    let (random, kills) = (seed(name), random_kills() / 5);
    // The client of the current API. `None` stops the writers.
    let (now_at, at) = watch::channel(Some(Client::new("http://127.0.0.1:1", &issuer.token("alice"))));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(writer, at.clone()));
    }
    for kill in 0..kills {
        let (process, client) = start(&environment, &issuer, folder.path()).await?;
        now_at.send_replace(Some(client));
        tokio::time::sleep(Duration::from_millis(50 + random.number() % 450)).await;
        process.kill().await.with_context(|| format!("kill {kill}"))?;
    }
    let (process, client) = start(&environment, &issuer, folder.path()).await?;
    now_at.send_replace(Some(client.clone()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    now_at.send_replace(None);

    let mut posts = Vec::new();
    while let Some(written) = writers.join_next().await {
        posts.extend(written??);
    }
    let checked = check(&client.patient(PATIENCE), &posts).await;
    checked.with_context(|| log_tail(&folder.path().join("up.log")))?;
    process.kill().await?;
    let unanswered = posts.iter().filter(|post| post.id.is_none()).count();
    let again = posts.iter().filter(|post| post.tries > 1).count();
    ensure!(unanswered > 0 && again > 0, "no write was interrupted: {unanswered} unanswered, {again} tried again");
    say(&format!(
        "{name}: host killed {kills} times, {} posts, {unanswered} unanswered, {again} tried again, {} s",
        posts.len(),
        begin.elapsed().as_secs()
    ));
    Ok(())
}

fn environment(folder: &Path, issuer: &Issuer, database: Option<String>) -> Environment {
    let sqlite = format!("sqlite:///{}", folder.join("deployer.db").display());
    let engine = format!("docker://{}", folder.join("no.sock").display());
    [
        ("SQLALCHEMY_DATABASE_URI", database.as_ref().unwrap_or(&sqlite).as_str()),
        ("DEPLOYER_JWT_KEY", &issuer.public_key_pem()),
        ("DEPLOYER_JWT_ISSUER", Issuer::NAME),
        ("DEPLOYER_METRICS_ADDRESS", "127.0.0.1:0"),
        // The engine is unreachable, so that executions are only rows.
        ("DEPLOYER_ENGINE_DOCKER", &engine),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

async fn start(environment: &Environment, issuer: &Issuer, folder: &Path) -> Result<(Process, Client)> {
    let address = free_address()?.to_string();
    let arguments = ["up", "--listen", &address];
    let process = Process::start(process::deployer()?, &arguments, environment, &folder.join("up.log"))?;
    let client = Client::new(&format!("http://{address}"), &issuer.token("alice"));
    until("the API to answer", async || {
        let answered = client.request(Method::GET, "/healthz").send().await;
        Ok(if answered.is_ok() { Ok(()) } else { Err(json!(process.text()?)) })
    })
    .await?;
    Ok((process, client))
}

/// A POST request and its result.
struct Post {
    key: String,
    path: &'static str,
    tries: u32,
    /// The id in the response; `None` if there was no response and no retry.
    id: Option<String>,
}

/// Posts contexts, and an execution of each, until the writers have to stop. Every second post is retried until it is
/// answered.
async fn write(writer: usize, mut at: watch::Receiver<Option<Client>>) -> Result<Vec<Post>> {
    let mut posts = Vec::new();
    for number in 0.. {
        let key = format!("{writer}-{number}");
        let again = number % 2 == 0;
        let Some(context) = post(&mut at, "contexts", "/v1/contexts", &key, again).await? else { break };
        let id = context.id.clone();
        posts.push(context);
        if let Some(id) = id {
            let path = format!("/v1/contexts/{id}/executions");
            let Some(execution) = post(&mut at, "executions", &path, &key, again).await? else { break };
            posts.push(execution);
        }
    }
    Ok(posts)
}

/// Returns `None` if the writers have to stop and this post was not sent yet.
async fn post(
    at: &mut watch::Receiver<Option<Client>>,
    kind: &'static str,
    path: &str,
    key: &str,
    again: bool,
) -> Result<Option<Post>> {
    let mut post = Post { key: key.to_owned(), path: kind, tries: 0, id: None };
    let mut last = None;
    loop {
        let client = at.borrow_and_update().clone();
        let client = match client.or(last) {
            // A post that was sent is finished with the last client.
            Some(client) if at.borrow().is_some() || post.tries > 0 => client,
            _ => return Ok(None),
        };
        post.tries += 1;
        let request = client.request(Method::POST, path).header("Idempotency-Key", key).json(&body(kind, key));
        if let Ok(answer) = request.send().await
            && answer.status() == StatusCode::CREATED
            && let Ok(created) = answer.json::<Value>().await
        {
            post.id = Some(created["identifier"].as_str().context("no identifier")?.to_owned());
            return Ok(Some(post));
        }
        if !again {
            return Ok(Some(post));
        }
        last = Some(client);
        // A killed host starts again at another address. A host that could not answer is asked again.
        let _ = tokio::time::timeout(Duration::from_millis(200), at.changed()).await;
    }
}

fn body(kind: &str, key: &str) -> Value {
    let long = key.repeat(LONG / key.len());
    match kind {
        "contexts" => json!({
            "image": "busybox", "labels": [format!("key={key}")], "env": [{ "name": "LONG", "value": long }],
        }),
        _ => json!({ "environment": { "KEY": key, "LONG": long } }),
    }
}

async fn check(client: &Client, posts: &[Post]) -> Result<()> {
    for kind in ["contexts", "executions"] {
        let mut rows: HashMap<String, Vec<String>> = HashMap::new();
        for row in list(client, kind).await? {
            let found = if kind == "contexts" { &row["spec"] } else { &row["environment"] };
            let key = match kind {
                "contexts" => found["labels"][0].as_str().and_then(|label| label.strip_prefix("key=")),
                _ => found["KEY"].as_str(),
            };
            let key = key.with_context(|| format!("a row of {kind} without its key: {row}"))?;
            let asked = body(kind, key);
            let (whole, asked) = match kind {
                "contexts" => (&found["env"], &asked["env"]),
                _ => (&found["LONG"], &asked["environment"]["LONG"]),
            };
            ensure!(whole == asked, "a row of {kind} is not whole: {row}");
            rows.entry(key.to_owned()).or_default().push(row["identifier"].as_str().unwrap_or_default().to_owned());
        }
        for post in posts.iter().filter(|post| post.path == kind) {
            let found = rows.remove(&post.key).unwrap_or_default();
            match &post.id {
                Some(id) => ensure!(found == [id.clone()], "{kind} {}: answered {id}, there are {found:?}", post.key),
                None => ensure!(found.len() <= 1, "{kind} {}: there are {found:?}", post.key),
            }
        }
        ensure!(rows.is_empty(), "{kind} that nobody asked for: {rows:?}");
    }
    Ok(())
}

/// Returns the rows of all pages.
async fn list(client: &Client, kind: &str) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    let mut next = Some(format!("/v1/{kind}?limit=100"));
    while let Some(path) = next {
        let answer = client.ask(Method::GET, &path).await?;
        let page = answer.json(200)?;
        rows.extend(page[kind].as_array().context("no list")?.iter().cloned());
        next = match answer.header("link") {
            "" => None,
            link => {
                let target = link.split(['<', '>']).nth(1).context("a link without a target")?;
                let path = target.find("/v1/").context("a link to elsewhere")?;
                Some(target[path..].to_owned())
            }
        };
    }
    Ok(rows)
}
