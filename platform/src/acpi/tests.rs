use super::*;
use crate::Region;
use std::collections::BTreeMap;

/// Memory in pieces; all between can't be read.
#[derive(Clone, Default)]
struct FakeMemory(BTreeMap<u64, Vec<u8>>);

impl PhysicalMemory for FakeMemory {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Option<()> {
        let (base, bytes) = self.0.range(..=address.get()).next_back()?;
        let start = usize::try_from(address.get() - base).ok()?;
        buffer.copy_from_slice(bytes.get(start..start.checked_add(buffer.len())?)?);
        Some(())
    }
}

impl FakeMemory {
    /// What QEMU's firmware has left in memory: pieces of address (8 bytes), length (4 bytes) and content.
    fn of_qemu(mut pieces: &[u8]) -> Self {
        let mut memory = Self::default();
        while let Some((address, rest)) = pieces.split_first_chunk::<8>() {
            let (length, rest) = rest.split_first_chunk::<4>().unwrap();
            let (content, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
            memory.0.insert(u64::from_le_bytes(*address), content.to_vec());
            pieces = rest;
        }
        memory
    }

    fn with(mut self, address: u64, bytes: Vec<u8>) -> Self {
        self.0.insert(address, bytes);
        self
    }
}

const RSDP: u64 = 0xf_0000;

fn right_checksum(mut bytes: Vec<u8>, place: usize) -> Vec<u8> {
    bytes[place] = 0;
    bytes[place] = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
    bytes
}

fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let length = (36 + body.len()) as u32;
    let mut bytes = [&signature[..], &length.to_le_bytes(), &[0; 28], body].concat();
    bytes[8] = 1;
    right_checksum(bytes, 9)
}

fn rsdp(revision: u8, rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut bytes = [&b"RSD PTR \0OURSYS"[..], &[revision], &rsdt.to_le_bytes()].concat();
    bytes = right_checksum(bytes, 8);
    bytes.extend(36_u32.to_le_bytes());
    bytes.extend(xsdt.to_le_bytes());
    bytes.extend([0; 4]);
    right_checksum(bytes, 32)
}

fn xsdt(addresses: &[u64]) -> Vec<u8> {
    table(b"XSDT", &addresses.iter().flat_map(|address| address.to_le_bytes()).collect::<Vec<_>>())
}

fn madt(entries: &[&[u8]]) -> Vec<u8> {
    table(b"APIC", &[&[0, 0, 0xe0, 0xfe, 1, 0, 0, 0], &entries.concat()[..]].concat())
}

/// A machine with an XSDT of these tables, at 0x1000, 0x2000 and so on.
fn machine(tables: &[Vec<u8>]) -> FakeMemory {
    let addresses: Vec<u64> = (1..=tables.len() as u64).map(|number| number << 12).collect();
    let memory =
        FakeMemory::default().with(RSDP, rsdp(2, 0, 0x8_0000)).with(0x8_0000, xsdt(&addresses));
    addresses
        .iter()
        .zip(tables)
        .fold(memory, |memory, (address, table)| memory.with(*address, table.clone()))
}

fn read(memory: &FakeMemory) -> Result<Acpi, AcpiError> {
    Acpi::read(memory, PhysicalAddress::new(RSDP))
}

fn cpu(apic_id: u32, acpi_uid: u32) -> LocalApic {
    LocalApic { apic_id, acpi_uid, state: CpuState::Enabled }
}

#[test]
fn a_pc_of_qemu_is_understood() {
    let memory = FakeMemory::of_qemu(include_bytes!("../../tests/data/qemu-q35-4cpu.acpi"));
    let acpi = Acpi::read(&memory, find_rsdp(&memory).unwrap()).unwrap();
    assert_eq!(acpi.madt.local_apic_address.get(), 0xfee0_0000);
    assert!(acpi.madt.has_8259);
    // Two more could be plugged in, but QEMU's tables don't offer them as long as they aren't.
    assert_eq!(acpi.madt.cpus, [cpu(0, 0), cpu(1, 1), cpu(2, 2), cpu(3, 3)]);
    let io_apic = IoApic { id: 0, address: PhysicalAddress::new(0xfec0_0000), first_gsi: 0 };
    assert_eq!(acpi.madt.io_apics, [io_apic]);
    let timer =
        InterruptOverride { isa_irq: 0, gsi: 2, polarity: Polarity::Bus, mode: SignalMode::Bus };
    let level = |isa_irq: u8| InterruptOverride {
        isa_irq,
        gsi: isa_irq.into(),
        polarity: Polarity::High,
        mode: SignalMode::Level,
    };
    assert_eq!(acpi.madt.overrides, [timer, level(5), level(9), level(10), level(11)]);
    let port = |address, width| GenericAddress { space: AddressSpace::Io, width, address };
    let fadt = acpi.fadt.unwrap();
    assert_eq!(fadt.reset, Some(ResetRegister { register: port(0xcf9, 8), value: 0xf }));
    assert_eq!(fadt.pm1a_control, Some(port(0x604, 16)));
    assert_eq!(fadt.pm_timer, Some(port(0x608, 32)));
    assert_eq!((fadt.pm1b_control, fadt.sleep_control), (None, None));
    assert!(!fadt.hardware_reduced && fadt.dsdt.is_some());
    // The DSDT isn't in the file.
    assert_eq!(fadt.power_off, None);
    let configuration = Region::new(PhysicalAddress::new(0xb000_0000), 256 << 20).unwrap();
    assert_eq!(
        acpi.pci_segments,
        [PciSegment { segment: 0, first_bus: 0, last_bus: 255, configuration }]
    );
}

