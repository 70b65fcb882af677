use super::*;
use proptest::prelude::*;

const FACTS: Facts<'static> = Facts {
    memory: 512 << 20,
    command_line: "console=ttyS0",
    initrd: Some(0x12_3456),
    rsdp: GuestAddress(0xe_0000),
};

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..][..value.len()].copy_from_slice(value);
}

/// A bzImage with the numbers of a Debian kernel and a payload of 0x3000 bytes.
fn bzimage() -> Vec<u8> {
    let mut file = vec![0xcc; 0x4000];
    file[..0x400].fill(0);
    put(&mut file, 0x1f1, &[7]);
    put(&mut file, 0x200, &[0xeb, 0x6a]);
    put(&mut file, 0x202, b"HdrS");
    put(&mut file, 0x206, &0x20fu16.to_le_bytes());
    put(&mut file, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut file, 0x230, &0x20_0000u32.to_le_bytes());
    put(&mut file, 0x234, &[1]);
    put(&mut file, 0x236, &0x7fu16.to_le_bytes());
    put(&mut file, 0x238, &2047u32.to_le_bytes());
    put(&mut file, 0x258, &0x100_0000u64.to_le_bytes());
    put(&mut file, 0x260, &0x37d_c000u32.to_le_bytes());
    file
}

struct Elf {
    wide: bool,
    entry: u64,
    /// Type, address, bytes, size in memory.
    segments: Vec<(u32, u64, Vec<u8>, u64)>,
}

impl Elf {
    fn build(&self) -> Vec<u8> {
        let (header, entry_size) = if self.wide { (64, 56) } else { (52, 32) };
        let mut file = vec![0; header + entry_size * self.segments.len()];
        let class = if self.wide { 2 } else { 1 };
        put(&mut file, 0, &[0x7f, b'E', b'L', b'F', class, 1, 1]);
        put(&mut file, 16, &2u16.to_le_bytes());
        put(&mut file, 18, &(if self.wide { 62u16 } else { 3 }).to_le_bytes());
        put(&mut file, 20, &1u32.to_le_bytes());
        let word = |file: &mut Vec<u8>, offset, value: u64| {
            if self.wide {
                put(file, offset, &value.to_le_bytes());
            } else {
                put(file, offset, &(value as u32).to_le_bytes());
            }
        };
        word(&mut file, 24, self.entry);
        word(&mut file, if self.wide { 32 } else { 28 }, header as u64);
        let counts = if self.wide { 52 } else { 40 };
        put(&mut file, counts, &(header as u16).to_le_bytes());
        put(&mut file, counts + 2, &(entry_size as u16).to_le_bytes());
        put(&mut file, counts + 4, &(self.segments.len() as u16).to_le_bytes());
        for (number, (kind, address, bytes, memory)) in self.segments.iter().enumerate() {
            let at = header + number * entry_size;
            let offset = file.len() as u64;
            put(&mut file, at, &kind.to_le_bytes());
            let fields = if self.wide { [8, 24, 32, 40, 48] } else { [4, 12, 16, 20, 28] };
            let values = [offset, *address, bytes.len() as u64, *memory, 4];
            for (field, value) in fields.into_iter().zip(values) {
                word(&mut file, at + field, value);
            }
            file.extend(bytes);
        }
        file
    }
}

fn pvh_note(entry: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4u32, entry.len() as u32, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(entry);
    note
}

fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let checksum = 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
    [0x1bad_b002, flags, checksum].iter().chain(addresses).flat_map(|w| w.to_le_bytes()).collect()
}

/// Carries out a plan in memory that is all zero; only the first 17 MiB.
fn memory(plan: &BootPlan, kernel: &[u8]) -> Vec<u8> {
    let mut memory = vec![0; 17 << 20];
    for write in &plan.writes {
        let bytes = match &write.content {
            Content::Bytes(bytes) => bytes.as_slice(),
            Content::Kernel(range) => &kernel[range.clone()],
            Content::Initrd => continue,
        };
        if let Some(place) = memory.get_mut(write.address.0 as usize..) {
            put(place, 0, bytes);
        }
    }
    memory
}

