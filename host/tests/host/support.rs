//! A running host for one test, and a client that sees every byte.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use renga_host::{Host, HostError, Manifest, Settings};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a test waits for anything before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The component in `host/tests/guest`, built once per test process by the cargo that runs the tests.
pub(crate) fn guest() -> &'static Path {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| {
        let output = renga_tests::process::cargo()
            .args(["build", "--release", "--target", "wasm32-wasip2", "-p", "renga-host-guest"])
            .arg("--message-format=json-render-diagnostics")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "the guest does not build:\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|message| message["target"]["name"] == "renga_host_guest")
            .find_map(|message| {
                let files = message["filenames"].as_array()?;
                files.iter().filter_map(Value::as_str).find(|file| file.ends_with(".wasm")).map(PathBuf::from)
            })
            .expect("cargo names the file that it built")
    })
}

/// The manifest that most tests use; `{source}` stands for the guest.
pub(crate) const MANIFEST: &str = r#"
spin_manifest_version = 2
[application]
name = "test"
[variables]
greeting = { default = "hello" }
port = { default = "1" }
[[trigger.http]]
route = "/..."
component = "guest"
[component.guest]
source = "{source}"
sqlite_databases = ["default"]
allowed_outbound_hosts = ["http://127.0.0.1:{{ port }}", "postgres://*:*"]
[component.guest.variables]
greeting = "{{ greeting }}, world"
"#;

/// A running host.
pub(crate) struct Server {
    pub port: u16,
    pub folder: TempDir,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), HostError>>,
}

impl Server {
    /// Starts a host with the usual manifest.
    pub(crate) async fn start(adjust: impl FnOnce(&mut Settings)) -> Self {
        Self::start_with(MANIFEST, adjust).await
    }

    /// Starts a host with another manifest.
    pub(crate) async fn start_with(manifest: &str, adjust: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = load(manifest, folder.path(), adjust).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(Arc::new(host).serve(listener, async { _ = stopped.await }));
        Self { port, folder, stop: Some(stop), task }
    }

    pub(crate) fn database(&self) -> PathBuf {
        database(self.folder.path())
    }

    pub(crate) async fn connect(&self) -> Client {
        Client::connect(self.port).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.connect().await.get(path).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.connect().await.ask("POST", path, body.to_string().as_bytes()).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        serde_json::from_str(&answer.text()).unwrap()
    }

    /// Tells the host to stop, and waits for it.
    pub(crate) async fn stop(mut self) -> TempDir {
        _ = self.stop.take().unwrap().send(());
        timeout(PATIENCE, &mut self.task).await.expect("the host stops").unwrap().unwrap();
        self.folder
    }

    /// Tells the host to stop, and does not wait.
    pub(crate) fn begin_stop(&mut self) {
        _ = self.stop.take().unwrap().send(());
    }

    pub(crate) async fn stopped(self) {
        timeout(PATIENCE, self.task).await.expect("the host stops").unwrap().unwrap();
    }
}

pub(crate) fn database(folder: &Path) -> PathBuf {
    folder.join("test.db")
}

/// Asks until `path` answers `expected`.
pub(crate) async fn until(server: &Server, path: &str, expected: &str) {
    let start = Instant::now();
    loop {
        let seen = server.get(path).await.text();
        if seen == expected {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{path} is still {seen}");
    }
}

/// Loads a host with its files in `folder`. Compiled code is shared by all tests.
pub(crate) async fn load(manifest: &str, folder: &Path, adjust: impl FnOnce(&mut Settings)) -> Result<Host, HostError> {
    // What the host logs is shown with a test that fails. Another test may have been first.
    _ = tracing_subscriber::fmt().with_test_writer().try_init();
    let path = folder.join("spin.toml");
    let source = guest().display().to_string();
    std::fs::write(&path, manifest.replace("{source}", &source)).unwrap();
    let manifest = Manifest::load(&path).unwrap();
    let mut settings = Settings { cache_dir: compiled(), ..Settings::default() };
    settings.sqlite.insert("default".to_owned(), database(folder));
    adjust(&mut settings);
    Host::load(&manifest, settings).await
}

pub(crate) fn compiled() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled")
}

/// A connection that speaks HTTP/1.1, one request after the other.
pub(crate) struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// An answer, with its body if that has been read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body came to its proper end.
    pub complete: bool,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Client {
    pub(crate) async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new() }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, b"").await
    }

    /// As someone who shows a token.
    pub(crate) async fn get_as(&mut self, path: &str, token: &str) -> Answer {
        let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
        self.send(head.as_bytes()).await;
        let mut answer = self.head().await;
        self.body(&mut answer).await;
        answer
    }

    pub(crate) async fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        self.send(format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{length}\r\n").as_bytes()).await;
        self.send(body).await;
        let mut answer = self.head().await;
        if method != "HEAD" {
            self.body(&mut answer).await;
        }
        answer
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The head of the next answer.
    pub(crate) async fn head(&mut self) -> Answer {
        let text = self.until(b"\r\n\r\n").await.expect("a head arrives");
        let text = String::from_utf8(text).unwrap();
        let mut lines = text.trim_end().lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Answer { status, headers, body: Vec::new(), complete: false }
    }

    async fn body(&mut self, answer: &mut Answer) {
        if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().unwrap();
            while self.unread.len() < length {
                if !self.read().await {
                    return;
                }
            }
            answer.body = self.unread.drain(..length).collect();
        } else {
            while let Some(chunk) = self.chunk().await {
                if chunk.is_empty() {
                    answer.complete = true;
                    return;
                }
                answer.body.extend(chunk);
            }
            return;
        }
        answer.complete = true;
    }

    /// The next chunk of a chunked body: empty at its end, `None` if the connection ended before.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.until(b"\r\n").await?;
        let length = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        while self.unread.len() < length + 2 {
            if !self.read().await {
                return None;
            }
        }
        let chunk = self.unread.drain(..length).collect();
        self.unread.drain(..2);
        Some(chunk)
    }

    /// Whether nothing of an answer has arrived so far.
    pub(crate) fn is_silent(&mut self) -> bool {
        let nothing = match self.stream.try_read_buf(&mut self.unread) {
            Ok(_) => false,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        };
        nothing && self.unread.is_empty()
    }

    /// Sends as much as the server takes, at most `most` bytes. It takes no more when it has not for a second.
    pub(crate) async fn push(&mut self, most: usize) -> usize {
        let mut sent = 0;
        let piece = [0; 64 << 10];
        while sent < most {
            match timeout(Duration::from_secs(1), self.stream.write(&piece)).await {
                Ok(written) => sent += written.unwrap(),
                Err(_) => break,
            }
        }
        sent
    }

    /// Whether the server closes the connection without another byte.
    pub(crate) async fn closed(&mut self) -> bool {
        !self.read().await && self.unread.is_empty()
    }

    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|bytes| bytes == end) {
                return Some(self.unread.drain(..at + end.len()).collect());
            }
            if !self.read().await {
                return None;
            }
        }
    }

    async fn read(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.unread)).await.expect("the server does something");
        read.is_ok_and(|count| count > 0)
    }
}
