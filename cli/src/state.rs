//! The state folder: the files that `up --dev` and `login` write for the client commands.
//!
//! Obligations: the files let their reader act as any user of the development service, so the folder has mode 0700 and
//! its files 0600. A key that other users can read is rejected.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::login::Session;

/// The path of the folder.
#[derive(Clone, Debug)]
pub(crate) struct StateFolder(PathBuf);

/// The data that the client commands need to reach the service of the last `up --dev` or `login`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClientFile {
    /// The API's address, base path included.
    pub(crate) url: String,
    /// The claims of its development issuer; absent if the service verifies tokens with another key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) issuer: Option<IssuerFacts>,
}

/// The claims that a token needs so that the service accepts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IssuerFacts {
    /// The issuer, `iss`.
    pub(crate) issuer: String,
    /// The claim with the scopes.
    pub(crate) scope_claim: String,
}

impl StateFolder {
    /// Returns the folder from the flag, else from `RENGA_DEPLOYER_STATE`, else the default one. `get` reads the
    /// environment.
    pub(crate) fn choose(flag: Option<&Path>, get: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        if let Some(folder) = flag {
            return Ok(Self(folder.to_owned()));
        }
        match get("RENGA_DEPLOYER_STATE") {
            Some(folder) => Ok(Self(folder.into())),
            None => Self::usual(get).context(
                "there is no place for the state folder: neither XDG_STATE_HOME nor HOME is set; give --state-dir",
            ),
        }
    }

    /// Returns the default folder.
    fn usual(get: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        // The XDG specification ignores relative paths.
        let absolute = |name| get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let states = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
        Some(Self(states.join("renga-deployer")))
    }

    /// Whether this is the default folder, so a command in another terminal finds it without an option.
    pub(crate) fn is_usual(&self, get: &dyn Fn(&str) -> Option<String>) -> bool {
        Self::usual(get).is_some_and(|usual| usual.0 == self.0)
    }

    /// Returns the path of the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the path of the development issuer's private key.
    pub(crate) fn key_path(&self) -> PathBuf {
        self.0.join("dev-key.pem")
    }

    /// Returns the path of the client file.
    pub(crate) fn client_path(&self) -> PathBuf {
        self.0.join("client.json")
    }

    /// Returns the path of the key that seals tokens until their containers are launched.
    pub(crate) fn seal_key_path(&self) -> PathBuf {
        self.0.join("dev-seal-key")
    }

    /// Returns the private key as PEM, if it exists.
    pub(crate) fn key(&self) -> anyhow::Result<Option<String>> {
        secret(&self.key_path())
    }

    /// Stores a private key, unless one exists, and returns the stored key: another process may have been first.
    pub(crate) fn keep_key(&self, pem: &str) -> anyhow::Result<String> {
        self.keep(&self.key_path(), pem)
    }

    /// Returns the stored seal key. Stores `new` if none exists.
    pub(crate) fn seal_key(&self, new: &str) -> anyhow::Result<String> {
        let path = self.seal_key_path();
        match secret(&path)? {
            Some(key) => Ok(key),
            None => self.keep(&path, new),
        }
    }

    /// Stores a secret, unless one exists, and returns the stored secret.
    fn keep(&self, path: &Path, text: &str) -> anyhow::Result<String> {
        let new = self.write_beside(path, text)?;
        // A link never replaces a file, so a second process reads the secret of the first.
        let linked = fs::hard_link(&new, path);
        // The temporary file is as unreadable for others as the key, so it is harmless if it stays.
        let _ = fs::remove_file(&new);
        match linked {
            Ok(()) => Ok(text.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                secret(path)?.with_context(|| format!("{} vanished; try again", path.display()))
            }
            Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
        }
    }

    /// Returns the client file of the last `up --dev` or `login`, if it exists.
    pub(crate) fn client(&self) -> anyhow::Result<Option<ClientFile>> {
        let path = self.client_path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let file = serde_json::from_str(&text).with_context(|| {
            format!("{} is damaged; remove it, and start `up --dev` or log in again", path.display())
        })?;
        Ok(Some(file))
    }

