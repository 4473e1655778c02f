//! What an instance of the component keeps between its requests: configuration, database handle, who decides about tokens,
//! verified tokens.
//!
//! Nothing here is needed for correctness: an instance may end at any time, and any other answers alike.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use renga_database::SpinDatabase;
use renga_shared::api::Problem;
use renga_shared::auth::{Principal, Remembered, Throttle, TokenError, Verifier};
use renga_shared::config::{API_VARIABLES, ApiConfig};
use renga_shared::environment::Environment;
use renga_shared::sql::Visible;
use spin_sdk::variables;

use crate::ambient;
use crate::issuer::{Issuer, Refused};
use crate::resource_manager::ResourceManager;

/// How many verified tokens an instance remembers.
const REMEMBERED: usize = 4_096;

/// How many tokens may wait to be looked at while many are forged.
const MOST_WAITING: usize = 4;

/// What an instance keeps.
pub(crate) struct Instance {
    pub(crate) config: ApiConfig,
    pub(crate) database: SpinDatabase,
    pub(crate) authority: Authority,
    remembered: RefCell<Remembered>,
    throttle: Cell<Throttle>,
    /// How many tokens wait to be looked at.
    waiting: Cell<usize>,
}

/// Who decides about a token.
pub(crate) enum Authority {
    /// The configured key.
    Key(Verifier),
    /// The keys that the issuer publishes.
    Issuer(Issuer),
    /// The resource manager, for each thing that is asked for.
    ResourceManager(ResourceManager),
}

thread_local! {
    static INSTANCE: RefCell<Option<Rc<Instance>>> = const { RefCell::new(None) };
}

impl Instance {
    /// The instance's own, made by its first request.
    pub(crate) async fn get() -> Result<Rc<Self>, Problem> {
        if let Some(instance) = INSTANCE.with_borrow(Clone::clone) {
            return Ok(instance);
        }
        let config = ApiConfig::read(&environment().await).map_err(|problems| {
            for problem in problems {
                eprintln!("misconfigured: {problem}");
            }
            Problem::unavailable("Service misconfigured", "Its operator finds the reason in its log.", 60)
        })?;
        let database = SpinDatabase::new(&config.database);
        let expected = config.expected.clone();
        let authority = match (config.key.clone(), config.resource_manager.clone()) {
            (Some(key), Some(url)) => Authority::ResourceManager(ResourceManager::new(url, key, expected)),
            (Some(key), None) => Authority::Key(Verifier::new(key, expected)),
            // There is no resource manager without a key.
            (None, _) => Authority::Issuer(Issuer::new(expected)),
        };
        let remembered = RefCell::new(Remembered::new(REMEMBERED));
        let instance = Rc::new(Self {
            config,
            database,
            authority,
            remembered,
            throttle: Cell::default(),
            waiting: Cell::default(),
        });
        INSTANCE.set(Some(Rc::clone(&instance)));
        Ok(instance)
    }

    /// Who shows this token: as it was verified before, or as `verify` finds now.
    pub(crate) async fn known(
        &self,
        token: &str,
        verify: impl AsyncFnOnce() -> Result<Principal, Refused>,
    ) -> Result<Principal, Problem> {
        if let Some(principal) = self.remembered.borrow_mut().get(token, ambient::now()) {
            return Ok(principal.clone());
        }
        self.admit().await?;
        let verified = verify().await;
        match &verified {
            Ok(principal) => self.remembered.borrow_mut().insert(token, principal.clone()),
            // These alone cost something.
            Err(Refused::Token(TokenError::Signature | TokenError::UnknownKey)) => self.forged(),
            Err(_) => {}
        }
        verified.map_err(Problem::from)
    }

    /// Waits until a token that is not remembered may be looked at. That is at once, unless many before it were forged.
    async fn admit(&self) -> Result<(), Problem> {
        loop {
            let wait = self.throttle.get().wait(ambient::now());
            if wait.is_zero() {
                return Ok(());
            }
            if self.waiting.get() >= MOST_WAITING {
                let detail = "Too many tokens that are not valid are being sent. Try again.";
                return Err(Problem::unavailable("Busy with other tokens", detail, 1));
            }
            let _waiting = Counted::new(&self.waiting);
            spin_sdk::time::sleep(wait).await;
        }
    }

    /// Takes note of a token that was looked at in vain.
    fn forged(&self) {
        let mut throttle = self.throttle.get();
        throttle.forged(ambient::now());
        self.throttle.set(throttle);
    }

    /// What may be seen. What the resource manager has granted decides in place of ownership.
    pub(crate) fn visible<'p>(&self, principal: &'p Principal) -> Visible<'p> {
        match &self.authority {
            Authority::ResourceManager(_) => Visible::All,
            Authority::Key(_) | Authority::Issuer(_) => self.config.access.of(&principal.subject),
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

/// The environment variables that the API reads, each from the Spin variable that `runtime-config.toml` maps it to.
async fn environment() -> Environment {
    let mut given = Vec::new();
    for name in API_VARIABLES {
        // `DEPLOYER_JWT_KEY` is `jwt_key`: up to the first underscore it is the prefix of a provider.
        let Some((_, variable)) = name.split_once('_') else { continue };
        let variable = variable.to_ascii_lowercase();
        if let Ok(value) = variables::get(&variable).await {
            given.push((name.to_owned(), value));
        }
    }
    given.into_iter().collect()
}
