//! Those who write to one SQLite file take turns, in one process and in two.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use renga_reconciler::db::{NativeDatabase, WriteTurns};
use renga_shared::sql::{DatabaseError, deployment};
use tokio::task::JoinSet;

use super::{migrated, sqlite};

/// Reads in which a write that does not wait is done many times over.
const READS: usize = 300;
/// Commits of both writers together.
const COMMITS: usize = 400;

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_waits_for_its_turn_and_readers_for_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    migrated(&sqlite(&folder)).await.close().await;
    let turns = WriteTurns::default();
    let db = NativeDatabase::open_in_turn(&sqlite(&folder), Some(turns.clone()))?;
    let turn = turns.lock().await;
    let writer = tokio::spawn({
        let db = db.clone();
        async move { deployment::set_audit(&db, false).await }
    });
    for _ in 0..READS {
        deployment::ping(&db).await?;
    }
    ensure!(!writer.is_finished(), "it wrote in the turn of another");
    drop(turn);
    writer.await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_in_two_processes_leave_each_other_the_lock() -> Result<()> {
    // They know nothing of each other, as if each were alone in its process.
    let [first, second] = commits().await?;
    ensure!(first.min(second) * 4 >= first.max(second), "{first} and {second} commits");
    Ok(())
}

/// How many commits each of two writers has who write again as soon as they are answered.
async fn commits() -> Result<[usize; 2]> {
    let folder = tempfile::tempdir()?;
    migrated(&sqlite(&folder)).await.close().await;
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let mut writers = JoinSet::new();
    for writer in 0..counts.len() {
        let db = NativeDatabase::open(&sqlite(&folder))?;
        let counts = Arc::clone(&counts);
        writers.spawn(async move {
            while counts.iter().map(|count| count.load(Ordering::Relaxed)).sum::<usize>() < COMMITS {
                deployment::set_audit(&db, false).await?;
                counts[writer].fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, DatabaseError>(())
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    let counts = counts.each_ref().map(|count| count.load(Ordering::Relaxed));
    Ok(counts)
}
