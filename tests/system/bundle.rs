//! Bundles that are damaged: one clear line, and the image stays alive.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use xtask::arch::Arch;
use xtask::fit;

use crate::host::{self, USUAL};
use crate::{Case, case};

const LIMIT: Duration = Duration::from_secs(60);

/// The image must not end or restart while we look.
const STAY: Duration = Duration::from_secs(1);

type Damage = fn(&mut Vec<u8>);

/// Name, what happens to the bundle, and how the answer starts.
const CASES: [(&str, Damage, &str); 6] = [
    (
        "a_flipped_bit_of_the_kernel",
        |b| flip_last_payload(b),
        "bundle: /images/hello-kernel: sha256 mis",
    ),
    ("a_bundle_cut_short", |b| b.truncate(b.len() / 2), "bundle: /images/hello-kernel: data ends"),
    ("a_tree_cut_short", |b| b.truncate(100), "bundle: /: "),
    ("a_wrong_magic_number", |b| b[0] ^= 0xff, "bundle: /: "),
    ("a_vm_without_cpus", |b| replace_vcpus(b, 0), "bundle: /configurations/hello: property bunsh"),
    ("nothing_but_zeroes", |b| b.fill(0), "bundle: /: "),
];

pub(crate) fn trials() -> Vec<Case> {
    CASES
        .into_iter()
        .map(|(name, damage, expected)| {
            case(format!("bundle::{name}_is_named"), move || refused(damage, expected))
        })
        .collect()
}

fn refused(damage: Damage, expected: &str) -> Result<()> {
    let mut bundle =
        fit::write(Arch::Aarch64, &[host::vm("hello", host::small("hello")?, VCPUS, 64 << 20)])?;
    damage(&mut bundle);
    let mut emulator = USUAL.boot_image(&fs::read(host::image()?)?, Some(&bundle), LIMIT)?;
    emulator.expect(expected)?;
    emulator.survive(STAY)
}

/// A number that occurs only once in the bundle's tree.
const VCPUS: u32 = 61;

fn flip_last_payload(bundle: &mut [u8]) {
    // Behind the last payload there are at most seven bytes of padding.
    let last = bundle.len() - 9;
    bundle[last] ^= 1;
}

fn replace_vcpus(bundle: &mut [u8], vcpus: u32) {
    let word = VCPUS.to_be_bytes();
    if let Some(at) = bundle.windows(4).position(|window| window == word) {
        bundle[at..at + 4].copy_from_slice(&vcpus.to_be_bytes());
    }
}
