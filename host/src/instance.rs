//! What one instance of a component owns, and how instances are made.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::handler::{Proxy, ProxyPre};
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::allowed_hosts::AllowedHosts;
use crate::bindings;
use crate::engine::{TICK, Ticked, Ticker};
use crate::error::HostError;
use crate::manifest;
use crate::outbound_http::Gate;
use crate::postgres::{Pools, Postgres};
use crate::settings::Limits;
use crate::sqlite::{Databases, Sqlite};
use crate::variables::Variables;

/// Everything that a store holds besides the instance itself.
pub(crate) struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    gate: Gate,
    variables: Variables,
    sqlite: Sqlite,
    postgres: Postgres,
    memory: MemoryLimit,
    _ticked: Ticked,
}

/// How an instance is doing, seen from outside its store.
#[derive(Default)]
pub(crate) struct Health {
    /// Ticks for which it has computed without letting its other requests go on.
    busy_ticks: AtomicU32,
    /// It pauses at a tick, in the middle of a computation.
    pausing: AtomicBool,
    /// It was ended because it computed for too long.
    overran: AtomicBool,
    /// It ended in the middle of its work.
    broke: AtomicBool,
    /// One of its requests took longer than it may, and may hang for ever.
    hangs: AtomicBool,
}

impl Health {
    /// The instance does nothing at this moment: at a tick, or because all its requests wait for something.
    pub(crate) fn pauses(&self) {
        if !self.pausing.swap(false, Ordering::Relaxed) {
            self.busy_ticks.store(0, Ordering::Relaxed);
        }
    }

    /// It computes at a tick. Whether it has done so for too long.
    fn tick(&self, most: u32) -> bool {
        let overran = self.busy_ticks.fetch_add(1, Ordering::Relaxed) >= most;
        self.overran.store(overran, Ordering::Release);
        self.pausing.store(true, Ordering::Relaxed);
        overran
    }

    pub(crate) fn overran(&self) -> bool {
        self.overran.load(Ordering::Acquire)
    }

    pub(crate) fn note_broken(&self) {
        self.broke.store(true, Ordering::Release);
    }

    pub(crate) fn broke(&self) -> bool {
        self.broke.load(Ordering::Acquire)
    }

    pub(crate) fn note_hang(&self) {
        self.hangs.store(true, Ordering::Relaxed);
    }

    pub(crate) fn hangs(&self) -> bool {
        self.hangs.load(Ordering::Relaxed)
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.gate }
    }
}

/// Refuses memory beyond the limit: the component's allocation fails, as on a machine that is full.
struct MemoryLimit {
    bytes: usize,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= self.bytes)
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(maximum.is_none_or(|maximum| desired <= maximum))
    }
}

/// A compiled component with everything its instances get, ready to be instantiated.
pub(crate) struct Template {
    id: String,
    engine: Engine,
    ready: ServicePre<State>,
    environment: Vec<(String, String)>,
    allowed_hosts: Arc<AllowedHosts>,
    variables: Variables,
    databases: Arc<Databases>,
    allowed_databases: Arc<BTreeSet<String>>,
    pools: Pools,
    ticker: Ticker,
    stopped: Arc<AtomicBool>,
    instance_memory: usize,
    max_busy_ticks: u32,
}

/// What all components of an application share.
pub(crate) struct Shared {
    pub engine: Engine,
    pub ticker: Ticker,
    pub databases: Arc<Databases>,
    /// Set when the host has stopped: what is left of it ends with the runtime.
    pub stopped: Arc<AtomicBool>,
}

impl Template {
    /// Compiles a component, or takes it from the cache, and checks that everything it imports is here.
    pub(crate) fn new(
        id: &str,
        component: &manifest::Component,
        variables: Variables,
        allowed_hosts: AllowedHosts,
        shared: &Shared,
        limits: &Limits,
    ) -> Result<Self, HostError> {
        let compiled = Component::from_file(&shared.engine, &component.source).map_err(|error| HostError::Compile {
            component: id.to_owned(),
            path: component.source.clone(),
            reason: format!("{error:#}"),
        })?;
        let ready = link(id, &shared.engine, &compiled)?;
        let allowed_hosts = Arc::new(allowed_hosts);
        Ok(Self {
            id: id.to_owned(),
            engine: shared.engine.clone(),
            ready,
            environment: component.environment.clone().into_iter().collect(),
            pools: Pools::new(allowed_hosts.clone()),
            allowed_hosts,
            variables,
            databases: shared.databases.clone(),
            allowed_databases: Arc::new(component.sqlite_databases.iter().cloned().collect()),
            ticker: shared.ticker.clone(),
            stopped: shared.stopped.clone(),
            instance_memory: limits.instance_memory,
            max_busy_ticks: u32::try_from(limits.cpu_slice.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX).max(1),
        })
    }

