//! Tokens of an issuer whose keys are discovered, and kept in the database for all instances.
//!
//! Obligations: an unknown key makes at most one fetch a minute, whatever is thrown at it, and those who miss one at the
//! same time share a fetch; a key is used no longer than the issuer says; while an issuer is away its keys are used until
//! they expire, and after that nobody is let in or turned away for good: 503.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use renga_database::SpinDatabase;
use renga_shared::api::Problem;
use renga_shared::auth::discovery::{LONGEST_DOCUMENT, LONGEST_KEYS, document_url, keys_url, lifetime};
use renga_shared::auth::{Expected, KeySet, TokenError, Verifier};
use renga_shared::domain::Timestamp;
use renga_shared::sql::DatabaseError;
use renga_shared::sql::issuer_keys::{self, IssuerKeysRow};
use spin_sdk::http::FullBody;

use crate::ambient;
use crate::answer::database;
use crate::outbound::{self, Reply};

/// The least time between two fetches because of unknown keys.
const MISS_PAUSE: Duration = Duration::from_secs(60);
/// The least time between two fetches where the first failed and keys are needed.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// After so long, somebody else's attempt counts as given up: its two requests are bounded, and have ended or never will.
const ATTEMPT: Duration = Duration::from_secs(10);
/// How long an attempt of somebody else is waited for.
const WAIT: Duration = Duration::from_secs(4);
/// The first and the longest pause between two looks at somebody else's attempt.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// An issuer, and what this instance knows of its keys.
pub(crate) struct Issuer {
    expected: Expected,
    known: RefCell<Option<Rc<Known>>>,
}

/// The issuer's keys.
pub(crate) struct Known {
    pub(crate) verifier: Verifier,
    fetched: Timestamp,
    /// From here on they are fetched again, so that an issuer that is away for a moment is not missed.
    renew: Timestamp,
    /// They are not used from here on, and neither is what was verified with them: a key that is withdrawn takes its tokens with
    /// it.
    pub(crate) expires: Timestamp,
}

/// Why a token is not accepted.
pub(crate) enum Refused {
    /// It is not to be believed.
    Token(TokenError),
    /// Whether it is cannot be told now.
    Away(Problem),
}

impl From<TokenError> for Refused {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Token(error) => error.into(),
            Refused::Away(problem) => problem,
        }
    }
}

impl Issuer {
    pub(crate) fn new(expected: Expected) -> Self {
        Self { expected, known: RefCell::new(None) }
    }

    /// The keys to verify this token with, unless it is refused at a glance.
    pub(crate) async fn keys_for(&self, db: &SpinDatabase, token: &str) -> Result<Rc<Known>, Refused> {
        let now = ambient::now();
        let known = self.current(db, now).await.map_err(Refused::Away)?;
        let known = match known.verifier.glance(token, now) {
            Err(TokenError::UnknownKey) => self.after_miss(db, now, &known).await.map_err(Refused::Away)?,
            Err(error) => return Err(error.into()),
            Ok(()) => return Ok(known),
        };
        known.verifier.glance(token, now)?;
        Ok(known)
    }

    /// Keys that may be used now.
    async fn current(&self, db: &SpinDatabase, now: Timestamp) -> Result<Rc<Known>, Problem> {
        // A clock that was set back far makes nothing last longer.
        let usable = |known: &Rc<Known>| now < known.expires && known.fetched <= now.plus(MISS_PAUSE);
        if let Some(known) = self.known.borrow().as_ref().filter(|known| usable(known) && now < known.renew) {
            return Ok(Rc::clone(known));
        }
        let row = issuer_keys::get(db, self.name()).await;
        let known = self.adopt(row.as_ref().ok()).filter(usable);
        match (row, known) {
            (Ok(_), Some(known)) if now < known.renew => Ok(known),
            (Ok(row), Some(known)) => {
                // They are still good: one instance renews them, nobody waits for it, and it may fail.
                if self.fetch_if_due(db, now, &row, Reason::Old).await == Ok(true) {
                    return Ok(self.adopt(issuer_keys::get(db, self.name()).await.ok().as_ref()).unwrap_or(known));
                }
                Ok(known)
            }
            (Err(_), Some(known)) => Ok(known),
            (Err(error), None) => Err(database(error)),
            (Ok(row), None) => {
                let row = self.renew(db, now, row, Reason::Old).await?;
                self.adopt(Some(&row)).filter(usable).ok_or_else(away)
            }
        }
    }

    /// The newest keys there may be, since those that are known lack one.
    async fn after_miss(&self, db: &SpinDatabase, now: Timestamp, known: &Rc<Known>) -> Result<Rc<Known>, Problem> {
        let row = issuer_keys::get(db, self.name()).await.map_err(database)?;
        if row.set.as_ref().is_some_and(|set| set.fetched > known.fetched) {
            // Another instance has fetched since.
            return self.adopt(Some(&row)).ok_or_else(away);
        }
        let row = self.renew(db, now, row, Reason::Missed).await?;
        // Whether the issuer has such a key is known only once it has answered.
        if row.failure.is_some() || !row.settled { Err(away()) } else { self.adopt(Some(&row)).ok_or_else(away) }
    }

