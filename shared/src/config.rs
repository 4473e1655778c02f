//! What the API needs to know. Read by the component, from Spin's variables, and checked by `renga-deployer up` before
//! anything starts, from the same environment variables.

use crate::auth::discovery::is_issuer_url;
use crate::auth::{Access, Expected, SealKeys, VerificationKey};
use crate::environment::{BadVariable, Environment, SEAL_KEY};
use crate::sql::uri::DatabaseUri;

/// The environment variables that the API reads. A component sees each as a Spin variable; see `spin.toml`.
pub const API_VARIABLES: [&str; 10] = [
    "DEPLOYER_ACCESS",
    "DEPLOYER_BASE_PATH",
    "DEPLOYER_DEFAULT_BASE_URL",
    "DEPLOYER_JWT_AUDIENCE",
    "DEPLOYER_JWT_ISSUER",
    "DEPLOYER_JWT_KEY",
    SEAL_KEY,
    "DEPLOYER_TOKEN_SCOPE_KEY",
    "RESOURCE_MANAGER_URL",
    "SQLALCHEMY_DATABASE_URI",
];

/// The base path that there always is.
pub const BASE_PATH: &str = "/v1";
/// The token issuer where none is configured: the platform's Keycloak on a developer's machine.
pub const DEFAULT_ISSUER: &str = "http://localhost:8080/auth/realms/Renga";
/// The claim in which the resource manager states the scopes that it grants.
const GRANTED_SCOPES: &str = "https://rm.datascience.ch/scope";

/// What the API needs to know.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// `DEPLOYER_JWT_KEY`: what tokens are signed with; `None`: one of the keys that the issuer publishes.
    pub key: Option<VerificationKey>,
    /// What tokens say: `DEPLOYER_JWT_ISSUER`, `DEPLOYER_JWT_AUDIENCE`, `DEPLOYER_TOKEN_SCOPE_KEY`.
    pub expected: Expected,
    /// `RESOURCE_MANAGER_URL`: who exchanges each token for one that says what is granted.
    pub resource_manager: Option<String>,
    /// `DEPLOYER_ACCESS`.
    pub access: Access,
    /// `DEPLOYER_BASE_PATH`, if it is another than [`BASE_PATH`]. Begins with a slash and does not end with one.
    pub base_path: Option<String>,
    /// `DEPLOYER_DEFAULT_BASE_URL`: shown in the environment of executions.
    pub default_base_url: String,
    /// `DEPLOYER_SEAL_KEY`: seals the tokens that containers are given. `None`: no token is stored.
    pub seal_keys: Option<SealKeys>,
    /// `SQLALCHEMY_DATABASE_URI`.
    pub database: DatabaseUri,
}

impl ApiConfig {
    /// The configuration in `environment`.
    ///
    /// # Errors
    /// All wrong variables at once.
    pub fn read(environment: &Environment) -> Result<Self, Vec<BadVariable>> {
        let mut problems = Vec::new();
        let key = key(environment, &mut problems);
        let resource_manager = resource_manager(environment, &mut problems);
        let issuer = environment.text("DEPLOYER_JWT_ISSUER").unwrap_or(DEFAULT_ISSUER);
        if environment.text("DEPLOYER_JWT_KEY").is_none() && !is_issuer_url(issuer) {
            let allowed =
                "without DEPLOYER_JWT_KEY it must be the http or https URL of an issuer that publishes its keys";
            problems.push(BadVariable::new("DEPLOYER_JWT_ISSUER", Some(issuer), allowed));
        }
        let text = |name: &str| environment.text(name).map(str::to_owned);
        let granted = || resource_manager.as_ref().map(|_| GRANTED_SCOPES.to_owned());
        let expected = Expected {
            issuer: issuer.to_owned(),
            audience: text("DEPLOYER_JWT_AUDIENCE"),
            scope_claim: text("DEPLOYER_TOKEN_SCOPE_KEY").or_else(granted),
        };
        let access = environment.parse("DEPLOYER_ACCESS", "owned or shared", Access::parse, &mut problems);
        let base_path = environment.parse(
            "DEPLOYER_BASE_PATH",
            "a path that begins with a slash, such as /api/deployer",
            base_path,
            &mut problems,
        );
        let seal_keys = environment.seal_keys(&mut problems);
        let database = environment.database(&mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            key,
            expected,
            resource_manager,
            access: access.unwrap_or_default(),
            base_path: base_path.filter(|path| path != BASE_PATH),
            default_base_url: environment.text("DEPLOYER_DEFAULT_BASE_URL").unwrap_or("/").to_owned(),
            seal_keys,
            database,
        })
    }
}

