//! Fuzzes what [`renga_properties::cursor`] states.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| renga_properties::cursor::hold(input));
