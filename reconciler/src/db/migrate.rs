//! Brings the schema up to date. See `migrations/README.md` for the rules.

use std::path::Path;
use std::time::Duration;

use renga_shared::sql::DatabaseError;
use renga_shared::sql::uri::DatabaseUri;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteJournalMode, SqlitePoolOptions};

use super::{NativeDatabase, sort, sqlite};

static SQLITE: Migrator = sqlx::migrate!("../migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("../migrations/postgres");

/// How often a migration is tried again that another process was running at the same moment.
const TRIES: u32 = 20;

/// Applies the migrations that the database lacks; makes a SQLite file that is not there. Any number of processes may
/// do so at once: PostgreSQL has them queue, and on SQLite whoever comes second finds the work done.
pub async fn migrate(uri: &DatabaseUri) -> Result<(), DatabaseError> {
    match uri {
        DatabaseUri::Sqlite(path) => migrate_sqlite(path).await,
        DatabaseUri::Postgres(_) => {
            let NativeDatabase::Postgres(database) = NativeDatabase::open(uri)? else { return Ok(()) };
            let migrated = POSTGRES.run(database.pool()).await;
            database.pool().close().await;
            migrated.map_err(|error| explain(&error))
        }
    }
}

async fn migrate_sqlite(path: &str) -> Result<(), DatabaseError> {
    if let Some(folder) = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty())
        && !tokio::fs::metadata(folder).await.is_ok_and(|folder| folder.is_dir())
    {
        return Err(DatabaseError::Unavailable(format!(
            "the folder {} of the SQLite file is not there",
            folder.display()
        )));
    }
    make_file(path).await;
    let options = sqlite::options(Path::new(path)).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(options);
    let mut tried = 0;
    let migrated = loop {
        tried += 1;
        match SQLITE.run(&pool).await {
            // SQLite has no lock for migrations. Each is one transaction with its own row, so a race has one winner,
            // and the loser's error is cured by looking again.
            Err(MigrateError::Execute(_) | MigrateError::ExecuteMigration(..)) if tried < TRIES => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            ended => break ended,
        }
    };
    pool.close().await;
    migrated.map_err(|error| explain(&error))
}

/// Makes a file that is not there, for its owner alone: it will hold specifications, logs and tokens, and SQLite would
/// let everybody read it. The files beside it get its mode. A file that is there keeps the mode that its operator gave
/// it.
async fn make_file(path: &str) {
    let made = tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).await;
    if let Err(error) = made
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        // SQLite meets the same, and its error is the one that is reported.
        tracing::debug!(path, %error, "cannot make the file {path}: {error}");
    }
}

fn explain(error: &MigrateError) -> DatabaseError {
    match error {
        MigrateError::VersionMissing(version) => DatabaseError::Schema(format!(
            "it has migration {version}, which this program does not know: a newer version has migrated it"
        )),
        MigrateError::VersionMismatch(version) => DatabaseError::Schema(format!(
            "migration {version} was applied in another form than this program has: was a landed migration changed?"
        )),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => sort(error),
        other => DatabaseError::Unexpected(other.to_string()),
    }
}
