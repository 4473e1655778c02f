//! Where an issuer publishes its keys (OpenID Connect Discovery 1.0), and how long they may be used. Pure: the caller
//! fetches the documents.

use std::time::Duration;

use serde_json::Value;

/// The maximum length of a discovery document, in bytes. Keycloak's has 6 KB.
pub const LONGEST_DOCUMENT: usize = 256 << 10;
/// The maximum length of a key set, in bytes.
pub const LONGEST_KEYS: usize = 256 << 10;

/// The maximum and default lifetime of fetched keys, so that a key that the issuer has withdrawn soon stops working.
const LONGEST_LIFETIME: Duration = Duration::from_secs(600);
/// The lifetime of keys that the issuer does not allow to be cached.
const UNCACHED_LIFETIME: Duration = Duration::from_secs(60);

/// Why an issuer's discovery document does not lead to its keys. For operators; `issuer` is the only part of the
/// document that it shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// The document is not a JSON object.
    #[error("the discovery document is not a JSON object")]
    Form,
    /// The document belongs to another issuer.
    #[error("the discovery document is that of {0:?}, which must be the issuer that is configured, to the letter")]
    Issuer(String),
    /// The document has no such URL, or one that is less safe than the issuer's own.
    #[error("the discovery document's {0} is no URL to use (https, or http where the issuer itself is)")]
    Endpoint(&'static str),
}

/// Returns the URL of the discovery document (section 4).
pub fn document_url(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer))
}

/// Whether the discovery document of this issuer can be fetched: it must be an `https` or `http` URL without query or
/// fragment.
pub fn is_issuer_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && is_plain(rest) && !rest.contains(['?', '#']))
}

fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}'))
}

/// Returns the URL of the keys from the issuer's discovery document.
///
/// # Errors
/// Fails if the document is not this issuer's, or has no safe URL of the keys.
pub fn keys_url(document: &[u8], issuer: &str) -> Result<String, DiscoveryError> {
    endpoint(document, issuer, "jwks_uri")
}

/// Returns the URL that the document has under `name`.
///
/// # Errors
/// Fails if the document is not this issuer's, or has no safe URL under `name`.
pub fn endpoint(document: &[u8], issuer: &str, name: &'static str) -> Result<String, DiscoveryError> {
    let document: Value = serde_json::from_slice(document).map_err(|_| DiscoveryError::Form)?;
    let document = document.as_object().ok_or(DiscoveryError::Form)?;
    let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
    // Section 4.3: both must be equal, because otherwise anybody's keys could replace the issuer's.
    if text("issuer") != issuer {
        return Err(DiscoveryError::Issuer(text("issuer").chars().take(200).collect()));
    }
    let url = text(name);
    let safe = url.starts_with("https://") || (url.starts_with("http://") && issuer.starts_with("http://"));
    if safe && is_plain(url) && url.len() < 2_000 { Ok(url.to_owned()) } else { Err(DiscoveryError::Endpoint(name)) }
}

/// Returns the lifetime of keys that came with these `Cache-Control` values (RFC 9111, section 5.2.2): the issuer's
/// value, at most ten minutes. If the issuer forbids caching, the lifetime is at most one minute.
pub fn lifetime<'a>(cache_control: impl IntoIterator<Item = &'a str>) -> Duration {
    let mut lifetime = LONGEST_LIFETIME;
    for directive in cache_control.into_iter().flat_map(|value| value.split(',')) {
        let directive = directive.trim().to_ascii_lowercase();
        let (name, value) = directive.split_once('=').unwrap_or((&directive, ""));
        lifetime = match (name, value.trim_matches('"').parse()) {
            ("no-store" | "no-cache", _) | ("max-age", Ok(0) | Err(_)) => lifetime.min(UNCACHED_LIFETIME),
            ("max-age", Ok(seconds)) => lifetime.min(Duration::from_secs(seconds)),
            _ => lifetime,
        };
    }
    lifetime
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://issuer.test/realms/Renga";

    #[test]
    fn a_document_must_name_its_issuer() {
        let document = |issuer: &str, keys: &str| format!(r#"{{"issuer":"{issuer}","jwks_uri":"{keys}"}}"#);
        let read = |issuer: &str, keys: &str| keys_url(document(issuer, keys).as_bytes(), ISSUER);
        assert_eq!(read(ISSUER, "https://issuer.test/keys").as_deref(), Ok("https://issuer.test/keys"));
        for other in ["https://issuer.test/realms/Renga/", "https://issuer.test/realms/renga", "", "https://evil.test"]
        {
            assert_eq!(read(other, "https://issuer.test/keys"), Err(DiscoveryError::Issuer(other.to_owned())));
        }
        for url in ["", "http://issuer.test/keys", "file:///etc/passwd", "https://a b", "//issuer.test/keys"] {
            assert_eq!(read(ISSUER, url), Err(DiscoveryError::Endpoint("jwks_uri")), "{url:?}");
        }
        for form in ["", "[]", "null", "{\"issuer\":"] {
            assert_eq!(keys_url(form.as_bytes(), ISSUER), Err(DiscoveryError::Form), "{form:?}");
        }
    }

    #[test]
    fn an_http_issuer_may_have_http_keys() {
        let document = br#"{"issuer":"http://localhost:8080/r","jwks_uri":"http://localhost:8080/r/certs"}"#;
        assert!(keys_url(document, "http://localhost:8080/r").is_ok());
    }

    #[test]
    fn document_urls_follow_the_standard() {
        assert_eq!(document_url("https://a.test"), "https://a.test/.well-known/openid-configuration");
        assert_eq!(document_url("https://a.test/r/"), "https://a.test/r/.well-known/openid-configuration");
        assert!(is_issuer_url(ISSUER) && is_issuer_url("http://localhost:8080/auth/realms/Renga"));
        for text in
            ["", "resource-manager", "https://", "https:///x", "ftp://a", "https://a?x", "https://a#x", "https://a b"]
        {
            assert!(!is_issuer_url(text), "{text:?}");
        }
    }

    #[test]
    fn the_lifetime_is_the_issuers_and_at_most_ten_minutes() {
        for (control, seconds) in [
            (&[][..], 600),
            (&["public, max-age=30"], 30),
            (&["Max-Age=\"5\""], 5),
            (&["max-age=2592000"], 600),
            (&["max-age=99999999999999999999"], 60),
            (&["no-cache"], 60),
            (&["no-store, max-age=30"], 30),
            (&["max-age=0"], 60),
            (&["max-age=300", "max-age=20"], 20),
            (&["nonsense,,="], 600),
        ] {
            assert_eq!(lifetime(control.iter().copied()).as_secs(), seconds, "{control:?}");
        }
    }
}
