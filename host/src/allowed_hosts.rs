//! `allowed_outbound_hosts`: the hosts that a component may connect to, in Spin's syntax.
//!
//! An entry is `scheme://host[:port]`. The scheme is a word or `*`. The host is a name, an address, a network
//! (`10.0.0.0/8`), `*.suffix` or `*`. The port is a number, a range `1000..2000` without its end, or `*`; it is
//! optional if the scheme has a default port. Any other entry is rejected when the host is loaded.

use std::net::IpAddr;
use std::ops::Range;
use std::str::FromStr;

/// The entries of one component.
#[derive(Debug, Clone, Default)]
pub(crate) struct AllowedHosts(Vec<Entry>);

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    /// `None` means any scheme.
    scheme: Option<String>,
    host: HostPattern,
    ports: Ports,
}

#[derive(Debug, Clone, PartialEq)]
enum HostPattern {
    Any,
    /// The suffix, with its leading dot.
    Subdomain(String),
    Name(String),
    Network {
        address: IpAddr,
        bits: u32,
    },
}

#[derive(Debug, Clone, PartialEq)]
enum Ports {
    Any,
    Range(Range<u32>),
}

impl AllowedHosts {
    /// Parses entries whose variables are resolved. The error has the entry and what is wrong with it.
    pub(crate) fn parse(entries: impl IntoIterator<Item = String>) -> Result<Self, (String, String)> {
        entries.into_iter().map(|text| text.parse().map_err(|why| (text, why))).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a connection may be opened.
    pub(crate) fn allow(&self, scheme: &str, host: &str, port: u16) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        self.0.iter().any(|entry| {
            entry.scheme.as_deref().is_none_or(|allowed| allowed == scheme)
                && entry.host.matches(&host)
                && entry.ports.matches(port)
        })
    }
}

impl FromStr for Entry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text
            .trim()
            .split_once("://")
            .ok_or("it must be scheme://host[:port], with * as a wildcard for each, such as https://example.com or postgres://*:*")?;
        if scheme != "*" && !scheme.chars().all(char::is_alphabetic) {
            return Err(format!("the scheme {scheme:?} must be a word or *"));
        }
        // An IPv6 address has colons of its own: it is in brackets, or is alone without a port.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') && rest.parse::<IpAddr>().is_err() => {
                (host, port.trim_end_matches('/'))
            }
            _ => (rest, ""),
        };
        let ports = match port {
            "*" => Ports::Any,
            "" => {
                let port = usual_port(scheme)
                    .ok_or_else(|| format!("the scheme {scheme:?} has no usual port: add one, or :*"))?;
                Ports::Range(port.into()..u32::from(port) + 1)
            }
            port => Ports::parse(port).ok_or_else(|| format!("{port:?} is not a port, a range of ports or *"))?,
        };
        let scheme = (scheme != "*").then(|| scheme.to_owned());
        Ok(Self { scheme, host: HostPattern::parse(host)?, ports })
    }
}

impl HostPattern {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim().trim_end_matches('/').to_ascii_lowercase();
        if text == "*" {
            return Ok(Self::Any);
        }
        if text == "self" || text == "self.alt" || text.ends_with(".spin.internal") {
            return Err("requests to this application itself are not provided by this host".to_owned());
        }
        let (address, bits) =
            text.split_once('/').map_or((text.as_str(), None), |(address, bits)| (address, Some(bits)));
        if let Ok(address) = address.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Ok(most), str::parse).map_err(|_| format!("{text:?} is not a network"))?;
            return if bits > most {
                Err(format!("{text:?} is not a network"))
            } else {
                Ok(Self::Network { address, bits })
            };
        }
        if bits.is_some() {
            return Err("it must not have a path".to_owned());
        }
        let (name, subdomain) = text.strip_prefix("*.").map_or((text.as_str(), false), |suffix| (suffix, true));
        let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
        if name.is_empty() || !name.chars().all(allowed) {
            return Err(format!("{text:?} is not a host; * stands for a whole host, or first as *.example.com"));
        }
        Ok(if subdomain { Self::Subdomain(format!(".{name}")) } else { Self::Name(text) })
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Subdomain(suffix) => host.ends_with(suffix) && host.parse::<IpAddr>().is_err(),
            Self::Name(name) => host == name,
            Self::Network { address, bits } => match (address, host.parse()) {
                (IpAddr::V4(network), Ok(IpAddr::V4(host))) => {
                    (network.to_bits() ^ host.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0
                }
                (IpAddr::V6(network), Ok(IpAddr::V6(host))) => {
                    (network.to_bits() ^ host.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0
                }
                _ => false,
            },
        }
    }
}

