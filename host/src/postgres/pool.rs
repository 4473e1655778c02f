//! Pools of connections to PostgreSQL, one for each address of a component.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::session::Session;
use crate::allowed_hosts::AllowedHosts;
use crate::bindings::postgres::postgres::Error;

/// Connections of one pool, as in Spin.
const CONNECTIONS: usize = 64;
/// Pools of one component, as in Spin.
const POOLS: usize = 16;
/// For a connection to be made, or to become free.
const TIMEOUT: Duration = Duration::from_secs(5);
const PORT: u16 = 5432;

/// The pools of one component. Clones are the same pools.
#[derive(Clone)]
pub(crate) struct Pools {
    allowed: Arc<AllowedHosts>,
    open: Arc<Mutex<HashMap<Key, Pool>>>,
}

/// An address and the root certificate that goes with it.
type Key = (String, Option<String>);

impl Pools {
    pub(crate) fn new(allowed: Arc<AllowedHosts>) -> Self {
        Self { allowed, open: Arc::default() }
    }

    /// A connection for a component.
    pub(super) async fn session(&self, address: &str, root: Option<&str>) -> Result<Session, Error> {
        let pool = self.pool(address, root)?;
        match pool.get().await {
            Ok(client) => Ok(Session::new(client)),
            Err(PoolError::Timeout(_)) => Err(failed(format!("no connection within {} s", TIMEOUT.as_secs()))),
            Err(error) => Err(failed(with_sources(&error))),
        }
    }

    fn pool(&self, address: &str, root: Option<&str>) -> Result<Pool, Error> {
        let key = (address.to_owned(), root.map(ToOwned::to_owned));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = open.get(&key) {
            return Ok(pool.clone());
        }
        let mut config: Config = address.parse().map_err(|error| failed(with_sources(&error)))?;
        check(&self.allowed, &config)?;
        if config.get_connect_timeout().is_none_or(|timeout| *timeout > TIMEOUT) {
            config.connect_timeout(TIMEOUT);
        }
        let pool = build(config, root)?;
        if open.len() >= POOLS {
            // A component with so many addresses makes them up; those in use live on in their connections.
            open.clear();
        }
        open.insert(key, pool.clone());
        Ok(pool)
    }
}

fn build(config: Config, root: Option<&str>) -> Result<Pool, Error> {
    let manage = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = if config.get_ssl_mode() == SslMode::Disable {
        Manager::from_config(config, tokio_postgres::NoTls, manage)
    } else {
        Manager::from_config(config, MakeRustlsConnect::new(tls(root)?), manage)
    };
    Pool::builder(manager)
        .max_size(CONNECTIONS)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(TIMEOUT))
        .create_timeout(Some(TIMEOUT))
        .build()
        .map_err(|error| Error::Other(error.to_string()))
}

/// The machine's root certificates, and the component's.
fn tls(root: Option<&str>) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(root) = root {
        for certificate in certificates(root)? {
            roots.add(certificate).map_err(|error| Error::Other(format!("invalid root certificate: {error}")))?;
        }
    }
    Ok(ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Other(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// Whether a text has root certificates that can be used.
pub(super) fn check_root(text: &str) -> Result<(), Error> {
    certificates(text).map(drop)
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let invalid = |why: String| Error::Other(format!("invalid root certificate: {why}"));
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(error.to_string()))?;
    if certificates.is_empty() { Err(invalid("there is none in the text".to_owned())) } else { Ok(certificates) }
}

/// Every host that the driver might connect to must be allowed.
fn check(allowed: &AllowedHosts, config: &Config) -> Result<(), Error> {
    let port = |index: usize| match config.get_ports() {
        [] => PORT,
        [port] => *port,
        ports => ports.get(index).copied().unwrap_or(PORT),
    };
    let permit = |host: &str, port: u16| {
        if allowed.allow("postgres", host, port) {
            return Ok(());
        }
        tracing::warn!(host, port, "a component asked for a database that allowed_outbound_hosts does not have");
        Err(failed(format!("address postgres://{host}:{port} is not permitted")))
    };
    for (index, host) in config.get_hosts().iter().enumerate() {
        match host {
            Host::Tcp(host) => permit(host, port(index))?,
            Host::Unix(_) => {
                return Err(failed("Unix sockets are not supported on WebAssembly".to_owned()));
            }
        }
    }
    for (index, address) in config.get_hostaddrs().iter().enumerate() {
        permit(&address.to_string(), port(index))?;
    }
    Ok(())
}

pub(super) fn failed(why: String) -> Error {
    Error::ConnectionFailed(why)
}

/// An error with what caused it, in one line.
pub(super) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
