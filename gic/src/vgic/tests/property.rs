//! Random histories, compared with a model that has neither list registers nor folding: each interrupt has its own
//! latch, line and active state, and the CPU takes the most urgent.

use super::*;
use proptest::prelude::*;

const VCPUS: usize = 2;

/// The interrupts that take part.
const INTERRUPTS: &[(u32, Kind)] = &[
    (1, Kind::Sgi),
    (2, Kind::Sgi),
    (20, Kind::Level),
    (27, Kind::Linked),
    (32, Kind::Level),
    (33, Kind::Level),
    (34, Kind::Edge),
    (35, Kind::Edge),
    (36, Kind::Linked),
    (64, Kind::Level),
    (65, Kind::Edge),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sgi,
    Level,
    Edge,
    /// A physical interrupt is behind it; its number is 100 higher.
    Linked,
}

#[derive(Clone, Debug)]
enum Step {
    Line { which: usize, vcpu: usize, asserted: bool },
    Sgi { which: usize, from: usize, targets: u8 },
    Enable { which: usize, vcpu: usize, on: bool },
    Priority { which: usize, vcpu: usize, priority: u8 },
    SetPending { which: usize, vcpu: usize },
    ClearPending { which: usize, vcpu: usize },
    ClearActive { which: usize, vcpu: usize },
    Route { which: usize, vcpu: usize },
    Forward { on: bool },
    Acknowledge { vcpu: usize },
    End { vcpu: usize },
    Drop { vcpu: usize },
    Deactivate { vcpu: usize, nth: usize },
    Switch { vcpu: usize },
    ReadState { which: usize, vcpu: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..INTERRUPTS.len();
    let vcpu = 0..VCPUS;
    prop_oneof![
        6 => (which.clone(), vcpu.clone(), any::<bool>())
            .prop_map(|(which, vcpu, asserted)| Step::Line { which, vcpu, asserted }),
        4 => (0usize..2, vcpu.clone(), 1u8..4).prop_map(|(which, from, targets)| Step::Sgi { which, from, targets }),
        2 => (which.clone(), vcpu.clone(), any::<bool>())
            .prop_map(|(which, vcpu, on)| Step::Enable { which, vcpu, on }),
        2 => (which.clone(), vcpu.clone(), 0u8..8)
            .prop_map(|(which, vcpu, priority)| Step::Priority { which, vcpu, priority: priority << 3 }),
        1 => (which.clone(), vcpu.clone()).prop_map(|(which, vcpu)| Step::SetPending { which, vcpu }),
        1 => (which.clone(), vcpu.clone()).prop_map(|(which, vcpu)| Step::ClearPending { which, vcpu }),
        1 => (which.clone(), vcpu.clone()).prop_map(|(which, vcpu)| Step::ClearActive { which, vcpu }),
        1 => (which.clone(), vcpu.clone()).prop_map(|(which, vcpu)| Step::Route { which, vcpu }),
        1 => any::<bool>().prop_map(|on| Step::Forward { on }),
        8 => vcpu.clone().prop_map(|vcpu| Step::Acknowledge { vcpu }),
        6 => vcpu.clone().prop_map(|vcpu| Step::End { vcpu }),
        2 => vcpu.clone().prop_map(|vcpu| Step::Drop { vcpu }),
        2 => (vcpu.clone(), 0usize..4).prop_map(|(vcpu, nth)| Step::Deactivate { vcpu, nth }),
        1 => vcpu.clone().prop_map(|vcpu| Step::Switch { vcpu }),
        1 => (which, vcpu).prop_map(|(which, vcpu)| Step::ReadState { which, vcpu }),
    ]
}

/// One interrupt of the model: an SGI has one for each sender and vCPU, a PPI one for each vCPU.
#[derive(Clone, Debug)]
struct Interrupt {
    intid: u32,
    /// GICv2: the sender.
    source: u8,
    kind: Kind,
    /// Where it is delivered.
    vcpu: usize,
    enabled: bool,
    priority: u8,
    line: bool,
    latch: bool,
    /// Who has acknowledged it and not deactivated it.
    active: Option<usize>,
}

impl Interrupt {
    fn pending(&self) -> bool {
        self.latch || (self.line && self.kind == Kind::Level)
    }
}

struct Model {
    machine: Machine,
    interrupts: Vec<Interrupt>,
    forwarding: bool,
    /// For each vCPU, what it has acknowledged and whose priority it hasn't dropped, the latest last.
    running: [Vec<(u32, u8)>; VCPUS],
    /// For each vCPU, what it has dropped and not deactivated.
    dropped: [Vec<(u32, u8)>; VCPUS],
}

impl Model {
    fn new(version: Version, list_registers: usize) -> Self {
        let mut machine = Machine::started(version, VCPUS as u8, list_registers);
        let mut interrupts = Vec::new();
        for (position, &(intid, kind)) in INTERRUPTS.iter().enumerate() {
            let priority = (position as u8 % 8) << 3;
            let vcpus = if intid < 32 { VCPUS } else { 1 };
            let sources = if kind == Kind::Sgi && version == Version::V2 { VCPUS } else { 1 };
            for vcpu in 0..vcpus {
                let index = VcpuIndex::new(vcpu);
                if intid < 32 {
                    machine.enable(index, intid);
                } else {
                    machine.set_up(intid, V0);
                    machine.set_edge(intid, kind == Kind::Edge);
                }
                machine.set_priority(index, intid, priority);
                if kind == Kind::Linked {
                    let line = if intid < 32 { ppi(index, intid) } else { spi(intid) };
                    machine.vgic.link_physical(line, intid + 100);
                }
                for source in 0..sources {
                    interrupts.push(Interrupt {
                        intid,
                        source: source as u8,
                        kind,
                        vcpu,
                        enabled: true,
                        priority,
                        line: false,
                        latch: false,
                        active: None,
                    });
                }
            }
        }
        Self {
            machine,
            interrupts,
            forwarding: true,
            running: [vec![], vec![]],
            dropped: [vec![], vec![]],
        }
    }

