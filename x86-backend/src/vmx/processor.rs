//! Turning VT-x on, processor by processor (SDM 25.7), and what it can do.

use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::cell::Cell;

use alloc::boxed::Box;
use alloc::vec::Vec;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;
use x86_backend::availability::{self, Access};
use x86_backend::controls::{Capability, FixedBits, PreemptionTimer};

use crate::host::PerCpu;

/// IA32_FEATURE_CONTROL.
const FEATURE_CONTROL: u32 = 0x3a;
/// IA32_VMX_BASIC.
const BASIC: u32 = 0x480;
const BASIC_REVISION: u64 = 0x7fff_ffff;
/// IA32_VMX_BASIC: the capability MSRs with "true" in their names exist.
const BASIC_TRUE_CONTROLS: u64 = 1 << 55;
const PIN: u32 = 0x481;
const PROCESSOR: u32 = 0x482;
const EXIT: u32 = 0x483;
const ENTRY: u32 = 0x484;
/// IA32_VMX_MISC.
const MISC: u32 = 0x485;
/// IA32_VMX_MISC: guests may be entered while they wait in HLT.
const MISC_HLT: u64 = 1 << 6;
const CR0_FIXED_0: u32 = 0x486;
const CR0_FIXED_1: u32 = 0x487;
const CR4_FIXED_0: u32 = 0x488;
const CR4_FIXED_1: u32 = 0x489;
const SECONDARY: u32 = 0x48b;
const EPT_VPID: u32 = 0x48c;
/// From the capability MSRs to their "true" variants.
const TRUE_OFFSET: u32 = 0x48d - PIN;

/// IA32_VMX_EPT_VPID_CAP.
mod ept_vpid {
    pub(super) const FOUR_LEVELS: u64 = 1 << 6;
    pub(super) const WRITE_BACK: u64 = 1 << 14;
    pub(super) const LARGE_PAGES: u64 = 1 << 16;
    pub(super) const HUGE_PAGES: u64 = 1 << 17;
    pub(super) const INVEPT: u64 = 1 << 20;
    pub(super) const INVEPT_SINGLE: u64 = 1 << 25;
    pub(super) const INVVPID: u64 = 1 << 32;
    pub(super) const INVVPID_SINGLE: u64 = 1 << 41;
}

/// Bits of the pin-based controls.
pub(super) mod pin {
    pub(in super::super) const EXTERNAL_INTERRUPTS: u32 = 1 << 0;
    pub(in super::super) const NMI: u32 = 1 << 3;
    pub(in super::super) const VIRTUAL_NMI: u32 = 1 << 5;
    pub(in super::super) const PREEMPTION_TIMER: u32 = 1 << 6;
}

/// Bits of the primary processor-based controls.
pub(super) mod primary {
    pub(in super::super) const INTERRUPT_WINDOW: u32 = 1 << 2;
    pub(in super::super) const TSC_OFFSETTING: u32 = 1 << 3;
    pub(in super::super) const HLT: u32 = 1 << 7;
    pub(in super::super) const MWAIT: u32 = 1 << 10;
    pub(in super::super) const RDPMC: u32 = 1 << 11;
    pub(in super::super) const CR3_LOAD: u32 = 1 << 15;
    pub(in super::super) const CR3_STORE: u32 = 1 << 16;
    pub(in super::super) const CR8_LOAD: u32 = 1 << 19;
    pub(in super::super) const CR8_STORE: u32 = 1 << 20;
    pub(in super::super) const NMI_WINDOW: u32 = 1 << 22;
    pub(in super::super) const IO: u32 = 1 << 24;
    pub(in super::super) const MSR_BITMAPS: u32 = 1 << 28;
    pub(in super::super) const MONITOR: u32 = 1 << 29;
    pub(in super::super) const SECONDARY: u32 = 1 << 31;
}

/// Bits of the secondary processor-based controls.
pub(super) mod secondary {
    pub(in super::super) const EPT: u32 = 1 << 1;
    pub(in super::super) const DESCRIPTOR_TABLES: u32 = 1 << 2;
    pub(in super::super) const RDTSCP: u32 = 1 << 3;
    pub(in super::super) const VPID: u32 = 1 << 5;
    pub(in super::super) const WBINVD: u32 = 1 << 6;
    pub(in super::super) const UNRESTRICTED: u32 = 1 << 7;
    pub(in super::super) const PAUSE_LOOP: u32 = 1 << 10;
    pub(in super::super) const INVPCID: u32 = 1 << 12;
}

