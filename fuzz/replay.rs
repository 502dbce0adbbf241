//! Replays the kept corpus of a fuzz target on stable, without a fuzzer: part of the tests of every crate that has one.

use std::fs;
use std::path::{Path, PathBuf};

/// A panic says which file it was.
pub fn corpus(target: &str, decoder: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        println!("{}", file.display());
        decoder(&fs::read(&file).unwrap());
    }
}
