//! Fuzzes the properties of [`renga_properties::token`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| renga_properties::token::hold(input));
