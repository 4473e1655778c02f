//! The simulated kubelet: responds to the API server's requests for a pod's logs with an empty stream that never ends.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use futures::stream;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// The log server of all simulated nodes.
pub(crate) struct SimulatedKubelet {
    listener: TcpListener,
    tls: TlsAcceptor,
    /// Number of requests for logs.
    asked: Arc<AtomicU64>,
}

impl SimulatedKubelet {
    /// Listens at `address`, with the certificate of the cluster whose state is in `folder`. API servers do not verify
    /// a kubelet's certificate by default.
    pub(crate) async fn bind(address: Ipv4Addr, folder: &Path) -> Result<Self> {
        let file = |name: &str| folder.join("pki").join(name);
        let certificate = CertificateDer::from_pem_file(file("server.crt")).context("the cluster's certificate")?;
        let key = PrivateKeyDer::from_pem_file(file("server.key")).context("the cluster's key")?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key)?;
        let listener = TcpListener::bind((address, 0)).await.context("a port for the nodes")?;
        Ok(Self { listener, tls: TlsAcceptor::from(Arc::new(config)), asked: Arc::default() })
    }

    /// Returns the counter of requests for logs.
    pub(crate) fn asked(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.asked)
    }

    /// Returns the port.
    pub(crate) fn port(&self) -> Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// Serves for as long as the future is polled.
    pub(crate) async fn serve(self) -> Result<()> {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = self.listener.accept().await.context("accept a connection for logs")?;
            let (tls, asked) = (self.tls.clone(), Arc::clone(&self.asked));
            connections.spawn(async move {
                // The API server sees a failed connection itself.
                let Ok(stream) = tls.accept(stream).await else { return };
                let answer = service_fn(|request| logs(request, &asked));
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            });
            while connections.try_join_next().is_some() {}
        }
    }
}

type Endless = StreamBody<stream::Pending<Result<Frame<Bytes>, Infallible>>>;

async fn logs(request: Request<Incoming>, asked: &AtomicU64) -> Result<Response<Endless>> {
    let path = request.uri().path();
    ensure!(path.starts_with("/containerLogs/"), "a node is asked for {path}");
    asked.fetch_add(1, Ordering::Relaxed);
    Ok(Response::new(StreamBody::new(stream::pending())))
}
