//! Fuzzes what [`renga_properties::log_frames`] states.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| renga_properties::log_frames::hold(input));
