//! What the API needs to know. Read by the component, from Spin's variables, and checked by `renga-deployer up` before
//! anything starts, from the same environment variables.

use crate::auth::{Access, SealKeys, VerificationKey, Verifier};
use crate::environment::{BadVariable, Environment, SEAL_KEY};
use crate::sql::uri::DatabaseUri;

/// The environment variables that the API reads. A component sees each as a Spin variable; see `spin.toml`.
pub const API_VARIABLES: [&str; 8] = [
    "DEPLOYER_ACCESS",
    "DEPLOYER_BASE_PATH",
    "DEPLOYER_DEFAULT_BASE_URL",
    "DEPLOYER_JWT_ISSUER",
    "DEPLOYER_JWT_KEY",
    SEAL_KEY,
    "DEPLOYER_TOKEN_SCOPE_KEY",
    "SQLALCHEMY_DATABASE_URI",
];

/// The base path that there always is.
pub const BASE_PATH: &str = "/v1";
const DEFAULT_ISSUER: &str = "http://localhost:8080/auth/realms/Renga";

/// What the API needs to know.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Verifies tokens: `DEPLOYER_JWT_KEY`, `DEPLOYER_JWT_ISSUER`, `DEPLOYER_TOKEN_SCOPE_KEY`.
    pub verifier: Verifier,
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
        let issuer = environment.text("DEPLOYER_JWT_ISSUER").unwrap_or(DEFAULT_ISSUER);
        let scope_claim = environment.text("DEPLOYER_TOKEN_SCOPE_KEY").map(str::to_owned);
        let access = environment.parse("DEPLOYER_ACCESS", "owned or shared", Access::parse, &mut problems);
        let base_path = environment.parse(
            "DEPLOYER_BASE_PATH",
            "a path that begins with a slash, such as /api/deployer",
            base_path,
            &mut problems,
        );
        let seal_keys = environment.seal_keys(&mut problems);
        let database = environment.database(&mut problems);
        match key {
            Some(key) if problems.is_empty() => Ok(Self {
                verifier: Verifier::new(key, issuer, scope_claim),
                access: access.unwrap_or_default(),
                base_path: base_path.filter(|path| path != BASE_PATH),
                default_base_url: environment.text("DEPLOYER_DEFAULT_BASE_URL").unwrap_or("/").to_owned(),
                seal_keys,
                database,
            }),
            _ => Err(problems),
        }
    }
}

fn key(environment: &Environment, problems: &mut Vec<BadVariable>) -> Option<VerificationKey> {
    const NAME: &str = "DEPLOYER_JWT_KEY";
    let key = match environment.text(NAME) {
        None => {
            Err("it is not set; it must be the public key of the token issuer, as PEM or as bare base64".to_owned())
        }
        Some(text) => VerificationKey::parse(text).map_err(|error| error.to_string()),
    };
    // Somebody may have put a secret there.
    key.map_err(|error| problems.push(BadVariable::new(NAME, None, error))).ok()
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
        assert!(
            read(&[]).unwrap_err()[0].to_string().contains("DEPLOYER_JWT_KEY"),
            "there is no mode without verification"
        );
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
