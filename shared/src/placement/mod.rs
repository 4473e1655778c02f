//! Chooses the engine for an execution: filters, then a rank. Decides, and does nothing: from what is asked and the engines as
//! they were last observed to a decision with its reasons.
//!
//! The reconciler places by it, and the API answers by it what would be chosen. `docs/placement.md` tells users the rules.
//! A further rule is a [`Verdict`] of `decide.rs`: a filter if it can stand in the way, a part of [`Rank`] if it only prefers.

mod claim;
mod decide;
#[cfg(test)]
mod decide_tests;
mod needs;
mod offer;
mod record;

pub use claim::{BadClaim, Claim};
pub use decide::{Asked, Considered, Decision, Rank, Verdict, decide};
pub use needs::{Needs, Volumes};
pub use offer::{Amount, Candidate, Capacity, Namespaces, Offer, Queue, Room, Usage};
pub use record::{EngineRecord, LEFT_ALONE, Outcome, PlacementRecord, Tried};
