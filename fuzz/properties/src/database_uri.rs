//! Database URIs: no printed form and no error shows the password, and a parsed URI stays the same.

use std::str::FromStr as _;

use renga_shared::sql::uri::{BadDatabaseUri, DatabaseUri};
use tokio_postgres::config::Host;

/// A string that occurs in the password only.
const SECRET: &str = "HUNTER2";

/// Checks the properties in the module's doc. The first byte selects a URI as it is, or one composed of five lines:
/// user, password, host, database, parameters.
pub fn hold(input: &[u8]) {
    let Some((form, rest)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    if form % 2 == 0 { of_text(text) } else { of_parts(text) }
}

fn of_text(text: &str) {
    match DatabaseUri::parse(text) {
        Ok(uri @ DatabaseUri::Postgres(_)) => of_postgres(&uri),
        Ok(DatabaseUri::Sqlite(path)) => {
            assert!(!path.is_empty() && path != ":memory:" && !path.contains('?'), "{path:?}");
            // Space around a URI is trimmed, so a path that ends with a space needs the `?` behind it.
            let again = DatabaseUri::parse(&format!("sqlite:///{path}?"));
            assert_eq!(again, Ok(DatabaseUri::Sqlite(path)));
        }
        // A scheme is the word before `://`. User names and passwords come with separators.
        Err(BadDatabaseUri::Scheme(said)) => assert!(said.chars().all(|c| c.is_ascii_alphanumeric()), "{said:?}"),
        Err(_) => {}
    }
}

/// The oracle is the library that connects: the password that it finds must not be shown.
fn of_postgres(uri: &DatabaseUri) {
    let DatabaseUri::Postgres(whole) = uri else { return };
    assert_eq!(DatabaseUri::parse(whole).as_ref().map(parts), Ok(parts(uri)));
    let shown = format!("{uri:?}");
    let Ok(config) = tokio_postgres::Config::from_str(whole) else { return };
    let Some(password) = config.get_password().and_then(|password| std::str::from_utf8(password).ok()) else { return };
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.to_string_lossy().into_owned(),
    });
    let database = config.get_dbname().unwrap_or_default();
    let elsewhere = format!("postgresql{:?}{}{database}", config.get_ports(), hosts.collect::<String>());
    // A password that is also another part of the URI, such as the port, proves nothing.
    let telling = password.len() >= 4 && !password.contains(['/', ':', ',']) && password.parse::<u64>().is_err();
    if telling && !elsewhere.contains(password) {
        assert!(!shown.contains(password), "{shown:?} shows the password {password:?}");
    }
}

fn of_parts(text: &str) {
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let (user, password, host, database, parameters) = (line(), line(), line(), line(), line());
    let bare = ![user, host, database, parameters].iter().any(|part| part.contains(SECRET));
    // A slash or an at sign in these parts would make another URI.
    if !bare || host.contains(['/', '@']) || user.contains('/') {
        return;
    }
    let password = format!("{SECRET}{password}");
    for uri in [
        format!("postgresql+psycopg2://{user}:{password}@{host}/{database}?{parameters}"),
        format!("postgres://{user}@{host}/{database}?{parameters}&password={password}"),
        format!("mysql://{user}:{password}@{host}/{database}"),
        format!("{user}:{password}@{host}/{database}"),
        format!("sqlite://{user}:{password}@{host}/{database}"),
    ] {
        let shown = match DatabaseUri::parse(&uri) {
            Ok(read) => format!("{read:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(!shown.contains(SECRET), "{uri:?} is shown as {shown:?}");
    }
}

fn parts(uri: &DatabaseUri) -> &str {
    match uri {
        DatabaseUri::Sqlite(text) | DatabaseUri::Postgres(text) => text,
    }
}
