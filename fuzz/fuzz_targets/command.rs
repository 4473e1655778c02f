//! Fuzzes the properties of [`renga_properties::command`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| renga_properties::command::hold(input));
