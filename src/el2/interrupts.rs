//! Physical interrupts: whose they are, and what follows.

use gic::IntId;
use gic::host::{Acknowledged, Controller, KICK, WAKE};
use platform::discover::{Console, InterruptSource, Platform};
use platform::guest::layout;

use crate::el2::registers::{read_register, write_register};
use crate::el2::{console, host_devices, passthrough, percpu};

/// INTIDs of the interrupts that the hypervisor knows.
#[derive(Debug, Clone)]
pub(crate) struct Interrupts {
    /// The guest's virtual timer.
    pub(crate) virtual_timer: u32,
    /// The guest's EL1 physical timer.
    pub(crate) physical_timer: u32,
    /// The hypervisor's own timer.
    pub(crate) hypervisor_timer: u32,
    /// Performance monitors of the guest.
    pub(crate) pmu: Option<u32>,
    /// Virtual CPU interface.
    pub(crate) maintenance: u32,
    /// Console.
    pub(crate) console: Option<u32>,
    /// The guest's number for each private interrupt that belongs to the guest, by the physical number; 0 for the others.
    guest_numbers: [u8; IntId::PRIVATE as usize],
}

/// What a physical interrupt means to the virtual CPU that is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The guest's own private interrupt, by the guest's number; the physical one stays active
    /// until the guest deactivates it.
    Private(IntId),
    /// Its virtual CPU interface wants attention.
    Maintenance,
    /// A virtual CPU of this CPU has to look at its interrupts.
    Wake,
    /// The host's business: the core has to look around.
    Host,
    /// There was none.
    Nothing,
}

/// The number of an interrupt that a device has: on Apple's controller, whose inputs are more than
/// a GIC has, the one that its driver gives it. `None` for a source of FIQ, which has a fixed one.
pub(crate) fn intid(
    controller: &Controller,
    interrupt: &platform::discover::Interrupt,
) -> Option<u32> {
    match (interrupt.source, controller) {
        (InterruptSource::Gic(intid), Controller::V2(_) | Controller::V3(_)) => {
            // Extended ranges are not driven, nor what the controller does not have.
            Some(intid.get()).filter(|number| *number < controller.interrupts())
        }
        (InterruptSource::AicIrq { die, number }, Controller::Aic(aic)) => {
            aic.claim(die, number).map(IntId::get)
        }
        (
            InterruptSource::Gic(_)
            | InterruptSource::AicIrq { .. }
            | InterruptSource::AicFiq { .. },
            _,
        ) => None,
    }
}

impl Interrupts {
    /// Reads them off the platform; the architecture's usual numbers where the device tree
    /// is silent (Arm BSA, B_PPI), which are also those that the driver of Apple's controller uses.
    pub(crate) fn of(
        platform: &Platform,
        controller: &Controller,
        maintenance: u32,
        serial: Option<&Console>,
    ) -> Self {
        let timer = &platform.timer;
        let intid = |interrupt: &platform::discover::Interrupt| intid(controller, interrupt);
        let or_usual = |interrupt: &Option<platform::discover::Interrupt>, usual| {
            interrupt.as_ref().and_then(intid).unwrap_or(usual)
        };
        let mut interrupts = Interrupts {
            virtual_timer: or_usual(&timer.virtual_timer, 27),
            physical_timer: or_usual(&timer.physical, 30),
            hypervisor_timer: or_usual(&timer.hypervisor_physical, 26),
            pmu: platform.pmu.iter().filter_map(intid).find(|number| *number < IntId::PRIVATE),
            maintenance,
            console: serial.and_then(|serial| serial.interrupt.as_ref()).and_then(intid),
            guest_numbers: [0; IntId::PRIVATE as usize],
        };
        for (guest, physical) in interrupts.guest_private() {
            if let Some(slot) = interrupts.guest_numbers.get_mut(physical as usize) {
                *slot = guest as u8;
            }
        }
        interrupts
    }

    /// Private interrupts that belong to the guest: the guest's number and the physical one.
    pub(crate) fn guest_private(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let ppi = |number: u32| layout::FIRST_PPI + number;
        [
            Some((ppi(layout::VIRTUAL_TIMER_PPI), self.virtual_timer)),
            Some((ppi(layout::PHYSICAL_TIMER_PPI), self.physical_timer)),
            self.pmu.map(|physical| (ppi(layout::PMU_PPI), physical)),
        ]
        .into_iter()
        .flatten()
    }

    /// Enables this CPU's private interrupts.
    pub(crate) fn enable_private(&self) {
        let interface = percpu::this().interface();
        for (_, physical) in self.guest_private() {
            interface.enable(IntId::new(physical));
        }
        interface.enable(IntId::new(self.hypervisor_timer));
        interface.enable(IntId::new(self.maintenance));
        interface.enable_virtual_interface(true);
    }

    /// Enables the console's interrupt, on this CPU.
    pub(crate) fn enable_console(&self) {
        if let Some(number) = self.console {
            let interface = percpu::this().interface();
            interface.target_self(IntId::new(number));
            interface.enable(IntId::new(number));
        }
    }

    /// Acknowledges the most urgent physical interrupt of this CPU and does what the host has
    /// to do about it.
    #[inline(always)]
    pub(crate) fn acknowledge() -> Outcome {
        let this = percpu::this();
        let Some(interrupt) = this.interface().take(WAKE) else { return Outcome::Nothing };
        if interrupt.intid() == WAKE {
            return Outcome::Wake;
        }
        this.host.interrupts.outcome(interrupt)
    }

    /// What follows from an interrupt that has come.
    #[inline(always)]
    fn outcome(&self, interrupt: Acknowledged) -> Outcome {
        let number = interrupt.intid();
        if let Some(guest) = self.guest_numbers.get(number.get() as usize)
            && *guest != 0
        {
            return Outcome::Private(IntId::new((*guest).into()));
        }
        self.serve(interrupt)
    }

    /// Does what the host has to do about an interrupt that is not the guest's.
    #[inline(never)]
    fn serve(&self, interrupt: Acknowledged) -> Outcome {
        let interface = percpu::this().interface();
        let number = interrupt.intid();
        if number.get() == self.maintenance {
            interface.deactivate(interrupt);
            return Outcome::Maintenance;
        }
        if number.get() == self.hypervisor_timer {
            disarm();
        } else if number != KICK && Some(number.get()) == self.console {
            console::interrupt();
        } else if number != KICK {
            if passthrough::forward(number.get()) {
                return Outcome::Host;
            }
            host_devices::interrupt(number.get());
        }
        interface.deactivate(interrupt);
        Outcome::Host
    }
}

/// `CNTHP_CTL_EL2.ENABLE`.
const ENABLE: u64 = 1 << 0;

/// Has the hypervisor's timer fire when the physical counter reaches `deadline`.
pub(crate) fn arm(deadline: u64) {
    write_register!("cnthp_cval_el2", deadline);
    write_register!("cnthp_ctl_el2", ENABLE);
}

/// Silences the hypervisor's timer.
pub(crate) fn disarm() {
    write_register!("cnthp_ctl_el2", 0);
}

/// Waits for a physical interrupt; interrupts stay masked, so that it stays pending.
pub(crate) fn wait() {
    // SAFETY: barrier and wait.
    unsafe { core::arch::asm!("dsb sy", "wfi", options(nostack)) };
}

/// The physical counter.
#[inline]
pub(crate) fn counter() -> u64 {
    // SAFETY: barrier; the counter must not be read ahead of what came before.
    unsafe { core::arch::asm!("isb", options(nostack)) };
    read_register!("cntpct_el0")
}
