//! What an instance of the component keeps between its requests: configuration, database handle, who decides about tokens and
//! what is known of them.
//!
//! Nothing here is needed for correctness: an instance may end at any time, and any other answers alike.

use std::cell::RefCell;
use std::rc::Rc;

use renga_database::SpinDatabase;
use renga_shared::api::Problem;
use renga_shared::auth::{Principal, Verifier};
use renga_shared::config::{API_VARIABLES, ApiConfig};
use renga_shared::environment::Environment;
use renga_shared::sql::Visible;
use spin_sdk::variables;

use crate::issuer::Issuer;
use crate::resource_manager::ResourceManager;
use crate::tokens::{Keys, Tokens};

/// What an instance keeps.
pub(crate) struct Instance {
    pub(crate) config: ApiConfig,
    pub(crate) database: SpinDatabase,
    pub(crate) authority: Authority,
}

/// Who decides about a token.
pub(crate) enum Authority {
    /// Whoever's keys have signed it.
    Keys(Box<Tokens>),
    /// The resource manager, for each thing that is asked for.
    ResourceManager(Box<ResourceManager>),
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
        let config = ApiConfig::read(&environment().await?).map_err(|problems| {
            for problem in problems {
                eprintln!("misconfigured: {problem}");
            }
            Problem::unavailable("Service misconfigured", "Its operator finds the reason in its log.", 60)
        })?;
        let database = SpinDatabase::new(&config.database);
        let expected = config.expected.clone();
        let authority = match (config.key.clone(), config.resource_manager.clone()) {
            (Some(key), Some(url)) => Authority::ResourceManager(Box::new(ResourceManager::new(url, key, expected))),
            (Some(key), None) => Authority::Keys(Box::new(Tokens::new(Keys::Configured(Verifier::new(key, expected))))),
            // There is no resource manager without a key.
            (None, _) => Authority::Keys(Box::new(Tokens::new(Keys::Discovered(Issuer::new(expected))))),
        };
        let instance = Rc::new(Self { config, database, authority });
        INSTANCE.set(Some(Rc::clone(&instance)));
        Ok(instance)
    }

    /// What may be seen. What the resource manager has granted decides in place of ownership.
    pub(crate) fn visible<'p>(&self, principal: &'p Principal) -> Visible<'p> {
        match &self.authority {
            Authority::ResourceManager(_) => Visible::All,
            Authority::Keys(_) => self.config.access.of(&principal.subject),
        }
    }
}

/// The environment variables that the API reads, each from the Spin variable that `runtime-config.toml` maps it to.
///
/// The manifest declares all of them with a default, so that one that cannot be read was not left unset: a provider,
/// such as a vault, failed. The API would check less if it took that for "not set", so it answers nothing until all
/// can be read.
async fn environment() -> Result<Environment, Problem> {
    let mut given = Vec::new();
    for name in API_VARIABLES {
        // `DEPLOYER_JWT_KEY` is `jwt_key`: up to the first underscore it is the prefix of a provider.
        let Some((_, variable)) = name.split_once('_') else { continue };
        let variable = variable.to_ascii_lowercase();
        match variables::get(&variable).await {
            Ok(value) => given.push((name.to_owned(), value)),
            Err(error) => {
                eprintln!("the variable {variable} ({name}) cannot be read: {}", kind(&error));
                return Err(Problem::unavailable(
                    "Configuration unavailable",
                    "The service cannot read its configuration now. Try again.",
                    5,
                ));
            }
        }
    }
    Ok(given.into_iter().collect())
}

/// Why a variable cannot be read, without the provider's own words: they may hold what it keeps.
fn kind(error: &variables::Error) -> &'static str {
    match error {
        variables::Error::InvalidName(_) => "its name is not one",
        variables::Error::Undefined(_) => "the manifest does not give it to this component",
        variables::Error::Provider(_) => "the provider of variables failed",
        variables::Error::Other(_) => "the host failed",
    }
}
