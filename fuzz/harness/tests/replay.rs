//! Replays the seeds and regressions of every fuzz target.

use std::path::Path;

use fuzz_harness::TARGETS;

#[test]
fn seeds_and_regressions_of_every_target_pass() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (name, target) in TARGETS {
        let mut count = 0;
        for kind in ["seeds", "regressions"] {
            let Ok(folder) = fuzz.join(kind).join(name).read_dir() else { continue };
            for file in folder {
                let path = file.unwrap().path();
                println!("{}", path.display());
                target(&std::fs::read(&path).unwrap());
                count += 1;
            }
        }
        assert!(count > 0, "{name} has no seeds");
    }
}

#[test]
fn what_is_cut_short_or_empty_passes() {
    for (name, target) in TARGETS {
        println!("{name}");
        for length in [0, 1, 8, 100, 4096] {
            target(&vec![0; length]);
            target(&vec![0xff; length]);
        }
    }
}
