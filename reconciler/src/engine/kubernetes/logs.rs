//! The logs of a pod, from beginning to end, each byte once.
//!
//! - The API returns both streams as one, in the order in which the node's runtime stored them. The stream of a line is
//!   unknown without the alpha feature `PodLogsQuerySplitStreams`, so all lines are reported as standard output.
//! - Times are returned in nanoseconds but requested in seconds, and the runtime may store two streams slightly out of
//!   order. So each request begins a second earlier, and unneeded lines are skipped here. Times never decrease.
//! - A node's runtime may store less than was written: containerd drops a carriage return before a line end.
//! - A response ends when the pod ends, but also when its kubelet restarts. So when the pod has ended, followed logs
//!   are read again from their last line.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncBufRead, AsyncBufReadExt as _, Stream};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff;
use kube::Api;
use kube::api::LogParams;
use renga_shared::domain::Why;
use renga_shared::sql::logs::LogStream;

use super::client::ANSWER_WITHIN;
use super::cluster::Cluster;
use super::failure::Failure;
use super::job::CONTAINER;
use super::lines::{Line, Lines};
use super::state::ObjectId;
use crate::engine::words::shown;
use crate::engine::{EngineError, LogEntry, ObjectState};

/// The maximum disorder of two streams, in seconds.
const OVERLAP: i64 = 1;
/// Time that a pod may still appear to run after its logs have ended.
const UNTIL_ENDED: Duration = Duration::from_secs(5);
/// Maximum number of reads in a row without news while the pod runs, and the pause between two of them.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// Streams the logs of `object` from `since` on.
pub(super) fn follow(
    cluster: Arc<Cluster>,
    object: Option<ObjectId>,
    since: i64,
) -> impl Stream<Item = Result<LogEntry, EngineError>> + Send + 'static {
    let follower = object.map(|object| Follower {
        cluster,
        object,
        since,
        read: Place::default(),
        followed: false,
        done: false,
        idle: 0,
        pass: None,
        next: VecDeque::new(),
    });
    futures::stream::try_unfold(follower, |follower| async move {
        let Some(mut follower) = follower else { return Ok(None) };
        Ok(follower.next().await?.map(|entry| (entry, Some(follower))))
    })
}

/// A position in the logs: the time of the last line, and the number of bytes that were read with that time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    nanos: i64,
    bytes: usize,
}

struct Follower {
    cluster: Arc<Cluster>,
    object: ObjectId,
    since: i64,
    read: Place,
    /// Whether a followed response has ended.
    followed: bool,
    /// Whether the logs were read after the pod had ended.
    done: bool,
    /// The number of responses in a row that brought nothing although the pod runs.
    idle: u32,
    pass: Option<Pass>,
    next: VecDeque<LogEntry>,
}

/// One read of the logs.
struct Pass {
    answer: Pin<Box<dyn AsyncBufRead + Send>>,
    lines: Lines,
    /// The position that earlier passes reached; lines up to it are skipped.
    skip: Place,
    /// Whether the pod ran when the pass began. The response may then end before the logs do.
    running: bool,
    news: bool,
}

impl Follower {
    async fn next(&mut self) -> Result<Option<LogEntry>, EngineError> {
        loop {
            if let Some(entry) = self.next.pop_front() {
                return Ok(Some(entry));
            }
            if self.done {
                return Ok(None);
            }
            if self.pass.is_none() {
                self.pass = self.begin().await?;
            }
            let Some(mut pass) = self.pass.take() else { return Ok(None) };
            let lines = read(&self.cluster, &mut pass, self.followed).await?;
            let ended = lines.is_none();
            let lines = lines.unwrap_or_else(|| pass.lines.end().into_iter().collect());
            for line in lines {
                self.take(&mut pass, line);
            }
            if !ended {
                self.pass = Some(pass);
            } else if pass.running {
                self.followed = true;
                self.idle = if pass.news { 0 } else { self.idle + 1 };
            } else {
                self.done = true;
            }
        }
    }

    /// Queues a line, without the part that was returned before or is older than `since`.
    fn take(&mut self, pass: &mut Pass, line: Line) {
        let Line { nanos, mut bytes } = line;
        if nanos < self.since || nanos < pass.skip.nanos {
            return;
        }
        if nanos == pass.skip.nanos {
            let before = bytes.len().min(pass.skip.bytes);
            pass.skip.bytes -= before;
            bytes = bytes.slice(before..);
        }
        if bytes.is_empty() {
            return;
        }
        pass.news = true;
        if self.read.nanos == nanos {
            self.read.bytes += bytes.len();
        } else {
            self.read = Place { nanos, bytes: bytes.len() };
        }
        self.next.push_back(LogEntry { stream: LogStream::Stdout, nanos, bytes });
    }