    /// The entries of one interrupt as `vcpu` sees it.
    fn entries(&mut self, intid: u32, vcpu: usize) -> impl Iterator<Item = &mut Interrupt> {
        self.interrupts.iter_mut().filter(move |interrupt| {
            interrupt.intid == intid && (intid >= 32 || interrupt.vcpu == vcpu)
        })
    }

    /// Priority and state of what the CPU would take next.
    fn best(&self, vcpu: usize) -> Option<u8> {
        let running = self.machine.cpus[vcpu].running_priority();
        self.interrupts
            .iter()
            .filter(|interrupt| self.forwarding && interrupt.enabled && interrupt.pending())
            .filter(|interrupt| {
                !self.is_active(interrupt) && interrupt.vcpu == vcpu && interrupt.priority < running
            })
            .map(|interrupt| interrupt.priority)
            .min()
    }

    /// Whether it is active, for an SGI from any sender: others have to wait until the guest has deactivated it.
    fn is_active(&self, interrupt: &Interrupt) -> bool {
        self.interrupts.iter().any(|other| {
            other.intid == interrupt.intid && other.vcpu == interrupt.vcpu && other.active.is_some()
        })
    }

    fn active(&self, vcpu: usize) -> usize {
        self.interrupts.iter().filter(|interrupt| interrupt.active == Some(vcpu)).count()
    }

    fn check(&self) {
        for vcpu in 0..VCPUS {
            let cpu = &self.machine.cpus[vcpu];
            let (best, expected) = (cpu.best().map(|register| register.priority), self.best(vcpu));
            if cpu.split && self.active(vcpu) >= cpu.registers.len() {
                // Active ones go first: the pending ones may have to wait, but none may come from nowhere.
                assert!(
                    best.is_none() || best >= expected,
                    "vCPU {vcpu}: {best:?}, expected {expected:?}"
                );
            } else {
                assert_eq!(best, expected, "vCPU {vcpu}: most urgent; {:?}", cpu.registers);
            }
            assert_eq!(cpu.missed, 0, "a deactivation found no list register");
        }
    }

