//! The servers that the other tests use: they start, do what those tests need, and leave nothing behind.

mod kubernetes;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, PortBinding};
use bollard::query_parameters::{CreateContainerOptionsBuilder, LogsOptionsBuilder, WaitContainerOptions};
use futures::TryStreamExt;
use jwt_simple::token::Token;
use renga_tests::client::http;
use renga_tests::issuer_double::{Document, Fault, Fetches, IssuerDouble};
use renga_tests::require;
use renga_tests::servers::{BUSYBOX, DedicatedDocker, Postgres};
use renga_tests::signing_key::ALGORITHMS;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::NoTls;

#[tokio::test]
async fn postgres_gives_each_caller_a_database_of_its_own() -> Result<()> {
    let postgres = require!(postgres);
    let (first, second) = (postgres.create_database().await?, postgres.create_database().await?);
    query(&first, "CREATE TABLE things (name text)").await?;
    query(&second, "CREATE TABLE things (name text)").await?;
    assert_eq!(query(&first, "SHOW fsync").await?, ["on"]);
    Ok(())
}

#[tokio::test]
async fn postgres_keeps_committed_data_over_a_crash() -> Result<()> {
    require!(postgres);
    let mut postgres = tokio::task::spawn_blocking(Postgres::start).await??;
    let uri = postgres.create_database().await?;
    query(&uri, "CREATE TABLE things AS SELECT 'kept' AS name").await?;
    postgres.kill()?;
    assert!(query(&uri, "SELECT 1").await.is_err(), "a killed server answers nothing");
    postgres.start_again()?;
    assert_eq!(query(&uri, "SELECT name FROM things").await?, ["kept"]);
    Ok(())
}

#[tokio::test]
async fn docker_runs_the_test_image() -> Result<()> {
    let docker = require!(docker);
    let id = create(&docker, &["sh", "-c", "echo out; exit 3"], HostConfig::default()).await?;
    docker.start_container(&id, None).await?;
    let end: Vec<_> =
        docker.wait_container(&id, None::<WaitContainerOptions>).try_collect().await.or_else(exit_code)?;
    let said = output(&docker, &id).await?;
    docker.remove_container(&id, None).await?;
    assert_eq!(end.first().map(|end| end.status_code), Some(3));
    assert_eq!(said, "out\n");
    Ok(())
}

#[tokio::test]
async fn a_dedicated_docker_publishes_ports_and_sees_its_containers_after_a_crash() -> Result<()> {
    let mut engine = require!(dedicated_docker, "--live-restore");
    let docker = engine.client()?;
    let serve = ["sh", "-c", "echo served > /tmp/index.html; exec httpd -f -p 80 -h /tmp"];
    let id = create(&docker, &serve, published("80/tcp")).await?;
    docker.start_container(&id, None).await?;
    let address = host_address(&docker, &id, "80/tcp").await?;
    assert_eq!(get(&address).await?, "served\n");

    let started = started_at(&docker, &id).await?;
    engine.kill()?;
    assert!(docker.ping().await.is_err(), "a killed engine answers nothing");
    engine.start_again().await?;
    assert_eq!(started_at(&docker, &id).await?, started, "the container lived on");
    engine.restart().await?;
    assert_eq!(started_at(&docker, &id).await?, started, "the container lived on");
    assert_eq!(get(&address).await?, "served\n");
    Ok(())
}

#[tokio::test]
async fn a_dedicated_docker_stops_its_containers_when_it_stops() -> Result<()> {
    let mut engine = require!(dedicated_docker);
    let docker = engine.client()?;
    let id = create(&docker, &["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done"], HostConfig::default())
        .await?;
    docker.start_container(&id, None).await?;
    engine.restart().await?;
    let state = docker.inspect_container(&id, None).await?.state.context("a container has a state")?;
    assert_eq!((state.running, state.exit_code), (Some(false), Some(7)));
    Ok(())
}