/// Bits of the exit controls.
pub(super) mod exit {
    pub(in super::super) const SAVE_DEBUG: u32 = 1 << 2;
    pub(in super::super) const HOST_64: u32 = 1 << 9;
    pub(in super::super) const SAVE_PAT: u32 = 1 << 18;
    pub(in super::super) const LOAD_PAT: u32 = 1 << 19;
    pub(in super::super) const SAVE_EFER: u32 = 1 << 20;
    pub(in super::super) const LOAD_EFER: u32 = 1 << 21;
}

/// Bits of the entry controls.
pub(super) mod entry {
    pub(in super::super) const LOAD_DEBUG: u32 = 1 << 2;
    pub(in super::super) const GUEST_64: u32 = 1 << 9;
    pub(in super::super) const LOAD_PAT: u32 = 1 << 14;
    pub(in super::super) const LOAD_EFER: u32 = 1 << 15;
}

fn msr(index: u32) -> u64 {
    // SAFETY: only registers that exist with VT-x are named.
    unsafe { Msr::new(index).read() }
}

/// The control words of every guest on this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Controls {
    pub(super) pin: u32,
    pub(super) primary: u32,
    pub(super) secondary: u32,
    pub(super) exit: u32,
    pub(super) entry: u32,
    pub(super) cr0: FixedBits,
    pub(super) cr4: FixedBits,
    /// What ends a guest's run in time, if the processor has it; it is not in `pin`.
    pub(super) preemption_timer: Option<PreemptionTimer>,
    /// A guest may wait in HLT.
    pub(super) hlt_state: bool,
    invvpid: bool,
    invept_single: bool,
}

/// Names of required controls, for the error.
const NAMES: [(&str, u32, &str); 16] = [
    (
        "pin",
        pin::EXTERNAL_INTERRUPTS,
        "VT-x lacks \"external-interrupt exiting\" (pin-based control bit 0)",
    ),
    ("pin", pin::NMI, "VT-x lacks \"NMI exiting\" (pin-based control bit 3)"),
    ("pin", pin::VIRTUAL_NMI, "VT-x lacks \"virtual NMIs\" (pin-based control bit 5)"),
    ("primary", primary::HLT, "VT-x lacks \"HLT exiting\" (primary control bit 7)"),
    ("primary", primary::CR8_LOAD, "VT-x lacks \"CR8-load exiting\" (primary control bit 19)"),
    ("primary", primary::NMI_WINDOW, "VT-x lacks \"NMI-window exiting\" (primary control bit 22)"),
    ("primary", primary::IO, "VT-x lacks \"unconditional I/O exiting\" (primary control bit 24)"),
    ("primary", primary::MSR_BITMAPS, "VT-x lacks \"use MSR bitmaps\" (primary control bit 28)"),
    (
        "primary",
        primary::SECONDARY,
        "VT-x lacks \"activate secondary controls\" (primary control bit 31)",
    ),
    ("secondary", secondary::EPT, "VT-x lacks \"enable EPT\" (secondary control bit 1)"),
    ("exit", exit::HOST_64, "VT-x lacks \"host address-space size\" (exit control bit 9)"),
    ("exit", exit::SAVE_PAT, "VT-x lacks \"save IA32_PAT\" (exit control bit 18)"),
    ("exit", exit::SAVE_EFER, "VT-x lacks \"save IA32_EFER\" (exit control bit 20)"),
    ("entry", entry::GUEST_64, "VT-x lacks \"IA-32e mode guest\" (entry control bit 9)"),
    ("entry", entry::LOAD_PAT, "VT-x lacks \"load IA32_PAT\" (entry control bit 14)"),
    ("entry", entry::LOAD_EFER, "VT-x lacks \"load IA32_EFER\" (entry control bit 15)"),
];

fn choose(word: &str, capability: u64, required: u32, optional: u32) -> Result<u32, &'static str> {
    Capability(capability).choose(required, optional).map_err(|bit| {
        NAMES
            .iter()
            .find(|(of, mask, _)| *of == word && *mask == 1 << bit)
            .map_or("VT-x lacks a control that every processor with it has", |(_, _, text)| text)
    })
}

