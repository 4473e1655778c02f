//! Where the API listens: `--listen`, or the host and port of `DEPLOYER_URL`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, anyhow};
use renga_shared::environment::{BadVariable, Environment};
use reqwest::Url;
use tokio::net::{TcpListener, lookup_host};

use crate::args::Up;
use crate::ended::Failure;

const DEFAULT_URL: &str = "http://localhost:5000";

/// A place to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listen {
    host: String,
    port: u16,
    /// The service's own address, if it was configured.
    url: Option<String>,
    /// Whether only this machine may reach it.
    loopback_only: bool,
}

/// Chooses, and refuses what cannot be right.
pub(super) fn choose(up: &Up, environment: &Environment) -> Result<Listen, Failure> {
    let configured = environment.text("DEPLOYER_URL");
    let text = configured.unwrap_or(DEFAULT_URL).trim();
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(url) = url else {
        let problem = BadVariable::new("DEPLOYER_URL", Some(text), "it must be a URL such as http://localhost:5000");
        return Err(super::wrong(&[problem]));
    };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let (host, port) = match up.listen {
        Some(address) => (address.ip().to_string(), address.port()),
        None => (host, url.port_or_known_default().unwrap_or(80)),
    };
    let url = configured.map(|_| text.trim_end_matches('/').to_owned());
    Ok(Listen { host, port, url, loopback_only: up.dev })
}

impl Listen {
    /// Listens.
    pub(super) async fn bind(&self) -> Result<TcpListener, Failure> {
        let addresses = self.addresses().await?;
        if self.loopback_only && addresses.iter().any(|address| !address.ip().is_loopback()) {
            return Err(Failure::Usage(format!(
                "{} is not on this machine alone: --dev brings an issuer whose tokens let anybody in, so it listens on \
                 loopback only; choose an address such as 127.0.0.1:5000 with --listen, or leave out --dev and set \
                 DEPLOYER_JWT_KEY",
                self.shown()
            )));
        }
        TcpListener::bind(&*addresses).await.map_err(|error| Failure::Failed(self.refused(&error)))
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, Failure> {
        if self.host == "localhost" {
            return Ok(vec![(Ipv4Addr::LOCALHOST, self.port).into()]);
        }
        let found = lookup_host((self.host.as_str(), self.port)).await;
        let found: Vec<_> = found.map_err(|error| Failure::Failed(self.refused(&error)))?.collect();
        Ok(found)
    }

    fn refused(&self, error: &io::Error) -> anyhow::Error {
        let cure = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another program listens there, perhaps another `renga-deployer up`: stop it, or choose another \
                 address with --listen, such as 127.0.0.1:5050"
            }
            io::ErrorKind::PermissionDenied => "ports below 1024 are the system's: choose another with --listen",
            _ => {
                "choose an address of this machine with --listen, such as 127.0.0.1:5000; DEPLOYER_URL says what others call it"
            }
        };
        anyhow!("cannot listen on {}: {error}: {cure}", self.shown())
    }

    fn shown(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The service's own address, now that it listens at `bound`.
    pub(super) fn url(&self, bound: SocketAddr) -> String {
        if let Some(url) = &self.url {
            return url.clone();
        }
        match bound.ip() {
            IpAddr::V4(ip) if ip == Ipv4Addr::LOCALHOST && self.host == "localhost" => {
                format!("http://localhost:{}", bound.port())
            }
            ip if ip.is_unspecified() => format!("http://localhost:{}", bound.port()),
            _ => format!("http://{bound}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(listen: Option<&str>, dev: bool) -> Up {
        Up {
            dev,
            listen: listen.map(|address| address.parse().unwrap()),
            manifest: None,
            runtime_config: None,
            try_image: String::new(),
        }
    }

    fn environment(url: Option<&str>) -> Environment {
        url.into_iter().map(|url| ("DEPLOYER_URL".to_owned(), url.to_owned())).collect()
    }

    #[test]
    fn the_services_own_url_says_where_unless_a_flag_does() {
        let shown = |listen, url| choose(&up(listen, true), &environment(url)).unwrap().shown();
        assert_eq!(shown(None, None), "localhost:5000");
        assert_eq!(shown(None, Some("http://127.0.0.1:7/")), "127.0.0.1:7");
        assert_eq!(shown(None, Some("https://deployer.example")), "deployer.example:443");
        assert_eq!(shown(Some("[::1]:9"), Some("https://deployer.example")), "[::1]:9");
        let told = choose(&up(None, false), &environment(Some("localhost"))).unwrap_err().to_string();
        assert!(told.contains("DEPLOYER_URL is \"localhost\""), "{told}");
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_cure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let taken = listener.local_addr().unwrap().to_string();
        let told = choose(&up(Some(&taken), true), &environment(None)).unwrap().bind().await.unwrap_err().to_string();
        assert!(told.contains(&taken) && told.contains("--listen"), "{told}");
    }

    #[tokio::test]
    async fn the_development_issuer_is_not_for_the_network() {
        let refused = choose(&up(Some("0.0.0.0:0"), true), &environment(None)).unwrap().bind().await.unwrap_err();
        assert!(matches!(&refused, Failure::Usage(told) if told.contains("--dev")), "{refused}");
        assert!(choose(&up(Some("0.0.0.0:0"), false), &environment(None)).unwrap().bind().await.is_ok());
    }

    #[tokio::test]
    async fn the_port_that_was_chosen_by_the_system_is_shown() {
        let listen = choose(&up(Some("127.0.0.1:0"), true), &environment(None)).unwrap();
        let bound = listen.bind().await.unwrap().local_addr().unwrap();
        assert_ne!(bound.port(), 0);
        assert_eq!(listen.url(bound), format!("http://{bound}"));
    }
}
