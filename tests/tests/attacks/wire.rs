//! A connection that sends any bytes and returns every response.

use anyhow::{Context as _, Result, bail, ensure};
use renga_tests::deployment::{Deployment, PATIENCE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// A good request with a unique response status. Its response shows that all responses before it were received.
const LAST: &[u8] = b"OPTIONS /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// The status of the response to `LAST`.
const LAST_STATUS: u16 = 204;

/// A TCP connection to a deployment.
pub(crate) struct Wire {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    unread: Vec<u8>,
}

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Wire {
    /// Connects to a deployment.
    pub(crate) async fn connect(deployment: &Deployment) -> Result<Self> {
        let address = deployment.client.base().strip_prefix("http://").context("an address")?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (from, to) = stream.into_split();
        Ok(Self { from, to, unread: Vec::new() })
    }

    /// Sends bytes, possibly more than the server reads.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.to.write_all(bytes).await?)
    }

    /// Closes the sending half of the connection.
    pub(crate) async fn end(&mut self) -> Result<()> {
        Ok(self.to.shutdown().await?)
    }

    /// Sends bytes, then a good request. Returns the responses to the bytes, and whether the connection was closed
    /// without a response to the good request.
    pub(crate) async fn exchange(self, bytes: &[u8]) -> Result<(Vec<Reply>, bool)> {
        let Self { mut from, mut to, mut unread } = self;
        let bytes = [bytes, LAST].concat();
        // The server may close the connection before everything is sent; some tests expect that. The sending half is
        // kept until everything is read, because the server would see the end of the connection if it were dropped.
        let sending = tokio::spawn(async move {
            let _ = to.write_all(&bytes).await;
            to
        });
        let mut replies = Vec::new();
        let closed = loop {
            match receive(&mut from, &mut unread).await? {
                Some(reply) if reply.status == LAST_STATUS => break false,
                Some(reply) => replies.push(reply),
                None => break true,
            }
        };
        sending.abort();
        Ok((replies, closed))
    }

    /// Returns the next response, or `None` if the connection was closed first.
    pub(crate) async fn reply(&mut self) -> Result<Option<Reply>> {
        receive(&mut self.from, &mut self.unread).await
    }
}

/// Sends as much of `bytes` as the server accepts. Fails unless there is exactly one response, its status is in
/// `possible`, and the connection is then closed.
pub(crate) async fn ends(deployment: &Deployment, bytes: &[u8], possible: &[u16]) -> Result<()> {
    let (replies, closed) = Wire::connect(deployment).await?.exchange(bytes).await?;
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    ensure!(statuses.len() == 1 && possible.contains(&statuses[0]) && closed, "{statuses:?}, closed: {closed}");
    Ok(())
}

async fn receive(from: &mut OwnedReadHalf, unread: &mut Vec<u8>) -> Result<Option<Reply>> {
    let end = loop {
        if let Some(at) = unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
        if !more(from, unread).await? {
            ensure!(unread.is_empty(), "half a head: {}", String::from_utf8_lossy(unread));
            return Ok(None);
        }
    };
    let head = String::from_utf8(unread.drain(..end).collect())?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("no status in {head:?}"))?;
    let lower = head.to_ascii_lowercase();
    let header = |name: &str| lower.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    ensure!(header("transfer-encoding:").is_none(), "no answer here has an unknown length: {head:?}");
    let length = header("content-length:").map_or(Ok(0), str::parse::<usize>)?;
    while unread.len() < length {
        if !more(from, unread).await? {
            bail!("the body ended before its end, after {head:?}");
        }
    }
    Ok(Some(Reply { status, head, body: unread.drain(..length).collect() }))
}

/// Reads more bytes into `unread`. Returns false at the end of the connection, also if the end is an error.
async fn more(from: &mut OwnedReadHalf, unread: &mut Vec<u8>) -> Result<bool> {
    let read = timeout(PATIENCE, from.read_buf(unread)).await.context("neither an answer nor an end")?;
    Ok(read.is_ok_and(|count| count > 0))
}
