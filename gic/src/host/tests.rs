//! The drivers over pages of memory that stand for registers.
#![allow(unsafe_code)]

use super::*;

/// Memory for a frame, aligned as devices are.
struct Page {
    words: Box<[Aligned]>,
}

#[repr(align(4096))]
#[derive(Clone, Copy)]
struct Aligned([u32; 1024]);

impl Page {
    fn new(size: usize) -> Self {
        Self { words: vec![Aligned([0; 1024]); size.div_ceil(4096)].into() }
    }

    fn address(&mut self) -> usize {
        self.words.as_mut_ptr().expose_provenance()
    }

    fn get(&self, offset: usize) -> u32 {
        let word = &self.words[offset / 4096].0[offset % 4096 / 4];
        // SAFETY: a reference is valid to read; the driver may have written behind the compiler's back.
        unsafe { std::ptr::read_volatile(word) }
    }

    fn set(&mut self, offset: usize, value: u32) {
        let word = &mut self.words[offset / 4096].0[offset % 4096 / 4];
        // SAFETY: a reference is valid to write.
        unsafe { std::ptr::write_volatile(word, value) }
    }
}

struct MachineV2 {
    gicd: Page,
    gicc: Page,
    gich: Page,
}

impl MachineV2 {
    fn new(gicc_size: usize) -> Self {
        let mut machine =
            Self { gicd: Page::new(0x1000), gicc: Page::new(gicc_size), gich: Page::new(0x1000) };
        machine.gicd.set(0x004, 2 | 1 << 5);
        machine.gicd.set(0x800, 0x0202_0202);
        machine.gich.set(0x004, 4 << 29 | 4 << 26 | 3);
        machine.gicc.set(0xfc, 0x0202_143b);
        machine
    }

    fn controller(&mut self) -> Result<v2::Distributor, Error> {
        let frames = v2::Frames {
            gicd: self.gicd.address(),
            gicc: self.gicc.address(),
            gicc_size: self.gicc.words.len() * 4096,
            gich: self.gich.address(),
            gicv: 0x4000_0000,
        };
        // SAFETY: the pages live as long as the test.
        unsafe { v2::Distributor::new(&frames) }
    }
}

#[test]
fn v2_starts_with_all_shared_interrupts_off_and_routed_to_the_boot_cpu() {
    let mut machine = MachineV2::new(0x2000);
    machine.gicd.set(0x084, 0xffff_ffff);
    let controller = Controller::V2(machine.controller().unwrap());
    assert_eq!(controller.interrupts(), 96);
    controller.init_distributor(Affinity::from_mpidr(0)).unwrap();
    for (name, offset, expected) in [
        ("CTLR", 0x000, 1),
        ("group 0 without security extensions", 0x084, 0),
        ("ICENABLER1", 0x184, 0xffff_ffff),
        ("ICENABLER2", 0x188, 0xffff_ffff),
        ("beyond the last", 0x18c, 0),
        ("private ones are each CPU's", 0x180, 0),
        ("ICACTIVER1", 0x384, 0xffff_ffff),
        ("priorities", 0x420, 0xa0a0_a0a0),
        ("last priorities", 0x45c, 0xa0a0_a0a0),
        ("targets", 0x820, 0x0202_0202),
        ("last targets", 0x85c, 0x0202_0202),
    ] {
        assert_eq!(machine.gicd.get(offset), expected, "{name}");
    }
}

#[test]
fn v2_leaves_groups_to_secure_firmware() {
    let mut machine = MachineV2::new(0x2000);
    machine.gicd.set(0x004, 2 | 1 << 5 | 1 << 10);
    machine.gicd.set(0x084, 0x1234);
    machine.controller().unwrap().init().unwrap();
    assert_eq!(machine.gicd.get(0x084), 0x1234);
}

