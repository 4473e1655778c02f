//! The nouns of the product. JSON and strings are parsed once at the edge: inside, an image reference is never a
//! `String`.

mod command;
mod engine;
mod env;
mod field;
mod ids;
mod image;
mod label;
mod new_execution;
mod port;
mod quantity;
mod resources;
mod specification;
mod state;
mod status;
mod volume;

pub use command::Command;
pub use engine::{BadEngineName, EngineName};
pub use env::{EnvVar, additions, launch_environment};
pub use field::{FieldError, RESERVED_PREFIX};
pub use ids::{ContextId, ExecutionId, Timestamp, uuid_at};
pub use image::ImageRef;
pub use label::{Label, vertex_id};
pub use new_execution::NewExecution;
pub use port::{PortSpec, Protocol};
pub use quantity::Quantity;
pub use resources::{Amounts, Resources};
pub use specification::{Specification, StoredSpecificationError};
pub use state::{ClientState, Phase, UnknownName, Wanted, Why};
pub use status::{End, Facts, InvalidFacts, InvalidTransition, Status};
pub use volume::{Volume, VolumeMount, VolumeSource};
