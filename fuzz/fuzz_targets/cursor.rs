//! Fuzzes the properties of [`renga_properties::cursor`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| renga_properties::cursor::hold(input));
