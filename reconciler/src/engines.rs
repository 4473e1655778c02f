//! The engines of this reconciler, each with its circuit.
//!
//! A call that finds an engine away opens its circuit: until a probe answers again, nothing else is asked of it. Other
//! engines go on, and no execution changes its phase for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use renga_shared::domain::{EngineName, Why};
use tokio::sync::Notify;

use crate::engine::{Engine, EngineError};

/// A configured engine.
#[derive(Clone)]
pub struct Served {
    /// Its configured name.
    pub name: EngineName,
    /// The engine.
    pub engine: Arc<dyn Engine>,
    circuit: Arc<Mutex<Circuit>>,
    /// Told when the circuit opens.
    opened: Arc<Notify>,
    /// Counts how often a circuit of these engines was closed.
    closings: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Circuit {
    /// The engine has not been asked yet.
    New,
    Closed,
    Open {
        reason: String,
    },
}

impl Served {
    /// Whether it may be asked; otherwise why not.
    pub fn available(&self) -> Result<(), Why> {
        match &*self.circuit.lock().unwrap_or_else(PoisonError::into_inner) {
            Circuit::Closed => Ok(()),
            Circuit::New => Err(self.unavailable("it has not answered yet")),
            Circuit::Open { reason } => Err(self.unavailable(reason)),
        }
    }

    /// The engine answered. Returns whether it did not before.
    pub fn close_circuit(&self) -> bool {
        let mut circuit = self.circuit.lock().unwrap_or_else(PoisonError::into_inner);
        let came_up = !matches!(std::mem::replace(&mut *circuit, Circuit::Closed), Circuit::Closed);
        if came_up {
            self.closings.fetch_add(1, Ordering::AcqRel);
        }
        came_up
    }

    /// The engine did not answer. Returns whether it did before.
    pub fn open_circuit(&self, reason: &str) -> bool {
        let mut circuit = self.circuit.lock().unwrap_or_else(PoisonError::into_inner);
        let open = Circuit::Open { reason: reason.to_owned() };
        let went_down = !matches!(std::mem::replace(&mut *circuit, open), Circuit::Open { .. });
        if went_down {
            self.opened.notify_one();
        }
        went_down
    }

    /// Completes when the circuit is open, with the reason: for the one task that closes it again.
    pub async fn opened(&self) -> String {
        loop {
            if let Circuit::Open { reason } = &*self.circuit.lock().unwrap_or_else(PoisonError::into_inner) {
                return reason.clone();
            }
            self.opened.notified().await;
        }
    }

    /// Passes on what the engine answered, and opens the circuit if it did not.
    pub fn heard<T>(&self, answer: Result<T, EngineError>) -> Result<T, EngineError> {
        if let Err(error) = &answer
            && let Some(reason) = error.away()
            && self.open_circuit(reason)
        {
            tracing::warn!(engine = %self.name, reason, "engine {} does not answer: {reason}", self.name);
        }
        answer
    }

    /// What an execution is told that waits for this engine.
    pub fn unavailable(&self, reason: &str) -> Why {
        Why::new("EngineUnavailable", format!("The engine {} does not answer: {reason}", self.name))
    }
}

/// All engines of this reconciler, by name.
#[derive(Clone)]
pub struct Engines {
    served: Arc<BTreeMap<EngineName, Served>>,
    closings: Arc<AtomicU64>,
}

impl Engines {
    /// These engines, none asked yet.
    pub fn new(engines: impl IntoIterator<Item = (EngineName, Arc<dyn Engine>)>) -> Self {
        let closings = Arc::<AtomicU64>::default();
        let served = engines.into_iter().map(|(name, engine)| {
            let circuit = Arc::new(Mutex::new(Circuit::New));
            let opened = Arc::default();
            (name.clone(), Served { name, engine, circuit, opened, closings: Arc::clone(&closings) })
        });
        Self { served: Arc::new(served.collect()), closings }
    }

    /// How often any of them came up. Who found one away, and finds this grown after it laid itself to rest, may have
    /// missed being woken.
    pub fn closings(&self) -> u64 {
        self.closings.load(Ordering::Acquire)
    }

    /// The engine of this name.
    pub fn get(&self, name: &EngineName) -> Option<&Served> {
        self.served.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Served> {
        self.served.values()
    }

    /// The engine for an execution that asks for `wanted`: a name, a kind, or any. The first that answers; otherwise
    /// what stands in the way.
    pub fn choose(&self, wanted: Option<&str>) -> Result<EngineName, Why> {
        let fits = |served: &&Served| {
            wanted.is_none_or(|wanted| served.name.as_str() == wanted || served.engine.kind() == wanted)
        };
        let mut obstacle = None;
        for served in self.iter().filter(fits) {
            match served.available() {
                Ok(()) => return Ok(served.name.clone()),
                Err(why) => {
                    obstacle.get_or_insert(why);
                }
            }
        }
        Err(obstacle.unwrap_or_else(|| match wanted {
            Some(wanted) => Why::new("EngineNotServed", format!("No engine named or of kind {wanted:?} is served.")),
            None => Why::new("NoEngine", "No engine is configured."),
        }))
    }
}
