//! Does by hand, and one step at a time, to one execution what a reconciler does: for tests of what the API makes of it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use renga_reconciler::db::NativeDatabase;
use renga_shared::domain::{EngineName, Status, Timestamp, Why};
use renga_shared::sql::logs::{self, Chunk, Frame, LogStream};
use renga_shared::sql::observations::{self, Observation};
use renga_shared::sql::{engines, reconcilers};

use crate::client::Execution;

const HOLDER: &str = "hand";
/// When everything happens.
const NOW: Timestamp = Timestamp(4_000_000_000_000_000);

/// Holds one execution.
pub struct Hand {
    db: NativeDatabase,
    execution: Execution,
    /// The next chunk of its logs: sequence and offset.
    next: (i64, i64),
}

/// Makes an engine known by its name and kind, and whether it answers.
pub async fn serve(db: &NativeDatabase, name: &str, kind: &str, answer: Result<&str, &str>) -> Result<()> {
    let name = EngineName::parse(name)?;
    reconcilers::renew(db, HOLDER, NOW.plus(Duration::from_secs(1_000))).await?;
    engines::serve(db, &name, HOLDER).await?;
    Ok(engines::put(db, &name, kind, answer, Timestamp(1_500_000_000_000_000)).await?)
}

impl Hand {
    /// Takes hold of an execution.
    pub async fn on(db: NativeDatabase, execution: &Execution) -> Result<Self> {
        reconcilers::renew(&db, HOLDER, NOW.plus(Duration::from_secs(1_000))).await?;
        let claimed = observations::claim(&db, HOLDER, NOW, &[execution.id.parse()?]).await?;
        ensure!(!claimed.is_empty(), "it is somebody else's");
        Ok(Self { db, execution: execution.clone(), next: (1, 0) })
    }

    /// Records a change of its status.
    async fn record(&self, ports: Option<&str>, change: impl FnOnce(Status) -> Result<Status>) -> Result<()> {
        let id = self.execution.id.parse()?;
        let work = observations::load(&self.db, HOLDER, id).await?.context("it is gone")?;
        let status = change(work.execution.status)?;
        let seen = Observation { ports: ports.map(str::to_owned), ..Observation::of(status) };
        let recorded = observations::record(&self.db, HOLDER, id, work.execution.revision, &seen).await?;
        recorded.map(drop).context("it changed meanwhile")
    }

    /// It is waited for something.
    pub async fn explain(&self, reason: &str, message: &str) -> Result<()> {
        self.record(None, |status| Ok(status.waiting(Some(Why::new(reason, message)))?)).await
    }

    /// It runs, with these ports as JSON.
    pub async fn run(&self, ports: &str) -> Result<()> {
        self.record(Some(ports), |status| {
            let scheduled = status.scheduled(EngineName::parse("rack-1")?)?;
            Ok(scheduled.created("an-id".into())?.running(Timestamp(1_500_000_000_000_001))?)
        })
        .await
    }

    /// It ends.
    pub async fn exit(&self, code: i64) -> Result<()> {
        let why = Why::new("ExitedWithError", "It ended.");
        self.record(Some("[]"), |status| Ok(status.exited(code, None, Timestamp(1_500_000_001_000_000), why)?)).await
    }

    /// It cannot be started.
    pub async fn fail(&self, reason: &str) -> Result<()> {
        let why = Why::new(reason, "It could not be started.");
        self.record(None, |status| Ok(status.failed(why, Timestamp(1_500_000_001_000_000))?)).await
    }

    /// What was asked for is done: its logs and its object are gone.
    pub async fn remove(&self) -> Result<()> {
        logs::remove(&self.db, HOLDER, self.execution.id.parse()?).await?;
        let why = Why::new("Deleted", "It was deleted.");
        self.record(Some("[]"), |status| Ok(status.removed(why, Timestamp(1_500_000_001_000_000))?)).await
    }

    /// Leaves out so many bytes of its logs, as the cap does.
    pub fn cut(&mut self, bytes: i64) {
        self.next = (self.next.0 + 1, self.next.1 + bytes);
    }

    /// Stores what it wrote, at so many nanoseconds since the epoch, as one chunk.
    pub async fn write(&mut self, written: &[(LogStream, i64, &[u8])]) -> Result<()> {
        let mut chunk =
            Chunk { sequence: self.next.0, start: self.next.1, length: 0, last_nanos: 0, frames: Vec::new() };
        for (stream, nanos, bytes) in written {
            Frame { stream: *stream, nanos: *nanos, bytes }.encode(&mut chunk.frames);
            chunk.length += i64::try_from(bytes.len())?;
            chunk.last_nanos = chunk.last_nanos.max(*nanos);
        }
        self.next = (chunk.sequence + 1, chunk.start + chunk.length);
        ensure!(logs::append(&self.db, HOLDER, self.execution.id.parse()?, chunk).await?, "it is no longer held");
        Ok(())
    }

    /// The same, of standard output.
    pub async fn print(&mut self, text: &str) -> Result<()> {
        self.write(&[(LogStream::Stdout, 1_500_000_000_000_000_000 + self.next.0, text.as_bytes())]).await
    }
}
