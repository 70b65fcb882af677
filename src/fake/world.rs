//! Host CPUs, virtual machines and what a test does with them.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::baton::{Baton, Over};
use super::device::Recorder;
use super::vcpu::{FakeMachine, FakeVcpu, Op};
use super::{Fake, Host, PoweredOff, move_to};
use crate::address::{CpuId, VcpuId};
use crate::bus::{Bus, Space};
use crate::config::{MachineConfig, Payload, VmConfig};
use crate::console::Console;
use crate::cpu::Cpu;
use crate::hypervisor::Hypervisor;
use crate::placement::Placement;
use crate::vcpu::VcpuHandle;
use crate::vm::Vm;

/// Something that happens while a guest runs or a host CPU idles.
pub(crate) type Action = fn(&World);

/// Where every machine has a [`Recorder`] in memory space.
pub(crate) const DEVICE: u64 = 0x1000;
/// Where every machine has the same one in port space.
pub(crate) const PORT: u64 = 0x60;

/// A virtual machine called `name`.
pub(crate) fn vm(name: &str, vcpus: u32) -> VmConfig {
    VmConfig::new(name, vcpus, 2 << 20, Payload { offset: 0, size: 0 })
}

/// The code of one virtual machine: that of each boot of the first virtual
/// CPU, and what else can be started, by entry address.
pub(crate) type Code<'a> = (&'a [&'a [Op]], &'a [(u64, &'a [Op])]);

/// How one step of a host CPU ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It has done something.
    Went,
    /// It sleeps until somebody kicks it.
    Asleep,
    /// It has turned the host off.
    PoweredOff,
}

/// Everything that a test sees.
pub(crate) struct World {
    pub(crate) hypervisor: &'static Hypervisor<Fake>,
    pub(crate) host: Arc<Host>,
    pub(crate) vms: Vec<Arc<Vm<Fake>>>,
    pub(crate) devices: Vec<Arc<Recorder>>,
    cpus: Vec<RefCell<Cpu<'static, Fake>>>,
}

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

impl World {
    /// Starts the virtual machines of `config` on `cpus` host CPUs that the
    /// test steps by hand.
    pub(crate) fn start(cpus: usize, config: &MachineConfig, code: &[Code<'_>]) -> Rc<Self> {
        let world = Rc::new(Self::build(cpus, config, code));
        WORLD.set(Some(world.clone()));
        world
    }

    /// One virtual machine with one virtual CPU that runs `ops` on one host CPU.
    pub(crate) fn of_one(ops: &[Op]) -> Rc<Self> {
        Self::start(1, &MachineConfig::new(vec![vm("one", 1)]), &[(&[ops], &[])])
    }

    /// Runs the virtual machines of `config` on `cpus` host CPUs whose steps
    /// interleave as `choices` say, until nobody can go on.
    pub(crate) fn interleave(
        cpus: usize,
        choices: Vec<u8>,
        config: &MachineConfig,
        code: &[Code<'_>],
    ) -> Self {
        let world = Self::build(cpus, config, code);
        world.hypervisor.complete_start();
        let (host, hypervisor) = (&world.host, world.hypervisor);
        let baton = host.baton.get_or_init(|| Baton::new(cpus, choices));
        std::thread::scope(|scope| {
            for cpu in 0..cpus {
                scope.spawn(move || {
                    move_to(cpu);
                    let ended = catch_unwind(AssertUnwindSafe(|| {
                        baton.begin(cpu);
                        Cpu::new(hypervisor, CpuId(cpu)).run()
                    }));
                    baton.end(cpu, || host.next_timer());
                    if let Err(cause) = ended
                        && !cause.is::<PoweredOff>()
                        && !cause.is::<Over>()
                    {
                        resume_unwind(cause);
                    }
                });
            }
        });
        assert!(!baton.went_round_in_circles(), "went round in circles");
        world
    }

    fn build(cpus: usize, config: &MachineConfig, code: &[Code<'_>]) -> Self {
        let host = Host::new(cpus);
        let hypervisor: &'static _ = Box::leak(Box::new(Hypervisor::new(
            Fake(host.clone()),
            cpus,
            Box::leak(Box::new(Console::new())),
        )));
        let placement = Placement::new((0..cpus).map(CpuId), &config.vms);
        let (mut vms, mut devices) = (Vec::new(), Vec::new());
        for (config, (boots, others)) in config.vms.iter().zip(code) {
            let device = Arc::new(Recorder::default());
            let mut bus = Bus::new();
            bus.attach(Space::Memory, DEVICE, Recorder::SIZE, device.clone()).unwrap();
            bus.attach(Space::Port, PORT, Recorder::SIZE, device.clone()).unwrap();
            let machine = Arc::new(FakeMachine::new(&host, boots, others));
            let homes = placement.homes(config).unwrap().into_iter().enumerate();
            let handles: Vec<_> =
                homes.map(|(i, home)| Arc::new(VcpuHandle::new(VcpuId(i), home))).collect();
            machine.connect(handles.clone());
            let vcpus = handles.iter().map(|h| FakeVcpu::new(machine.clone(), h.clone())).collect();
            let vm = Arc::new(Vm::new(config.clone(), bus, machine, handles));
            hypervisor.add(vm.clone(), vcpus);
            if config.autostart {
                vm.start(&hypervisor.backend);
            }
            vms.push(vm);
            devices.push(device);
        }
        let cpus = (0..cpus).map(|id| RefCell::new(Cpu::new(hypervisor, CpuId(id)))).collect();
        World { hypervisor, host, vms, devices, cpus }
    }

    /// Does `action` in the world of this thread.
    pub(crate) fn with(action: Action) {
        let world = WORLD.with_borrow(|world| world.clone()).expect("a world stepped by hand");
        action(&world);
    }

    /// Has a host CPU that would sleep do `action` instead.
    pub(crate) fn when_idle(&self, action: Action) {
        self.host.idle_actions.lock().unwrap().push_back(action);
    }

    /// One step of host CPU `cpu`; another one may be in the middle of its own.
    pub(crate) fn step(&self, cpu: usize) -> Step {
        let before = move_to(cpu);
        self.host.cpus[cpu].asleep.store(false, SeqCst);
        let ended = catch_unwind(AssertUnwindSafe(|| self.cpus[cpu].borrow_mut().step()));
        move_to(before);
        match ended {
            Ok(()) if self.host.cpus[cpu].asleep.load(SeqCst) => Step::Asleep,
            Ok(()) => Step::Went,
            Err(cause) if cause.is::<PoweredOff>() => Step::PoweredOff,
            Err(cause) => resume_unwind(cause),
        }
    }

    /// Steps all host CPUs in turn until all sleep or one turns the host off.
    pub(crate) fn settle(&self) -> Step {
        for _ in 0..10_000 {
            let steps: Vec<_> = (0..self.cpus.len()).map(|cpu| self.step(cpu)).collect();
            if steps.contains(&Step::PoweredOff) {
                return Step::PoweredOff;
            }
            if steps.iter().all(|step| *step == Step::Asleep) {
                return Step::Asleep;
            }
        }
        panic!("the host CPUs never come to rest");
    }
}
