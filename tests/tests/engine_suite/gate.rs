//! A socket before an engine's own, which can be shut: to whoever uses it the engine is away, to others it is not.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

pub(crate) struct Gate {
    folder: tempfile::TempDir,
    engine: PathBuf,
    /// Whoever listens. Its connections end with it.
    listener: Mutex<JoinSet<()>>,
}

impl Gate {
    /// An open gate before the socket `engine`.
    pub(crate) async fn before(engine: &str) -> Result<Self> {
        let gate = Self { folder: tempfile::tempdir()?, engine: engine.into(), listener: Mutex::default() };
        gate.open().await?;
        Ok(gate)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// Passes on what comes.
    pub(crate) async fn open(&self) -> Result<()> {
        let socket = self.close_and_listen().await?;
        let engine = self.engine.clone();
        self.listener.lock().await.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = socket.accept().await {
                while connections.try_join_next().is_some() {}
                let engine = engine.clone();
                connections.spawn(async move { pass_on(client, &engine).await });
            }
        });
        Ok(())
    }

    /// Takes every connection and answers none.
    pub(crate) async fn silence(&self) -> Result<()> {
        let socket = self.close_and_listen().await?;
        self.listener.lock().await.spawn(async move {
            let mut held = Vec::new();
            while let Ok((client, _)) = socket.accept().await {
                held.push(client);
            }
        });
        Ok(())
    }

    /// Breaks every connection and takes no other.
    pub(crate) async fn close(&self) -> Result<()> {
        self.listener.lock().await.shutdown().await;
        match std::fs::remove_file(self.socket()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn close_and_listen(&self) -> Result<UnixListener> {
        self.close().await?;
        Ok(UnixListener::bind(self.socket())?)
    }
}

async fn pass_on(mut client: UnixStream, engine: &Path) {
    // Either end may go away at any time: the other one hears of it.
    if let Ok(mut engine) = UnixStream::connect(engine).await {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
    }
}