#[test]
fn v2_drops_priority_and_deactivates_apart() {
    let mut machine = MachineV2::new(0x2000);
    machine.gicc.set(0x000, 0x1e0);
    let controller = Controller::V2(machine.controller().unwrap());
    let cpu = controller.init_cpu(Affinity::from_mpidr(1)).unwrap();
    assert_eq!(
        machine.gicc.get(0x000),
        0x1e0 | 1 << 9 | 1,
        "EOImode, and bypass bits as they were"
    );
    assert_eq!(machine.gicc.get(0x004), 0xff);
    machine.gicc.set(0x00c, 3 << 10 | 5);
    let interrupt = cpu.acknowledge().unwrap();
    assert_eq!((interrupt.intid(), interrupt.source()), (IntId::new(5), 3));
    cpu.priority_drop(interrupt);
    assert_eq!(machine.gicc.get(0x010), 3 << 10 | 5, "with its source");
    cpu.deactivate(interrupt);
    assert_eq!(machine.gicc.get(0x1000), 3 << 10 | 5);
    for special in [1020, 1022, 1023] {
        machine.gicc.set(0x00c, special);
        assert_eq!(cpu.acknowledge(), None);
    }
}

#[test]
fn v2_sends_sgis_to_the_interface_that_the_target_has() {
    let mut machine = MachineV2::new(0x2000);
    let controller = Controller::V2(machine.controller().unwrap());
    let cpu = controller.init_cpu(Affinity::from_mpidr(1)).unwrap();
    let target = cpu.sgi_target();
    cpu.send_sgi(KICK, target);
    assert_eq!(machine.gicd.get(0xf00), 0b10 << 16 | KICK.get());
    cpu.target_self(IntId::new(42));
    assert_eq!(machine.gicd.get(0x828), 0x0002_0000, "one byte");
}

#[test]
fn v2_accesses_one_interrupt_at_a_time() {
    let mut machine = MachineV2::new(0x2000);
    let controller = Controller::V2(machine.controller().unwrap());
    let cpu = controller.init_cpu(Affinity::from_mpidr(0)).unwrap();
    let intid = IntId::new(42);
    cpu.enable(intid);
    cpu.disable(intid);
    cpu.set_pending(intid);
    cpu.clear_pending(intid);
    cpu.set_active(intid);
    cpu.clear_active(intid);
    for offset in [0x104, 0x184, 0x204, 0x284, 0x304, 0x384] {
        assert_eq!(machine.gicd.get(offset), 1 << 10, "{offset:#x}");
    }
    assert!(cpu.is_pending(intid) && cpu.is_active(intid) && cpu.is_enabled(intid));
    assert!(!cpu.is_pending(IntId::new(43)));
    machine.gicd.set(0x428, 0x1111_1111);
    cpu.set_priority(intid, 0x80);
    assert_eq!(machine.gicd.get(0x428), 0x1180_1111, "the neighbours keep theirs");
    machine.gicd.set(0xc08, 0x0000_0002);
    cpu.set_trigger(intid, Trigger::Edge);
    assert_eq!(machine.gicd.get(0xc08), 0x0020_0002);
    cpu.set_trigger(IntId::new(32), Trigger::Level);
    assert_eq!(machine.gicd.get(0xc08), 0x0020_0000);
}

#[test]
fn an_aliased_cpu_interface_is_used_at_its_last_page() {
    let mut machine = MachineV2::new(0x2_0000);
    machine.gicc.set(0xf0fc, 0x0202_143b);
    let controller = machine.controller().unwrap();
    assert_eq!(controller.gicv(), 0x4000_f000);
    let cpu = controller.init_cpu().unwrap();
    machine.gicc.set(0xf00c, 30);
    let interrupt = cpu.acknowledge().unwrap();
    cpu.deactivate(interrupt);
    assert_eq!(machine.gicc.get(0x1_0000), 30, "GICC_DIR on the next 64 KiB page");
}

#[test]
fn a_large_cpu_interface_that_is_not_aliased_is_used_at_its_start() {
    let mut machine = MachineV2::new(0x2_0000);
    assert_eq!(machine.controller().unwrap().gicv(), 0x4000_0000);
}

#[test]
fn frames_that_cannot_be_are_refused() {
    let mut machine = MachineV2::new(0x1000);
    assert_eq!(machine.controller().unwrap_err(), Error::Frame("GICC"), "without GICC_DIR");
    let frames = v3::Frames { gicd: 0, redistributors: &[] };
    // SAFETY: nothing is accessed.
    assert_eq!(unsafe { v3::Distributor::new(&frames) }.unwrap_err(), Error::Frame("GICD"));
}

