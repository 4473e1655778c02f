//! Fuzzes the properties of [`renga_properties::specification`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| renga_properties::specification::hold(input));
