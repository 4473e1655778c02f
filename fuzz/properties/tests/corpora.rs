//! Replays the corpora of the fuzz targets, so that a fault that was found once stays fixed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use renga_properties::TARGETS;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// Returns the names in a folder, without their extensions.
fn names(name: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

fn replay(name: &str) {
    let (_, hold) = TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    let corpus = folder("corpus").join(name);
    let mut replayed = 0;
    for entry in std::fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        // If `hold` panics, the last printed path is that of the input.
        println!("{}", path.display());
        hold(&std::fs::read(&path).unwrap());
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", corpus.display());
}

macro_rules! replayed {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target));
        })*

        #[test]
        fn every_target_has_a_fuzzer_a_corpus_and_a_replay() {
            let known: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
            let replayed: BTreeSet<String> = [$(stringify!($target)),*].map(str::to_owned).into();
            assert_eq!(replayed, known);
            assert_eq!(names("fuzz_targets"), known);
            assert_eq!(names("corpus"), known);
        }
    };
}

replayed!(command cursor database_uri image log_frames specification token);
