//! The address of a Docker Engine, and the client for it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use bollard::API_DEFAULT_VERSION;

use crate::engine::BadEngineUrl;

/// The socket of an engine on this machine.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// bollard's own timeout for a response, in seconds: practically none. Every call has our own timeout instead, because
/// bollard's also applies to pulls and event streams.
const NO_LIMIT: u64 = 365 * 86_400;
/// The files in the folder of `?certs=`, named as for Docker's own client.
const CERTIFICATES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

/// The address of a Docker Engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerUrl(Place);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Socket(PathBuf),
    Tcp { address: String, certs: Option<PathBuf> },
}

impl DockerUrl {
    /// Parses `docker:///var/run/docker.sock`, `docker://` for that socket, or `docker+tcp://host:2376?certs=DIR`.
    ///
    /// # Errors
    /// Returns what is wrong with the URL, and the correct form.
    pub fn parse(url: &str) -> Result<Self, BadEngineUrl> {
        match url.split_once("://") {
            Some(("docker", path)) => socket(path),
            Some(("docker+tcp", rest)) => tcp(rest),
            _ => Err("it must begin with docker:// or docker+tcp://".to_owned()),
        }
        .map(Self)
        .map_err(BadEngineUrl)
    }

    /// Returns a client, or a message that names what is missing. Sends nothing to the engine.
    pub(super) fn connect(&self) -> Result<bollard::Docker, String> {
        match &self.0 {
            Place::Socket(path) => {
                bollard::Docker::connect_with_unix(&path.display().to_string(), NO_LIMIT, API_DEFAULT_VERSION)
                    .map_err(|_| format!("there is no socket {}; is Docker Engine running?", path.display()))
            }
            Place::Tcp { address, certs: None } => {
                bollard::Docker::connect_with_http(&format!("http://{address}"), NO_LIMIT, API_DEFAULT_VERSION)
                    .map_err(|error| error.to_string())
            }
            Place::Tcp { address, certs: Some(folder) } => {
                let [ca, cert, key] = CERTIFICATES.map(|name| folder.join(name));
                for file in [&ca, &cert, &key] {
                    readable(file)?;
                }
                bollard::Docker::connect_with_ssl(
                    &format!("tcp://{address}"),
                    &key,
                    &cert,
                    &ca,
                    NO_LIMIT,
                    API_DEFAULT_VERSION,
                )
                .map_err(|error| error.to_string())
            }
        }
    }

    /// Whether the engine is behind a socket of this machine. Only then can this process check paths of the engine's
    /// host.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.0, Place::Socket(_))
    }
}

impl std::fmt::Display for DockerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Place::Socket(path) => write!(f, "{}", path.display()),
            Place::Tcp { address, .. } => f.write_str(address),
        }
    }
}

fn readable(file: &Path) -> Result<(), String> {
    let read = std::fs::File::open(file).map(drop);
    read.map_err(|error| {
        format!(
            "{} cannot be read: {error}; certs= must name a folder with {}",
            file.display(),
            CERTIFICATES.join(", ")
        )
    })
}

fn socket(path: &str) -> Result<Place, String> {
    if path.contains('?') {
        return Err("it must have no options: docker:// takes a socket's path and nothing else".into());
    }
    match path {
        "" | "/" => Ok(Place::Socket(DEFAULT_SOCKET.into())),
        path if path.starts_with('/') => Ok(Place::Socket(path.into())),
        _ => Err(format!("it must name the socket by its absolute path: docker:///{path}, with three slashes")),
    }
}

fn tcp(rest: &str) -> Result<Place, String> {
    let (address, options) = rest.split_once('?').unwrap_or((rest, ""));
    let address = address.strip_suffix('/').unwrap_or(address);
    let host = host(address).ok_or("it must name a host and a port: docker+tcp://HOST:2376?certs=DIR")?;
    let mut certs = None;
    for option in options.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("certs", folder)) if folder.starts_with('/') => certs = Some(PathBuf::from(folder)),
            Some(("certs", _)) => return Err("its option certs must be the absolute path of a folder".into()),
            _ => return Err(format!("it has the unknown option {option:?}; there is only certs=DIR")),
        }
    }
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if certs.is_none() && !loopback {
        // Access to a Docker Engine gives full control over its machine.
        return Err(format!(
            "it must have ?certs=DIR, a folder with {}: without them only a loopback address may be used",
            CERTIFICATES.join(", ")
        ));
    }
    Ok(Place::Tcp { address: address.to_owned(), certs })
}

/// Returns the host of `host:port`, or `None` if the address has another form.
fn host(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok().filter(|port| *port > 0)?;
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().ok().map(|_| v6),
        None => {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            (!host.is_empty() && host.chars().all(fits)).then_some(host)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let socket = |path: &str| DockerUrl(Place::Socket(path.into()));
        assert_eq!(DockerUrl::parse("docker:///run/user/1000/docker.sock"), Ok(socket("/run/user/1000/docker.sock")));
        assert_eq!(DockerUrl::parse("docker://"), Ok(socket(DEFAULT_SOCKET)));
        let tcp = |address: &str, certs: Option<&str>| {
            DockerUrl(Place::Tcp { address: address.into(), certs: certs.map(PathBuf::from) })
        };
        assert_eq!(
            DockerUrl::parse("docker+tcp://gpu-1:2376?certs=/etc/certs"),
            Ok(tcp("gpu-1:2376", Some("/etc/certs")))
        );
        assert_eq!(DockerUrl::parse("docker+tcp://[::1]:2375/"), Ok(tcp("[::1]:2375", None)));
        assert_eq!(DockerUrl::parse("docker+tcp://localhost:2375"), Ok(tcp("localhost:2375", None)));
    }

    #[test]
    fn errors_for_bad_urls_name_the_correct_form() {
        for (url, cure) in [
            ("docker://var/run/docker.sock", "docker:///var/run/docker.sock, with three slashes"),
            ("docker:///var/run/docker.sock?certs=/x", "no options"),
            ("docker+tcp://", "docker+tcp://HOST:2376?certs=DIR"),
            ("docker+tcp://host?certs=/x", "docker+tcp://HOST:2376?certs=DIR"),
            ("docker+tcp://host:0?certs=/x", "docker+tcp://HOST:2376?certs=DIR"),
            ("docker+tcp://user@host:1?certs=/x", "docker+tcp://HOST:2376?certs=DIR"),
            ("docker+tcp://host:2376?certs=x", "absolute path"),
            ("docker+tcp://host:2376?cert=/x", "unknown option \"cert=/x\""),
            ("docker+tcp://host:2376", "must have ?certs=DIR"),
            ("http://host", "must begin with docker://"),
        ] {
            let error = DockerUrl::parse(url).unwrap_err().to_string();
            assert!(error.contains(cure), "{url}: {error}");
        }
    }

    #[test]
    fn connect_names_missing_files() {
        let folder = tempfile::tempdir().unwrap();
        let nothing = DockerUrl::parse(&format!("docker://{}/none.sock", folder.path().display())).unwrap();
        assert!(nothing.connect().unwrap_err().contains("none.sock"));
        let tls = DockerUrl::parse(&format!("docker+tcp://host:2376?certs={}", folder.path().display())).unwrap();
        assert!(tls.connect().unwrap_err().contains("ca.pem cannot be read"));
    }
}