    /// The component's id in the manifest.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Whether the host has stopped.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// A new instance with its store.
    pub(crate) async fn instantiate(&self) -> wasmtime::Result<(Store<State>, Proxy, Arc<Health>)> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.envs(&self.environment).inherit_stdout().inherit_stderr();
        let health = Arc::new(Health::default());
        let mut store = Store::new(
            &self.engine,
            State {
                table: ResourceTable::new(),
                wasi: wasi.build(),
                http: WasiHttpCtx::new(),
                gate: Gate { allowed: self.allowed_hosts.clone() },
                variables: self.variables.clone(),
                sqlite: Sqlite::new(self.databases.clone(), self.allowed_databases.clone()),
                postgres: Postgres::new(self.pools.clone()),
                memory: MemoryLimit { bytes: self.instance_memory },
                _ticked: self.ticker.instance(),
            },
        );
        store.limiter(|state| &mut state.memory);
        let (seen, most) = (health.clone(), self.max_busy_ticks);
        store.epoch_deadline_callback(move |_| {
            Ok(if seen.tick(most) {
                UpdateDeadline::Interrupt
            } else {
                UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))
            })
        });
        store.set_epoch_deadline(1);
        let proxy = ProxyPre::P3(self.ready.clone()).instantiate_async(&mut store).await?;
        Ok((store, proxy, health))
    }
}

/// Interfaces that this host provides, by the beginning of their names.
const WASI_02: &[&str] =
    &["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];
const SPIN: &[&str] = &["spin:variables/variables@3.0.0", "spin:sqlite/sqlite@3.1.0", "spin:postgres/postgres@4.2.0"];

/// Links what the component imports and nothing else.
fn link(id: &str, engine: &Engine, compiled: &Component) -> Result<ServicePre<State>, HostError> {
    let kind = compiled.component_type();
    let imports: Vec<String> = kind.imports(engine).map(|(name, _)| name.to_owned()).collect();
    let of = |version: &'static str, name: &str, prefixes: &[&str]| {
        prefixes.iter().any(|prefix| name.starts_with(prefix)) && name.contains(version)
    };
    let wasi_02 = |name: &str| of("@0.2.", name, WASI_02);
    let wasi_03 = |name: &str| of("@0.3.", name, WASI_02);
    let http = |name: &str| name.starts_with("wasi:http/types@0.3.") || name.starts_with("wasi:http/client@0.3.");
    let unknown: Vec<String> = imports
        .iter()
        .filter(|name| !(wasi_02(name) || wasi_03(name) || http(name) || SPIN.contains(&name.as_str())))
        .cloned()
        .collect();
    if !unknown.is_empty() {
        return Err(HostError::UnknownImports { component: id.to_owned(), interfaces: unknown });
    }
    let misfit = |error: wasmtime::Error| HostError::Link { component: id.to_owned(), reason: format!("{error:#}") };
    let any = |wanted: &dyn Fn(&str) -> bool| imports.iter().any(|name| wanted(name));
    let mut linker = Linker::<State>::new(engine);
    if any(&wasi_02) {
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(misfit)?;
    }
    if any(&wasi_03) {
        wasmtime_wasi::p3::add_to_linker(&mut linker).map_err(misfit)?;
    }
    if any(&http) {
        wasmtime_wasi_http::p3::add_to_linker(&mut linker).map_err(misfit)?;
    }
    if any(&|name| name == SPIN[0]) {
        bindings::variables::variables::add_to_linker::<_, Variables>(&mut linker, |state| &mut state.variables)
            .map_err(misfit)?;
    }
    if any(&|name| name == SPIN[1]) {
        bindings::sqlite::sqlite::add_to_linker::<_, Sqlite>(&mut linker, |state| &mut state.sqlite).map_err(misfit)?;
    }
    if any(&|name| name == SPIN[2]) {
        bindings::postgres::postgres::add_to_linker::<_, Postgres>(&mut linker, |state| &mut state.postgres)
            .map_err(misfit)?;
    }
    let ready = linker.instantiate_pre(compiled).map_err(misfit)?;
    ServicePre::new(ready).map_err(misfit)
}