fn u32_at(bytes: &[u8], offset: u64) -> u32 {
    u32::from_le_bytes(bytes[offset as usize..][..4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: u64) -> u64 {
    u64::from_le_bytes(bytes[offset as usize..][..8].try_into().unwrap())
}

fn initrd_address(plan: &BootPlan) -> u64 {
    plan.writes.iter().find(|write| write.content == Content::Initrd).unwrap().address.0
}

#[test]
fn a_debian_kernel_goes_to_its_preferred_address_and_starts_in_long_mode() {
    let kernel = bzimage();
    let plan = plan(&kernel, &FACTS).unwrap();
    assert_eq!(plan.protocol, Protocol::BzImage);
    let payload =
        Write { address: GuestAddress(0x100_0000), content: Content::Kernel(0x1000..0x4000) };
    assert!(plan.writes.contains(&payload));
    let expected = Start::Long {
        entry: 0x100_0200,
        stack: 0x8ff0,
        page_tables: GuestAddress(0x9000),
        gdt: (GuestAddress(0x500), 31),
        parameters: GuestAddress(0x7000),
    };
    assert_eq!(plan.start, expected);
}

#[test]
fn the_zero_page_says_where_everything_is() {
    let kernel = bzimage();
    let plan = plan(&kernel, &Facts { memory: 5 << 30, ..FACTS }).unwrap();
    let memory = memory(&plan, &kernel);
    let page = &memory[0x7000..0x8000];
    assert_eq!(&page[0x202..0x206], b"HdrS");
    assert_eq!((page[0x210], page[0x211]), (0xff, 1));
    assert_eq!(u64_at(page, 0x70), 0xe_0000);
    assert_eq!(u32_at(page, 0x228), 0x2_0000);
    assert_eq!(&memory[0x2_0000..0x2_000e], b"console=ttyS0\0");
    let initrd = initrd_address(&plan);
    assert_eq!((u64::from(u32_at(page, 0x218)), u32_at(page, 0x21c)), (initrd, 0x12_3456));
    assert_eq!(initrd, (0x8000_0000 - 0x12_3456) & !0xfff, "as high as the kernel allows");
    assert_eq!(page[0x1e8], 4);
    let entries: Vec<_> = (0..4)
        .map(|n| 0x2d0 + 20 * n)
        .map(|at| (u64_at(page, at), u64_at(page, at + 8), u32_at(page, at + 16)))
        .collect();
    let expected = [
        (0, 0x9_fc00, 1),
        (0x9_fc00, 0x6_0400, 2),
        (0x10_0000, 0xbff0_0000, 1),
        (0x1_0000_0000, 2 << 30, 1),
    ];
    assert_eq!(entries, expected);
    assert!(page[0x26c..0x2d0].iter().all(|&byte| byte == 0), "nothing after the header leaks");
}

#[test]
fn the_page_tables_map_4_gib_to_themselves() {
    let kernel = bzimage();
    let memory = memory(&plan(&kernel, &FACTS).unwrap(), &kernel);
    for address in [0u64, 0x7000, 0x100_0200, 0x3fff_ffff, 0x4000_0000, 0xffff_ffff] {
        let entry = |table: u64, shift: u32| {
            u64_at(&memory, (table & !0xfff) + (address >> shift & 511) * 8)
        };
        let directory = entry(entry(0x9000, 39), 30);
        assert_eq!(directory & 0x81, 1);
        let page = entry(directory, 21);
        assert_eq!(page & 0x83, 0x83);
        assert_eq!(page & !0x1f_ffff, address & !0x1f_ffff, "{address:#x}");
    }
    assert_eq!(u64_at(&memory, 0x510), 0x00af_9b00_0000_ffff, "code at selector 0x10");
    assert_eq!(u64_at(&memory, 0x518), 0x00cf_9300_0000_ffff);
}

#[test]
fn a_relocatable_kernel_moves_down_in_a_small_machine() {
    let kernel = bzimage();
    let entry = |memory| match plan(&kernel, &Facts { memory, initrd: None, ..FACTS })?.start {
        Start::Long { entry, .. } => Ok(entry),
        start => panic!("{start:?}"),
    };
    assert_eq!(entry(0x100_0000 + 0x37d_c000), Ok(0x100_0200));
    assert_eq!(entry(60 << 20), Ok(0x20_0200));
    assert!(matches!(entry(32 << 20), Err(LoadError::NoMemory { what: "kernel", .. })));
    let mut fixed = bzimage();
    put(&mut fixed, 0x234, &[0]);
    let refused = plan(&fixed, &Facts { memory: 60 << 20, ..FACTS });
    assert!(matches!(refused, Err(LoadError::NoMemory { .. })));
}

#[test]
fn bad_bzimages_are_refused_with_the_reason() {
    let with = |offset: usize, value: &[u8]| {
        let mut kernel = bzimage();
        put(&mut kernel, offset, value);
        plan(&kernel, &FACTS).unwrap_err()
    };
    assert_eq!(with(0x206, &[0x09, 0x02]), LoadError::OldProtocol(0x209));
    assert_eq!(with(0x236, &[0, 0]), LoadError::Not64Bit(0));
    assert_eq!(with(0x1f1, &[0xff]), LoadError::Truncated("payload"));
    assert!(matches!(with(0x258, &[0; 8]), LoadError::Overlap("kernel", "boot information")));
    let short = bzimage()[..0x240].to_vec();
    assert_eq!(plan(&short, &FACTS), Err(LoadError::Truncated("set-up header")));
    let line = "x".repeat(2048);
    let refused = plan(&bzimage(), &Facts { command_line: &line, ..FACTS });
    assert_eq!(refused, Err(LoadError::CommandLine { length: 2048, limit: 2047 }));
    let refused = plan(&bzimage(), &Facts { command_line: "a\0b", ..FACTS });
    assert_eq!(refused, Err(LoadError::CommandLineZero));
}

#[test]
fn an_initial_ram_disk_that_does_not_fit_is_refused() {
    let refused = |size| plan(&bzimage(), &Facts { initrd: Some(size), ..FACTS }).unwrap_err();
    assert!(matches!(refused(1 << 30), LoadError::NoMemory { what: "initial RAM disk", .. }));
    assert_eq!(refused(480 << 20), LoadError::Overlap("initial RAM disk", "kernel"));
}

#[test]
fn a_pvh_kernel_gets_start_info_modules_and_memory_map() {
    for entry in [&0x100_0040u32.to_le_bytes()[..], &0x100_0040u64.to_le_bytes()] {
        let kernel = Elf {
            wide: true,
            entry: 0xffff_ffff_8100_0000,
            segments: vec![
                (1, 0x100_0000, b"kernel".to_vec(), 0x20_0000),
                (4, 0, pvh_note(entry), 0),
            ],
        }
        .build();
        let plan = plan(&kernel, &FACTS).unwrap();
        assert_eq!(plan.protocol, Protocol::Pvh);
        let expected =
            Start::Protected { entry: 0x100_0040, magic: 0, information: GuestAddress(0x6000) };
        assert_eq!(plan.start, expected);
        let memory = memory(&plan, &kernel);
        assert_eq!(u32_at(&memory, 0x6000), 0x336e_c578);
        assert_eq!((u32_at(&memory, 0x6004), u32_at(&memory, 0x600c)), (1, 1));
        let modules = u64_at(&memory, 0x6010);
        assert_eq!(u64_at(&memory, modules), initrd_address(&plan));
        assert_eq!(u64_at(&memory, modules + 8), 0x12_3456);
        assert_eq!((u64_at(&memory, 0x6018), u64_at(&memory, 0x6020)), (0x2_0000, 0xe_0000));
        let (map, entries) = (u64_at(&memory, 0x6028), u32_at(&memory, 0x6030));
        assert_eq!(entries, 3);
        assert_eq!((u64_at(&memory, map + 48), u32_at(&memory, map + 64)), (0x10_0000, 1));
    }
}

#[test]
fn a_multiboot_elf_starts_in_32_bit_mode_with_its_information() {
    let mut text = multiboot_header(3, &[]);
    text.extend(b"code");
    let kernel =
        Elf { wide: false, entry: 0x40_0010, segments: vec![(1, 0x40_0000, text, 0x1_0000)] }
            .build();
    let plan = plan(&kernel, &FACTS).unwrap();
    assert_eq!(plan.protocol, Protocol::Multiboot);
    let expected = Start::Protected {
        entry: 0x40_0010,
        magic: 0x2bad_b002,
        information: GuestAddress(0x6000),
    };
    assert_eq!(plan.start, expected);
    let memory = memory(&plan, &kernel);
    let info = &memory[0x6000..];
    assert_eq!(u32_at(info, 0), 0x24d);
    assert_eq!((u32_at(info, 4), u32_at(info, 8)), (639, 511 << 10));
    assert_eq!((u32_at(info, 16), u32_at(info, 20)), (0x2_0000, 1));
    let module = u32_at(info, 24).into();
    assert_eq!(u32_at(&memory, module), 0x41_0000, "right after the kernel");
    assert_eq!(u32_at(&memory, module + 4), 0x41_0000 + 0x12_3456);
    assert_eq!(u32_at(info, 44), 3 * 24);
    let map = u32_at(info, 48).into();
    assert_eq!((u32_at(&memory, map), u64_at(&memory, map + 12)), (20, 0x9_fc00));
    let name = u32_at(info, 64) as usize;
    assert_eq!(&memory[name..name + 8], b"Bunshin\0");
}

#[test]
fn a_flat_multiboot_kernel_goes_where_its_header_says() {
    let addresses = [0x10_0010, 0x10_0000, 0x10_0040, 0x10_8000, 0x10_0030];
    let mut kernel = vec![0; 0x110];
    kernel.extend(multiboot_header(1 << 16, &addresses));
    kernel.resize(0x140, 0xcc);
    let planned = plan(&kernel, &FACTS).unwrap();
    let write = Write { address: GuestAddress(0x10_0000), content: Content::Kernel(0x100..0x140) };
    assert!(planned.writes.contains(&write));
    assert!(matches!(planned.start, Start::Protected { entry: 0x10_0030, .. }));
    assert_eq!(initrd_address(&planned), 0x10_8000);
    kernel.truncate(0x130);
    assert_eq!(plan(&kernel, &FACTS), Err(LoadError::Truncated("Multiboot image")));
}

#[test]
fn other_files_are_named() {
    assert_eq!(plan(b"MZ\x90\x00....", &FACTS), Err(LoadError::UnknownFormat(0x0090_5a4d)));
    assert_eq!(plan(b"", &FACTS), Err(LoadError::UnknownFormat(0)));
    let elf = Elf { wide: true, entry: 0, segments: vec![(1, 0x10_0000, vec![1], 1)] };
    assert_eq!(plan(&elf.build(), &FACTS), Err(LoadError::NoProtocol));
    let mut arm = elf.build();
    put(&mut arm, 18, &183u16.to_le_bytes());
    assert_eq!(plan(&arm, &FACTS), Err(LoadError::WrongMachine(183)));
    let high = pvh_note(&(1u64 << 32).to_le_bytes());
    let high = Elf { wide: true, entry: 0, segments: vec![(4, 0, high, 0)] };
    assert_eq!(plan(&high.build(), &FACTS), Err(LoadError::Entry(1 << 32)));
    let mut features = multiboot_header(1 << 5, &[]);
    features.resize(64, 0);
    assert_eq!(plan(&features, &FACTS), Err(LoadError::Features(1 << 5)));
}

#[test]
fn errors_read_as_sentences_with_advice() {
    let text = LoadError::OldProtocol(0x209).to_string();
    assert_eq!(text, "boot protocol 2.09 is older than 2.12; give Linux 3.8 or later");
    let text = plan(&bzimage(), &Facts { memory: 16 << 20, ..FACTS }).unwrap_err().to_string();
    assert_eq!(
        text,
        "its kernel at 0x200000..0x39dc000 lies outside the 16 MiB of memory; give more memory"
    );
}

/// Writes must stay inside memory and apart from each other.
fn check(plan: &BootPlan, kernel: &[u8], facts: &Facts<'_>) {
    let mut ranges: Vec<(u64, u64)> = plan
        .writes
        .iter()
        .map(|write| {
            let length = match &write.content {
                Content::Bytes(bytes) => bytes.len(),
                Content::Kernel(range) => kernel[range.clone()].len(),
                Content::Initrd => facts.initrd.unwrap() as usize,
            };
            (write.address.0, write.address.0 + length as u64)
        })
        .collect();
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ranges:x?}");
    for (start, end) in ranges {
        let inside = layout::memory(facts.memory)
            .iter()
            .any(|range| start >= range.start && end <= range.start + range.size);
        assert!(inside, "{start:#x}..{end:#x}");
    }
}

proptest! {
    #[test]
    fn damaged_kernels_give_errors_or_sound_plans(
        which in 0usize..4,
        damage in proptest::collection::vec((0usize..0x400, any::<u8>()), 0..6),
        length in 0usize..0x4000,
        memory in 0u64..(6 << 30),
        initrd in proptest::option::of(0u64..(1 << 30)),
    ) {
        let note = pvh_note(&0x100_0040u32.to_le_bytes());
        let header = multiboot_header(1 << 16, &[0x10_0010, 0x10_0000, 0, 0x10_8000, 0x10_0030]);
        let mut kernel = match which {
            0 => bzimage(),
            1 => Elf { wide: true, entry: 0, segments: vec![
                (1, 0x100_0000, vec![1; 99], 0x1000), (4, 0, note, 0)] }.build(),
            2 => Elf { wide: false, entry: 0x40_0000, segments: vec![
                (1, 0x40_0000, multiboot_header(0, &[]), 0x1000)] }.build(),
            _ => [vec![0; 16], header].concat(),
        };
        for (offset, value) in damage {
            if let Some(byte) = kernel.get_mut(offset) { *byte = value; }
        }
        if length % 3 == 0 { kernel.truncate(length); }
        let facts = Facts { memory, initrd, ..FACTS };
        if let Ok(plan) = plan(&kernel, &facts) {
            check(&plan, &kernel, &facts);
        }
    }
}
