mod devices;

use super::*;
use crate::config::{Payload, RawPlacement, VmConfig};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use proptest::prelude::*;
use vm_fdt::FdtWriter;

/// A node of the tree to write, in a form that is easy to spoil.
#[derive(Clone)]
struct Spec {
    name: String,
    properties: Vec<(String, Vec<u8>)>,
    children: Vec<Spec>,
}

impl Spec {
    fn new(name: &str, properties: &[(&str, Vec<u8>)], children: Vec<Spec>) -> Self {
        let properties = properties.iter().map(|(n, v)| (n.to_string(), v.clone())).collect();
        Spec { name: name.to_string(), properties, children }
    }

    fn at(&mut self, path: &str) -> &mut Spec {
        path.split('/').filter(|name| !name.is_empty()).fold(self, |spec, name| {
            spec.children.iter_mut().find(|child| child.name == name).unwrap()
        })
    }

    fn set(&mut self, property: &str, value: Vec<u8>) {
        self.remove(property);
        self.properties.push((property.to_string(), value));
    }

    fn remove(&mut self, property: &str) {
        self.properties.retain(|(name, _)| name != property);
    }

    fn write(&self, fdt: &mut FdtWriter) {
        let node = fdt.begin_node(&self.name).unwrap();
        for (name, value) in &self.properties {
            fdt.property(name, value).unwrap();
        }
        self.children.iter().for_each(|child| child.write(fdt));
        fdt.end_node(node).unwrap();
    }
}

fn text(value: &str) -> Vec<u8> {
    format!("{value}\0").into_bytes()
}