    /// Fetches the keys, or waits for whoever does, or does nothing where it is too early for that. Returns what is stored then.
    async fn renew(
        &self,
        db: &SpinDatabase,
        now: Timestamp,
        row: IssuerKeysRow,
        reason: Reason,
    ) -> Result<IssuerKeysRow, Problem> {
        if row.settled && !may_try(&row, now, reason) {
            return Ok(row);
        }
        self.fetch_if_due(db, now, &row, reason).await.map_err(database)?;
        let (mut wait, longest) = PAUSES;
        let deadline = ambient::now().plus(WAIT);
        loop {
            let row = issuer_keys::get(db, self.name()).await.map_err(database)?;
            if row.settled || ambient::now() >= deadline {
                return Ok(row);
            }
            spin_sdk::time::sleep(wait).await;
            wait = (wait * 2).min(longest);
        }
    }

    /// Fetches the keys if it is time, and if no other instance is sooner. True: it did, whatever came of it.
    async fn fetch_if_due(
        &self,
        db: &SpinDatabase,
        now: Timestamp,
        row: &IssuerKeysRow,
        reason: Reason,
    ) -> Result<bool, DatabaseError> {
        let missed = reason == Reason::Missed;
        let ours = may_try(row, now, reason) && issuer_keys::claim(db, self.name(), now, row.tried, missed).await?;
        if ours {
            self.fetch(db, now).await?;
        }
        Ok(ours)
    }

    /// Fetches the keys and stores them, or why there are none.
    async fn fetch(&self, db: &SpinDatabase, tried: Timestamp) -> Result<(), DatabaseError> {
        match self.ask().await {
            Ok((keys, lifetime)) => issuer_keys::store(db, self.name(), tried, &keys, tried.plus(lifetime)).await,
            Err(why) => {
                eprintln!("the keys of the token issuer {} cannot be had: {why}", self.name());
                issuer_keys::fail(db, self.name(), tried, &why).await
            }
        }
    }

    /// Asks the issuer for its keys, and how long they may be used.
    async fn ask(&self) -> Result<(String, Duration), String> {
        let url = document_url(self.name());
        let document = get(&url, LONGEST_DOCUMENT).await.map_err(|why| format!("{url}: {why}"))?;
        let url = keys_url(&document.body, self.name()).map_err(|error| format!("{url}: {error}"))?;
        let named = |why: String| format!("{url}: {why}");
        let answer = get(&url, LONGEST_KEYS).await.map_err(named)?;
        let keys = String::from_utf8(answer.body.into()).map_err(|_| named("its answer is no text".to_owned()))?;
        KeySet::parse(&keys).map_err(|error| named(error.to_string()))?;
        let controls = answer.headers.get_all(header::CACHE_CONTROL);
        Ok((keys, lifetime(controls.iter().filter_map(|value| value.to_str().ok()))))
    }

    /// Takes the stored keys over if they are newer than those that are known. Returns what is known then.
    fn adopt(&self, row: Option<&IssuerKeysRow>) -> Option<Rc<Known>> {
        let mut known = self.known.borrow_mut();
        if let Some(set) = row.and_then(|row| row.set.as_ref())
            && known.as_ref().is_none_or(|known| known.fetched != set.fetched)
            && let Ok(keys) = KeySet::parse(&set.keys)
        {
            let lifetime = set.expires.since(set.fetched);
            *known = Some(Rc::new(Known {
                verifier: Verifier::new(keys, self.expected.clone()),
                fetched: set.fetched,
                renew: set.fetched.plus(lifetime / 10 * 9),
                expires: set.expires,
            }));
        }
        known.clone()
    }

    fn name(&self) -> &str {
        &self.expected.issuer
    }
}

/// Why keys are fetched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// There are none, or they expire.
    Old,
    /// A token names one that is not among them.
    Missed,
}

/// Whether it is time to fetch the keys. A clock that was set back does not hold it up.
fn may_try(row: &IssuerKeysRow, now: Timestamp, reason: Reason) -> bool {
    let over = |at: Option<Timestamp>, pause| at.is_none_or(|at| at.plus(pause) <= now || now.plus(MISS_PAUSE) < at);
    if !row.settled {
        return over(row.tried, ATTEMPT);
    }
    match reason {
        Reason::Old => row.failure.is_none() || over(row.tried, RETRY_PAUSE),
        Reason::Missed => over(row.missed, MISS_PAUSE),
    }
}

async fn get(url: &str, longest: usize) -> Result<Reply, String> {
    let request = Request::get(url).header(header::ACCEPT, "application/json").body(FullBody::new(Bytes::new()));
    let reply = outbound::send(request.map_err(|_| "it is no URL".to_owned())?, longest).await?;
    if reply.status.is_success() { Ok(reply) } else { Err(format!("it answers {}", reply.status)) }
}

fn away() -> Problem {
    Problem::unavailable("Token issuer unavailable", "The issuer's keys cannot be had now. Try again.", 5)
}