#[test]
fn gich_is_a_set_of_list_registers() {
    let mut machine = MachineV2::new(0x2000);
    for n in 0..4 {
        machine.gich.set(0x100 + 4 * n, 0xffff_ffff);
    }
    let controller = Controller::V2(machine.controller().unwrap());
    let interface = controller.init_cpu(Affinity::from_mpidr(0)).unwrap();
    let cpu = &mut &interface;
    assert_eq!((cpu.count(), cpu.priority_bits()), (4, 5));
    assert_eq!(machine.gich.get(0x10c), 0, "freed");
    let value =
        ListRegister { intid: IntId::new(42), eoi_maintenance: true, ..ListRegister::INVALID };
    ListRegisters::write(cpu, 2, &value);
    assert_eq!(machine.gich.get(0x108), value.encode_gich());
    assert_eq!(ListRegisters::read(cpu, 2), value);
    cpu.enable_virtual_interface(true);
    cpu.set_underflow(true);
    assert_eq!(machine.gich.get(0x000), 0b11);
    cpu.set_underflow(false);
    assert_eq!(machine.gich.get(0x000), 0b01);
    machine.gich.set(0x000, 3 << 27 | 0b01);
    cpu.set_end_outside_maintenance(true);
    assert_eq!(machine.gich.get(0x000), 0b101, "counts from zero");
    machine.gich.set(0x000, 2 << 27 | 0b101);
    assert_eq!(cpu.ended_outside(), 2);
    assert_eq!(machine.gich.get(0x000), 0b101, "EOICount starts anew");
    cpu.set_end_outside_maintenance(false);
    assert_eq!(machine.gich.get(0x000), 0b001);
    assert!(!cpu.has_maintenance());
    machine.gich.set(0x010, 1);
    assert!(cpu.has_maintenance());
    machine.gich.set(0x008, 0x1f << 27 | 1 << 9);
    machine.gich.set(0x0f0, 0x55);
    assert_eq!(cpu.priority_mask(), 0xf8);
    assert!(cpu.splits_deactivation());
    let mut state = CpuInterfaceState::default();
    cpu.save(&mut state);
    cpu.restore(&CpuInterfaceState::default());
    assert_eq!((machine.gich.get(0x008), machine.gich.get(0x0f0)), (0, 0));
    cpu.restore(&state);
    assert_eq!((machine.gich.get(0x008), machine.gich.get(0x0f0)), (0x1f << 27 | 1 << 9, 0x55));
    ListRegisters::deactivate(cpu, 27);
    assert_eq!(machine.gicc.get(0x1000), 27);
}

struct MachineV3 {
    gicd: Page,
    regions: Vec<Page>,
}

const TYPER_VLPIS: u32 = 1 << 1;
const TYPER_LAST: u32 = 1 << 4;

impl MachineV3 {
    /// With regions of redistributors, each given by its affinities and low words of `GICR_TYPER`.
    fn new(regions: &[&[(u32, u32)]]) -> Self {
        let mut gicd = Page::new(0x1_0000);
        gicd.set(0x004, 1);
        let regions = regions.iter().map(|redistributors| {
            let mut page = Page::new(redistributors.len() * 0x4_0000);
            let mut offset = 0;
            for (affinity, typer) in *redistributors {
                page.set(offset + 0x8, *typer);
                page.set(offset + 0xc, *affinity);
                offset += if typer & TYPER_VLPIS != 0 { 0x4_0000 } else { 0x2_0000 };
            }
            page
        });
        Self { gicd, regions: regions.collect() }
    }

    fn controller(&mut self) -> Controller {
        let redistributors: Vec<_> =
            self.regions.iter_mut().map(|page| (page.address(), page.words.len() * 4096)).collect();
        let frames = v3::Frames { gicd: self.gicd.address(), redistributors: &redistributors };
        // SAFETY: the pages live as long as the test.
        Controller::V3(unsafe { v3::Distributor::new(&frames) }.unwrap())
    }
}

