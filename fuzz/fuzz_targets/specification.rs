//! Fuzzes what [`renga_properties::specification`] states.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| renga_properties::specification::hold(input));