impl Controls {
    /// What this processor gives.
    ///
    /// # Errors
    /// The name of a required control that it lacks.
    pub(super) fn choose() -> Result<Self, &'static str> {
        let offset = if msr(BASIC) & BASIC_TRUE_CONTROLS != 0 { TRUE_OFFSET } else { 0 };
        let capability = |index: u32| msr(index.wrapping_add(offset));
        let pin = choose(
            "pin",
            capability(PIN),
            pin::EXTERNAL_INTERRUPTS | pin::NMI | pin::VIRTUAL_NMI,
            pin::PREEMPTION_TIMER,
        )?;
        let misc = msr(MISC);
        let preemption_timer =
            (pin & pin::PREEMPTION_TIMER != 0).then(|| PreemptionTimer::new(misc));
        // The window controls must exist and start clear.
        let windows = primary::INTERRUPT_WINDOW | primary::NMI_WINDOW;
        let primary = choose(
            "primary",
            capability(PROCESSOR),
            primary::HLT
                | primary::MWAIT
                | primary::RDPMC
                | primary::CR8_LOAD
                | primary::CR8_STORE
                | primary::IO
                | primary::MSR_BITMAPS
                | primary::MONITOR
                | primary::SECONDARY
                | windows,
            0,
        )? & !windows;
        let secondary = choose(
            "secondary",
            msr(SECONDARY),
            secondary::EPT,
            secondary::UNRESTRICTED
                | secondary::RDTSCP
                | secondary::VPID
                | secondary::WBINVD
                | secondary::INVPCID,
        )?;
        let exit = choose(
            "exit",
            capability(EXIT),
            exit::SAVE_DEBUG
                | exit::HOST_64
                | exit::SAVE_PAT
                | exit::LOAD_PAT
                | exit::SAVE_EFER
                | exit::LOAD_EFER,
            0,
        )?;
        let entry = choose(
            "entry",
            capability(ENTRY),
            entry::LOAD_DEBUG | entry::GUEST_64 | entry::LOAD_PAT | entry::LOAD_EFER,
            0,
        )? & !entry::GUEST_64;
        let features = msr(EPT_VPID);
        for (bit, text) in [
            (ept_vpid::FOUR_LEVELS, "VT-x lacks EPT with four levels (MSR 48Ch bit 6)"),
            (ept_vpid::WRITE_BACK, "VT-x lacks write-back EPT (MSR 48Ch bit 14)"),
            (ept_vpid::LARGE_PAGES, "VT-x lacks 2 MiB EPT pages (MSR 48Ch bit 16)"),
            (ept_vpid::INVEPT, "VT-x lacks INVEPT (MSR 48Ch bit 20)"),
        ] {
            if features & bit == 0 {
                return Err(text);
            }
        }
        let invvpid = ept_vpid::INVVPID | ept_vpid::INVVPID_SINGLE;
        let invvpid = features & invvpid == invvpid;
        // An identifier that cannot be invalidated is of no use.
        let secondary = if invvpid { secondary } else { secondary & !secondary::VPID };
        Ok(Controls {
            pin: pin & !pin::PREEMPTION_TIMER,
            primary,
            secondary,
            exit,
            entry,
            preemption_timer,
            hlt_state: misc & MISC_HLT != 0,
            cr0: FixedBits { ones: msr(CR0_FIXED_0), zeros: msr(CR0_FIXED_1) },
            cr4: FixedBits { ones: msr(CR4_FIXED_0), zeros: msr(CR4_FIXED_1) },
            invvpid,
            invept_single: features & ept_vpid::INVEPT_SINGLE != 0,
        })
    }

    /// What there is of that which may be absent, for the log.
    pub(super) fn options(&self) -> Vec<&'static str> {
        [
            (self.preemption_timer.is_some(), "preemption timer"),
            (self.has(secondary::VPID), "VPID"),
            (huge_pages(), "1 GiB pages"),
            (allowed_secondary() & secondary::PAUSE_LOOP != 0, "PAUSE-loop exiting"),
            (!self.has(secondary::UNRESTRICTED), "real mode by virtual-8086 mode"),
        ]
        .into_iter()
        .filter_map(|(present, name)| present.then_some(name))
        .collect()
    }

    pub(super) fn has(&self, secondary: u32) -> bool {
        self.secondary & secondary != 0
    }
}