#[tokio::test]
async fn keycloak_signs_with_every_algorithm_rotates_its_keys_and_ends() -> Result<()> {
    let keycloak = require!(dedicated_keycloak);
    let realm = keycloak.realm();
    let published = realm.keys().await?;
    for algorithm in ALGORITHMS {
        let token = realm.token(&format!("demo-client-{}", algorithm.to_lowercase()), "alice").await?;
        let (signed_with, kid) = signature(&token)?;
        assert_eq!(signed_with, algorithm);
        let key = published.iter().find(|key| key["kid"] == kid).with_context(|| format!("{algorithm}: no {kid}"))?;
        assert_eq!((&key["alg"], &key["use"]), (&json!(algorithm), &json!("sig")), "{key}");
    }
    assert!(published.iter().any(|key| key["use"] == "enc"), "a key that signs nothing is among them: {published:?}");
    for token in [realm.token("demo-client", "bob").await?, realm.service_token().await?] {
        assert_eq!(signature(&token)?.0, "RS256");
    }

    let rotated = keycloak.new_realm().await?;
    let kids = async || anyhow::Ok(rotated.keys().await?.iter().map(|key| key["kid"].clone()).collect::<Vec<_>>());
    let token = async || signature(&rotated.token("demo-client", "alice").await?);
    let (_, first) = token().await?;
    rotated.add_key(200).await?;
    let (_, second) = token().await?;
    assert_ne!(first, second, "the new key signs at once");
    let both = kids().await?;
    assert!(both.contains(&json!(first)) && both.contains(&json!(second)), "{both:?}");
    rotated.delete_key(&rotated.first_key().await?).await?;
    assert!(!kids().await?.contains(&json!(first)), "the old key is gone");
    assert_eq!(signature(&realm.token("demo-client", "alice").await?)?.0, "RS256", "another realm goes on");

    let option = format!("--http-port={}", keycloak.port());
    assert_eq!(processes_with(&option)?, 1);
    drop(keycloak);
    assert_eq!(processes_with(&option)?, 0, "no process is left");
    Ok(())
}

#[tokio::test]
async fn the_double_of_an_issuer_serves_its_keys_counts_and_misbehaves() -> Result<()> {
    let mut issuer = IssuerDouble::start().await?;
    let http = http();
    let discovery = format!("{}/.well-known/openid-configuration", issuer.issuer());
    let get = async |place: &str| http.get(place).send().await;
    let found: Value = get(&discovery).await?.json().await?;
    assert_eq!(found["issuer"], issuer.issuer());
    let place = found["jwks_uri"].as_str().context("no jwks_uri")?;

    for algorithm in ALGORITHMS {
        let key = issuer.add_key(algorithm, &format!("kid-{algorithm}"))?;
        assert_eq!(signature(&issuer.token(&key, "alice")?)?, (algorithm.to_owned(), format!("kid-{algorithm}")));
    }
    issuer.remove_key("kid-RS256")?;
    issuer.set_cache_control(Some("max-age=7"));
    let answer = get(place).await?;
    assert_eq!(answer.headers()["cache-control"], "max-age=7");
    let keys: Value = answer.json().await?;
    let seen: Vec<_> = keys["keys"].as_array().into_iter().flatten().map(|key| (&key["kid"], &key["alg"])).collect();
    let expected: Vec<_> = ALGORITHMS[1..].iter().map(|name| (json!(format!("kid-{name}")), json!(name))).collect();
    assert_eq!(seen, expected.iter().map(|(kid, name)| (kid, name)).collect::<Vec<_>>());

    issuer.set_fault(Document::Discovery, Some(Fault::Issuer("http://other".to_owned())));
    assert_eq!(get(&discovery).await?.json::<Value>().await?["issuer"], "http://other");
    issuer.set_fault(Document::Discovery, Some(Fault::NotJson));
    assert!(get(&discovery).await?.json::<Value>().await.is_err());
    issuer.set_fault(Document::Discovery, None);
    assert_eq!(get(&discovery).await?.json::<Value>().await?, found);
    issuer.set_fault(Document::Keys, Some(Fault::Status(500)));
    assert_eq!(get(place).await?.status(), 500);
    issuer.set_fault(Document::Keys, Some(Fault::Huge(1 << 20)));
    assert!(get(place).await?.bytes().await?.len() > 1 << 20);
    issuer.set_fault(Document::Keys, Some(Fault::Redirect(discovery.clone())));
    assert_eq!(get(place).await?.json::<Value>().await?, found);
    let delay = Duration::from_millis(100);
    issuer.set_fault(Document::Keys, Some(Fault::Slow(delay)));
    let start = Instant::now();
    assert_eq!(get(place).await?.json::<Value>().await?, keys);
    assert!(start.elapsed() >= delay);
    assert_eq!(issuer.fetches(), Fetches { discovery: 5, keys: 5, other: 0 });

    issuer.go_down().await?;
    assert!(get(place).await.is_err_and(|error| error.is_connect()), "it refuses connections");
    issuer.come_up().await?;
    assert_eq!(get(place).await?.json::<Value>().await?, keys);
    Ok(())
}

/// Returns the algorithm and the key id that a token names.
fn signature(token: &str) -> Result<(String, String)> {
    let header = Token::decode_metadata(token)?;
    Ok((header.algorithm().to_owned(), header.key_id().context("the token names no key")?.to_owned()))
}

/// Not a test: the process that the next test kills.
#[tokio::test]
#[ignore = "started by a_killed_test_process_leaves_no_server"]
async fn holds_servers_until_it_is_killed() -> Result<()> {
    let postgres = tokio::task::spawn_blocking(Postgres::start).await??;
    let engine = DedicatedDocker::start(&["--live-restore"]).await?;
    let docker = engine.client()?;
    let marker = std::env::var("RENGA_TEST_MARKER")?;
    let id = create(&docker, &["sleep", &marker], HostConfig::default()).await?;
    docker.start_container(&id, None).await?;
    println!("\nholding {} {}", postgres.create_database().await?, engine.socket().display());
    std::future::pending().await
}