    /// An access to the distributor, with the effect that the physical interrupts that it gives back fire anew later.
    fn run(&mut self, step: &Step) {
        let version = self.machine.version;
        match *step {
            Step::Line { which, vcpu, asserted } => self.line(INTERRUPTS[which], vcpu, asserted),
            Step::Sgi { which, from, targets } => {
                let intid = INTERRUPTS[which].0;
                self.machine.send_sgi(VcpuIndex::new(from), targets, intid);
                for interrupt in &mut self.interrupts {
                    let source = if version == Version::V2 { from as u8 } else { 0 };
                    if interrupt.intid == intid
                        && interrupt.source == source
                        && targets & (1 << interrupt.vcpu) != 0
                    {
                        interrupt.latch = true;
                    }
                }
            }
            Step::Enable { which, vcpu, on } => {
                let (intid, _) = INTERRUPTS[which];
                let index = VcpuIndex::new(vcpu);
                if on {
                    self.machine.enable(index, intid)
                } else {
                    self.machine.disable(index, intid)
                };
                self.entries(intid, vcpu).for_each(|interrupt| interrupt.enabled = on);
            }
            Step::Priority { which, vcpu, priority } => {
                let (intid, _) = INTERRUPTS[which];
                self.machine.set_priority(VcpuIndex::new(vcpu), intid, priority);
                self.entries(intid, vcpu).for_each(|interrupt| interrupt.priority = priority);
            }
            Step::SetPending { which, vcpu } => {
                let (intid, kind) = INTERRUPTS[which];
                self.machine.write(
                    VcpuIndex::new(vcpu),
                    ISPENDR + u64::from(intid / 32 * 4),
                    1 << (intid % 32),
                );
                if kind != Kind::Sgi || version == Version::V3 {
                    self.entries(intid, vcpu).for_each(|interrupt| interrupt.latch = true);
                }
            }
            Step::ClearPending { which, vcpu } => {
                let (intid, kind) = INTERRUPTS[which];
                self.machine.write(
                    VcpuIndex::new(vcpu),
                    ICPENDR + u64::from(intid / 32 * 4),
                    1 << (intid % 32),
                );
                if kind != Kind::Sgi || version == Version::V3 {
                    self.entries(intid, vcpu).for_each(|interrupt| interrupt.latch = false);
                }
            }
            Step::ClearActive { which, vcpu } => {
                let (intid, _) = INTERRUPTS[which];
                self.machine.write(
                    VcpuIndex::new(vcpu),
                    ICACTIVER + u64::from(intid / 32 * 4),
                    1 << (intid % 32),
                );
                self.entries(intid, vcpu).for_each(|interrupt| interrupt.active = None);
                // Their priority is still to be dropped; a later deactivation finds nothing.
                for (n, dropped) in self.dropped.iter_mut().enumerate() {
                    dropped.retain(|&(other, _)| other != intid || (intid < 32 && n != vcpu));
                }
            }
            Step::Route { which, vcpu } => {
                let (intid, _) = INTERRUPTS[which];
                if intid >= 32 {
                    self.machine.route(intid, VcpuIndex::new(vcpu));
                    self.entries(intid, vcpu).for_each(|interrupt| interrupt.vcpu = vcpu);
                }
            }
            Step::Forward { on } => {
                self.machine.write(V0, CTLR, if on { 0b11 } else { 0 });
                self.forwarding = on;
            }
            Step::Acknowledge { vcpu } => self.acknowledge(vcpu),
            Step::End { vcpu } => {
                if let Some((intid, source)) = self.running[vcpu].pop() {
                    self.machine.cpus[vcpu].priority_drop();
                    self.deactivate(vcpu, intid, source);
                }
            }
            Step::Drop { vcpu } => {
                if let Some((intid, source)) = self.running[vcpu].pop() {
                    self.machine.cpus[vcpu].priority_drop();
                    let active = self.interrupts.iter().any(|interrupt| {
                        (interrupt.intid, interrupt.source, interrupt.active)
                            == (intid, source, Some(vcpu))
                    });
                    if active {
                        self.dropped[vcpu].push((intid, source));
                    }
                }
            }
            Step::Deactivate { vcpu, nth } => {
                if nth < self.dropped[vcpu].len() {
                    let (intid, source) = self.dropped[vcpu].remove(nth);
                    self.deactivate(vcpu, intid, source);
                }
            }
            Step::Switch { vcpu } => {
                let index = VcpuIndex::new(vcpu);
                let effects = self.machine.vgic.fold(index, &mut self.machine.cpus[vcpu]);
                let expected = self.interrupts.iter().any(|interrupt| {
                    self.forwarding
                        && interrupt.vcpu == vcpu
                        && interrupt.enabled
                        && interrupt.pending()
                        && !self.is_active(interrupt)
                });
                assert_eq!(self.machine.vgic.has_deliverable(index, 0xff), expected);
                self.machine.apply(Effects { kick: effects.kick.union(VcpuSet::only(index)) });
                self.machine.switch(index);
            }
            Step::ReadState { which, vcpu } => self.read_state(INTERRUPTS[which].0, vcpu),
        }
        self.machine.maintain();
        self.check();
    }

