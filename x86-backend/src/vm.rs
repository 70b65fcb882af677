//! A virtual machine's PC: memory, interrupt controllers, devices, and how it
//! starts.
#![deny(clippy::arithmetic_side_effects)]

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use bunshin::address::GuestAddress;
use bunshin::backend::{BootState, LoadError, Machine, Provided, Reset};
use bunshin::bus::{Bus, InterruptLine, Overlap, Space};
use bunshin::console::Channel;
use bunshin::device::clock::WallClock;
use bunshin::vcpu::VcpuHandle;
use spin::Once;
use spin::mutex::TicketMutex;
use stage2::BLOCK;
use x86_backend::machine::clock::{Clock, NANOSECONDS_PER_SECOND};
use x86_backend::machine::cpuid::Cpuid;
use x86_backend::machine::ioapic::IoApic;
use x86_backend::machine::kvm_clock::Reference;
use x86_backend::machine::lapic::{ApicBus, Mailbox, MessageSink, Wake};
use x86_backend::machine::pic::{Elcr, IsaLine, Pic, PicPorts};
use x86_backend::machine::pit::{Pit, SpeakerPort};
use x86_backend::machine::power::{
    AcpiPower, KeyboardReset, PciReset, PowerCommand, PowerControl, PowerTimer,
};
use x86_backend::machine::registers::InitialState;
use x86_backend::machine::rtc::Rtc;
use x86_backend::machine::uart16550::Uart16550;
use x86_backend::machine::{pic, pit, power, rtc, uart16550};

use crate::host::console::CONSOLE;
use crate::host::{self, timer};
use crate::images::Images;
use crate::ram::Ram;

/// Bytes of memory that are cleared with interrupts masked.
const PART: u64 = 2 * BLOCK;
/// Bytes of the ports of the ACPI sleep and reset registers.
const POWER_PORTS: u64 = 2;
/// Bytes of the ACPI timer.
const TIMER_PORTS: u64 = 4;

/// Wakes virtual CPUs.
pub(crate) struct Waker(Once<Vec<Arc<VcpuHandle>>>);

impl Wake for Waker {
    fn wake(&self, vcpu: usize) {
        if let Some(handle) = self.0.get().and_then(|handles| handles.get(vcpu))
            && handle.wake()
        {
            host::kick(handle.home());
        }
    }
}

/// Lets the interrupt bus and others share one waker.
pub(crate) struct SharedWaker(Arc<Waker>);

impl Wake for SharedWaker {
    fn wake(&self, vcpu: usize) {
        self.0.wake(vcpu);
    }
}

/// The output of the 8259 pair: a level that the first virtual CPU looks at.
struct ExternalLine {
    level: AtomicBool,
    waker: Arc<Waker>,
}

impl InterruptLine for ExternalLine {
    fn set(&self, asserted: bool) {
        self.level.store(asserted, Ordering::Release);
        if asserted {
            self.waker.wake(0);
        }
    }
}

/// A power command that the guest gave; the virtual CPU that gave it, or the
/// first to look, carries it out.
#[derive(Default)]
struct PowerLatch(AtomicU8);

impl PowerLatch {
    const NONE: u8 = 0;
    const OFF: u8 = 1;
    const RESET: u8 = 2;
}

impl PowerControl for PowerLatch {
    fn request(&self, command: PowerCommand) {
        let code = match command {
            PowerCommand::Off => Self::OFF,
            PowerCommand::Reset => Self::RESET,
        };
        self.0.store(code, Ordering::Release);
    }
}

/// Time of a virtual machine, from its making on.
pub(crate) struct VmClock {
    start: u64,
    /// Ticks for which the machine stood still.
    stood_still: AtomicU64,
}

impl VmClock {
    /// The moment of its start on both clocks.
    pub(crate) fn reference(&self) -> Reference {
        Reference { tsc: self.start, nanoseconds: 0 }
    }