#[tokio::test]
async fn a_killed_test_process_leaves_no_server() -> Result<()> {
    require!(postgres);
    drop(require!(dedicated_docker));
    // A duration that no other process sleeps for, so that it identifies the container's process.
    let marker = format!("10{}", std::process::id());
    let mut holder = Command::new(std::env::current_exe()?)
        .args(["--ignored", "--exact", "holds_servers_until_it_is_killed", "--nocapture"])
        .env("RENGA_TEST_MARKER", &marker)
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(holder.stdout.take().context("the holder has an output")?).lines();
    let holding = lines.map_while(Result::ok).find(|line| line.starts_with("holding"));
    let holding = holding.context("the holder ended before it held servers")?;
    let [_, uri, socket] = holding.split(' ').collect::<Vec<_>>()[..] else { panic!("the holder said {holding:?}") };
    query(uri, "SELECT 1").await?;
    assert_eq!(processes_with(&marker)?, 1, "the container's process runs");

    holder.kill()?;
    holder.wait()?;
    let start = Instant::now();
    while processes_with(&marker)? > 0 || query(uri, "SELECT 1").await.is_ok() || std::fs::exists(socket)? {
        ensure!(start.elapsed() < Duration::from_secs(20), "servers are left over after 20 s: {uri}, {socket}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn query(uri: &str, sql: &str) -> Result<Vec<String>> {
    let (client, connection) = tokio_postgres::connect(uri, NoTls).await?;
    tokio::spawn(connection);
    let answers = client.simple_query(sql).await?;
    let rows = answers.iter().filter_map(|answer| match answer {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(rows.collect())
}

async fn create(docker: &Docker, command: &[&str], host_config: HostConfig) -> Result<String> {
    let body = ContainerCreateBody {
        image: Some(BUSYBOX.to_owned()),
        cmd: Some(command.iter().map(|&word| word.to_owned()).collect()),
        exposed_ports: Some(host_config.port_bindings.iter().flatten().map(|(port, _)| port.clone()).collect()),
        host_config: Some(host_config),
        ..Default::default()
    };
    let options = CreateContainerOptionsBuilder::default().build();
    Ok(docker.create_container(Some(options), body).await?.id)
}

fn published(port: &str) -> HostConfig {
    let binding = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(String::new()) };
    HostConfig { port_bindings: Some([(port.to_owned(), Some(vec![binding]))].into()), ..Default::default() }
}

async fn host_address(docker: &Docker, id: &str, port: &str) -> Result<String> {
    let settings = docker.inspect_container(id, None).await?.network_settings.context("it has a network")?;
    let mut ports = settings.ports.context("it has ports")?;
    let binding = ports.remove(port).flatten().context("the port is published")?.remove(0);
    Ok(format!("{}:{}", binding.host_ip.context("with an address")?, binding.host_port.context("with a port")?))
}

/// Returns the body of `GET /index.html`. Retries for 10 s, because the engine publishes the port early.
async fn get(address: &str) -> Result<String> {
    let start = Instant::now();
    loop {
        let asked = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).context("no HTTP answer yet")
        };
        match asked.await {
            Ok(body) => return Ok(body),
            Err(error) if start.elapsed() > Duration::from_secs(10) => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn started_at(docker: &Docker, id: &str) -> Result<String> {
    let state = docker.inspect_container(id, None).await?.state.context("a container has a state")?;
    ensure!(state.running == Some(true), "the container does not run: {state:?}");
    state.started_at.context("a running container has been started")
}

async fn output(docker: &Docker, id: &str) -> Result<String> {
    let options = LogsOptionsBuilder::default().stdout(true).build();
    let chunks: Vec<_> = docker.logs(id, Some(options)).try_collect().await?;
    Ok(chunks.iter().map(ToString::to_string).collect())
}

/// Returns the exit code in an error, because bollard reports an exit code other than 0 as an error.
fn exit_code(error: bollard::errors::Error) -> Result<Vec<bollard::models::ContainerWaitResponse>> {
    match error {
        bollard::errors::Error::DockerContainerWaitError { code, .. } => {
            Ok(vec![bollard::models::ContainerWaitResponse { status_code: code, ..Default::default() }])
        }
        error => Err(error.into()),
    }
}

/// Returns the number of processes with `word` in their command line. The holder itself does not count.
fn processes_with(word: &str) -> Result<usize> {
    let mut found = 0;
    for process in std::fs::read_dir("/proc")?.flatten() {
        // A process may end between the listing and the read.
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        found += usize::from(line.split(|&byte| byte == 0).any(|part| part == word.as_bytes()));
    }
    Ok(found)
}