    fn line(&mut self, (intid, kind): (u32, Kind), vcpu: usize, asserted: bool) {
        let line = if intid < 32 { ppi(VcpuIndex::new(vcpu), intid) } else { spi(intid) };
        match kind {
            Kind::Sgi => {}
            Kind::Level | Kind::Edge => {
                self.machine.level(line, asserted);
                for interrupt in self.entries(intid, vcpu) {
                    interrupt.latch |= kind == Kind::Edge && asserted && !interrupt.line;
                    interrupt.line = asserted;
                }
            }
            Kind::Linked if asserted && !self.machine.vgic.is_physical_active(line) => {
                // It can't fire while it is active. The hardware knows best whether it still is.
                let fires = self.machine.cpus.iter().enumerate().all(|(n, cpu)| {
                    (intid < 32 && n != vcpu) || !cpu.physical.contains(&(intid + 100))
                });
                assert!(fires, "{intid}: physically active, but the controller thinks it is not");
                self.fire(line, vcpu);
            }
            Kind::Linked if asserted => {
                let active =
                    self.machine.cpus.iter().any(|cpu| cpu.physical.contains(&(intid + 100)));
                if !active {
                    // The guest has deactivated it without an exit.
                    self.fire(line, vcpu);
                }
            }
            Kind::Linked => {
                self.machine.level(line, false);
                self.entries(intid, vcpu).for_each(|interrupt| interrupt.latch = false);
            }
        }
    }

    fn fire(&mut self, line: Line, vcpu: usize) {
        let intid = line.intid().get();
        // A shared physical interrupt is active in the distributor, whichever CPU deactivates it.
        for (n, cpu) in self.machine.cpus.iter_mut().enumerate() {
            if intid >= 32 || n == vcpu {
                cpu.physical.insert(intid + 100);
            }
        }
        let effects = self.machine.vgic.inject_linked(line);
        self.machine.apply(effects);
        self.entries(intid, vcpu).for_each(|interrupt| interrupt.latch = true);
    }

    /// A shared interrupt that one CPU has deactivated is inactive for all.
    fn share_physical(&mut self) {
        for &(intid, kind) in INTERRUPTS {
            if kind == Kind::Linked && intid >= 32 {
                let active =
                    self.machine.cpus.iter().all(|cpu| cpu.physical.contains(&(intid + 100)));
                if !active {
                    for cpu in &mut self.machine.cpus {
                        cpu.physical.remove(&(intid + 100));
                    }
                }
            }
        }
    }

