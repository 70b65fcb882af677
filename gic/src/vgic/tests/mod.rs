//! Tests of the virtual controller against a simulated CPU interface.

mod delivery;
mod distributor;
mod fake;
mod physical;
mod property;
mod retry;

use fake::FakeCpu;

use super::{Config, Frame, Read, Version, Vgic, Width};
use crate::{Affinity, Effects, IntId, Line, VcpuIndex, VcpuSet};

const V0: VcpuIndex = VcpuIndex::new(0);
const V1: VcpuIndex = VcpuIndex::new(1);

const CTLR: u64 = 0x000;
const IGROUPR: u64 = 0x080;
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
const ISPENDR: u64 = 0x200;
const ICPENDR: u64 = 0x280;
const ISACTIVER: u64 = 0x300;
const ICACTIVER: u64 = 0x380;
const IPRIORITYR: u64 = 0x400;
const ITARGETSR: u64 = 0x800;
const ICFGR: u64 = 0xc00;
const SGIR: u64 = 0xf00;
const SGI_BASE: u64 = 0x1_0000;
const IROUTER: u64 = 0x6000;

/// A VM with its vCPUs loaded, each on a CPU of its own.
struct Machine {
    vgic: Vgic,
    cpus: Vec<FakeCpu>,
    version: Version,
}

impl Machine {
    fn new(version: Version, vcpus: u8, list_registers: usize) -> Self {
        Self::with(version, vcpus, list_registers, true)
    }

    fn with(
        version: Version,
        vcpus: u8,
        list_registers: usize,
        hardware_deactivation: bool,
    ) -> Self {
        let affinities: Vec<_> = (0..vcpus).map(|n| Affinity::new(0, 0, 0, n)).collect();
        let config = Config {
            version,
            vcpus: &affinities,
            spis: 64,
            priority_bits: 5,
            hardware_deactivation,
        };
        let mut vgic = Vgic::new(&config).unwrap();
        for n in 0..vcpus {
            vgic.loaded(VcpuIndex::new(n.into()));
        }
        let cpus = (0..vcpus).map(|_| FakeCpu::new(list_registers)).collect();
        Self { vgic, cpus, version }
    }

    /// A machine whose distributor forwards both groups.
    fn started(version: Version, vcpus: u8, list_registers: usize) -> Self {
        let mut machine = Self::new(version, vcpus, list_registers);
        machine.write(V0, CTLR, 0b11);
        machine
    }

    /// Kicks, as the image does: the vCPUs named fill.
    fn apply(&mut self, effects: Effects) {
        let mut kicked = effects.kick;
        while let Some(vcpu) = kicked.into_iter().next() {
            kicked.remove(vcpu);
            kicked = kicked.union(self.vgic.update(vcpu, &mut self.cpus[vcpu.get()]).kick);
        }
        for n in 0..self.cpus.len() {
            assert!(
                !self.vgic.needs_update(VcpuIndex::new(n)),
                "vCPU {n} needs an update and was not kicked"
            );
        }
    }

    /// Takes maintenance interrupts until there are none.
    fn maintain(&mut self) {
        for n in 0..self.cpus.len() {
            for round in 0.. {
                if !self.cpus[n].maintenance() {
                    break;
                }
                assert!(round < 3, "maintenance interrupt storm");
                let vcpu = VcpuIndex::new(n);
                let mut effects = self.vgic.maintenance(vcpu, &mut self.cpus[n]);
                effects.merge(self.vgic.update(vcpu, &mut self.cpus[n]));
                effects.kick.remove(vcpu);
                self.apply(effects);
            }
        }
    }

    /// A word written to the distributor, or for private interrupts of GICv3 to the redistributor.
    fn write(&mut self, vcpu: VcpuIndex, offset: u64, value: u64) {
        self.write_sized(vcpu, offset, Width::Word, value);
    }

    fn write_sized(&mut self, vcpu: VcpuIndex, offset: u64, width: Width, value: u64) {
        let (frame, offset) = self.place(vcpu, offset);
        let effects = self.vgic.write(frame, vcpu, offset, width, value);
        self.apply(effects);
    }

    fn place(&self, vcpu: VcpuIndex, offset: u64) -> (Frame, u64) {
        let private = matches!(
            offset,
            0x80 | 0x100 | 0x180 | 0x200 | 0x280 | 0x300 | 0x380 | 0x400..0x420 | 0xc00 | 0xc04
        );
        if private && self.version == Version::V3 {
            (Frame::Redistributor(vcpu), SGI_BASE + offset)
        } else {
            (Frame::Distributor, offset)
        }
    }

    /// Reads a word, with folds as the answer to retries.
    fn read(&mut self, vcpu: VcpuIndex, offset: u64) -> u64 {
        self.read_sized(vcpu, offset, Width::Word)
    }

