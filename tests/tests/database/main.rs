//! The contract of the database port, on every adapter: native, and through a component in the embedded host.

mod changes;
mod plans;
mod sources;
mod turns;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use renga_reconciler::db::{NativeDatabase, migrate};
use renga_shared::sql::uri::DatabaseUri;
use renga_shared::sql::{Database as _, DatabaseError};
use renga_tests::component_database::ComponentDatabase;
use renga_tests::{contract, require};

async fn migrated(uri: &DatabaseUri) -> NativeDatabase {
    migrate(uri).await.unwrap();
    NativeDatabase::open(uri).unwrap()
}

fn sqlite(folder: &tempfile::TempDir) -> DatabaseUri {
    DatabaseUri::parse(&format!("sqlite:///{}/deployer.db", folder.path().display())).unwrap()
}

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    contract::run(&migrated(&sqlite(&folder)).await).await;
}

#[tokio::test]
async fn postgres_keeps_the_contract() {
    let postgres = require!(postgres);
    let uri = DatabaseUri::parse(&postgres.create_database().await.unwrap()).unwrap();
    contract::run(&migrated(&uri).await).await;
}

#[tokio::test]
async fn sqlite_in_a_component_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    migrate(&sqlite(&folder)).await.unwrap();
    let uri = format!("sqlite:///{}/deployer.db", folder.path().display());
    contract::run(&ComponentDatabase::start(&uri).await.unwrap()).await;
}

#[tokio::test]
async fn postgres_in_a_component_keeps_the_contract() {
    let postgres = require!(postgres);
    let uri = postgres.create_database().await.unwrap();
    migrate(&DatabaseUri::parse(&uri).unwrap()).await.unwrap();
    contract::run(&ComponentDatabase::start(&uri).await.unwrap()).await;
}

/// Ten processes' worth of starts, at once.
async fn migrate_many_times(uri: &DatabaseUri) {
    let uri = Arc::new(uri.clone());
    let starts = (0..10).map(|_| {
        let uri = Arc::clone(&uri);
        tokio::spawn(async move { migrate(&uri).await })
    });
    for start in starts.collect::<Vec<_>>() {
        start.await.unwrap().unwrap();
    }
    renga_shared::sql::deployment::ping(&NativeDatabase::open(&uri).unwrap()).await.unwrap();
}

#[tokio::test]
async fn sqlite_is_migrated_by_many_at_once() {
    let folder = tempfile::tempdir().unwrap();
    migrate_many_times(&sqlite(&folder)).await;
    let db = NativeDatabase::open(&sqlite(&folder)).unwrap();
    let mode = db.query("PRAGMA journal_mode", Vec::new()).await.unwrap().remove(0).text().unwrap();
    assert_eq!(mode, "wal", "the migration sets it, and it lasts");
}

/// The modes of a SQLite file and of the two beside it.
fn modes(file: &Path) -> [u32; 3] {
    ["db", "db-wal", "db-shm"]
        .map(|extension| std::fs::metadata(file.with_extension(extension)).unwrap().permissions().mode() & 0o777)
}

#[tokio::test]
async fn a_sqlite_file_is_its_owners_alone_unless_its_operator_says_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deployer.db");
    let db = migrated(&sqlite(&folder)).await;
    renga_shared::sql::deployment::set_audit(&db, false).await.unwrap();
    assert_eq!(modes(&file), [0o600; 3]);
    db.close().await;

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o660)).unwrap();
    let db = migrated(&sqlite(&folder)).await;
    renga_shared::sql::deployment::set_audit(&db, false).await.unwrap();
    assert_eq!(modes(&file), [0o660; 3], "a group that may use it still may");
}

#[tokio::test]
async fn postgres_is_migrated_by_many_at_once() {
    let postgres = require!(postgres);
    let uri = DatabaseUri::parse(&postgres.create_database().await.unwrap()).unwrap();
    migrate_many_times(&uri).await;
}

#[tokio::test]
async fn what_is_missing_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let ping = async |uri: &DatabaseUri| {
        renga_shared::sql::deployment::ping(&NativeDatabase::open(uri).unwrap()).await.unwrap_err()
    };
    assert!(matches!(ping(&sqlite(&folder)).await, DatabaseError::Unavailable(_)), "no file");
    std::fs::write(folder.path().join("deployer.db"), b"").unwrap();
    assert!(matches!(ping(&sqlite(&folder)).await, DatabaseError::Schema(_)), "no tables");
    let nobody = DatabaseUri::parse("postgresql://renga@127.0.0.1:1/none").unwrap();
    assert!(matches!(ping(&nobody).await, DatabaseError::Unavailable(_)), "nobody listens");
    let missing = DatabaseUri::parse(&format!("sqlite:///{}/no/such/folder.db", folder.path().display())).unwrap();
    assert!(matches!(migrate(&missing).await, Err(DatabaseError::Unavailable(_))), "no folder");
}