#[test]
fn an_old_pc_of_qemu_is_understood() {
    let memory = FakeMemory::of_qemu(include_bytes!("../../tests/data/qemu-pc-2cpu.acpi"));
    let acpi = Acpi::read(&memory, find_rsdp(&memory).unwrap()).unwrap();
    assert_eq!(acpi.madt.cpus, [cpu(0, 0), cpu(1, 1)]);
    let fadt = acpi.fadt.unwrap();
    // A table of version 1 has no reset register.
    assert_eq!((fadt.reset, fadt.pm1a_control.unwrap().address), (None, 0x604));
    assert!(acpi.pci_segments.is_empty());
}

#[test]
fn all_forms_of_cpu_entries_count_once() {
    let acpi = read(&machine(&[madt(&[
        &[0, 8, 7, 3, 1, 0, 0, 0],
        &[0, 8, 8, 4, 0, 0, 0, 0],
        &[0, 8, 9, 5, 2, 0, 0, 0],
        &[0, 8, 10, 255, 1, 0, 0, 0],
        &[9, 16, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0],
        &[9, 16, 0, 0, 0, 2, 0, 0, 1, 0, 0, 0, 99, 0, 0, 0],
        &[77, 3, 1],
        &[2, 10, 0, 9, 20, 0, 0, 0, 0b1111, 0],
        &[5, 12, 0, 0, 0, 0, 0xe0, 0xfe, 1, 0, 0, 0],
    ])]))
    .unwrap();
    let late = LocalApic { apic_id: 5, acpi_uid: 9, state: CpuState::OnlineCapable };
    assert_eq!(acpi.madt.cpus, [cpu(3, 7), late, cpu(0x200, 99)]);
    let over =
        InterruptOverride { isa_irq: 9, gsi: 20, polarity: Polarity::Low, mode: SignalMode::Level };
    assert_eq!(acpi.madt.overrides, [over]);
    assert_eq!(acpi.madt.local_apic_address.get(), 0x1_fee0_0000);
    assert_eq!((acpi.fadt, acpi.pci_segments), (None, vec![]));
}

fn fadt(changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut body = vec![0; 268 - 36];
    for (offset, bytes) in changes {
        body[offset - 36..][..bytes.len()].copy_from_slice(bytes);
    }
    table(b"FACP", &body)
}

fn read_fadt(changes: &[(usize, &[u8])], dsdt: &[u8]) -> Fadt {
    let memory = machine(&[madt(&[]), fadt(changes)]).with(0x7000, table(b"DSDT", dsdt));
    read(&memory).unwrap().fadt.unwrap()
}

#[test]
fn extended_fields_win_over_old_ones() {
    let fadt = read_fadt(
        &[
            (64, &[4, 6, 0, 0]),
            (172, &[0, 16, 0, 0, 0, 0, 0, 0xfe, 0, 0, 0, 0]),
            (68, &[8, 6, 0, 0]),
            (112, &(1_u32 << 20).to_le_bytes()),
            (116, &[1, 8, 0, 1, 0xf9, 0xc, 0, 0, 0, 0, 0, 0]),
            (244, &[1, 8, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0]),
        ],
        &[],
    );
    let register = |space, width, address| Some(GenericAddress { space, width, address });
    assert_eq!(fadt.pm1a_control, register(AddressSpace::Memory, 16, 0xfe00_0000));
    assert_eq!(fadt.pm1b_control, register(AddressSpace::Io, 16, 0x608));
    assert_eq!(fadt.sleep_control, register(AddressSpace::Io, 8, 0x600));
    assert!(fadt.hardware_reduced);
    // There is an address, but no flag that says that writing it resets the machine.
    assert_eq!(fadt.reset, None);
    assert_eq!((fadt.dsdt, fadt.power_off), (None, None));
}

