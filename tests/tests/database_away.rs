//! A database that goes away in the middle of a request, and statements that take their time.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use renga_reconciler::db::NativeDatabase;
use renga_shared::sql::uri::DatabaseUri;
use renga_tests::client::{Client, Execution};
use renga_tests::deployment::{Deployment, until};
use renga_tests::hand::Hand;
use renga_tests::require;
use renga_tests::servers::{Gate, Postgres};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_postgres::NoTls;

/// An API whose way to its database can be shut, and the direct way.
struct Setup {
    deployment: Deployment,
    gate: Gate,
    direct: String,
}

impl Setup {
    async fn start(postgres: &Postgres) -> Result<Self> {
        let direct = postgres.create_database().await?;
        let (user, rest) = direct.split_once('@').context("a user")?;
        let (server, database) = rest.split_once('/').context("a database")?;
        let gate = Gate::before_address(server.parse::<SocketAddr>()?, [127, 0, 0, 1]).await?;
        let uri = format!("{user}@{}/{database}", gate.socket());
        let deployment = Deployment::without_reconciler(&[("SQLALCHEMY_DATABASE_URI", &uri)]).await?;
        Ok(Self { deployment, gate, direct })
    }

    fn client(&self) -> &Client {
        &self.deployment.client
    }

    /// Does what a reconciler would, on the direct way.
    async fn hand(&self, execution: &Execution) -> Result<Hand> {
        Hand::on(NativeDatabase::open(&DatabaseUri::parse(&self.direct)?)?, execution).await
    }

    async fn server(&self) -> Result<tokio_postgres::Client> {
        let (client, connection) = tokio_postgres::connect(&self.direct, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// The only execution, once it is committed.
    async fn committed(&self, context: &str) -> Result<Execution> {
        let server = self.server().await?;
        let id = until("the row to be committed", async || {
            let row = server.query_opt("SELECT id::text FROM executions", &[]).await?;
            Ok(row.map(|row| row.get::<_, String>(0)).ok_or(Value::Null))
        })
        .await?;
        let path = format!("/v1/contexts/{context}/executions/{id}");
        Ok(Execution { path, id, context: context.to_owned() })
    }
}

/// How many statements wait for a lock.
async fn waiting_for_locks(server: &tokio_postgres::Client) -> Result<i64> {
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    Ok(server.query_one(waits, &[]).await?.get(0))
}

#[tokio::test]
async fn what_was_committed_is_created_although_the_database_is_gone() -> Result<()> {
    let setup = Setup::start(require!(postgres)).await?;
    let client = setup.client();
    let context = client.context(json!({"image": "a"})).await?;
    let path = format!("/v1/contexts/{context}/executions");
    let request = client.request(Method::POST, &path).header("Prefer", "wait=3").json(&json!({}));
    let (answer, committed) = tokio::join!(client.send(request), async {
        let committed = setup.committed(&context).await?;
        setup.gate.close().await?;
        anyhow::Ok(committed)
    });
    let (answer, committed) = (answer?, committed?);
    let created = answer.json(201)?;
    assert_eq!((&created["identifier"], &created["state"]), (&json!(committed.id), &json!("pending")));
    assert_eq!(answer.header("location"), committed.path);
    Ok(())
}

#[tokio::test]
async fn a_database_that_comes_back_ends_no_wait() -> Result<()> {
    let setup = Setup::start(require!(postgres)).await?;
    let client = setup.client();
    let context = client.context(json!({"image": "a", "ports": ["80"]})).await?;
    let path = format!("/v1/contexts/{context}/executions");
    let request = client.request(Method::POST, &path).header("Prefer", "wait=50").json(&json!({}));
    let port = json!({"specified": "80", "host": "127.0.0.1", "exposed": "32768", "protocol": "TCP"});
    let (answer, ran) = tokio::join!(client.send(request), async {
        let committed = setup.committed(&context).await?;
        let ports = format!("{}/ports", committed.path);
        let asked = tokio::spawn({
            let client = client.clone();
            async move { client.get(&ports).await }
        });
        // It has been found, and waits.
        let hand = setup.hand(&committed).await?;
        hand.explain("PullingImage", "Pulling the image.").await?;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        setup.gate.close().await?;
        hand.run(&json!([port]).to_string()).await?;
        setup.gate.open().await?;
        anyhow::Ok(asked.await??)
    });
    assert_eq!(ran?, json!({"ports": [port]}));
    assert_eq!(answer?.json(201)?["state"], "running");
    Ok(())
}

#[tokio::test]
async fn a_slow_statement_holds_up_no_other_of_its_instance() -> Result<()> {
    let setup = Setup::start(require!(postgres)).await?;
    let client = setup.client();
    client.context(json!({"image": "a"})).await?;
    let mut server = setup.server().await?;
    let locked = server.transaction().await?;
    locked.batch_execute("LOCK TABLE executions IN ACCESS EXCLUSIVE MODE").await?;
    let slow: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.get("/v1/executions").await })
        })
        .collect();
    let watcher = setup.server().await?;
    until("three statements to wait for the lock", async || {
        let waiting = waiting_for_locks(&watcher).await?;
        Ok(if waiting == 3 { Ok(()) } else { Err(json!(waiting)) })
    })
    .await?;
    // The same caller, so the same instance.
    for _ in 0..5 {
        assert_eq!(client.get("/v1/contexts").await?["contexts"].as_array().map(Vec::len), Some(1));
    }
    assert!(slow.iter().all(|slow| !slow.is_finished()), "it was answered only after the slow ones");
    locked.commit().await?;
    for slow in slow {
        assert_eq!(slow.await??, json!({"executions": []}));
    }
    Ok(())
}

#[tokio::test]
async fn a_statement_that_was_given_up_holds_up_nobody() -> Result<()> {
    let setup = Setup::start(require!(postgres)).await?;
    let client = setup.client();
    let context = client.context(json!({"image": "a"})).await?;
    let path = format!("/v1/contexts/{context}/executions");
    let mut server = setup.server().await?;
    let request = client.request(Method::POST, &path).header("Prefer", "wait=2").json(&json!({}));
    let (answer, locked) = tokio::join!(client.send(request), async {
        setup.committed(&context).await?;
        let locked = server.transaction().await?;
        locked.batch_execute("LOCK TABLE executions IN ACCESS EXCLUSIVE MODE").await?;
        anyhow::Ok(locked)
    });
    // The last look was given up at the end of the wait; the server still has it wait for the lock.
    let locked = locked?;
    answer?.json(201)?;
    for _ in 0..3 {
        client.get("/v1/contexts").await?;
    }
    assert_eq!(waiting_for_locks(&setup.server().await?).await?, 1, "the others were answered only after it");
    locked.commit().await?;
    Ok(())
}
