//! `SQLALCHEMY_DATABASE_URI`, as the 2018 service took it.

use std::fmt;

/// A database that the configuration names.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUri {
    /// A SQLite file: a path, relative to the working directory unless it begins with a slash.
    Sqlite(String),
    /// A PostgreSQL database, in libpq's form.
    Postgres(String),
}

/// What is wrong with a database URI.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDatabaseUri {
    /// No known scheme.
    #[error("the scheme {0:?} is not known; use sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE")]
    Scheme(String),
    /// A SQLite URI without a file.
    #[error("it names no file; use sqlite:///FILE, or sqlite:////FILE for an absolute path")]
    NoFile,
    /// An in-memory SQLite database, which two processes cannot share.
    #[error("a SQLite database in memory cannot be shared by the API and the reconciler; use sqlite:///FILE")]
    InMemory,
    /// A PostgreSQL URI without a host or database.
    #[error("it names no host and database; use postgresql://USER:PASSWORD@HOST/DATABASE")]
    NoHost,
}

impl DatabaseUri {
    /// Reads a SQLAlchemy-style URI: `sqlite:///file`, `postgresql://…`, `postgres://…`, with or without `+driver`.
    pub fn parse(text: &str) -> Result<Self, BadDatabaseUri> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").ok_or_else(|| BadDatabaseUri::Scheme(String::new()))?;
        let backend = scheme.split('+').next().unwrap_or_default();
        match backend {
            "sqlite" => {
                let path = rest.split('?').next().unwrap_or_default();
                let path = path.strip_prefix('/').ok_or(BadDatabaseUri::NoFile)?;
                match path {
                    "" => Err(BadDatabaseUri::NoFile),
                    ":memory:" => Err(BadDatabaseUri::InMemory),
                    path => Ok(Self::Sqlite(path.to_owned())),
                }
            }
            "postgresql" | "postgres" => {
                let named = rest.split_once('/').is_some_and(|(_, database)| !database.is_empty());
                if named { Ok(Self::Postgres(format!("postgresql://{rest}"))) } else { Err(BadDatabaseUri::NoHost) }
            }
            // The rest of a URI may hold a password, and so may what stands before a wrong separator: of that only the
            // first word is said.
            other => {
                let word = other.chars().take_while(char::is_ascii_alphanumeric).take(20).collect();
                Err(BadDatabaseUri::Scheme(word))
            }
        }
    }
}

impl fmt::Debug for DatabaseUri {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:///{path}"),
            Self::Postgres(uri) => {
                let rest = &uri["postgresql://".len()..];
                let (user, place) = rest.rsplit_once('@').unwrap_or(("", rest));
                // Of `?` before `@` either may belong to a password and either may begin or be in the parameters, which
                // hold a password as well: nothing is shown.
                let place = if user.contains('?') { "…" } else { place.split('?').next().unwrap_or_default() };
                write!(f, "postgresql://{place}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_uris_are_understood() {
        let sqlite = |path: &str| Ok(DatabaseUri::Sqlite(path.into()));
        let postgres = |uri: &str| Ok(DatabaseUri::Postgres(uri.into()));
        for (text, expected) in [
            ("sqlite:///deployer.db", sqlite("deployer.db")),
            ("sqlite:////var/lib/deployer.db?timeout=5", sqlite("/var/lib/deployer.db")),
            ("postgresql+psycopg2://u:p@h:5432/d", postgres("postgresql://u:p@h:5432/d")),
            ("postgres://u@h/d?sslmode=require", postgres("postgresql://u@h/d?sslmode=require")),
            ("sqlite://", Err(BadDatabaseUri::NoFile)),
            ("sqlite:///:memory:", Err(BadDatabaseUri::InMemory)),
            ("postgresql://host", Err(BadDatabaseUri::NoHost)),
            ("mysql://h/d", Err(BadDatabaseUri::Scheme("mysql".into()))),
            ("deployer.db", Err(BadDatabaseUri::Scheme(String::new()))),
        ] {
            assert_eq!(DatabaseUri::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        for (uri, shown) in [
            ("postgresql://user:se@cret@host/db", "postgresql://host/db"),
            ("postgresql://user:se?cret@host/db", "postgresql://…"),
            ("postgresql://host/db?password=secret", "postgresql://host/db"),
            ("postgresql://host/db?user=u@realm&password=secret", "postgresql://…"),
        ] {
            assert_eq!(format!("{:?}", DatabaseUri::parse(uri).unwrap()), shown);
        }
        for uri in ["user:secret@host/db://", "u:secret://host/db", ":secret@host://"] {
            let said = DatabaseUri::parse(uri).unwrap_err().to_string();
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
