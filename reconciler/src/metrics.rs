//! Metrics for operators: counters, gauges and a histogram in Prometheus' text format.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The metrics of one reconciler.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    passes: Family<Outcome, Counter>,
    start_latency: Histogram,
    log_bytes: Counter,
    swept: Counter,
    engine_up: Family<EngineLabel, Gauge>,
    executions: Family<PhaseLabel, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EngineLabel {
    engine: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Arc::new(Mutex::new(Registry::with_prefix("renga_reconciler"))),
            passes: Family::default(),
            start_latency: Histogram::new(exponential_buckets(0.01, 2.0, 16)),
            log_bytes: Counter::default(),
            swept: Counter::default(),
            engine_up: Family::default(),
            executions: Family::default(),
        };
        let mut registry = metrics.lock();
        registry.register("passes", "Passes over one execution, by outcome", metrics.passes.clone());
        registry.register_with_unit(
            "start_latency",
            "From the request for an execution until it was seen to run",
            Unit::Seconds,
            metrics.start_latency.clone(),
        );
        registry.register_with_unit("log", "Bytes of logs stored", Unit::Bytes, metrics.log_bytes.clone());
        registry.register("orphans_removed", "Engine objects removed that no execution owned", metrics.swept.clone());
        registry.register("engine_up", "Whether an engine answers", metrics.engine_up.clone());
        registry.register(
            "executions",
            "Executions that are looked after, by phase, as of the last look",
            metrics.executions.clone(),
        );
        drop(registry);
        metrics
    }
}

impl Metrics {
    /// Counts a pass by its outcome.
    pub fn pass(&self, succeeded: bool) {
        let outcome = if succeeded { "success" } else { "error" }.to_owned();
        self.passes.get_or_create(&Outcome { outcome }).inc();
    }

    /// Records the time from the request for an execution until it was observed running.
    pub fn started(&self, after: Duration) {
        self.start_latency.observe(after.as_secs_f64());
    }

    /// Adds stored log bytes.
    pub fn logged(&self, bytes: i64) {
        self.log_bytes.inc_by(u64::try_from(bytes).unwrap_or(0));
    }

    /// Counts a removed orphan.
    pub fn swept(&self) {
        self.swept.inc();
    }

    /// Sets whether an engine answers.
    pub fn engine(&self, name: &str, up: bool) {
        self.engine_up.get_or_create(&EngineLabel { engine: name.to_owned() }).set(up.into());
    }

    /// Replaces the number of executions in each phase.
    pub fn executions(&self, counts: &[(String, i64)]) {
        self.executions.clear();
        for (phase, count) in counts {
            self.executions.get_or_create(&PhaseLabel { phase: phase.clone() }).set(*count);
        }
    }

    /// Returns all metrics in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a `String` cannot fail.
        let _ = encode(&mut text, &self.lock());
        text
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
