//! Properties that hold for any input from any sender.
//!
//! Each kind of input has a module with a function `hold`, which panics if a property does not hold. The fuzz targets
//! call it with inputs from libFuzzer. The test of this crate calls it with every file of the corpora, so that a fixed
//! fault stays fixed. Nothing in this crate may therefore depend on time, randomness or the environment.
//!
//! Where possible, the oracle is not the tested code but another library, a grammar, or a plain check of the outcome.

pub mod command;
pub mod cursor;
pub mod database_uri;
pub mod image;
pub mod log_frames;
pub mod specification;
pub mod token;

/// A kind of input: its name, which is also that of its fuzz target and corpus, and the function that checks its
/// properties.
pub type Target = (&'static str, fn(&[u8]));

/// All kinds of input.
pub const TARGETS: [Target; 7] = [
    ("command", command::hold),
    ("cursor", cursor::hold),
    ("database_uri", database_uri::hold),
    ("image", image::hold),
    ("log_frames", log_frames::hold),
    ("specification", specification::hold),
    ("token", token::hold),
];
