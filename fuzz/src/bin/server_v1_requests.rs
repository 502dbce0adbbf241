#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| server::fuzzing::v1_requests(bytes));