    /// Waits until there is something to read and starts a pass, or returns `None` if there is nothing more.
    async fn begin(&mut self) -> Result<Option<Pass>, EngineError> {
        let Some(execution) = self.object.execution() else { return Ok(None) };
        let cluster = Arc::clone(&self.cluster);
        let watched = cluster.ready().await?;
        let waiter = watched.store.waiter(execution);
        let patience = tokio::time::Instant::now() + UNTIL_ENDED;
        loop {
            let changed = waiter.notified();
            let Some(known) = cluster.find(watched, &self.object).await? else { return Ok(None) };
            let Some(job) = &known.job else { return Ok(None) };
            let pod = known.pod_of(job).filter(|_| !known.pod_gone);
            let running = match (known.state(job), pod) {
                (ObjectState::Created | ObjectState::Failed(_), _) => return Ok(None),
                (ObjectState::Starting(_), _) => None,
                // The logs have ended, so most likely the pod has too, and its end is reported a little later.
                (ObjectState::Running { .. }, _) if self.followed && tokio::time::Instant::now() < patience => None,
                (ObjectState::Running { .. }, pod) => pod.map(|pod| (pod, true)),
                // A kubelet drops the logs of a deleted pod, so there is nothing after the followed logs.
                (_, Some(pod)) if pod.deleting && self.followed => return Ok(None),
                (_, Some(pod)) => Some((pod, false)),
                (_, None) => return Ok(None),
            };
            if let Some((pod, running)) = running {
                if let Some(pass) = self.ask(&pod.name, running).await? {
                    return Ok(Some(pass));
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(patience), if self.followed => {}
                failure = watched.store.broken() => return Err(failure.into()),
            }
        }
    }

    /// Requests the logs. Returns `None` if they are not available yet.
    async fn ask(&mut self, pod: &str, running: bool) -> Result<Option<Pass>, EngineError> {
        if self.idle > TRIES {
            let text = "The cluster does not give the logs of its pod, which runs.";
            return Err(EngineError::Retry(Why::new("LogsInterrupted", text)));
        }
        let from = self.read.nanos.max(self.since);
        let parameters = LogParams {
            container: Some(CONTAINER.into()),
            follow: running,
            timestamps: true,
            since_time: (from > 0)
                .then(|| jiff::Timestamp::from_second(from.div_euclid(1_000_000_000) - OVERLAP).ok())
                .flatten(),
            ..LogParams::default()
        };
        let pods: Api<Pod> = self.cluster.connection.api(&self.object.namespace).await?;
        match tokio::time::timeout(ANSWER_WITHIN, pods.log_stream(pod, &parameters)).await {
            Ok(Ok(answer)) => {
                let (answer, lines, skip) = (Box::pin(answer), Lines::default(), self.read);
                Ok(Some(Pass { answer, lines, skip, running, news: false }))
            }
            // The pod is gone, or its container does not exist yet. The next event of the watch decides.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400 | 404) => {
                self.idle += 1;
                Ok(None)
            }
            // The API server could not get an answer from the pod's node.
            Ok(Err(kube::Error::Api(status))) if status.code >= 500 => Err(unreadable(&status.message)),
            Ok(Err(error)) => Err(self.cluster.connection.heard(error.into()).into()),
            Err(_) => {
                let failure = Failure::Down(format!("no answer within {} s", ANSWER_WITHIN.as_secs()));
                Err(self.cluster.connection.heard(failure).into())
            }
        }
    }
}

/// Reads more of the response, or returns `None` at its end.
async fn read(cluster: &Cluster, pass: &mut Pass, followed: bool) -> Result<Option<Vec<Line>>, EngineError> {
    let watched = cluster.ready().await?;
    let bytes = tokio::select! {
        bytes = pass.answer.fill_buf() => bytes.map_err(|error| Failure::Down(error.to_string())),
        failure = watched.store.broken() => Err(failure),
    };
    let bytes = bytes.map_err(|failure| cluster.connection.heard(failure))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let length = bytes.len();
    let lines = pass.lines.take(bytes);
    pass.answer.as_mut().consume(length);
    if let Some(message) = pass.lines.refusal() {
        if followed {
            return Ok(None);
        }
        return Err(unreadable(&message));
    }
    Ok(Some(lines))
}

fn unreadable(message: &str) -> EngineError {
    EngineError::Retry(Why::new("LogsUnreadable", format!("The cluster cannot give the logs: {}", shown(message))))
}
