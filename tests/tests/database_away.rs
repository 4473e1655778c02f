//! A database that goes away in the middle of a request.

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