    fn read_sized(&mut self, vcpu: VcpuIndex, offset: u64, width: Width) -> u64 {
        let (frame, offset) = self.place(vcpu, offset);
        for _ in 0..=self.cpus.len() {
            match self.vgic.read(frame, vcpu, offset, width) {
                Read::Value(value) => {
                    if self.vgic.needs_update(vcpu) {
                        self.apply(Effects { kick: VcpuSet::only(vcpu) });
                    }
                    return value;
                }
                Read::Retry(set) => {
                    if set.contains(vcpu) {
                        let effects = self.vgic.fold(vcpu, &mut self.cpus[vcpu.get()]);
                        assert_eq!(effects.others(vcpu), VcpuSet::EMPTY);
                    }
                    for other in set.without(VcpuSet::only(vcpu)) {
                        let effects = self.vgic.fill(other, &mut self.cpus[other.get()]);
                        assert_eq!(effects.others(other), VcpuSet::EMPTY);
                    }
                }
            }
        }
        panic!("the read never ends");
    }

    fn enable(&mut self, vcpu: VcpuIndex, intid: u32) {
        self.write(vcpu, ISENABLER + u64::from(intid / 32 * 4), 1 << (intid % 32));
    }

    fn disable(&mut self, vcpu: VcpuIndex, intid: u32) {
        self.write(vcpu, ICENABLER + u64::from(intid / 32 * 4), 1 << (intid % 32));
    }

    fn set_priority(&mut self, vcpu: VcpuIndex, intid: u32, priority: u8) {
        self.write_sized(vcpu, IPRIORITYR + u64::from(intid), Width::Byte, priority.into());
    }

    fn set_edge(&mut self, intid: u32, edge: bool) {
        let offset = ICFGR + u64::from(intid / 16 * 4);
        let bit = 0b10 << (intid % 16 * 2);
        let before = self.read(V0, offset);
        self.write(V0, offset, if edge { before | bit } else { before & !bit });
    }

    fn route(&mut self, intid: u32, vcpu: VcpuIndex) {
        match self.version {
            Version::V2 => {
                self.write_sized(V0, ITARGETSR + u64::from(intid), Width::Byte, 1 << vcpu.get());
            }
            Version::V3 => {
                self.write_sized(
                    V0,
                    IROUTER + u64::from(intid) * 8,
                    Width::Double,
                    vcpu.get() as u64,
                );
            }
        }
    }

    /// An SPI, enabled and routed.
    fn set_up(&mut self, intid: u32, vcpu: VcpuIndex) {
        self.route(intid, vcpu);
        self.enable(V0, intid);
    }

    fn level(&mut self, line: Line, asserted: bool) {
        let effects = self.vgic.set_level(line, asserted);
        self.apply(effects);
    }

    fn send_sgi(&mut self, from: VcpuIndex, targets: u8, sgi: u32) {
        let effects = match self.version {
            Version::V2 => {
                let value = u64::from(targets) << 16 | u64::from(sgi);
                self.vgic.write(Frame::Distributor, from, SGIR, Width::Word, value)
            }
            Version::V3 => self.vgic.write_sgi1r(from, u64::from(targets) | u64::from(sgi) << 24),
        };
        self.apply(effects);
    }

    fn acknowledge(&mut self, vcpu: VcpuIndex) -> Option<u32> {
        self.cpus[vcpu.get()].acknowledge().map(|(intid, _)| intid.get())
    }

    /// The guest ends an interrupt with `EOImode` 0.
    fn end(&mut self, vcpu: VcpuIndex, intid: u32) {
        self.end_from(vcpu, intid, 0);
    }

    fn end_from(&mut self, vcpu: VcpuIndex, intid: u32, source: u8) {
        let cpu = &mut self.cpus[vcpu.get()];
        cpu.priority_drop();
        cpu.deactivate_virtual(IntId::new(intid), source);
        self.maintain();
    }

    /// Moves a vCPU off its CPU and back.
    fn switch(&mut self, vcpu: VcpuIndex) {
        let cpu = &mut self.cpus[vcpu.get()];
        let mut effects = self.vgic.fold(vcpu, cpu);
        self.vgic.unloaded(vcpu);
        assert_eq!(cpu.used(), [], "a fold frees all list registers");
        self.vgic.loaded(vcpu);
        effects.merge(self.vgic.fill(vcpu, cpu));
        effects.kick.remove(vcpu);
        self.apply(effects);
    }
}

fn spi(intid: u32) -> Line {
    Line::Spi(IntId::new(intid))
}

fn ppi(vcpu: VcpuIndex, intid: u32) -> Line {
    Line::Ppi(vcpu, IntId::new(intid))
}

const BOTH: [Version; 2] = [Version::V2, Version::V3];