impl Ports {
    fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.parse::<u16>().ok().map(u32::from);
        Some(Self::Range(match text.split_once("..") {
            Some((from, to)) => number(from)?..number(to)?,
            None => number(text)?..number(text)? + 1,
        }))
    }

    fn matches(&self, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Range(range) => range.contains(&port.into()),
        }
    }
}

/// Returns the default port of a scheme, as in Spin.
fn usual_port(scheme: &str) -> Option<u16> {
    Some(match scheme {
        "postgres" => 5432,
        "http" => 80,
        "https" => 443,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(entry: &str, scheme: &str, host: &str, port: u16) -> bool {
        AllowedHosts::parse([entry.to_owned()]).unwrap().allow(scheme, host, port)
    }

    #[test]
    fn an_entry_allows_only_what_it_names() {
        assert!(allows("https://example.com", "https", "Example.com", 443));
        assert!(!allows("https://example.com", "https", "example.com", 8443));
        assert!(!allows("https://example.com", "http", "example.com", 443));
        assert!(!allows("https://example.com", "https", "www.example.com", 443));
        assert!(!allows("https://example.com", "https", "example.com.evil.test", 443));
        assert!(allows("https://*.example.com", "https", "www.example.com", 443));
        assert!(!allows("https://*.example.com", "https", "example.com", 443));
        assert!(!allows("https://*.example.com", "https", "badexample.com", 443));
        assert!(allows("postgres://*:*", "postgres", "127.0.0.1", 55_432));
        assert!(!allows("postgres://*:*", "http", "127.0.0.1", 80));
        assert!(allows("postgres://db", "postgres", "db", 5432));
        assert!(allows("*://*:*", "anything", "anywhere", 1));
        assert!(allows("http://localhost:8000..8010", "http", "localhost", 8009));
        assert!(!allows("http://localhost:8000..8010", "http", "localhost", 8010));
        assert!(allows("http://10.0.0.0/8:80", "http", "10.20.30.40", 80));
        assert!(!allows("http://10.0.0.0/8:80", "http", "11.20.30.40", 80));
        assert!(allows("http://0.0.0.0/0:80", "http", "11.20.30.40", 80));
        assert!(!allows("http://10.0.0.0/8:80", "http", "10.example.com", 80));
        assert!(allows("http://[::1]:80", "http", "[::1]", 80));
        assert!(allows("http://::1", "http", "::1", 80));
    }

    #[test]
    fn without_entries_nothing_is_allowed() {
        assert!(!AllowedHosts::default().allow("http", "localhost", 80));
    }

    #[test]
    fn an_invalid_entry_is_rejected_with_the_reason() {
        for (entry, reason) in [
            ("*", "scheme://host"),
            ("example.com", "scheme://host"),
            ("https://example.com/path", "path"),
            ("https://exa*mple.com", "not a host"),
            ("gopher://example.com", "usual port"),
            ("http://localhost:high", "not a port"),
            ("http://self", "not provided"),
            ("http://10.0.0.0/99", "not a network"),
        ] {
            let (named, why) = AllowedHosts::parse([entry.to_owned()]).unwrap_err();
            assert_eq!(named, entry);
            assert!(why.contains(reason), "{entry}: {why}");
        }
    }
}
