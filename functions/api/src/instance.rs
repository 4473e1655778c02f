//! What an instance of the component keeps between its requests: configuration, database handle, verified tokens.
//!
//! Nothing here is needed for correctness: an instance may end at any time, and any other answers alike.

use std::cell::RefCell;
use std::rc::Rc;

use renga_database::SpinDatabase;
use renga_shared::api::Problem;
use renga_shared::auth::{Principal, Remembered, Verifier};
use renga_shared::config::{API_VARIABLES, ApiConfig};
use renga_shared::environment::Environment;
use spin_sdk::variables;

use crate::ambient;

/// How many verified tokens an instance remembers.
const REMEMBERED: usize = 4_096;

/// What an instance keeps.
pub(crate) struct Instance {
    pub(crate) config: ApiConfig,
    pub(crate) database: SpinDatabase,
    remembered: RefCell<Remembered>,
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
        let remembered = RefCell::new(Remembered::new(REMEMBERED));
        let instance = Rc::new(Self { config, database, remembered });
        INSTANCE.set(Some(Rc::clone(&instance)));
        Ok(instance)
    }

    /// Who shows this token.
    pub(crate) fn verify(&self, token: &str) -> Result<Principal, renga_shared::auth::TokenError> {
        let now = ambient::now();
        if let Some(principal) = self.remembered.borrow_mut().get(token, now) {
            return Ok(principal.clone());
        }
        let verifier: &Verifier = &self.config.verifier;
        let principal = verifier.verify(token, now)?;
        self.remembered.borrow_mut().insert(token, principal.clone());
        Ok(principal)
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
