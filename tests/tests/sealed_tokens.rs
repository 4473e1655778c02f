//! The caller's token on its way to a container on Docker: sealed in the row until the launch, in the container's
//! environment from then on, and nowhere else.

use anyhow::{Context as _, Result, ensure};
use renga_shared::auth::{SealKeys, SealedToken};
use renga_shared::environment::SEAL_KEY;
use renga_shared::sql::{Database as _, Dialect, Row};
use renga_tests::client::{Client, Execution};
use renga_tests::deployment::{Deployment, until};
use renga_tests::process::{self, Process};
use renga_tests::require;
use renga_tests::scripts::{Script, TestEngine};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

const VARIABLE: &str = "RENGA_ACCESS_TOKEN";

/// Defines each test once per database. Reports loudly what the machine does not have.
macro_rules! on_docker {
    ($($test:ident),+ $(,)?) => {
        mod sqlite { $(#[tokio::test] async fn $test() -> anyhow::Result<()> {
            super::require!(docker);
            super::$test(None).await
        })+ }
        mod postgres { $(#[tokio::test] async fn $test() -> anyhow::Result<()> {
            super::require!(docker);
            let database = super::require!(postgres).create_database().await?;
            super::$test(Some(&database)).await
        })+ }
    };
}

on_docker! {
    waits_sealed_and_is_gone_once_it_is_launched,
    is_given_to_nobody_else,
    opens_after_a_key_was_rotated_in_and_not_after_it_was_rotated_out,
    without_a_key_is_not_stored,
    goes_when_the_execution_is_stopped_or_deleted_before_it_starts,
    goes_when_the_execution_fails_to_launch,
}

fn key(byte: u8) -> String {
    SealKeys::new_key([byte; 32])
}

/// Starts the API without a reconciler. Docker is configured for a later start of the reconciler.
async fn deployment(database: Option<&str>, seal_key: &str) -> Result<Deployment> {
    let mut variables = vec![TestEngine::Docker.variable(), (SEAL_KEY, seal_key)];
    if let Some(database) = database {
        variables.push(("SQLALCHEMY_DATABASE_URI", database));
    }
    Deployment::without_reconciler(&variables).await
}

/// Creates an execution that prints the variable. The user also sets a variable of that name.
async fn print_token(deployment: &Deployment) -> Result<Execution> {
    let client = &deployment.client;
    let context = client.context(TestEngine::Docker.specification(&Script::Variable(VARIABLE))).await?;
    client.execute(&context, json!({ "environment": { VARIABLE: "the user's own" } })).await
}

