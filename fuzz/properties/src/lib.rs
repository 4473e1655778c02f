//! What must hold of any input, whoever sends it.
//!
//! A module for each kind of input, each with a function `hold` that panics when something does not hold. The fuzz
//! targets call it with what libFuzzer makes; the test beside this crate calls it with every file of the corpora, so that a
//! find, once fixed, stays fixed. So nothing here may depend on time, chance or surroundings.
//!
//! Where there is one, the judge is something else than the code that is judged: another library, a grammar, or a plain
//! check of the outcome.

pub mod command;
pub mod cursor;
pub mod database_uri;
pub mod image;
pub mod log_frames;
pub mod specification;
pub mod token;

/// A kind of input: its name, which is that of its fuzz target and its corpus, and what must hold of it.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 7] = [
    ("command", command::hold),
    ("cursor", cursor::hold),
    ("database_uri", database_uri::hold),
    ("image", image::hold),
    ("log_frames", log_frames::hold),
    ("specification", specification::hold),
    ("token", token::hold),
];
