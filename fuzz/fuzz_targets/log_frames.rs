//! Fuzzes the properties of [`renga_properties::log_frames`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| renga_properties::log_frames::hold(input));
