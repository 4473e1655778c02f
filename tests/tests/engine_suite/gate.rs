//! A socket before an engine's own, which can be shut: to whoever uses it the engine is away, to others it is not.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

pub(crate) struct Gate {
    engine: Address,
    own: Address,
    /// The folder of a socket's file.
    _folder: Option<tempfile::TempDir>,
    /// Whoever listens. Its connections end with it.
    listener: Mutex<JoinSet<()>>,
}

#[derive(Clone, Debug)]
enum Address {
    File(PathBuf),
    Network(SocketAddr),
}

enum Listener {
    File(UnixListener),
    Network(TcpListener),
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<C: AsyncRead + AsyncWrite + Send + Unpin> Connection for C {}

impl Gate {
    /// An open gate before the socket `engine`.
    pub(crate) async fn before(engine: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let own = Address::File(folder.path().join("docker.sock"));
        Self::open_between(own, Address::File(engine.into()), Some(folder)).await
    }

    /// An open gate before the address `engine`.
    pub(crate) async fn before_address(engine: SocketAddr) -> Result<Self> {
        // The port stays ours: nothing else of this machine binds one by number.
        let own = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?;
        Self::open_between(Address::Network(own), Address::Network(engine), None).await
    }

    async fn open_between(own: Address, engine: Address, folder: Option<tempfile::TempDir>) -> Result<Self> {
        let gate = Self { engine, own, _folder: folder, listener: Mutex::default() };
        gate.open().await?;
        Ok(gate)
    }

    /// Where whoever uses it finds it.
    pub(crate) fn socket(&self) -> String {
        match &self.own {
            Address::File(path) => path.display().to_string(),
            Address::Network(address) => address.to_string(),
        }
    }

    /// Passes on what comes.
    pub(crate) async fn open(&self) -> Result<()> {
        let socket = self.close_and_listen().await?;
        let engine = self.engine.clone();
        self.listener.lock().await.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok(client) = socket.accept().await {
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
            while let Ok(client) = socket.accept().await {
                held.push(client);
            }
        });
        Ok(())
    }

    /// Breaks every connection and takes no other.
    pub(crate) async fn close(&self) -> Result<()> {
        self.listener.lock().await.shutdown().await;
        match &self.own {
            Address::File(path) => match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            },
            Address::Network(_) => Ok(()),
        }
    }

    async fn close_and_listen(&self) -> Result<Listener> {
        self.close().await?;
        Ok(match &self.own {
            Address::File(path) => Listener::File(UnixListener::bind(path)?),
            Address::Network(address) => Listener::Network(TcpListener::bind(address).await?),
        })
    }
}

impl Listener {
    async fn accept(&self) -> std::io::Result<Box<dyn Connection>> {
        Ok(match self {
            Self::File(socket) => Box::new(socket.accept().await?.0),
            Self::Network(socket) => Box::new(socket.accept().await?.0),
        })
    }
}

async fn pass_on(mut client: Box<dyn Connection>, engine: &Address) {
    let engine: std::io::Result<Box<dyn Connection>> = match engine {
        Address::File(path) => UnixStream::connect(path).await.map(|stream| Box::new(stream) as _),
        Address::Network(address) => TcpStream::connect(address).await.map(|stream| Box::new(stream) as _),
    };
    // Either end may go away at any time: the other one hears of it.
    if let Ok(mut engine) = engine {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
    }
}
