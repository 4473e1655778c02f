//! The engines of this reconciler, each with its circuit.
//!
//! A call that finds an engine away opens its circuit: until a probe answers again, nothing else is asked of it. Other
//! engines go on, and no execution changes its phase for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use renga_shared::domain::{EngineName, Why};
use renga_shared::placement::{Capacity, Offer};
use renga_shared::sql::engines::unavailable;
use tokio::sync::Notify;

use crate::engine::config::Options;
use crate::engine::{Accepts, Engine, EngineError, EngineInfo};

/// The labels that every engine has: see `docs/placement.md`.
const KIND_LABEL: &str = "kind";
const ARCHITECTURE_LABEL: &str = "arch";

/// What there is to know of an engine before it is asked anything.
pub struct Configured {
    /// Its name.
    pub name: EngineName,
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// What its operator allows.
    pub options: Options,
    /// Where it is, with its options, as one URL.
    pub url: String,
    /// Whether it was taken out of the configuration, and is kept in view until what it runs has ended.
    pub retired: bool,
}

impl Configured {
    /// An engine that takes whatever it can.
    pub fn plain(name: EngineName, engine: Arc<dyn Engine>) -> Self {
        Self { name, engine, options: Options::default(), url: String::new(), retired: false }
    }

    /// What it offers before it has told its capacity.
    fn offer(&self) -> Offer {
        let Accepts { volumes, protocols, namespaces } = self.engine.accepts();
        let mut labels = self.options.labels.clone();
        labels.entry(KIND_LABEL.to_owned()).or_insert_with(|| self.engine.kind().to_owned());
        Offer {
            retired: self.retired,
            max: self.options.max,
            claims: self.options.claims.clone(),
            labels,
            namespaces,
            volumes,
            protocols: protocols.iter().map(|protocol| protocol.as_str().to_owned()).collect(),
            capacity: Capacity::Unknown,
        }
    }
}

/// A configured engine.
#[derive(Clone)]
pub struct Served {
    /// Its configured name.
    pub name: EngineName,
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// Where it is, with its options.
    pub url: Arc<str>,
    offer: Arc<Mutex<Offer>>,
    circuit: Arc<Mutex<Circuit>>,
    /// Told when the circuit opens.
    opened: Arc<Notify>,
    /// Counts how often an engine of these began to take executions: its circuit was closed, or it told its capacity.
    closings: Arc<AtomicU64>,
}

/// What an engine told of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whether something of it is new.
    pub new: bool,
    /// Whether its capacity is known now and was not before: what waits for it may be placed.
    pub ready: bool,
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

    /// What it offers.
    pub fn offer(&self) -> Offer {
        self.offer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes note of what it told of itself. Whether that is something new.
    pub fn told(&self, info: &EngineInfo) -> Told {
        let mut offer = self.offer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = offer.clone();
        offer.capacity.clone_from(&info.capacity);
        if let Some(architecture) = &info.architecture {
            offer.labels.insert(ARCHITECTURE_LABEL.to_owned(), architecture.clone());
        }
        let ready = before.capacity == Capacity::Unknown && offer.capacity != Capacity::Unknown;
        if ready {
            self.closings.fetch_add(1, Ordering::AcqRel);
        }
        Told { new: *offer != before, ready }
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
        unavailable(&self.name, reason)
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
    pub fn new(engines: impl IntoIterator<Item = Configured>) -> Self {
        let closings = Arc::<AtomicU64>::default();
        let served = engines.into_iter().map(|configured| {
            let offer = Arc::new(Mutex::new(configured.offer()));
            let Configured { name, engine, url, .. } = configured;
            let circuit = Arc::new(Mutex::new(Circuit::New));
            let (opened, closings) = (Arc::default(), Arc::clone(&closings));
            (name.clone(), Served { name, engine, url: url.into(), offer, circuit, opened, closings })
        });
        Self { served: Arc::new(served.collect()), closings }
    }

    /// How often any of them came up or became ready. Who found one away, and finds this grown after it laid itself to rest, may have
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
}
