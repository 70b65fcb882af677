//! Writes first seeds into `fuzz/seeds`: bundles of the packer, the VM files of
//! the repository, and requests of drivers that keep the rules. Fuzzers find the rest.

use std::fs;
use std::path::Path;

use xtask::arch::Arch;
use xtask::fit::{self, Net, Vm};

/// All features.
const ALL: u64 = u64::MAX;

/// Operations of [`fuzz_harness`], as its guest reads them.
#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    fn new(features: u64) -> Self {
        Script(features.to_le_bytes().to_vec())
    }

    /// Writes memory.
    fn put(mut self, offset: u16, bytes: &[u8]) -> Self {
        self.0.push(0);
        self.0.extend(offset.to_le_bytes());
        self.0.push(bytes.len() as u8);
        self.0.extend(bytes);
        self
    }

    /// Writes a chain of descriptors from number 0 on: offset, length, writable.
    fn chain(mut self, queue: u8, buffers: &[(u16, u16, bool)]) -> Self {
        for (number, (offset, length, writable)) in (0u8..).zip(buffers) {
            let more = usize::from(number) + 1 < buffers.len();
            self.0.extend([1 | queue << 4, number]);
            self.0.extend(offset.to_le_bytes());
            self.0.extend(length.to_le_bytes());
            self.0.extend([u8::from(more) | u8::from(*writable) << 1, number + 1]);
        }
        self
    }

    /// Makes these operations.
    fn then(mut self, operations: &[u8]) -> Self {
        self.0.extend(operations);
        self
    }

    /// Offers the chain, notifies, and takes the interrupt.
    fn go(self, queue: u8) -> Self {
        self.then(&[2 | queue << 4, 0, 3 | queue << 4, 7])
    }
}

fn block(kind: u32, sector: u64, data: (u16, u16, bool)) -> Script {
    let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    Script::new(ALL)
        .put(0x4000, &header)
        .put(0x5000, &[3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0])
        .chain(0, &[(0x4000, 16, false), data, (0x4800, 1, true)])
        .go(0)
}

fn bundles() -> Vec<Vec<u8>> {
    let kernel = vec![0xd5; 64];
    let mut full = Vm::new("full", kernel.clone(), 4, 64 << 20);
    full.command_line = "console=hvc0".into();
    full.initrd = Some(b"initrd".to_vec());
    full.reservation = Some((1000, 10_000));
    full.pinned = true;
    full.control = true;
    full.balloon = true;
    full.cpus = vec![0, 1, 2, 3];
    full.nets = vec![Net { mac: [2, 0, 0, 0, 0, 1], vlan: Some(7) }];
    full.devices = vec!["/pl061@9030000".into()];
    let two = [Vm::new("one", kernel.clone(), 1, 2 << 20), full];
    let uplinks = [fit::Uplink { nic: 0, vlan: None }];
    let mut bundles = Vec::new();
    for arch in [Arch::Aarch64, Arch::X86_64] {
        bundles.push(fit::write(arch, &two[..1]).unwrap());
        bundles.push(fit::write_with_uplinks(arch, &two, &uplinks).unwrap());
    }
    bundles
}

/// Device trees of QEMU's machines. Those of real boards are not part of the repository, for their licences.
fn trees(fuzz: &Path) -> Vec<Vec<u8>> {
    let data = fuzz.parent().unwrap().join("platform/tests/data");
    let mut files: Vec<_> = fs::read_dir(data)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "dtb"))
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn main() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let read = block(0, 0, (0x6000, 1024, true)).0;
    let seeds: Vec<(&str, Vec<Vec<u8>>)> = vec![
        (
            "block",
            vec![
                read.clone(),
                block(1, 1, (0x6000, 1024, false)).0,
                block(4, 0, (0x6000, 1, true)).0,
                block(8, 0, (0x6000, 20, true)).0,
                block(11, 0, (0x5000, 16, false)).0,
                block(13, 0, (0x5000, 16, false)).0,
            ],
        ),
        (
            "console",
            vec![
                Script::new(ALL).chain(1, &[(0x4000, 80, false), (0x5000, 2000, false)]).go(1).0,
                Script::new(0).chain(0, &[(0x4000, 8, true)]).go(0).then(&[0x18, 40]).go(0).0,
            ],
        ),
        ("rng", vec![Script::new(ALL).chain(0, &[(0x4000, 64, true)]).go(0).go(0).0]),
        (
            "net",
            vec![
                Script::new(ALL)
                    .put(0x4000, &[1, 0, 0, 0, 0, 0, 14, 0, 16, 0, 1, 0])
                    .put(0x400c, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0, 1])
                    .chain(1, &[(0x4000, 12, false), (0x400c, 100, false)])
                    .go(1)
                    .0,
                Script::new(ALL).chain(0, &[(0x4000, 1600, true)]).go(0).then(&[0x18, 1, 200, 0]).0,
                Script::new(1 << 15).then(&[0x18, 1, 0, 2]).chain(0, &[(0x4000, 64, true)]).go(0).0,
            ],
        ),
        (
            "balloon",
            vec![
                Script::new(ALL).then(&[0x18, 9, 0, 0, 0]).chain(0, &[(0x4000, 64, false)]).go(0).0,
                Script::new(ALL).chain(1, &[(0x4000, 2000, false)]).go(1).0,
                Script::new(ALL).chain(2, &[(0x4000, 100, false)]).go(2).then(&[0x18]).go(2).0,
            ],
        ),
        ("bus", vec![read, [[0x68, 0x1c].as_slice(), &[15; 8], &[0x60, 0x14]].concat()]),
        ("bundle", bundles()),
        ("tree", trees(fuzz)),
        (
            "vm_file",
            fs::read_dir(fuzz.parent().unwrap().join("vms"))
                .unwrap()
                .map(|file| fs::read(file.unwrap().path()).unwrap())
                .collect(),
        ),
    ];
    for (target, inputs) in seeds {
        let folder = fuzz.join("seeds").join(target);
        fs::create_dir_all(&folder).unwrap();
        for (number, input) in inputs.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number:02}")), input).unwrap();
        }
    }
}
