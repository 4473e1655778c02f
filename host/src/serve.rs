//! HTTP/1.1 in front of the components: connections, routes, and shutdown.
//!
//! Obligations: a chunk is sent as soon as the component wrote it; a client cannot hold a connection with an incomplete
//! head, a stalled body or a response that it does not read; slow uploads do not take the instances that other requests
//! need; if a client disconnects, the stream of its response is dropped; on shutdown, requests in flight get time to
//! end.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{HeaderName, HeaderValue, Request, Response, Uri, Version, header, request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};
use wasmtime_wasi_http::{Error, WasiBody};

use crate::allowed_hosts::AllowedHosts;
use crate::engine::{self, Ticker};
use crate::error::HostError;
use crate::instance::{Shared, Template};
use crate::manifest::{Manifest, Route};
use crate::pool::Pool;
use crate::problem::Problem;
use crate::settings::{Limits, Settings};
use crate::sqlite::Databases;
use crate::streams::Streams;
use crate::variables::{self, Variables};

/// The pause after the system refused a connection for lack of a resource, such as open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An application, compiled and ready to be served.
pub struct Host {
    manifest: Manifest,
    pools: BTreeMap<String, Pool>,
    requests: Semaphore,
    uploads: Arc<Semaphore>,
    streams: Streams,
    limits: Limits,
    stopped: Arc<AtomicBool>,
}

