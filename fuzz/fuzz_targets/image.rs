//! Fuzzes what [`renga_properties::image`] states.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| renga_properties::image::hold(input));