/// Returns the sealed token in the execution's row.
async fn stored(deployment: &Deployment, execution: &Execution) -> Result<Option<SealedToken>> {
    let db = deployment.database()?;
    let sql = match db.dialect() {
        Dialect::Sqlite => "SELECT sealed_token FROM executions WHERE id = ?1",
        Dialect::Postgres => "SELECT sealed_token FROM executions WHERE id = $1::text::uuid",
    };
    let mut rows = db.query(sql, vec![execution.id.as_str().into()]).await?;
    let stored = rows.first_mut().map(Row::optional_blob).context("no row")??;
    db.close().await;
    Ok(stored.map(SealedToken::from_stored))
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

async fn printed(deployment: &Deployment, execution: &Execution) -> Result<String> {
    deployment.client.wait_for(execution, &["exited"]).await?;
    Ok(deployment.client.logs(execution, "").await?.trim_end().to_owned())
}

/// Waits until the execution has failed because its token cannot be unsealed, with a message that contains `why`.
async fn is_unreadable(deployment: &Deployment, execution: &Execution, why: &str) -> Result<()> {
    let failed = deployment.client.wait_for(execution, &["failed"]).await?;
    let status = &failed["status"];
    ensure!(status["reason"] == "TokenUnreadable", "{failed}");
    ensure!(status["message"].as_str().is_some_and(|message| message.contains(why)), "{failed}");
    ensure!(status["engine_id"].is_null(), "nothing was made: {failed}");
    ensure!(stored(deployment, execution).await?.is_none(), "it is of no more use");
    Ok(())
}

async fn waits_sealed_and_is_gone_once_it_is_launched(database: Option<&str>) -> Result<()> {
    let mut deployment = deployment(database, &key(1)).await?;
    let token = deployment.issuer.token("alice");
    let client = deployment.client.with_token(&token);
    let context = client.context(TestEngine::Docker.specification(&Script::Variable(VARIABLE))).await?;
    let execution = client.execute(&context, json!({ "environment": { VARIABLE: "the user's own" } })).await?;
    let waiting = stored(&deployment, &execution).await?.context("no token is stored")?;
    let claims = token.split('.').nth(1).context("no claims")?;
    ensure!(!holds(waiting.as_bytes(), &token) && !holds(waiting.as_bytes(), claims), "it is in the clear");
    let opened = SealKeys::parse(&key(1))?.open(&waiting, execution.id.parse()?)?;
    ensure!(*opened.expose_secret() == token, "another token than the caller's");

    deployment.start_reconciler().await?;
    ensure!(printed(&deployment, &execution).await? == token, "the container has another");
    ensure!(stored(&deployment, &execution).await?.is_none(), "it is still in the row");
    let seen: Value = deployment.client.get(&execution.path).await?;
    ensure!(!seen.to_string().contains(&token), "it is shown: {seen}");
    ensure!(seen["environment"][VARIABLE] == "the user's own", "what was asked for is shown: {seen}");
    deployment.stop().await
}

async fn is_given_to_nobody_else(database: Option<&str>) -> Result<()> {
    let mut deployment = deployment(database, &key(1)).await?;
    let executions = [print_token(&deployment).await?, print_token(&deployment).await?];
    let [one, other] = [stored(&deployment, &executions[0]).await?, stored(&deployment, &executions[1]).await?];
    let db = deployment.database()?;
    for (execution, token) in executions.iter().zip([other, one]) {
        let sql = match db.dialect() {
            Dialect::Sqlite => "UPDATE executions SET sealed_token = ?2 WHERE id = ?1 RETURNING 1",
            Dialect::Postgres => {
                "UPDATE executions SET sealed_token = $2::bytea WHERE id = $1::text::uuid RETURNING 1::bigint"
            }
        };
        let changed = db.query(sql, vec![execution.id.as_str().into(), token.as_ref().into()]).await?;
        ensure!(changed.len() == 1);
    }
    db.close().await;
    deployment.start_reconciler().await?;
    for execution in &executions {
        is_unreadable(&deployment, execution, "sealed for another execution").await?;
    }
    deployment.stop().await
}

async fn opens_after_a_key_was_rotated_in_and_not_after_it_was_rotated_out(database: Option<&str>) -> Result<()> {
    let mut deployment = deployment(database, &key(1)).await?;
    let before = print_token(&deployment).await?;
    let names_the_setting = format!("{SEAL_KEY} must hold the key");
    deployment.environment.set(SEAL_KEY, format!("{},{}", key(2), key(1)));
    deployment.start_reconciler().await?;
    ensure!(printed(&deployment, &before).await?.starts_with("eyJ"), "it is not a token");

    for without in [key(2), String::new()] {
        deployment.stop_reconciler().await?;
        let execution = print_token(&deployment).await?;
        deployment.environment.set(SEAL_KEY, without);
        deployment.start_reconciler().await?;
        is_unreadable(&deployment, &execution, &names_the_setting).await?;
    }
    deployment.stop().await
}

async fn without_a_key_is_not_stored(database: Option<&str>) -> Result<()> {
    let mut deployment = deployment(database, "").await?;
    let execution = print_token(&deployment).await?;
    ensure!(stored(&deployment, &execution).await?.is_none(), "a token is stored");
    deployment.start_reconciler().await?;
    ensure!(printed(&deployment, &execution).await? == "the user's own", "the user's own variable stands");
    let plain = deployment.client.run(TestEngine::Docker.specification(&Script::Variable(VARIABLE))).await?;
    ensure!(printed(&deployment, &plain).await?.is_empty(), "the variable is set");
    deployment.stop().await
}

async fn goes_when_the_execution_is_stopped_or_deleted_before_it_starts(database: Option<&str>) -> Result<()> {
    let mut deployment = deployment(database, &key(1)).await?;
    let client = deployment.client.clone();
    let (stopped, deleted) = (print_token(&deployment).await?, print_token(&deployment).await?);
    for execution in [&stopped, &deleted] {
        ensure!(stored(&deployment, execution).await?.is_some(), "no token is stored");
    }
    client.stop(&stopped).await?;
    client.delete(&deleted).await?;
    for execution in [&stopped, &deleted] {
        ensure!(stored(&deployment, execution).await?.is_none(), "no reconciler is needed for it to go");
    }
    deployment.start_reconciler().await?;
    let ended = client.wait_for(&stopped, &["failed"]).await?;
    ensure!(ended["status"]["reason"] == "StoppedBeforeStart", "{ended}");
    client.wait_for(&deleted, &["removed"]).await?;
    deployment.stop().await
}

async fn goes_when_the_execution_fails_to_launch(database: Option<&str>) -> Result<()> {
    let mut deployment = deployment(database, &key(1)).await?;
    let failing = deployment.client.run(TestEngine::Docker.specification(&Script::MissingCommand)).await?;
    let waiting = deployment.client.run(TestEngine::Docker.specification(&Script::MissingImage)).await?;
    deployment.start_reconciler().await?;
    deployment.client.wait_for(&failing, &["failed"]).await?;
    ensure!(stored(&deployment, &failing).await?.is_none(), "it is of no more use");
    // The registry does not respond, so the launch is retried, and the token is kept for that.
    until("the image to be waited for", async || {
        let seen = deployment.client.get(&waiting.path).await?;
        let told = seen["status"]["reason"].as_str().is_some_and(|reason| reason.starts_with("Image"));
        Ok(if told && seen["status"]["phase"] == "scheduled" { Ok(()) } else { Err(seen) })
    })
    .await?;
    ensure!(stored(&deployment, &waiting).await?.is_some(), "the next try needs it");
    deployment.stop().await
}

#[tokio::test]
async fn is_in_no_log_even_at_the_most_verbose_level() -> Result<()> {
    require!(docker);
    // Only for its folder and its variables, because the service is a separate process.
    let mut deployment = deployment(None, &key(1)).await?;
    deployment.environment.set("RUST_LOG", "trace");
    let (log, address) = (deployment.folder().join("up.log"), process::free_address()?.to_string());
    let arguments = ["up", "--listen", &address];
    let mut service = Process::start(process::deployer()?, &arguments, &deployment.environment, &log)?;
    service.metrics_address().await?;
    let token = deployment.issuer.token("alice");
    deployment.client = Client::new(&format!("http://{address}"), &token);
    let execution = print_token(&deployment).await?;
    ensure!(printed(&deployment, &execution).await? == token, "the container has another");
    deployment.client.remove_everything().await?;
    service.signal("TERM")?;
    ensure!(service.ended().await?.success(), "{}", service.text()?);
    let logged = service.text()?;
    ensure!(logged.contains(&execution.id) && logged.contains("TRACE"), "nothing is logged of it");
    ensure!(
        logged.matches("DEPLOYER_SEAL_KEY has 1 key(s)").count() == 1,
        "it is told once that tokens are handed over"
    );
    for secret in [token.as_str(), &key(1), "the user's own"] {
        let line = logged.lines().find(|line| line.contains(secret));
        ensure!(line.is_none(), "{secret:?} is in the log: {line:?}");
    }
    deployment.leave().await
}