    /// Ticks of the host's counter that the guest does not see.
    #[inline]
    pub(crate) fn stood_still(&self) -> u64 {
        self.stood_still.load(Ordering::Relaxed)
    }

    /// The host's counter when this clock has reached `nanoseconds`: in the past once it has.
    pub(crate) fn ticks_at(&self, nanoseconds: u64) -> u64 {
        // Rounded up, so that the clock is not before it.
        let ticks = timer::ticks(nanoseconds).saturating_add(1);
        self.start.saturating_add(ticks).saturating_add(self.stood_still())
    }

    /// Nanoseconds since 1970-01-01 00:00 UTC.
    pub(crate) fn unix_nanoseconds(&self) -> u64 {
        host::clock::unix_nanoseconds()
    }
}

impl Clock for VmClock {
    fn nanoseconds(&self) -> u64 {
        let ticks = timer::now().0.saturating_sub(self.start).saturating_sub(self.stood_still());
        timer::nanoseconds(ticks)
    }
}

impl WallClock for VmClock {
    fn seconds(&self) -> u64 {
        self.unix_nanoseconds() / NANOSECONDS_PER_SECOND
    }
}

/// The PC of one virtual machine.
pub(crate) struct Pc {
    pub(crate) name: alloc::string::String,
    pub(crate) ram: Arc<Ram>,
    pub(crate) cpuid: Cpuid,
    pub(crate) ioapic: Arc<IoApic>,
    pub(crate) apics: Arc<ApicBus<SharedWaker>>,
    pub(crate) pic: Arc<Pic>,
    pub(crate) pit: Arc<Pit>,
    pub(crate) clock: Arc<VmClock>,
    external: Arc<ExternalLine>,
    power: Arc<PowerLatch>,
    waker: Arc<Waker>,
    pub(crate) images: Images,
    launch: TicketMutex<Option<InitialState>>,
}

impl Pc {
    /// A PC and the bus with its devices. `mailboxes` are those of its
    /// virtual CPUs' local APICs.
    ///
    /// # Errors
    /// [`Overlap`] would be a mistake in this very function.
    pub(crate) fn new(
        name: &str,
        ram: Ram,
        cpuid: Cpuid,
        mailboxes: Vec<Arc<Mailbox>>,
        console: Channel,
        images: Images,
    ) -> Result<(Self, Bus), Overlap> {
        let waker = Arc::new(Waker(Once::new()));
        let apics = Arc::new(ApicBus::new(mailboxes, SharedWaker(waker.clone())));
        let ioapic = Arc::new(IoApic::new(apics.clone() as Arc<dyn MessageSink>));
        let external =
            Arc::new(ExternalLine { level: AtomicBool::new(false), waker: waker.clone() });
        let pic = Arc::new(Pic::new(external.clone()));
        let clock = Arc::new(VmClock { start: timer::now().0, stood_still: AtomicU64::new(0) });
        let power = Arc::new(PowerLatch::default());
        // The i8254 sits on pin 2 of IOAPICs, as everywhere (its pin 0 is the 8259's).
        let line = |irq: u8, pin: u8| IsaLine { pic: pic.clone(), irq, ioapic: ioapic.line(pin) };
        let timer_line = Arc::new(line(pit::IRQ, 2));
        let pit = Arc::new(Pit::new(clock.clone(), timer_line, waker.clone()));
        let com1 = line(uart16550::COM1_IRQ, uart16550::COM1_IRQ);
        let serial = CONSOLE.port(console);
        let console = Arc::new(Uart16550::new(Arc::new(com1), serial.clone()));
        serial.connect(console.clone());

        let mut bus = Bus::new();
        let mut port = |base: u64, size: u64, device: Arc<dyn bunshin::bus::Device>| {
            bus.attach(Space::Port, base, size, device)
        };
        port(uart16550::COM1_PORT, uart16550::WINDOW_SIZE, console)?;
        port(pic::PRIMARY_PORT, pic::WINDOW_SIZE, Arc::new(PicPorts::primary(pic.clone())))?;
        port(pic::SECONDARY_PORT, pic::WINDOW_SIZE, Arc::new(PicPorts::secondary(pic.clone())))?;
        port(pic::ELCR_PORT, pic::WINDOW_SIZE, Arc::new(Elcr(pic.clone())))?;
        port(pit::PORT, pit::WINDOW_SIZE, pit.clone())?;
        port(pit::CONTROL_PORT, 1, Arc::new(SpeakerPort(pit.clone())))?;
        port(rtc::PORT, rtc::WINDOW_SIZE, Arc::new(Rtc::new(clock.clone())))?;
        port(u64::from(power::SLEEP_PORT), POWER_PORTS, Arc::new(AcpiPower(power.clone())))?;
        port(u64::from(power::TIMER_PORT), TIMER_PORTS, Arc::new(PowerTimer(clock.clone())))?;
        port(power::KEYBOARD_PORT, 1, Arc::new(KeyboardReset(power.clone())))?;
        port(power::PCI_RESET_PORT, 1, Arc::new(PciReset::new(power.clone())))?;

        let pc = Pc {
            name: name.into(),
            ram: Arc::new(ram),
            cpuid,
            ioapic,
            apics,
            pic,
            pit,
            clock,
            external,
            power,
            waker,
            images,
            launch: TicketMutex::new(None),
        };
        Ok((pc, bus))
    }