/// Secondary controls that may be set.
pub(super) fn allowed_secondary() -> u32 {
    Capability(msr(SECONDARY)).allowed()
}

/// Whether EPT entries may map 1 GiB.
pub(crate) fn huge_pages() -> bool {
    msr(EPT_VPID) & ept_vpid::HUGE_PAGES != 0
}

/// Whether the processor has VT-x and lets us use it.
///
/// # Errors
/// What is missing, by name; `None` when it has no VT-x at all.
pub(crate) fn probe() -> Result<(), Option<&'static str>> {
    if !availability::has_vmx(__cpuid(1).ecx) {
        return Err(None);
    }
    availability::vmx_access(msr(FEATURE_CONTROL)).map_err(Some)?;
    Controls::choose().map(|_| ()).map_err(Some)
}

/// A page whose first word is the revision of VMX structures.
#[repr(C, align(4096))]
struct Region([u32; 1024]);

/// A zeroed VMX structure with its revision; never freed.
pub(super) fn region() -> u64 {
    // SAFETY: integers may be zero.
    let mut region: Box<Region> = unsafe { Box::new_zeroed().assume_init() };
    if let Some(revision) = region.0.first_mut() {
        *revision = (msr(BASIC) & BASIC_REVISION) as u32;
    }
    core::ptr::from_ref(Box::leak(region)) as u64
}

/// The processor's part of VT-x.
pub(crate) struct Processor {
    /// Address of the current structure.
    pub(super) current: Cell<u64>,
}

impl Processor {
    /// Before [`enable`].
    pub(crate) const fn new() -> Self {
        Processor { current: Cell::new(0) }
    }
}

/// Turns VT-x on on the processor that runs this, on which [`probe`] found it.
pub(crate) fn enable() {
    let access = availability::vmx_access(msr(FEATURE_CONTROL));
    let cr0 = FixedBits { ones: msr(CR0_FIXED_0), zeros: msr(CR0_FIXED_1) };
    let cr4 = FixedBits { ones: msr(CR4_FIXED_0), zeros: msr(CR4_FIXED_1) };
    let region = region();
    // SAFETY: the processor has VT-x and the firmware allows it; fixed bits are applied to values
    // that work; the region is a page of its own for ever, with the revision in it.
    unsafe {
        if let Ok(Access::Write(control)) = access {
            Msr::new(FEATURE_CONTROL).write(control);
        }
        Cr0::write_raw(cr0.apply(Cr0::read_raw()) & !Cr0Flags::TASK_SWITCHED.bits());
        Cr4::write_raw(cr4.apply(Cr4::read_raw() | Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS.bits()));
        asm!("vmxon [{}]", in(reg) &region, options(nostack));
    }
    PerCpu::current().vmx.current.set(0);
}

/// Operand of INVEPT and INVVPID.
#[repr(C, align(16))]
struct Descriptor([u64; 2]);

/// INVEPT and INVVPID: one context.
const SINGLE_CONTEXT: u64 = 1;
/// INVEPT: all contexts.
const ALL_CONTEXTS: u64 = 2;

/// Drops translations of the tables at `pointer` on this processor.
pub(super) fn invalidate_tables(controls: &Controls, pointer: u64) {
    let kind = if controls.invept_single { SINGLE_CONTEXT } else { ALL_CONTEXTS };
    let descriptor = Descriptor([pointer, 0]);
    // SAFETY: the processor has the instruction and this kind of it; it drops cached state only.
    unsafe {
        asm!("invept {}, [{}]", in(reg) kind, in(reg) &descriptor, options(nostack, readonly));
    }
}

/// Drops translations of virtual processor `vpid` on this processor.
pub(super) fn invalidate_vpid(controls: &Controls, vpid: u16) {
    if controls.invvpid {
        let descriptor = Descriptor([u64::from(vpid), 0]);
        // SAFETY: as for `invalidate_tables`.
        unsafe {
            asm!("invvpid {}, [{}]", in(reg) SINGLE_CONTEXT, in(reg) &descriptor,
                options(nostack, readonly));
        }
    }
}
