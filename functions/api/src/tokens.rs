//! Who shows a token: as it was verified before, or as its keys say now.
//!
//! Obligations: nobody is let in by anything but a verified signature; forged tokens, however many, take a bounded share of
//! the processor; a token that was verified never waits for them, and one that was not is told to come again at worst.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use renga_database::SpinDatabase;
use renga_shared::api::Problem;
use renga_shared::auth::{Principal, Remembered, Throttle, TokenError, Verifier};

use crate::ambient;
use crate::issuer::{Issuer, Refused};

/// How many verified tokens an instance remembers.
const REMEMBERED: usize = 4_096;
/// How many forged ones.
const REFUSED: usize = 1_024;
/// How many that were told to come back.
const PUT_OFF: usize = 1_024;
/// How long it remembers either. A key may be exchanged for another of the same name.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// How many tokens may wait to be looked at while many are forged.
const MOST_WAITING: usize = 4;

/// What verifies tokens, and what is known of those that were shown.
pub(crate) struct Tokens {
    keys: Keys,
    verified: RefCell<Remembered>,
    forged: RefCell<Remembered<()>>,
    /// Those that were told to come back. Who sends forged tokens sends others; a good one does come back, and is looked at
    /// then, within a limit of its own.
    put_off: RefCell<Remembered<()>>,
    first: Cell<Throttle>,
    again: Cell<Throttle>,
    /// How many tokens wait to be looked at.
    waiting: Cell<usize>,
}

/// Whose keys.
pub(crate) enum Keys {
    /// The configured one.
    Configured(Verifier),
    /// Those that the issuer publishes.
    Discovered(Issuer),
}

impl Tokens {
    pub(crate) fn new(keys: Keys) -> Self {
        Self {
            keys,
            verified: RefCell::new(Remembered::new(REMEMBERED)),
            forged: RefCell::new(Remembered::new(REFUSED)),
            put_off: RefCell::new(Remembered::new(PUT_OFF)),
            first: Cell::default(),
            again: Cell::default(),
            waiting: Cell::default(),
        }
    }

    /// Who shows this token.
    pub(crate) async fn principal(&self, db: &SpinDatabase, token: &str) -> Result<Principal, Problem> {
        if let Some(principal) = self.verified.borrow_mut().get(token, ambient::now()) {
            return Ok(principal.clone());
        }
        let principal = self.verify(db, token).await?;
        let (expires, weight) = (principal.expires, principal.weight());
        self.verified.borrow_mut().insert_weighing(token, principal.clone(), expires, weight);
        Ok(principal)
    }

    async fn verify(&self, db: &SpinDatabase, token: &str) -> Result<Principal, Refused> {
        match &self.keys {
            Keys::Configured(verifier) => {
                verifier.glance(token, ambient::now())?;
                self.signed(verifier, token).await
            }
            Keys::Discovered(issuer) => {
                let known = issuer.keys_for(db, token).await?;
                let principal = self.signed(&known.verifier, token).await?;
                Ok(Principal { expires: principal.expires.min(known.expires), ..principal })
            }
        }
    }

    /// Does the arithmetic of a signature, if too many before it were not forged.
    async fn signed(&self, verifier: &Verifier, token: &str) -> Result<Principal, Refused> {
        if self.forged.borrow_mut().get(token, ambient::now()).is_some() {
            return Err(TokenError::Signature.into());
        }
        let throttle = self.admit(token).await.map_err(Refused::Away)?;
        let begin = ambient::now();
        let verified = verifier.verify(token, begin);
        if verified == Err(TokenError::Signature) {
            let (mut spent, now) = (throttle.get(), ambient::now());
            spent.forged(now, now.since(begin));
            throttle.set(spent);
            self.forged.borrow_mut().insert(token, (), now.plus(REMEMBERED_FOR));
        }
        Ok(verified?)
    }

    /// Waits until a signature may be looked at. Returns what its time counts against.
    async fn admit(&self, token: &str) -> Result<&Cell<Throttle>, Problem> {
        loop {
            let now = ambient::now();
            if self.first.get().wait(now).is_zero() {
                return Ok(&self.first);
            }
            if self.again.get().wait(now).is_zero() && self.put_off.borrow_mut().get(token, now).is_some() {
                return Ok(&self.again);
            }
            self.put_off.borrow_mut().insert(token, (), now.plus(REMEMBERED_FOR));
            if self.waiting.get() >= MOST_WAITING {
                let detail = "Too many tokens that are not valid are being sent. Try again.";
                return Err(Problem::unavailable("Busy with other tokens", detail, 1));
            }
            let _waiting = Counted::new(&self.waiting);
            spin_sdk::time::sleep(self.first.get().wait(now)).await;
        }
    }
}

/// One more, for as long as it lives: a request may end while it waits.
struct Counted<'a>(&'a Cell<usize>);

impl<'a> Counted<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
