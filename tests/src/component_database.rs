//! A database as a component reaches it: a component in the embedded host runs the statements.

use anyhow::Result;
use renga_host::variables::VariableFaults;
use renga_shared::environment::Environment;
use renga_shared::sql::uri::DatabaseUri;
use renga_shared::sql::{Database, DatabaseError, Dialect, Row, Value};

use renga_reconciler::db::WriteTurns;

use crate::deployment::{Part, start_host};
use crate::process::database_guest;

#[path = "../guest/src/wire.rs"]
mod wire;

const MANIFEST: &str = r#"
spin_manifest_version = 2
[application]
name = "contract"
[variables]
database_uri = { required = true }
[[trigger.http]]
route = "/..."
component = "guest"
[component.guest]
source = "{source}"
sqlite_databases = ["default"]
allowed_outbound_hosts = ["postgres://*:*"]
[component.guest.variables]
database_uri = "{{ database_uri }}"
"#;

/// A database that is reached through a component.
pub struct ComponentDatabase {
    dialect: Dialect,
    http: reqwest::Client,
    address: String,
    /// The host, which stops when this is dropped.
    _host: Part,
    _folder: tempfile::TempDir,
}

impl ComponentDatabase {
    /// Starts a host for the component in `tests/guest`, with the database at `uri`.
    ///
    /// # Errors
    /// Fails if the component does not build or the host does not start.
    pub async fn start(uri: &str) -> Result<Self> {
        let guest = tokio::task::spawn_blocking(database_guest).await??;
        let folder = tempfile::tempdir()?;
        let manifest = folder.path().join("spin.toml");
        std::fs::write(&manifest, MANIFEST.replace("{source}", &guest.display().to_string()))?;
        let environment: Environment = [("SQLALCHEMY_DATABASE_URI".to_owned(), uri.to_owned())].into_iter().collect();
        let (host, address) =
            start_host(&manifest, &environment, folder.path(), VariableFaults::default(), &WriteTurns::default())
                .await?;
        let dialect = match DatabaseUri::parse(uri)? {
            DatabaseUri::Sqlite(_) => Dialect::Sqlite,
            DatabaseUri::Postgres(_) => Dialect::Postgres,
        };
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (http, address) = (reqwest::Client::new(), format!("http://{address}/"));
        Ok(Self { dialect, http, address, _host: host, _folder: folder })
    }

    async fn ask(&self, sql: &str, parameters: &[Value]) -> Result<serde_json::Value> {
        let statement = wire::statement(sql, parameters);
        Ok(self.http.post(&self.address).json(&statement).send().await?.error_for_status()?.json().await?)
    }
}

impl Database for ComponentDatabase {
    fn dialect(&self) -> Dialect {
        self.dialect
    }

    async fn query(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
        let unexpected = |error: &dyn std::fmt::Display| DatabaseError::Unexpected(error.to_string());
        let answer = self.ask(sql, &parameters).await.map_err(|error| unexpected(&error))?;
        let rows = wire::read_answer(&answer).ok_or_else(|| unexpected(&answer))??;
        Ok(rows.into_iter().map(Row::new).collect())
    }
}