    fn acknowledge(&mut self, vcpu: usize) {
        let expected = self.best(vcpu);
        let cpu = &self.machine.cpus[vcpu];
        let full = cpu.split && self.active(vcpu) >= cpu.registers.len();
        let Some((intid, source)) = self.machine.cpus[vcpu].acknowledge() else {
            assert!(
                expected.is_none() || full,
                "nothing to acknowledge, expected priority {expected:?}"
            );
            return;
        };
        let intid = intid.get();
        let forwarding = self.forwarding;
        let interrupt = self
            .interrupts
            .iter_mut()
            .find(|interrupt| {
                (interrupt.intid, interrupt.source, interrupt.vcpu) == (intid, source, vcpu)
            })
            .unwrap_or_else(|| panic!("{intid} from {source} isn't for vCPU {vcpu}"));
        assert!(
            interrupt.pending() && interrupt.enabled && forwarding && interrupt.active.is_none(),
            "{interrupt:?}"
        );
        assert!(full || Some(interrupt.priority) == expected, "{interrupt:?} before {expected:?}");
        interrupt.latch = false;
        interrupt.active = Some(vcpu);
        self.running[vcpu].push((intid, source));
    }

    fn deactivate(&mut self, vcpu: usize, intid: u32, source: u8) {
        let entry = self.interrupts.iter_mut().find(|interrupt| {
            (interrupt.intid, interrupt.source, interrupt.active) == (intid, source, Some(vcpu))
        });
        // Unless it has been deactivated through the distributor.
        if let Some(entry) = entry {
            entry.active = None;
            self.machine.cpus[vcpu].deactivate_virtual(IntId::new(intid), source);
        }
    }

    /// `ISPENDR` and `ISACTIVER` are exact.
    fn read_state(&mut self, intid: u32, vcpu: usize) {
        let index = VcpuIndex::new(vcpu);
        let offset = u64::from(intid / 32 * 4);
        let pending = self.machine.read(index, ISPENDR + offset) >> (intid % 32) & 1 != 0;
        let active = self.machine.read(index, ISACTIVER + offset) >> (intid % 32) & 1 != 0;
        let expected =
            self.entries(intid, vcpu).fold((false, false), |(pending, active), interrupt| {
                (pending || interrupt.pending(), active || interrupt.active.is_some())
            });
        assert_eq!((pending, active), expected, "state of {intid}");
    }

    /// Lets the guest take everything; then nothing may be left.
    fn drain(&mut self) {
        for vcpu in 0..VCPUS {
            while !self.running[vcpu].is_empty() {
                self.run(&Step::End { vcpu });
            }
            while !self.dropped[vcpu].is_empty() {
                self.run(&Step::Deactivate { vcpu, nth: 0 });
            }
        }
        self.run(&Step::Forward { on: true });
        for which in 0..INTERRUPTS.len() {
            for vcpu in 0..VCPUS {
                self.run(&Step::Enable { which, vcpu, on: true });
                self.run(&Step::Line { which, vcpu, asserted: false });
                self.share_physical();
            }
        }
        for vcpu in 0..VCPUS {
            for _ in 0..100 {
                self.run(&Step::Acknowledge { vcpu });
                self.run(&Step::End { vcpu });
                self.share_physical();
            }
            let index = VcpuIndex::new(vcpu);
            self.run(&Step::Switch { vcpu });
            assert!(!self.machine.vgic.has_deliverable(index, 0xff));
            assert_eq!(self.machine.cpus[vcpu].used(), []);
            assert!(!self.machine.cpus[vcpu].underflow);
            assert!(!self.machine.cpus[vcpu].end_outside_maintenance);
        }
        for cpu in &self.machine.cpus {
            assert!(cpu.physical.is_empty(), "physical interrupts left active: {:?}", cpu.physical);
        }
        for interrupt in &self.interrupts {
            assert!(!interrupt.pending() && interrupt.active.is_none(), "{interrupt:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_nothing_is_doubled_and_priority_rules(
        v3: bool,
        split: bool,
        list_registers in 1usize..=5,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut model = Model::new(if v3 { Version::V3 } else { Version::V2 }, list_registers);
        model.machine.cpus.iter_mut().for_each(|cpu| cpu.split = split);
        for step in &steps {
            if !split && matches!(step, Step::Drop { .. } | Step::Deactivate { .. }) {
                continue;
            }
            model.run(step);
            model.share_physical();
        }
        model.drain();
    }
}