    /// Tells it its virtual CPUs, whom interrupts wake. To be called once.
    pub(crate) fn connect(&self, vcpus: Vec<Arc<VcpuHandle>>) {
        self.ram.connect(vcpus.clone());
        self.waker.0.call_once(|| vcpus);
    }

    /// Whether the 8259 pair interrupts.
    pub(crate) fn external_pending(&self) -> bool {
        self.external.level.load(Ordering::Acquire)
    }

    /// Whether a power command waits.
    #[inline]
    pub(crate) fn has_power_command(&self) -> bool {
        self.power.0.load(Ordering::Relaxed) != PowerLatch::NONE
    }

    /// The power command that waits.
    pub(crate) fn take_power(&self) -> Option<PowerCommand> {
        if !self.has_power_command() {
            return None;
        }
        match self.power.0.swap(PowerLatch::NONE, Ordering::Acquire) {
            PowerLatch::OFF => Some(PowerCommand::Off),
            PowerLatch::RESET => Some(PowerCommand::Reset),
            _ => None,
        }
    }

    /// How the first virtual CPU starts, after [`Machine::reset`].
    pub(crate) fn launch(&self) -> Option<InitialState> {
        *self.launch.lock()
    }
}

impl Machine for Pc {
    /// Clears all memory part by part, then loads the images. Positions are offsets in memory.
    fn reset(&self, position: u64) -> Result<Reset, LoadError> {
        if position == 0 {
            self.ioapic_reset();
            self.power.0.store(PowerLatch::NONE, Ordering::Relaxed);
        }
        let size = self.ram.size();
        if position < size {
            let end = position.saturating_add(PART).min(size);
            for offset in (position..end).step_by(BLOCK as usize) {
                self.ram.clear(offset);
            }
            return Ok(Reset::More(end));
        }
        let launch = self.images.load(&self.ram)?;
        let entry = GuestAddress(launch.rip);
        *self.launch.lock() = Some(launch);
        Ok(Reset::Ready(BootState { entry, context: 0 }))
    }

    fn provide(&self, address: GuestAddress) -> Provided {
        self.ram.provide(address.0, true)
    }

    fn absent_memory(&self) -> u64 {
        self.ram.absent()
    }

    fn stood_still(&self, ticks: u64) {
        self.clock.stood_still.fetch_add(ticks, Ordering::Relaxed);
    }
}

impl Pc {
    fn ioapic_reset(&self) {
        bunshin::bus::Device::reset(&*self.ioapic);
    }
}
