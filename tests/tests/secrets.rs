//! Marked secrets, and a search for them in everything that the system writes at its most verbose log level.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use renga_shared::auth::SealKeys;
use renga_shared::environment::SEAL_KEY;
use renga_shared::sql::Database as _;
use renga_tests::client::Client;
use renga_tests::deployment::Deployment;
use renga_tests::issuer::Issuer;
use renga_tests::process::{self, Process};
use renga_tests::require;
use renga_tests::scripts::{Script, TestEngine};
use reqwest::Method;
use serde_json::json;
use tokio_postgres::NoTls;

const PASSWORD: &str = "marked-database-password";
const OF_CONTEXT: &str = "marked-variable-of-the-context";
const OF_EXECUTION: &str = "marked-variable-of-the-execution";
const FORGED: &str = "marked-token-that-nobody-signed";

/// Written texts, by the place where they were found.
type Written = BTreeMap<String, String>;

#[tokio::test]
async fn appear_only_where_they_belong() -> Result<()> {
    require!(docker);
    let database = with_password(&require!(postgres).create_database().await?).await?;
    let seal_key = SealKeys::new_key([42; 32]);
    let mut deployment = Deployment::without_reconciler(&[
        TestEngine::Docker.variable(),
        ("SQLALCHEMY_DATABASE_URI", &database),
        (SEAL_KEY, &seal_key),
        ("RUST_LOG", "trace"),
    ])
    .await?;
    let [alice, bob] = ["alice", "bob"].map(|user| deployment.issuer.token(user));
    deployment.client = deployment.client.with_token(&alice);
    let mut written = Written::new();

    // Nothing launches the execution yet, so the tokens are in the database, sealed.
    let mut spec = TestEngine::Docker.specification(&Script::Variable("RENGA_ACCESS_TOKEN"));
    spec["env"] = json!([{ "name": "MARKED", "value": OF_CONTEXT }]);
    let context = deployment.client.context(spec.clone()).await?;
    let wish = json!({ "environment": { "MARKED": OF_EXECUTION } });
    let execution = deployment.client.execute(&context, wish.clone()).await?;
    let pending = rows(&deployment).await?;
    ensure!(pending.contains(OF_EXECUTION), "an execution's environment belongs in its row");
    written.insert("the database, before the launch".into(), without_environments(&pending));

    let (log, address) = (deployment.folder().join("up.log"), process::free_address()?.to_string());
    let arguments = ["up", "--listen", &address];
    let mut service = Process::start(process::deployer()?, &arguments, &deployment.environment, &log)?;
    let metrics = service.metrics_address().await?;
    deployment.client = Client::new(&format!("http://{address}"), &alice);
    deployment.client.wait_for(&execution, &["exited"]).await?;
    ensure!(deployment.client.logs(&execution, "").await?.contains(&alice), "the container has no token to print");

    // Error responses do not repeat what was sent.
    let others = deployment.client.with_token(&bob);
    let forged = deployment.client.with_token(FORGED);
    let mistaken = json!({ "image": OF_CONTEXT.to_uppercase(), "env": [{ "name": "A", "value": [OF_CONTEXT] }] });
    for (name, answer) in [
        ("another user's GET", others.ask(Method::GET, &execution.path).await?),
        ("another user's list", others.ask(Method::GET, "/v1/executions").await?),
        ("a forged token", forged.ask(Method::GET, "/v1/contexts").await?),
        ("a bad specification", deployment.client.post("/v1/contexts", &mistaken).await?),
        (
            "a bad execution",
            deployment.client.post(&format!("/v1/contexts/{context}/executions"), &json!([OF_EXECUTION])).await?,
        ),
        ("the engines", deployment.client.ask(Method::GET, "/v1/engines").await?),
    ] {
        written.insert(name.into(), format!("{answer:?}"));
    }
    let status = deployment.client.get(&execution.path).await?["status"].to_string();
    written.insert("the status".into(), status);
    for path in ["metrics", "readyz", "healthz"] {
        written.insert(path.into(), reqwest::get(format!("http://{metrics}/{path}")).await?.text().await?);
    }
    written.insert("the process list".into(), process_list()?);

    // A failed launch is reported at length.
    spec["command"] = json!(["/no/such/program", "with", "arguments"]);
    let context = deployment.client.context(spec).await?;
    let failed = deployment.client.execute(&context, wish).await?;
    let failed = deployment.client.wait_for(&failed, &["failed"]).await?;
    written.insert("the status of what failed".into(), failed["status"].to_string());
    let ended = rows(&deployment).await?;
    written.insert("the database, after the launch".into(), without_environments(&ended));
    deployment.client.remove_everything().await?;
    service.signal("TERM")?;
    ensure!(service.ended().await?.success(), "{}", service.text()?);
    let logged = service.text()?;
    ensure!(logged.contains(&execution.id) && logged.contains("TRACE"), "nothing is logged of it");
    written.insert("the log".into(), logged);

    let away = database.replace("127.0.0.1:", "127.0.0.1:1");
    deployment.environment.set("SQLALCHEMY_DATABASE_URI", away);
    let other_log = deployment.folder().join("away.log");
    let mut unable = Process::start(process::deployer()?, &arguments, &deployment.environment, &other_log)?;
    ensure!(!unable.ended().await?.success(), "it runs without a database");
    written.insert("what is said of a database that is away".into(), unable.text()?);
    deployment.leave().await?;

    let secrets = [
        ("the database's password", PASSWORD),
        ("a variable of the context", OF_CONTEXT),
        ("a variable of the execution", OF_EXECUTION),
        ("a forged token", FORGED),
        ("alice's token", &alice),
        ("bob's token", &bob),
        ("the signature of alice's token", alice.rsplit('.').next().context("a token has parts")?),
        ("the seal key", &seal_key),
    ];
    let mut found = Vec::new();
    for (place, text) in &written {
        for (name, secret) in &secrets {
            if let Some(line) = text.lines().find(|line| line.contains(secret)) {
                found.push(format!("{name} is in {place}: {}", line.chars().take(300).collect::<String>()));
            }
        }
    }
    ensure!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

/// Returns the URI of the same database for a new user with a password.
async fn with_password(database: &str) -> Result<String> {
    let (client, connection) = tokio_postgres::connect(database, NoTls).await?;
    let connection = tokio::spawn(connection);
    let made = format!("CREATE ROLE marked LOGIN SUPERUSER PASSWORD '{PASSWORD}'");
    client.batch_execute(&made).await?;
    drop(client);
    connection.await??;
    let (_, place) = database.split_once('@').context("a URI without a user")?;
    Ok(format!("postgresql://marked:{PASSWORD}@{place}"))
}

/// Returns every row of our tables as text, except the logs, because the user's own program printed them.
async fn rows(deployment: &Deployment) -> Result<String> {
    let db = deployment.database()?;
    let mut text = String::new();
    for table in [
        "contexts",
        "executions",
        "context_labels",
        "execution_labels",
        "engines",
        "deployment",
        "issuer_keys",
        "audit",
    ] {
        for mut row in db.query(&format!("SELECT t::text FROM {table} AS t"), Vec::new()).await? {
            text.push_str(&row.text()?);
            text.push('\n');
        }
    }
    db.close().await;
    Ok(text)
}

/// Returns the rows without the variables of contexts and executions, because those belong there.
fn without_environments(rows: &str) -> String {
    rows.replace(OF_CONTEXT, "").replace(OF_EXECUTION, "")
}

/// Returns the command lines of all processes, as every user of this machine may read them.
fn process_list() -> Result<String> {
    let mut lines = String::new();
    for process in std::fs::read_dir("/proc")?.flatten() {
        // Many processes end while they are read.
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        lines.push_str(&String::from_utf8_lossy(&line).replace('\0', " "));
        lines.push('\n');
    }
    ensure!(lines.contains("--listen"), "the service is not in the list: {lines}");
    Ok(lines)
}

#[test]
fn a_private_key_in_place_of_a_public_key_is_not_shown() {
    let private = Issuer::new().public_key_pem().replace("PUBLIC", "PRIVATE");
    let told = renga_shared::auth::VerificationKey::parse(&private).unwrap_err().to_string();
    assert!(private.lines().skip(1).take(1).all(|line| !told.contains(line)), "{told}");
}
