//! wasmtime's engine: compilation of components, cache of compiled code, limits and interruption.
//!
//! wasmtime's own cache keeps the compiled code on disk. Its key includes the WebAssembly bytes, the version of
//! wasmtime and every setting that affects the code, so a hit always fits.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::{Cache, CacheConfig, Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::error::HostError;
use crate::settings::Limits;

/// The interval after which a computing instance yields its thread.
pub(crate) const TICK: Duration = Duration::from_millis(20);

pub(crate) fn build(cache_dir: &Path, limits: &Limits) -> Result<Engine, HostError> {
    let cache = |error: wasmtime::Error| HostError::Cache { path: cache_dir.to_owned(), reason: format!("{error:#}") };
    std::fs::create_dir_all(cache_dir)
        .and_then(|()| cache_dir.canonicalize())
        .map_err(|error| HostError::Cache { path: cache_dir.to_owned(), reason: error.to_string() })
        .and_then(|folder| {
            let mut config = CacheConfig::new();
            config.with_directory(folder);
            let mut engine = Config::new();
            engine
                .cache(Some(Cache::new(config).map_err(cache)?))
                .wasm_component_model(true)
                .wasm_component_model_async(true)
                .epoch_interruption(true)
                .allocation_strategy(InstanceAllocationStrategy::Pooling(pooling(limits)));
            Engine::new(&engine).map_err(|error| HostError::Engine(format!("{error:#}")))
        })
}

/// Returns the settings for instance slots. Address space is reserved for all slots; only live instances use memory. A
/// used slot keeps a little memory, so that its next instance starts without page faults.
fn pooling(limits: &Limits) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(limits.instances)
        .total_core_instances(limits.instances * 8)
        .total_memories(limits.instances * 2)
        .total_tables(limits.instances * 8)
        .total_stacks(limits.instances * 64)
        .max_memory_size(limits.instance_memory)
        .max_unused_warm_slots(4)
        .linear_memory_keep_resident(512 << 10)
        .table_keep_resident(16 << 10);
    pool
}

/// Increments the engine's epoch while instances are live: each tick makes a computing instance yield. Without
/// instances the thread sleeps, so an idle host uses no processor time.
#[derive(Clone)]
pub(crate) struct Ticker(Arc<Ticking>);

struct Ticking {
    instances: AtomicUsize,
    thread: Thread,
}

/// Counts one live instance until it is dropped.
pub(crate) struct Ticked(Ticker);

impl Ticker {
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Self> {
        let weak = engine.weak();
        let (to, from) = std::sync::mpsc::sync_channel::<std::sync::Weak<Ticking>>(1);
        let thread = thread::Builder::new().name("epoch".to_owned()).spawn(move || {
            let Ok(ticking) = from.recv() else { return };
            while let Some(ticking) = ticking.upgrade() {
                let idle = ticking.instances.load(Ordering::Acquire) == 0;
                drop(ticking);
                if idle {
                    thread::park();
                } else {
                    thread::sleep(TICK);
                    let Some(engine) = weak.upgrade() else { return };
                    engine.increment_epoch();
                }
            }
        })?;
        let ticking = Arc::new(Ticking { instances: AtomicUsize::new(0), thread: thread.thread().clone() });
        // The thread waits for this message, so sending cannot fail.
        _ = to.send(Arc::downgrade(&ticking));
        Ok(Self(ticking))
    }

    pub(crate) fn instance(&self) -> Ticked {
        if self.0.instances.fetch_add(1, Ordering::AcqRel) == 0 {
            self.0.thread.unpark();
        }
        Ticked(self.clone())
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.thread.unpark();
    }
}

impl Drop for Ticked {
    fn drop(&mut self) {
        self.0.0.instances.fetch_sub(1, Ordering::AcqRel);
    }
}
