//! A second address for a server of the tests.
//!
//! They listen on loopback, where PostgreSQL trusts whoever comes: a cluster's pods cannot reach that, and nobody but them is
//! to. So what they are to reach is relayed from the address that this machine has in their network alone.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Hands connections on until it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens on some port of `at`, and hands connections on to `to`.
    ///
    /// # Errors
    /// When this machine does not have the address.
    pub async fn start(at: IpAddr, to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((at, 0)).await.with_context(|| format!("listen on {at}"))?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(to).await {
                        // Either end may close it when it likes.
                        let _ = copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        });
        Ok(Self { address, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}
