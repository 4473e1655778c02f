//! Fuzzes what [`renga_properties::command`] states.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| renga_properties::command::hold(input));
