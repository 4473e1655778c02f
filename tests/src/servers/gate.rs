//! A second address for a server of the tests, which can be closed: the server is then unreachable only there.
//!
//! The servers listen on loopback, where PostgreSQL trusts every client. A cluster's pods cannot reach loopback, and
//! nobody but the pods may reach the servers. So a gate listens at this machine's address in the pods' network only.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// Forwards connections until it is dropped.
#[derive(Debug)]
pub struct Gate {
    server: Address,
    own: Address,
    /// The folder of the gate's socket file.
    _folder: Option<tempfile::TempDir>,
    /// The task that listens. Its connections end with it.
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
    /// Opens a gate before the socket file `server`.
    ///
    /// # Errors
    /// Fails if the folder for the gate's own file cannot be created.
    pub async fn before_file(server: impl Into<PathBuf>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let own = Address::File(folder.path().join("gate.sock"));
        Self::open_between(own, Address::File(server.into()), Some(folder)).await
    }

    /// Opens a gate before the address `server`, at some port of `at`.
    ///
    /// # Errors
    /// Fails if this machine does not have the address `at`.
    pub async fn before_address(server: SocketAddr, at: impl Into<IpAddr>) -> Result<Self> {
        let at = at.into();
        let listener = TcpListener::bind((at, 0)).await.with_context(|| format!("listen on {at}"))?;
        // The port stays free, because nothing else on this machine binds a port by number.
        let own = listener.local_addr()?;
        drop(listener);
        Self::open_between(Address::Network(own), Address::Network(server), None).await
    }

    async fn open_between(own: Address, server: Address, folder: Option<tempfile::TempDir>) -> Result<Self> {
        let gate = Self { server, own, _folder: folder, listener: Mutex::default() };
        gate.open().await?;
        Ok(gate)
    }

    /// Returns where clients find the gate: the path of a file, or an address with a port.
    #[must_use]
    pub fn socket(&self) -> String {
        match &self.own {
            Address::File(path) => path.display().to_string(),
            Address::Network(address) => address.to_string(),
        }
    }

    /// Forwards every connection to the server.
    ///
    /// # Errors
    /// Fails if the gate's address was taken meanwhile.
    pub async fn open(&self) -> Result<()> {
        let socket = self.close_and_listen().await?;
        let server = self.server.clone();
        self.listener.lock().await.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok(client) = socket.accept().await {
                while connections.try_join_next().is_some() {}
                let server = server.clone();
                connections.spawn(async move { pass_on(client, &server).await });
            }
        });
        Ok(())
    }

    /// Accepts every connection and responds to none.
    ///
    /// # Errors
    /// Fails if the gate's address was taken meanwhile.
    pub async fn silence(&self) -> Result<()> {
        let socket = self.close_and_listen().await?;
        self.listener.lock().await.spawn(async move {
            let mut held = Vec::new();
            while let Ok(client) = socket.accept().await {
                held.push(client);
            }
        });
        Ok(())
    }

    /// Breaks every connection and accepts no other.
    ///
    /// # Errors
    /// Fails if the gate's file cannot be removed.
    pub async fn close(&self) -> Result<()> {
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

async fn pass_on(mut client: Box<dyn Connection>, server: &Address) {
    let server: std::io::Result<Box<dyn Connection>> = match server {
        Address::File(path) => UnixStream::connect(path).await.map(|stream| Box::new(stream) as _),
        Address::Network(address) => TcpStream::connect(address).await.map(|stream| Box::new(stream) as _),
    };
    // Either end may close its connection at any time; the other end's is then closed, too.
    if let Ok(mut server) = server {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}