    /// Writes the client file.
    pub(crate) fn write_client(&self, file: &ClientFile) -> anyhow::Result<()> {
        let path = self.client_path();
        let new = self.write_beside(&path, &serde_json::to_string_pretty(file)?)?;
        fs::rename(&new, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Returns the path of the login.
    pub(crate) fn session_path(&self) -> PathBuf {
        self.0.join("login.json")
    }

    /// Returns the stored login, if there is one.
    pub(crate) fn session(&self) -> anyhow::Result<Option<Session>> {
        let path = self.session_path();
        let Some(text) = secret(&path)? else { return Ok(None) };
        let session = serde_json::from_str(&text);
        // The library's message could quote its input, which has a token.
        session.map(Some).map_err(|_| anyhow::anyhow!("{} is damaged; log in again", path.display()))
    }

    /// Stores a login, in place of any other.
    pub(crate) fn write_session(&self, session: &Session) -> anyhow::Result<()> {
        let path = self.session_path();
        let new = self.write_beside(&path, &serde_json::to_string_pretty(session)?)?;
        fs::rename(&new, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Deletes the login. Returns `false` if there was none.
    pub(crate) fn forget_session(&self) -> anyhow::Result<bool> {
        let path = self.session_path();
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
        }
    }

    /// Writes a complete file beside `path` and returns its path. The caller then renames or links it, so no process
    /// reads a half-written file.
    fn write_beside(&self, path: &Path, text: &str) -> anyhow::Result<PathBuf> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0).with_context(|| {
            format!("cannot make the state folder {}; choose another with --state-dir", self.0.display())
        })?;
        let new = path.with_extension(format!("new-{}", std::process::id()));
        // A killed process with the same process id may have left it.
        let _ = fs::remove_file(&new);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written
            .with_context(|| format!("cannot write {}; choose another state folder with --state-dir", new.display()))?;
        Ok(new)
    }
}

/// Returns the content of a file, if it exists. Fails if other users can access the file.
fn secret(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
        Ok(found) if found.permissions().mode() & 0o077 != 0 => bail!(
            "{} may be read or changed by others (mode {:03o}): they can act in its owner's name. Remove it, and a new one is made, or log in again",
            path.display(),
            found.permissions().mode() & 0o777
        ),
        Ok(_) => {}
    }
    fs::read_to_string(path).map(Some).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn only_the_owner_can_read_the_files() {
        let temp = tempfile::tempdir().unwrap();
        let folder = StateFolder(temp.path().join("state"));
        let client = ClientFile { url: "http://localhost:1/v1".into(), issuer: None };
        folder.keep_key("the key").unwrap();
        folder.seal_key("the seal key").unwrap();
        folder.write_client(&client).unwrap();
        assert_eq!(mode(folder.path()), 0o700);
        assert_eq!(mode(&folder.key_path()), 0o600);
        assert_eq!(mode(&folder.seal_key_path()), 0o600);
        assert_eq!(mode(&folder.client_path()), 0o600);
        assert_eq!(folder.client().unwrap(), Some(client));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing is left over");
    }

    #[test]
    fn the_first_key_is_kept() {
        let temp = tempfile::tempdir().unwrap();
        let folder = StateFolder(temp.path().to_owned());
        assert_eq!(folder.keep_key("first").unwrap(), "first");
        assert_eq!(folder.keep_key("second").unwrap(), "first");
        assert_eq!(folder.seal_key("first to seal").unwrap(), "first to seal");
        assert_eq!(folder.seal_key("second to seal").unwrap(), "first to seal");
    }

    #[test]
    fn a_key_that_others_can_read_is_rejected_with_the_cure() {
        let temp = tempfile::tempdir().unwrap();
        let folder = StateFolder(temp.path().to_owned());
        folder.keep_key("key").unwrap();
        fs::set_permissions(folder.key_path(), fs::Permissions::from_mode(0o640)).unwrap();
        let refused = folder.key().unwrap_err().to_string();
        assert!(
            refused.contains("dev-key.pem") && refused.contains("640") && refused.contains("Remove it"),
            "{refused}"
        );
    }

    #[test]
    fn the_flag_precedes_the_variable_and_the_default() {
        let get = |name: &str| match name {
            "RENGA_DEPLOYER_STATE" => Some("/from/variable".to_owned()),
            "HOME" => Some("/home/ada".to_owned()),
            _ => None,
        };
        let only_home = |name: &str| get(name).filter(|_| name == "HOME");
        let chosen = |folder: anyhow::Result<StateFolder>| folder.unwrap().0;
        assert_eq!(chosen(StateFolder::choose(Some(Path::new("flag")), &get)), Path::new("flag"));
        assert_eq!(chosen(StateFolder::choose(None, &get)), Path::new("/from/variable"));
        assert_eq!(chosen(StateFolder::choose(None, &only_home)), Path::new("/home/ada/.local/state/renga-deployer"));
        assert!(StateFolder::choose(None, &|_| None).unwrap_err().to_string().contains("--state-dir"));
    }
}
