//! The table `issuer_keys`: the public keys of token issuers, which the instances of the API share.
//!
//! One of them fetches, and the others find what it stored. Who fetches is decided by [`claim`], which one caller alone
//! wins.

use super::statement::{Statement, statements};
use super::{Database, DatabaseError, Row};
use crate::domain::Timestamp;

/// What is known of an issuer's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IssuerKeysRow {
    /// The set that was fetched last, as the issuer sent it.
    pub set: Option<StoredKeys>,
    /// When somebody last set out to fetch it; `None`: nobody ever did.
    pub tried: Option<Timestamp>,
    /// Whether that attempt is over.
    pub settled: bool,
    /// When somebody last set out because a key was missed.
    pub missed: Option<Timestamp>,
    /// Why the last attempt failed. For operators.
    pub failure: Option<String>,
}

/// Keys that were fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKeys {
    /// A JSON Web Key Set (RFC 7517).
    pub keys: String,
    /// When it was fetched.
    pub fetched: Timestamp,
    /// Until when it may be used.
    pub expires: Timestamp,
}

static GET: Statement = Statement::new(
    "SELECT keys, {as_micros fetched_at}, {as_micros expires_at}, {as_micros tried_at}, settled, \
     {as_micros missed_at}, failure FROM issuer_keys WHERE issuer = {text 1}",
);

// Who claims says which attempt it saw last. If there has been another since, somebody else was sooner.
static CLAIM: Statement = Statement::new(
    "INSERT INTO issuer_keys (issuer, tried_at, settled, missed_at) VALUES ({text 1}, {time 2}, 0, {time 4}) \
     ON CONFLICT (issuer) DO UPDATE SET tried_at = excluded.tried_at, settled = 0, \
     missed_at = COALESCE(excluded.missed_at, issuer_keys.missed_at) WHERE issuer_keys.tried_at = {time 3} RETURNING 1",
);

static STORE: Statement = Statement::new(
    "UPDATE issuer_keys SET keys = {text 3}, fetched_at = tried_at, expires_at = {time 4}, settled = 1, failure = NULL \
     WHERE issuer = {text 1} AND tried_at = {time 2} RETURNING 1",
);

static FAIL: Statement = Statement::new(
    "UPDATE issuer_keys SET settled = 1, failure = {text 3} \
     WHERE issuer = {text 1} AND tried_at = {time 2} RETURNING 1",
);

statements!(GET, CLAIM, STORE, FAIL);

/// What is known of an issuer's keys.
pub async fn get(db: &impl Database, issuer: &str) -> Result<IssuerKeysRow, DatabaseError> {
    let mut rows = db.query(GET.sql(db.dialect()), vec![issuer.into()]).await?;
    rows.first_mut().map_or_else(|| Ok(IssuerKeysRow::default()), read)
}

/// Sets out to fetch the keys `now`, if nobody has since the attempt that was `seen`; because a key was `missed`, or because
/// they are old. True: it is the caller's to do.
pub async fn claim(
    db: &impl Database,
    issuer: &str,
    now: Timestamp,
    seen: Option<Timestamp>,
    missed: bool,
) -> Result<bool, DatabaseError> {
    let parameters = vec![issuer.into(), now.into(), seen.into(), missed.then_some(now).into()];
    Ok(!db.query(CLAIM.sql(db.dialect()), parameters).await?.is_empty())
}

/// Records what the attempt that began at `tried` fetched, to be used until `expires`. Without effect if there has been
/// another attempt since.
pub async fn store(
    db: &impl Database,
    issuer: &str,
    tried: Timestamp,
    keys: &str,
    expires: Timestamp,
) -> Result<(), DatabaseError> {
    let parameters = vec![issuer.into(), tried.into(), keys.into(), expires.into()];
    db.query(STORE.sql(db.dialect()), parameters).await?;
    Ok(())
}

/// Records why the attempt that began at `tried` failed; the keys that there were stay. Without effect if there has been
/// another attempt since.
pub async fn fail(db: &impl Database, issuer: &str, tried: Timestamp, why: &str) -> Result<(), DatabaseError> {
    db.query(FAIL.sql(db.dialect()), vec![issuer.into(), tried.into(), why.into()]).await?;
    Ok(())
}

fn read(row: &mut Row) -> Result<IssuerKeysRow, DatabaseError> {
    let (keys, fetched, expires) = (row.optional_text()?, row.optional_timestamp()?, row.optional_timestamp()?);
    let set = keys.zip(fetched).zip(expires).map(|((keys, fetched), expires)| StoredKeys { keys, fetched, expires });
    Ok(IssuerKeysRow {
        set,
        tried: row.optional_timestamp()?,
        settled: row.integer()? != 0,
        missed: row.optional_timestamp()?,
        failure: row.optional_text()?,
    })
}