impl Host {
    /// Compiles the application's components, or loads them from the cache, and checks their manifest entries and
    /// imports.
    ///
    /// # Errors
    /// Fails if a variable has no value, a component cannot be compiled or imports an interface that is not provided, a
    /// database's file cannot be opened, or the cache folder cannot be written.
    pub async fn load(manifest: &Manifest, settings: Settings) -> Result<Self, HostError> {
        let manifest = manifest.clone();
        let load = move || Self::load_blocking(manifest, settings);
        match tokio::task::spawn_blocking(load).await {
            Ok(host) => host,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn load_blocking(manifest: Manifest, settings: Settings) -> Result<Self, HostError> {
        let Settings { variables, variable_faults, sqlite, write_turns, cache_dir, limits } = settings;
        let values = variables::application_values(&manifest, &variables)?;
        let databases = Databases::new(sqlite, write_turns);
        check_databases(&manifest, &databases)?;
        let engine = engine::build(&cache_dir, &limits)?;
        let ticker = Ticker::start(&engine).map_err(|error| HostError::Engine(error.to_string()))?;
        let stopped = Arc::new(AtomicBool::new(false));
        let shared = Shared { engine, ticker, databases: Arc::new(databases), stopped: stopped.clone() };
        let lingering = Arc::new(Semaphore::new(lingering(&limits)));
        let mut pools = BTreeMap::new();
        for (id, component) in &manifest.components {
            let hosts = component.allowed_outbound_hosts.iter().map(|entry| entry.resolve(&values));
            let hosts = AllowedHosts::parse(hosts).map_err(|(entry, reason)| HostError::AllowedHost {
                component: id.clone(),
                entry,
                reason,
            })?;
            let variables = Variables::new(&component.variables, &values, &variable_faults);
            let template = Template::new(id, component, variables, hosts, &shared, &limits)?;
            pools.insert(id.clone(), Pool::new(template, &limits, &lingering));
        }
        let requests = Semaphore::new(limits.requests);
        let uploads = Arc::new(Semaphore::new(uploads(&limits)));
        let streams = Streams::new(limits.streams);
        Ok(Self { manifest, pools, requests, uploads, streams, limits, stopped })
    }

    /// Serves until `shutdown` resolves, then stops gracefully: accepts no new connections, and gives requests in
    /// flight [`Limits::graceful_stop`] to end.
    ///
    /// # Errors
    /// Fails if the socket can permanently accept no more connections.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), HostError> {
        let free = Arc::new(Semaphore::new(self.limits.connections));
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                accepted = async {
                    // The semaphore is never closed.
                    let slot = free.clone().acquire_owned().await;
                    (slot, listener.accept().await)
                } => accepted,
            };
            match accepted {
                (slot, Ok((stream, client))) => {
                    let connection = self.clone().connection(stream, client, &graceful);
                    connections.spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                (_, Err(error)) if is_final(&error) => return Err(HostError::Accept(error)),
                (_, Err(error)) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        tokio::select! {
            () = graceful.shutdown() => {}
            () = sleep(self.limits.graceful_stop) => tracing::warn!("requests in flight were cut off"),
        }
        self.stopped.store(true, Ordering::Release);
        Ok(())
    }

    fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        client: SocketAddr,
        graceful: &GracefulShutdown,
    ) -> impl Future<Output = ()> + use<> {
        if let Err(error) = set_options(&stream, self.limits.client_silence) {
            tracing::debug!(%error, %client, "a socket's options could not be set");
        }
        let client_header = HeaderValue::try_from(client.to_string()).unwrap_or(HeaderValue::from_static(""));
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_read)
            .max_buf_size(self.limits.header_bytes)
            .keep_alive(true);
        let service = service_fn(move |request| {
            let (host, client) = (self.clone(), client_header.clone());
            async move { Ok::<_, Infallible>(host.answer(request, client).await) }
        });
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, %client, "a connection ended early");
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>, client: HeaderValue) -> Response<WasiBody> {
        let Some((route, trailing)) = self.manifest.route(request.uri().path()) else {
            return Problem::NotFound.response();
        };
        let Some(pool) = self.pools.get(&route.component) else {
            return Problem::NotFound.response();
        };
        let path_info = HeaderValue::try_from(trailing).ok();
        let (mut head, body) = request.into_parts();
        let Some(authority) = authority(&head) else {
            return Problem::BadHost.response();
        };
        spin_headers(&mut head.headers, route, path_info, &authority, &head.uri, client);
        let mut uri = std::mem::take(&mut head.uri).into_parts();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(authority);
        let Ok(uri) = Uri::from_parts(uri) else {
            return Problem::BadHost.response();
        };
        head.uri = uri;
        let small = body.size_hint().exact().is_some_and(|length| length <= self.limits.body_ahead);
        // The semaphores are never closed.
        let body = if body.is_end_stream() {
            Empty::new().map_err(|never| match never {}).boxed_unsync()
        } else if small {
            let Ok(Ok(body)) = timeout(self.limits.body_read, body.collect()).await else {
                return Problem::BodyEnded.response();
            };
            Full::new(body.to_bytes()).map_err(|never| match never {}).boxed_unsync()
        } else {
            let limit = self.limits.body_read;
            let upload = self.uploads.clone().acquire_owned().await.ok();
            Patient { body, limit, sleep: Box::pin(sleep(limit)), waiting: false, upload }.boxed_unsync()
        };
        let method = head.method.clone();
        let slot = self.requests.acquire().await;
        let mut answer = std::pin::pin!(pool.answer(Request::from_parts(head, body)));
        let answer = match timeout(self.limits.place, &mut answer).await {
            Ok(answer) => answer,
            Err(_) => {
                // It waits for something: others may run meanwhile.
                drop(slot);
                answer.await
            }
        };
        self.streams.admit(&method, answer)
    }
}

/// Returns the number of bodies that may be streamed into instances at once: a quarter of the requests that all
/// instances take. A client that sends as many slow bodies as possible then blocks only other large bodies.
fn uploads(limits: &Limits) -> usize {
    let instances = usize::try_from(limits.instances).unwrap_or(usize::MAX);
    (instances.saturating_mul(limits.requests_per_instance) / 4).clamp(1, limits.requests.max(1))
}