#[test]
fn the_power_switch_is_found_in_plain_aml() {
    let dsdt = (40, &[0, 0x70, 0, 0][..]);
    let cases: [(&[u8], Option<SleepType>); 8] = [
        (b"\x08_S5_\x12\x06\x04\0\0\0\0", Some(SleepType { a: 0, b: 0 })),
        (b"xx\x08\\_S5_\x12\x08\x04\x0a\x05\x0a\x07\0\0", Some(SleepType { a: 5, b: 7 })),
        (b"\x08_S5_\x12\x48\x00\x04\x01\x0a\x02", Some(SleepType { a: 1, b: 2 })),
        (b"\x08_S5_\x12\x04\x01\x0a\x03", Some(SleepType { a: 3, b: 0 })),
        (b"x_S5_\x12\x06\x04\0\0\0\0\x08_S5_\x12\x06\x02\x01\x01", Some(SleepType { a: 1, b: 1 })),
        (b"\x08_S5_\x12\x06\x04\x0a\x08\0", None),
        (b"\x08_S5_\x12\x06", None),
        (b"\x08_S4_\x12\x06\x04\0\0\0\0", None),
    ];
    for (aml, expected) in cases {
        assert_eq!(read_fadt(&[dsdt], aml).power_off, expected, "{aml:02x?}");
    }
    let damaged = machine(&[madt(&[]), fadt(&[dsdt])]).with(0x7000, b"DSDT and no more".to_vec());
    assert_eq!(read(&damaged).unwrap().fadt.unwrap().power_off, None);
}

#[test]
fn configuration_space_starts_at_the_first_bus() {
    let entry = |base: u64, first: u8, last: u8| {
        [&base.to_le_bytes()[..], &[1, 0, first, last, 0, 0, 0, 0]].concat()
    };
    let body = [
        vec![0; 8],
        entry(0xe000_0000, 0x10, 0x1f),
        entry(0, 5, 4),
        entry(u64::MAX - 5, 0, 0),
        vec![0; 15],
    ]
    .concat();
    let acpi = read(&machine(&[madt(&[]), table(b"MCFG", &body)])).unwrap();
    let configuration = Region::new(PhysicalAddress::new(0xe100_0000), 16 << 20).unwrap();
    let expected = PciSegment { segment: 1, first_bus: 0x10, last_bus: 0x1f, configuration };
    assert_eq!(acpi.pci_segments, [expected]);
}

#[test]
fn damage_is_refused_with_the_name_of_the_table() {
    let flip = |mut bytes: Vec<u8>, place: usize| {
        bytes[place] ^= 0x10;
        bytes
    };
    let good = || machine(&[madt(&[])]);
    let cases = [
        (FakeMemory::default(), "ACPI: RSDP at 0xf0000: this memory can't be read"),
        (
            FakeMemory::default().with(RSDP, vec![b'x'; 36]),
            "ACPI: RSDP at 0xf0000: the signature is \"xxxxxxxx\"",
        ),
        (
            good().with(RSDP, flip(rsdp(2, 0, 0x8_0000), 16)),
            "ACPI: RSDP at 0xf0000: the checksum is wrong; the firmware's tables are damaged",
        ),
        (
            good().with(RSDP, flip(rsdp(2, 0, 0x8_0000), 30)),
            "ACPI: RSDP at 0xf0000: the checksum is wrong; the firmware's tables are damaged",
        ),
        (
            good().with(RSDP, flip(rsdp(2, 0, 0), 20)),
            "ACPI: RSDP at 0xf0000: this memory can't be read",
        ),
        (
            good().with(RSDP, [flip(rsdp(2, 0, 0), 20), vec![0; 100]].concat()),
            "ACPI: RSDP at 0xf0000: the checksum is wrong; the firmware's tables are damaged",
        ),
        (
            good().with(RSDP, flip(rsdp(2, 0, 0), 21)),
            "ACPI: RSDP at 0xf0000: a length of 4132 bytes can't be",
        ),
        (
            good().with(RSDP, rsdp(0, 0x8_0000, 0)),
            "ACPI: RSDT at 0x80000: the signature is \"XSDT\"",
        ),
        (
            good().with(0x8_0000, flip(xsdt(&[0x1000]), 37)),
            "ACPI: XSDT at 0x80000: the checksum is wrong; the firmware's tables are damaged",
        ),
        (
            good().with(0x1000, flip(madt(&[]), 20)),
            "ACPI: APIC at 0x1000: the checksum is wrong; the firmware's tables are damaged",
        ),
        (
            good().with(0x1000, b"APIC\x23\0\0\0".iter().copied().chain([0; 40]).collect()),
            "ACPI: APIC at 0x1000: a length of 35 bytes can't be",
        ),
        (
            good().with(0x1000, b"APIC\0\0\0\x10".iter().copied().chain([0; 40]).collect()),
            "ACPI: APIC at 0x1000: a length of 268435456 bytes can't be",
        ),
        (
            good().with(0x1000, table(b"APIC", &[0; 7])),
            "ACPI: APIC at 0x1000: a length of 43 bytes can't be",
        ),
        (machine(&[madt(&[&[0, 9, 0]])]), "ACPI: APIC at 0x1000: a length of 47 bytes can't be"),
        (machine(&[madt(&[&[0, 0, 0]])]), "ACPI: APIC at 0x1000: a length of 47 bytes can't be"),
        (machine(&[madt(&[&[1, 4, 0, 0]])]), "ACPI: APIC at 0x1000: a length of 48 bytes can't be"),
        (
            machine(&[madt(&[]), table(b"FACP", &[0; 79])]),
            "ACPI: FACP at 0x2000: a length of 115 bytes can't be",
        ),
        (
            machine(&[]),
            "ACPI: the firmware has no APIC table; the hypervisor can't find the CPUs without",
        ),
        (
            good().with(0x8_0000, xsdt(&[0x1000; 257])),
            "ACPI: the list of tables has 257 entries; 256 are accepted",
        ),
    ];
    for (memory, message) in cases {
        assert_eq!(read(&memory).unwrap_err().to_string(), message);
    }
}

