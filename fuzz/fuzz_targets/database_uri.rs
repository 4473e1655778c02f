//! Fuzzes the properties of [`renga_properties::database_uri`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| renga_properties::database_uri::hold(input));
