//! A connection on which anything can be sent, and every answer is seen.

use anyhow::{Context as _, Result, bail, ensure};
use renga_tests::deployment::{Deployment, PATIENCE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// A good request, whose answer is like no other: it tells that all answers before it were seen.
const LAST: &[u8] = b"OPTIONS /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// The status of its answer.
const LAST_STATUS: u16 = 204;

/// A connection.
pub(crate) struct Wire {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    unread: Vec<u8>,
}

/// An answer.
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

    /// Sends bytes; they may be more than anybody reads.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.to.write_all(bytes).await?)
    }

    /// Says that nothing more is sent.
    pub(crate) async fn end(&mut self) -> Result<()> {
        Ok(self.to.shutdown().await?)
    }

    /// Sends bytes and a good request after them. Returns the answers to the bytes, and whether the connection was closed
    /// instead of answering the good request.
    pub(crate) async fn exchange(self, bytes: &[u8]) -> Result<(Vec<Reply>, bool)> {
        let Self { mut from, mut to, mut unread } = self;
        let bytes = [bytes, LAST].concat();
        // The server may close while much is still to be sent: that is one of the answers. What sends is kept until all is
        // read, since without it the server would see the connection's end.
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

    /// The next answer; `None` if the connection was closed before it.
    pub(crate) async fn reply(&mut self) -> Result<Option<Reply>> {
        receive(&mut self.from, &mut self.unread).await
    }
}

/// Sends all of `bytes` that is taken. Checks that there is one answer with a status of these, and then the end.
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

/// Reads more; false at the end, however it came.
async fn more(from: &mut OwnedReadHalf, unread: &mut Vec<u8>) -> Result<bool> {
    let read = timeout(PATIENCE, from.read_buf(unread)).await.context("neither an answer nor an end")?;
    Ok(read.is_ok_and(|count| count > 0))
}