fn key(environment: &Environment, problems: &mut Vec<BadVariable>) -> Option<VerificationKey> {
    const NAME: &str = "DEPLOYER_JWT_KEY";
    let key = VerificationKey::parse(environment.text(NAME)?);
    // Somebody may have put a secret there.
    key.map_err(|error| problems.push(BadVariable::new(NAME, None, error.to_string()))).ok()
}

fn resource_manager(environment: &Environment, problems: &mut Vec<BadVariable>) -> Option<String> {
    const NAME: &str = "RESOURCE_MANAGER_URL";
    let url = environment.parse(
        NAME,
        "an http or https URL without a query, such as https://platform/api/resource-manager/authorize",
        |text| is_issuer_url(text).then(|| text.to_owned()),
        problems,
    )?;
    if environment.text("DEPLOYER_JWT_KEY").is_none() {
        let wanted = "it is not set; with RESOURCE_MANAGER_URL it must be the resource manager's public key";
        problems.push(BadVariable::new("DEPLOYER_JWT_KEY", None, wanted));
    }
    Some(url)
}

fn base_path(text: &str) -> Option<String> {
    let path = text.strip_suffix('/').unwrap_or(text);
    let part = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~'))
    };
    let fits = path.strip_prefix('/').is_some_and(|path| path.split('/').all(part));
    // A slash alone: the API at the root.
    (fits || text == "/").then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<ApiConfig, Vec<BadVariable>> {
        ApiConfig::read(&variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn every_mistake_is_told() {
        let told = read(&[
            ("DEPLOYER_ACCESS", "everyone"),
            ("DEPLOYER_BASE_PATH", "api"),
            ("DEPLOYER_JWT_KEY", "hunter2"),
            ("DEPLOYER_SEAL_KEY", "hunter2"),
        ]);
        let told: Vec<String> = told.unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 4);
        assert!(told[3].starts_with("DEPLOYER_SEAL_KEY: ") && told[3].contains("openssl rand -base64 32"), "{told:?}");
        assert!(told.iter().all(|told| !told.contains("hunter2")), "{told:?}");
    }

    #[test]
    fn keys_are_configured_or_discovered() {
        let key = "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        let discovered = read(&[]).unwrap();
        assert_eq!((discovered.key, discovered.expected), (None, Expected::of(DEFAULT_ISSUER, None)));
        assert!(read(&[("DEPLOYER_JWT_KEY", key), ("DEPLOYER_JWT_ISSUER", "anything")]).unwrap().key.is_some());
        let told = read(&[("DEPLOYER_JWT_ISSUER", "resource-manager")]).unwrap_err();
        assert!(
            told[0].to_string().starts_with("DEPLOYER_JWT_ISSUER is \"resource-manager\": without DEPLOYER_JWT_KEY")
        );
    }

    #[test]
    fn a_resource_manager_has_a_key_and_a_claim() {
        let key = "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        let url = ("RESOURCE_MANAGER_URL", "http://platform/api/resource-manager/authorize");
        let config = read(&[url, ("DEPLOYER_JWT_KEY", key), ("DEPLOYER_JWT_ISSUER", "resource-manager")]).unwrap();
        assert_eq!(config.expected.scope_claim.as_deref(), Some(GRANTED_SCOPES));
        assert!(read(&[url]).unwrap_err()[0].to_string().starts_with("DEPLOYER_JWT_KEY: it is not set"));
        assert!(read(&[("RESOURCE_MANAGER_URL", "platform"), ("DEPLOYER_JWT_KEY", key)]).is_err());
    }

    #[test]
    fn base_paths_are_plain() {
        assert_eq!(base_path("/api/deployer/").as_deref(), Some("/api/deployer"));
        assert_eq!(base_path("/").as_deref(), Some(""));
        for bad in ["api", "//", "/a//b", "/a b", "/a?b", "/%20"] {
            assert_eq!(base_path(bad), None, "{bad:?}");
        }
    }
}
