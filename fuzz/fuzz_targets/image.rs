//! Fuzzes the properties of [`renga_properties::image`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| renga_properties::image::hold(input));
