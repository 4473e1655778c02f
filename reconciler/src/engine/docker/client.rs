//! The connection to a Docker Engine: made when it is needed, forgotten when the engine does not answer.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::failure::Failure;
use super::url::DockerUrl;

/// How long an engine may take to answer a question, or to begin a stream.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take to do something.
pub(super) const ACT_WITHIN: Duration = Duration::from_secs(120);
/// The oldest API that is spoken here, that of Docker Engine 20.10.
const OLDEST: (usize, usize) = (1, 41);
/// From this version on, the driver `local` gives back the line end of a line that it cut into pieces.
const KEEPS_LINE_ENDS: u32 = 23;

/// Speaks to one engine.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) url: DockerUrl,
    connection: Mutex<Option<Connection>>,
}

/// An engine that has answered.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) docker: bollard::Docker,
    pub(super) version: String,
}

impl Connection {
    /// For streams: the beginning of an answer is waited for as long as for a whole one, the rest for ever.
    pub(super) fn for_streams(&self) -> bollard::Docker {
        self.docker.clone().with_timeout(ANSWER_WITHIN)
    }

    /// Whether the engine forgets the line ends of lines that it logs in pieces.
    pub(super) fn loses_line_ends(&self) -> bool {
        let major = self.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        major.is_some_and(|major| major < KEEPS_LINE_ENDS)
    }
}

impl Client {
    pub(super) fn new(url: DockerUrl) -> Self {
        Self { url, connection: Mutex::new(None) }
    }

    /// The connection there is, or a new one.
    pub(super) async fn connection(&self) -> Result<Connection, Failure> {
        let known = self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(connection) => Ok(connection),
            None => self.connect().await,
        }
    }

    /// Asks who is there, also when somebody was before: the engine may be another version by now.
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

    /// Waits for an answer, but not for ever.
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

    /// Forgets the connection to an engine that does not answer, and says which engine that is.
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