fn number(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

const KERNEL: &[u8] = b"a kernel";
const INITRD: &[u8] = b"a RAM disk";
const KERNEL_AT: usize = 4096;
const INITRD_AT: usize = 8192;

fn image(name: &str, kind: &str, at: usize, data: &[u8]) -> Spec {
    let hash = [("algo", text("sha256")), ("value", Sha256::digest(data).to_vec())];
    let properties = [
        ("type", text(kind)),
        ("compression", text("none")),
        ("data-position", number(at as u32)),
        ("data-size", number(data.len() as u32)),
    ];
    Spec::new(name, &properties, vec![Spec::new("hash-1", &hash, vec![])])
}

fn spec() -> Spec {
    let web = [
        ("kernel", text("web-kernel")),
        ("ramdisk", text("web-initrd")),
        ("bunshin,vcpus", number(4)),
        ("bunshin,memory", (64u64 << 20).to_be_bytes().to_vec()),
        ("bunshin,command-line", text("console=ttyAMA0")),
        ("bunshin,cpus", [number(1), number(3)].concat()),
        ("bunshin,weight", number(256)),
        ("bunshin,autostart", vec![]),
    ];
    let images = vec![
        image("web-kernel", "kernel", KERNEL_AT, KERNEL),
        image("web-initrd", "ramdisk", INITRD_AT, INITRD),
    ];
    let configurations = vec![Spec::new("web", &web, vec![])];
    Spec::new(
        "",
        &[("description", text("test")), ("bunshin,version", number(VERSION))],
        vec![
            Spec::new("images", &[], images),
            Spec::new("configurations", &[("default", text("web"))], configurations),
        ],
    )
}

fn write(spec: &Spec) -> Vec<u8> {
    let mut fdt = FdtWriter::new().unwrap();
    spec.write(&mut fdt);
    let mut blob = fdt.finish().unwrap();
    assert!(blob.len() <= KERNEL_AT);
    for (at, data) in [(KERNEL_AT, KERNEL), (INITRD_AT, INITRD)] {
        blob.resize(at, 0);
        blob.extend_from_slice(data);
    }
    blob
}

/// The message for a bundle after `spoil`.
fn refusal(spoil: impl FnOnce(&mut Spec)) -> String {
    let mut spec = spec();
    spoil(&mut spec);
    open(&write(&spec)).unwrap_err().to_string()
}

#[test]
fn a_good_bundle_says_what_was_written() {
    let blob = write(&spec());
    let kernel = Payload { offset: KERNEL_AT, size: KERNEL.len() };
    let web = VmConfig {
        initrd: Some(Payload { offset: INITRD_AT, size: INITRD.len() }),
        command_line: "console=ttyAMA0".to_string(),
        cpus: vec![1, 3],
        ..VmConfig::new("web", 4, 64 << 20, kernel)
    };
    assert_eq!(open(&blob), Ok(MachineConfig::new(vec![web])));
    assert_eq!(total_size(&blob), Ok(blob.len()));
    assert_eq!(total_size(&blob[..KERNEL_AT]), Ok(blob.len()));
}

#[test]
fn what_may_be_absent_may_be_absent() {
    let mut spec = spec();
    let web = spec.at("/configurations/web");
    for property in ["ramdisk", "bunshin,cpus", "bunshin,autostart"] {
        web.remove(property);
    }
    spec.at("/configurations").remove("default");
    spec.at("/images/web-kernel").remove("compression");
    let machine = open(&write(&spec)).unwrap();
    let vm = &machine.vms[0];
    assert!(vm.initrd.is_none() && vm.cpus.is_empty() && !vm.autostart);
}

#[test]
fn a_raw_binary_has_a_place() {
    let mut spec = spec();
    let kernel = spec.at("/images/web-kernel");
    kernel.set("type", text("standalone"));
    kernel.set("load", 0x1_4020_0000_u64.to_be_bytes().to_vec());
    kernel.set("entry", number(0x4020_0040));
    let raw = RawPlacement { load: 0x1_4020_0000, entry: 0x4020_0040 };
    assert_eq!(open(&write(&spec)).unwrap().vms[0].raw, Some(raw));
    spec.at("/images/web-kernel").remove("entry");
    let message = open(&write(&spec)).unwrap_err().to_string();
    assert_eq!(message, "bundle: /images/web-kernel: property entry is absent");
}

#[test]
fn data_may_be_counted_from_the_end_of_the_tree() {
    let mut spec = spec();
    let kernel = spec.at("/images/web-kernel");
    kernel.remove("data-position");
    kernel.set("data-offset", number(0));
    let tree_size = tree_size(&write(&spec));
    let offset = KERNEL_AT - tree_size.next_multiple_of(4);
    spec.at("/images/web-kernel").set("data-offset", number(offset as u32));
    let payload = Payload { offset: KERNEL_AT, size: KERNEL.len() };
    assert_eq!(open(&write(&spec)).unwrap().vms[0].kernel, payload);
}

#[test]
fn a_contradiction_is_named_with_its_node() {
    type Spoil = Box<dyn FnOnce(&mut Spec)>;
    fn set(path: &'static str, property: &'static str, value: Vec<u8>) -> Spoil {
        Box::new(move |spec| spec.at(path).set(property, value))
    }
    fn remove(path: &'static str, property: &'static str) -> Spoil {
        Box::new(move |spec| spec.at(path).remove(property))
    }
    const WEB: &str = "/configurations/web";
    const KERNEL_NODE: &str = "/images/web-kernel";
    const INITRD_NODE: &str = "/images/web-initrd";
    let cases: Vec<(Spoil, &str)> = vec![
        (remove("/", "bunshin,version"), "/: property bunshin,version is absent"),
        (set("/", "bunshin,version", number(2)), "/: format version 2, but this image reads"),
        (Box::new(|s| drop(s.children.remove(0))), "/: node images is absent"),
        (Box::new(|s| drop(s.children.remove(1))), "/: node configurations is absent"),
        (Box::new(|s| s.at("/configurations").children.clear()), "/configurations: 0 virtual"),
        (set("/configurations", "default", text("db")), "/configurations: property default is"),
        (remove(WEB, "kernel"), "/configurations/web: property kernel is absent"),
        (set(WEB, "kernel", text("x")), "/configurations/web: property kernel names \"x\", but"),
        (set(WEB, "kernel", text("web-initrd")), "/configurations/web: property kernel is \"web-"),
        (set(WEB, "kernel", b"web-kernel".to_vec()), "/configurations/web: property kernel is not"),
        (set(WEB, "kernel", text("web-kernel\0x")), "/configurations/web: property kernel is not"),
        (set(WEB, "ramdisk", text("x")), "/configurations/web: property ramdisk names \"x\", but"),
        (set(WEB, "ramdisk", text("web-kernel")), "/configurations/web: property ramdisk is \"we"),
        (set(WEB, "bunshin,vcpus", number(0)), "/configurations/web: property bunshin,vcpus is 0"),
        (set(WEB, "bunshin,vcpus", number(65)), "/configurations/web: property bunshin,vcpus is"),
        (set(WEB, "bunshin,vcpus", vec![0]), "/configurations/web: property bunshin,vcpus is not"),
        (set(WEB, "bunshin,memory", number(0)), "/configurations/web: property bunshin,memory is"),
        (set(WEB, "bunshin,memory", number(3 << 20)), "/configurations/web: property bunshin,me"),
        (set(WEB, "bunshin,weight", number(0)), "/configurations/web: property bunshin,weight is"),
        (set(WEB, "bunshin,weight", number(1025)), "/configurations/web: property bunshin,weigh"),
        (set(WEB, "bunshin,cpus", vec![0; 8]), "/configurations/web: property bunshin,cpus is 0"),
        (set(WEB, "bunshin,cpus", number(1024)), "/configurations/web: property bunshin,cpus is"),
        (set(WEB, "bunshin,cpus", vec![0; 5]), "/configurations/web: property bunshin,cpus is n"),
        (set(WEB, "bunshin,autostart", vec![0]), "/configurations/web: property bunshin,autosta"),
        (set(WEB, "bunshin,color", vec![]), "/configurations/web: property bunshin,color is not"),
        (remove(WEB, "bunshin,command-line"), "/configurations/web: property bunshin,command-line"),
        (Box::new(|s| s.at(WEB).name = "Web".into()), "/configurations/Web: a virtual machine's"),
        (set(KERNEL_NODE, "type", text("flat_dt")), "/images/web-kernel: property type is \"flat"),
        (set(KERNEL_NODE, "compression", text("lz4")), "/images/web-kernel: property compression"),
        (set(KERNEL_NODE, "data-offset", number(0)), "/images/web-kernel: both data-position and"),
        (remove(KERNEL_NODE, "data-position"), "/images/web-kernel: property data-position is ab"),
        (set(KERNEL_NODE, "data-size", number(0)), "/images/web-kernel: an empty range is no pla"),
        (set(KERNEL_NODE, "data-position", number(40)), "/images/web-kernel: the inside of the t"),
        (set(INITRD_NODE, "data-size", number(11)), "/images/web-initrd: data ends at byte 8203,"),
        (set(INITRD_NODE, "data-size", number(u32::MAX)), "/images/web-initrd: data ends at byte"),
        (
            set(KERNEL_NODE, "data-size", number(4097)),
            "/images/web-initrd: data lies over that of /images/web-kernel",
        ),
        (
            Box::new(|s| s.at(KERNEL_NODE).children.clear()),
            "/images/web-kernel: no sha256 digest; pack the bundle again",
        ),
        (
            set("/images/web-kernel/hash-1", "algo", text("crc32")),
            "/images/web-kernel: no sha256 digest; pack the bundle again",
        ),
        (
            set("/images/web-kernel/hash-1", "value", vec![0; 31]),
            "/images/web-kernel/hash-1: property value is not a digest of 32 bytes",
        ),
        (
            set("/images/web-initrd/hash-1", "value", vec![0; 32]),
            "/images/web-initrd: sha256 mismatch; pack the bundle again",
        ),
    ];
    for (spoil, expected) in cases {
        let message = refusal(spoil);
        assert!(message.starts_with(&format!("bundle: {expected}")), "{message}\nnot {expected}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn payloads_that_do_not_fit_the_memory_are_refused_unless_they_are_symbols() {
    for (magic, fits) in [(b"ARM\0", false), (b"\x7fELF", true)] {
        let mut kernel = vec![0; 3 << 20];
        kernel[..4].copy_from_slice(magic);
        let mut spec = spec();
        *spec.at("/images/web-kernel") = image("web-kernel", "kernel", 1 << 20, &kernel);
        spec.at("/configurations/web").set("bunshin,memory", number(2 << 20));
        let mut blob = write(&spec);
        blob.resize(1 << 20, 0);
        blob.extend_from_slice(&kernel);
        let message = open(&blob).err().map(|error| error.to_string());
        let expected = "bundle: /configurations/web: kernel and RAM disk have 3145738 bytes, but \
                        the virtual machine has 2097152; give it more memory";
        assert_eq!(message.as_deref(), (!fits).then_some(expected));
    }
}

#[test]
fn more_machines_than_can_be_kept_are_refused() {
    let message = refusal(|spec| {
        let parent = spec.at("/configurations");
        let properties = [("kernel", text("web-kernel"))];
        let more = (0..MAX_VMS).map(|i| Spec::new(&format!("v{i}"), &properties, vec![]));
        parent.children.extend(more);
    });
    assert_eq!(message, "bundle: /configurations: 65 virtual machines, not 1 to 64");
}

#[test]
fn a_bundle_cut_anywhere_is_refused() {
    let blob = write(&spec());
    for length in (0..KERNEL_AT).step_by(7).chain(KERNEL_AT..blob.len()) {
        assert!(open(&blob[..length]).is_err(), "{length} bytes");
    }
    let message = open(&blob[..blob.len() - 1]).unwrap_err().to_string();
    let expected = "bundle: /images/web-initrd: data ends at byte 8202, but the bundle has 8201; \
                    it was cut short, copy it again";
    assert_eq!(message, expected);
}

#[test]
fn a_flipped_bit_of_a_payload_is_found_and_named() {
    let blob = write(&spec());
    for (start, length, name) in
        [(KERNEL_AT, KERNEL.len(), "web-kernel"), (INITRD_AT, INITRD.len(), "web-initrd")]
    {
        for bit in 0..length * 8 {
            let mut damaged = blob.clone();
            damaged[start + bit / 8] ^= 1 << (bit % 8);
            let message = open(&damaged).unwrap_err().to_string();
            let expected =
                format!("bundle: /images/{name}: sha256 mismatch; pack the bundle again");
            assert_eq!(message, expected);
        }
    }
}

#[test]
fn no_flipped_byte_of_the_tree_brings_the_reader_down() {
    let blob = write(&spec());
    for at in 0..tree_size(&blob) {
        for value in [0, 1, 4, 9, 0x7f, 0x80, 0xff, blob[at] ^ 1, blob[at] ^ 0x80] {
            let mut damaged = blob.clone();
            damaged[at] = value;
            // A payload of an accepted bundle lies inside of it.
            for vm in open(&damaged).map(|machine| machine.vms).unwrap_or_default() {
                for payload in [Some(vm.kernel), vm.initrd].into_iter().flatten() {
                    assert!(payload.offset + payload.size <= damaged.len());
                }
            }
            let _ = total_size(&damaged);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_damage_brings_the_reader_down(
        edits in prop::collection::vec((0usize..KERNEL_AT, any::<u32>()), 1..6),
        length in prop::option::of(0usize..INITRD_AT),
    ) {
        let mut blob = write(&spec());
        let tree_size = tree_size(&blob);
        for (at, word) in edits {
            let at = at % tree_size / 4 * 4;
            blob[at..at + 4].copy_from_slice(&word.to_be_bytes());
        }
        blob.truncate(length.unwrap_or(usize::MAX));
        let _ = open(&blob);
        let _ = total_size(&blob);
    }

    #[test]
    fn random_bytes_are_no_bundle(blob in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(open(&blob).is_err());
    }
}