#[test]
fn damage_in_tables_that_nobody_needs_is_no_harm() {
    let memory = machine(&[b"HPET".to_vec(), madt(&[]), b"x".to_vec()])
        .with(0x8_0000, xsdt(&[0x1000, 0, 0x2000, 0x3000, 0x9_0000]));
    assert!(read(&memory).unwrap().madt.cpus.is_empty());
}

#[test]
fn the_root_pointer_is_found_where_a_bios_keeps_it() {
    let pointer = |memory: FakeMemory| find_rsdp(&memory).map(PhysicalAddress::get);
    let rom = || FakeMemory::default().with(0xe_0000, vec![0; 0x2_0000]);
    let with = |address: u64, bytes: &[u8]| {
        let mut memory = rom();
        let rom = memory.0.get_mut(&0xe_0000).unwrap();
        let start = (address - 0xe_0000) as usize;
        rom[start..start + bytes.len()].copy_from_slice(bytes);
        memory
    };
    let good = rsdp(2, 0, 1);
    assert_eq!(pointer(rom()), None);
    assert_eq!(pointer(with(0xf_5a10, &good)), Some(0xf_5a10));
    assert_eq!(pointer(with(0xf_5a18, &good)), None);
    let mut damaged = good.clone();
    damaged[10] ^= 1;
    assert_eq!(pointer(with(0xf_5a10, &damaged)), None);
    let mut area = vec![0; 0x400];
    area[0x3d0..0x3d0 + 36].copy_from_slice(&good);
    let memory = rom().with(0x40e, vec![0xc0, 0x9f]).with(0x9_fc00, area);
    assert_eq!(pointer(memory), Some(0x9_ffd0));
}

#[test]
fn mutated_tables_do_no_harm() {
    let pristine = FakeMemory::of_qemu(include_bytes!("../../tests/data/qemu-q35-4cpu.acpi"));
    let root = find_rsdp(&pristine).unwrap();
    let dsdt = Acpi::read(&pristine, root).unwrap().fadt.unwrap().dsdt.unwrap();
    let pristine = pristine.with(dsdt.get(), table(b"DSDT", b"\x08_S5_\x12\x06\x04\0\0\0\0"));
    let mut state = 1_u64;
    let mut random = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize % limit
    };
    let mut read_well = 0;
    for _ in 0..5000 {
        let mut memory = pristine.clone();
        let piece = random(memory.0.len());
        let bytes = memory.0.values_mut().nth(piece).unwrap();
        for _ in 0..=random(3) {
            let place = random(bytes.len());
            bytes[place] = random(256) as u8;
        }
        // With a right checksum, so that what is behind it is tried.
        if random(4) != 0 && bytes.len() > 36 {
            *bytes = right_checksum(bytes.clone(), 9);
        }
        if random(8) == 0 {
            bytes.truncate(random(bytes.len()));
        }
        read_well += usize::from(Acpi::read(&memory, root).is_ok());
    }
    assert!(read_well > 1000, "{read_well}");
}
