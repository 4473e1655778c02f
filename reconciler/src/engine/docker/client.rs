//! The connection to a Docker Engine: opened on first use, dropped when the engine does not answer.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::failure::Failure;
use super::url::DockerUrl;

/// Time limit for a query, or for the beginning of a stream.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Time limit for a call that changes something.
pub(super) const ACT_WITHIN: Duration = Duration::from_secs(120);
/// The oldest supported API version, that of Docker Engine 20.10.
const OLDEST: (usize, usize) = (1, 41);
/// The first major version whose driver `local` returns the line end of a line that it stored in pieces.
const KEEPS_LINE_ENDS: u32 = 23;

/// The client of one engine.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) url: DockerUrl,
    connection: Mutex<Option<Connection>>,
}

/// A connection to an engine that has answered.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) docker: bollard::Docker,
    pub(super) version: String,
}

impl Connection {
    /// Returns a client for streams: a response must begin within `ANSWER_WITHIN`, and may then last without limit.
    pub(super) fn for_streams(&self) -> bollard::Docker {
        self.docker.clone().with_timeout(ANSWER_WITHIN)
    }

    /// Whether the engine drops the line ends of lines that it stores in pieces.
    pub(super) fn loses_line_ends(&self) -> bool {
        let major = self.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        major.is_some_and(|major| major < KEEPS_LINE_ENDS)
    }
}

impl Client {
    pub(super) fn new(url: DockerUrl) -> Self {
        Self { url, connection: Mutex::new(None) }
    }

    /// Returns the present connection, or opens a new one.
    pub(super) async fn connection(&self) -> Result<Connection, Failure> {
        let known = self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(connection) => Ok(connection),
            None => self.connect().await,
        }
    }

    /// Opens a new connection, even if there is one, because the engine may have another version by now.
    pub(super) async fn connect(&self) -> Result<Connection, Failure> {
        let docker = self.url.connect().map_err(Failure::Unreached)?;
        let docker = self.answer(ANSWER_WITHIN, docker.negotiate_version()).await.map_err(Failure::before_asking)?;
        let told = self.answer(ANSWER_WITHIN, docker.version()).await.map_err(Failure::before_asking)?;
        let version = told.version.unwrap_or_default();
        let api = told.api_version.unwrap_or_default();
        if api_version(&api).is_none_or(|api| api < OLDEST) {
            let text = format!(
                "{} is {version} with API {api:?}: Docker Engine 20.10 (API 1.41) or newer is needed",
                self.url
            );
            return Err(Failure::Unreached(text));
        }
        let connection = Connection { docker, version };
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
        Ok(connection)
    }

    /// Waits for the result of a call. Fails with `Down` if none comes within `within`.
    pub(super) async fn answer<T>(
        &self,
        within: Duration,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, Failure> {
        let answer = match tokio::time::timeout(within, call).await {
            Ok(answer) => answer.map_err(Failure::from),
            Err(_) => Err(Failure::Down(format!("no answer within {} s", within.as_secs()))),
        };
        answer.map_err(|failure| self.heard(failure))
    }

    /// Drops the connection if the engine did not answer, and adds the engine's address to the failure.
    pub(super) fn heard(&self, failure: Failure) -> Failure {
        let named = |reason: String| {
            *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
            format!("{}: {reason}", self.url)
        };
        match failure {
            Failure::Down(reason) => Failure::Down(named(reason)),
            Failure::Unreached(reason) => Failure::Unreached(named(reason)),
            answered => answered,
        }
    }
}

fn api_version(text: &str) -> Option<(usize, usize)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
