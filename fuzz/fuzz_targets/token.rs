//! Fuzzes what [`renga_properties::token`] states.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| renga_properties::token::hold(input));