/// How many instances may be kept by what is open in them although they are to be replaced: a quarter, so that most
/// are there for requests. Beyond these an instance goes on, whatever it has hoarded.
fn lingering(limits: &Limits) -> usize {
    usize::try_from(limits.instances / 4).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

fn check_databases(manifest: &Manifest, databases: &Databases) -> Result<(), HostError> {
    for (id, component) in &manifest.components {
        for label in &component.sqlite_databases {
            match databases.check(label) {
                None => {
                    return Err(HostError::UnknownDatabase { component: id.clone(), label: label.clone() });
                }
                Some(Err((path, reason))) => {
                    return Err(HostError::Database { label: label.clone(), path, reason });
                }
                Some(Ok(())) => {}
            }
        }
    }
    Ok(())
}

/// Whether accepting has failed permanently. All other errors are temporary, such as a connection that was reset
/// meanwhile.
fn is_final(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;

    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotConnected | ErrorKind::Unsupported)
}

fn set_options(stream: &TcpStream, silence: Duration) -> std::io::Result<()> {
    // Head and body are sent as two writes. Without this option, the second waits for the client's acknowledgement.
    stream.set_nodelay(true)?;
    // Otherwise a client that disappeared silently, or does not read, would hold its response stream for ever.
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(silence))?;
    // The system accepts only whole seconds, at least one.
    let pause = (silence / 2).max(Duration::from_secs(1));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(pause).with_interval(pause))
}

/// Returns the authority of the request (RFC 9112, section 3.2): that of the target, or else the only `Host` header.
/// Two `Host` headers are rejected, because a proxy in front of this host may have used the other one.
fn authority(head: &request::Parts) -> Option<Authority> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Authority::try_from(host.as_bytes()).ok()?,
        // HTTP/1.0 clients, such as the probes of many load balancers, need not send it.
        (None, _) if head.version == Version::HTTP_10 => Authority::from_static("localhost"),
        _ => return None,
    };
    let target = head.uri.authority();
    let good = names_a_host(&host) && target.is_none_or(names_a_host);
    good.then(|| target.cloned().unwrap_or(host))
}

/// Whether the authority has no user info, and its port, if any, is valid.
fn names_a_host(authority: &Authority) -> bool {
    match authority.as_str().strip_prefix(authority.host()) {
        Some("" | ":") => true,
        Some(_) => authority.port_u16().is_some(),
        None => false,
    }
}

/// Sets the headers that Spin adds to each request. Headers of the same names from the client are replaced.
fn spin_headers(
    headers: &mut http::HeaderMap,
    route: &Route,
    path_info: Option<HeaderValue>,
    authority: &Authority,
    uri: &Uri,
    client: HeaderValue,
) {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let full = HeaderValue::try_from(format!("http://{authority}{path}")).ok();
    let mut set = |name: &'static str, value: Option<HeaderValue>| {
        let name = HeaderName::from_static(name);
        match value {
            Some(value) => _ = headers.insert(name, value),
            None => _ = headers.remove(name),
        }
    };
    set("spin-path-info", path_info);
    set("spin-full-url", full);
    set("spin-matched-route", Some(route.matched.clone()));
    set("spin-base-path", Some(HeaderValue::from_static("/")));
    set("spin-raw-component-route", Some(route.matched.clone()));
    set("spin-component-route", Some(route.prefix.clone()));
    set("spin-client-addr", Some(client));
}

/// A request body that fails if no data arrives for `limit`.
struct Patient {
    body: Incoming,
    limit: Duration,
    sleep: Pin<Box<Sleep>>,
    waiting: bool,
    /// Its place among the bodies that are on their way.
    upload: Option<OwnedSemaphorePermit>,
}

impl Body for Patient {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.waiting = false;
            if !matches!(frame, Some(Ok(_))) || this.body.is_end_stream() {
                this.upload = None;
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        // The timer runs only while the component waits for the client, not while the client waits for the component.
        if !std::mem::replace(&mut this.waiting, true) {
            this.sleep.as_mut().reset(Instant::now() + this.limit);
        }
        ready!(this.sleep.as_mut().poll(cx));
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
