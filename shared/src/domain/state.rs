//! The life of an execution: its phases and which may follow which. [`Status`](super::Status) has the facts of each.
//!
//! Obligations: a terminal phase never reopens; every change says why and when; a fact (engine, object, exit code)
//! once recorded is never forgotten.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name that is not one of an enumeration's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a known {what}")]
pub struct UnknownName {
    /// What kind of name was looked for.
    pub what: &'static str,
    /// What was found instead.
    pub value: String,
}

/// Gives an enumeration its stored and shown names, once.
macro_rules! names {
    ($type:ident, $what:literal, { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name that is stored and shown.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                match text {
                    $($name => Ok(Self::$variant),)+
                    _ => Err(UnknownName { what: $what, value: text.to_owned() }),
                }
            }
        }
    };
}

/// Where an execution is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Recorded; no engine chosen yet.
    Pending,
    /// An engine is chosen; nothing that runs exists there yet.
    Scheduled,
    /// The engine object exists and is being started.
    Starting,
    /// It runs.
    Running,
    /// It is being stopped.
    Stopping,
    /// It ended by itself, or was stopped, and its logs are stored. Terminal.
    Exited,
    /// It could not be started, or never will be. Terminal.
    Failed,
    /// It was started and what became of it cannot be known. Terminal.
    Lost,
    /// Deleted: object and logs are gone. Terminal.
    Removed,
}

names!(Phase, "phase", {
    Pending => "pending", Scheduled => "scheduled", Starting => "starting", Running => "running",
    Stopping => "stopping", Exited => "exited", Failed => "failed", Lost => "lost", Removed => "removed",
});

impl Phase {
    /// Whether nothing more will happen, deletion aside.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Exited | Self::Failed | Self::Lost | Self::Removed)
    }

    /// Whether it has a place on an engine: it counts there, and what it requests is taken.
    pub const fn is_placed(self) -> bool {
        matches!(self, Self::Scheduled | Self::Starting | Self::Running | Self::Stopping)
    }

    /// Whether an execution in this phase may next be in `next`. Staying is not a transition.
    pub const fn may_become(self, next: Self) -> bool {
        use Phase::*;
        match self {
            Pending => matches!(next, Scheduled | Failed | Removed),
            // Back to pending: an engine that refused before anything was created hands the execution back.
            Scheduled => matches!(next, Pending | Starting | Stopping | Failed | Removed),
            Starting => matches!(next, Running | Stopping | Exited | Failed | Lost),
            Running => matches!(next, Stopping | Exited | Lost),
            Stopping => matches!(next, Exited | Failed | Lost | Removed),
            Exited | Failed | Lost => matches!(next, Removed),
            Removed => false,
        }
    }
}

/// The four states that clients of the 2018 service know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientState {
    /// Not started yet.
    Pending,
    /// Running, or being stopped.
    Running,
    /// Ended.
    Exited,
    /// Never ran, cannot be known, or deleted.
    Unavailable,
}

names!(ClientState, "state", {
    Pending => "pending", Running => "running", Exited => "exited", Unavailable => "unavailable",
});

impl ClientState {
    /// What old clients are told. The schema's generated column `executions.state` says the same; a contract test
    /// holds the two together.
    pub const fn of(wanted: Wanted, phase: Phase) -> Self {
        match (wanted, phase) {
            (Wanted::Removed, _) | (_, Phase::Failed | Phase::Lost | Phase::Removed) => Self::Unavailable,
            (_, Phase::Pending | Phase::Scheduled | Phase::Starting) => Self::Pending,
            (_, Phase::Running | Phase::Stopping) => Self::Running,
            (_, Phase::Exited) => Self::Exited,
        }
    }
}

/// What the user asked for last. Written by the API alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wanted {
    /// Launch it, once.
    Running,
    /// Stop it and keep its logs; if it has not started, never start it.
    Stopped,
    /// Stop it and remove everything but the row.
    Removed,
}

names!(Wanted, "wish", { Running => "running", Stopped => "stopped", Removed => "removed" });

/// Why an execution is where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// A CamelCase word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

impl Why {
    /// A reason and its sentence.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_phases_never_reopen() {
        for from in Phase::ALL.iter().filter(|phase| phase.is_terminal()) {
            for to in Phase::ALL {
                assert_eq!(from.may_become(*to), *to == Phase::Removed && *from != Phase::Removed, "{from} -> {to}");
            }
        }
    }

    #[test]
    fn every_phase_can_end() {
        for from in Phase::ALL.iter().filter(|phase| !phase.is_terminal()) {
            let mut reached = vec![*from];
            while let Some(next) = Phase::ALL
                .iter()
                .find(|next| !reached.contains(next) && reached.iter().any(|phase| phase.may_become(**next)))
            {
                reached.push(*next);
            }
            assert!(reached.contains(&Phase::Removed), "{from} never ends");
        }
    }

    #[test]
    fn names_are_read_back() {
        for phase in Phase::ALL {
            assert_eq!(phase.as_str().parse::<Phase>().as_ref(), Ok(phase));
        }
        assert!("Running".parse::<Phase>().is_err());
    }

    #[test]
    fn what_is_wanted_removed_is_unavailable_at_once() {
        assert_eq!(ClientState::of(Wanted::Removed, Phase::Running), ClientState::Unavailable);
        assert_eq!(ClientState::of(Wanted::Stopped, Phase::Stopping), ClientState::Running);
    }
}