#[test]
fn v3_starts_with_affinity_routing_and_everything_to_the_boot_cpu() {
    let mut machine = MachineV3::new(&[]);
    let controller = machine.controller();
    controller.init_distributor(Affinity::new(1, 2, 3, 4)).unwrap();
    for (name, offset, expected) in [
        ("CTLR: ARE and group 1", 0x000, 1 << 4 | 1 << 1),
        ("group 1", 0x084, 0xffff_ffff),
        ("ICENABLER1", 0x184, 0xffff_ffff),
        ("IROUTER32", 0x6100, 0x0002_0304),
        ("IROUTER32 high", 0x6104, 1),
        ("IROUTER63", 0x61f8, 0x0002_0304),
        ("beyond the last", 0x6200, 0),
    ] {
        assert_eq!(machine.gicd.get(offset), expected, "{name}");
    }
}

#[test]
fn a_distributor_that_never_settles_is_reported() {
    let mut machine = MachineV3::new(&[]);
    let controller = machine.controller();
    // Memory keeps what is written, so a CTLR that reads as pending has to be made so after the first write.
    let Controller::V3(distributor) = controller else { panic!("a GICv3") };
    machine.gicd.set(0x000, 1 << 31);
    assert_eq!(distributor.wait(), Err(Error::Pending("GICD_CTLR.RWP")));
}

#[test]
fn redistributors_are_found_by_affinity_in_every_region() {
    let layouts: [&[&[(u32, u32)]]; 2] = [
        &[&[(0x000, 0), (0x100, TYPER_LAST)], &[(0x200, 0), (0x300, TYPER_LAST)]],
        &[&[(0x000, TYPER_VLPIS), (0x100, TYPER_VLPIS | TYPER_LAST)], &[(0x200, 0), (0x300, 0)]],
    ];
    for layout in layouts {
        for cluster in 0..4 {
            let mut machine = MachineV3::new(layout);
            let affinity = Affinity::new(0, 0, cluster, 0);
            let cpu = machine.controller().init_cpu(affinity).unwrap();
            cpu.enable(IntId::new(27));
            let enabled: Vec<_> = machine
                .regions
                .iter()
                .flat_map(|page| {
                    (0..page.words.len() * 4096).step_by(0x2_0000).map(move |base| (page, base))
                })
                .filter(|(page, base)| page.get(base + 0x1_0100) == 1 << 27)
                .map(|(page, base)| page.get(base + 0xc))
                .collect();
            assert_eq!(enabled, [affinity.packed()]);
        }
        let mut machine = MachineV3::new(layout);
        let stranger = Affinity::new(0, 0, 4, 0);
        let error = machine.controller().init_cpu(stranger).unwrap_err();
        assert_eq!(error, Error::NoRedistributor(stranger));
    }
}

#[test]
fn a_redistributor_that_stays_asleep_is_reported() {
    let mut machine = MachineV3::new(&[&[(0, TYPER_LAST)]]);
    machine.regions[0].set(0x14, 0b110);
    let error = machine.controller().init_cpu(Affinity::from_mpidr(0)).unwrap_err();
    assert_eq!(error, Error::Asleep);
    assert_eq!(machine.regions[0].get(0x14), 0b100, "it was asked to wake");
}

#[test]
fn v3_keeps_private_and_shared_interrupts_apart() {
    let mut machine = MachineV3::new(&[&[(0, TYPER_LAST)]]);
    let cpu = machine.controller().init_cpu(Affinity::from_mpidr(0)).unwrap();
    assert_eq!(machine.regions[0].get(0x1_0080), 0xffff_ffff, "group 1");
    assert_eq!(machine.regions[0].get(0x1_0100), 0xffff, "SGIs enabled");
    cpu.set_active(IntId::new(27));
    cpu.set_active(IntId::new(40));
    assert_eq!(machine.regions[0].get(0x1_0300), 1 << 27);
    assert_eq!(machine.gicd.get(0x304), 1 << 8);
    cpu.target_self(IntId::new(40));
    cpu.target_self(IntId::new(27));
    assert_eq!((machine.gicd.get(0x6140), machine.gicd.get(0x60d8)), (0, 0));
}
