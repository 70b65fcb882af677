//! Starting the other CPUs: by PSCI where the device tree says so, else by
//! their spin table. A CPU that does not come is left out.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use log::warn;
use platform::discover::{Cpu, EnableMethod};
use smccc::{Hvc, Smc};

use crate::el2::registers::read_register;
use crate::el2::{frames, mmu, stack};

/// Size of a CPU's stack, without its guard page.
const STACK: u64 = 64 << 10;

/// Affinity fields of `MPIDR_EL1`.
pub(crate) const AFFINITY: u64 = 0xff_00ff_ffff;

/// What `secondary_entry` looks up by MPIDR; the layout is known to `entry.S`.
#[derive(Debug)]
#[repr(C)]
struct BootRecord {
    mpidr: u64,
    stack_top: u64,
    argument: u64,
}

/// Where `secondary_entry` finds the records and the map.
#[repr(C)]
struct BootTable {
    records: *const BootRecord,
    count: usize,
    root: u64,
    /// `HCR_EL2` as the boot CPU has it.
    hcr: u64,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = ".data")]
static mut secondary_boot: BootTable =
    BootTable { records: core::ptr::null(), count: 0, root: 0, hcr: 0 };

unsafe extern "C" {
    fn secondary_entry();
}

/// How PSCI is called on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conduit {
    /// By SMC.
    Smc,
    /// By HVC, to a hypervisor below this one.
    Hvc,
}

/// Prepares the records of `cpus`, whose logical numbers are their indices
/// plus 1, and starts them one after the other.
pub(crate) fn start(cpus: &[&Cpu], conduit: Option<Conduit>, arrived: &'static [AtomicBool]) {
    let size = STACK + mmu::PAGE;
    let count = cpus.len() as u64;
    if count == 0 {
        return;
    }
    let Some(stacks) = frames::allocate(size * count) else {
        warn!("no memory for the stacks of {count} CPUs; they stay off");
        return;
    };
    mmu::set_stacks(stacks, stacks + size * count);
    let mut records = Vec::new();
    for (number, cpu) in (1u64..).zip(cpus) {
        let guard = stacks + size * (number - 1);
        if let Err(reason) = mmu::unmap_page(guard) {
            warn!("no guard page for the stack of CPU {number}: {reason}");
        }
        // SAFETY: the frames are mapped and this CPU's alone; it does not run yet.
        unsafe { stack::paint_other(guard + mmu::PAGE..guard + size) };
        records.push(BootRecord {
            mpidr: cpu.mpidr.get(),
            stack_top: guard + size,
            argument: number,
        });
    }
    let records: &'static [BootRecord] = Box::leak(records.into_boxed_slice());
    let table = BootTable {
        records: records.as_ptr(),
        count: records.len(),
        root: mmu::root(),
        hcr: read_register!("hcr_el2"),
    };
    // SAFETY: no other CPU reads the table before it is started below.
    unsafe { (&raw mut secondary_boot).write(table) };
    // The new CPUs read all of this with their caches off.
    mmu::clean((&raw const secondary_boot) as u64, size_of::<BootTable>() as u64);
    mmu::clean(records.as_ptr() as u64, size_of_val(records) as u64);
    for (number, cpu) in (1usize..).zip(cpus) {
        if !release(cpu, conduit) || !arrived.get(number).is_some_and(wait) {
            warn!("CPU {:#x} does not start; it stays off", cpu.mpidr.get());
        }
    }
}

/// Sends one CPU to `secondary_entry`.
fn release(cpu: &Cpu, conduit: Option<Conduit>) -> bool {
    let entry = secondary_entry as *const () as u64;
    match &cpu.enable_method {
        EnableMethod::Psci => match conduit {
            Some(Conduit::Smc) => smccc::psci::cpu_on::<Smc>(cpu.mpidr.get(), entry, 0).is_ok(),
            Some(Conduit::Hvc) => smccc::psci::cpu_on::<Hvc>(cpu.mpidr.get(), entry, 0).is_ok(),
            None => false,
        },
        EnableMethod::SpinTable { release } => {
            let address = release.get();
            if !address.is_multiple_of(8) {
                return false;
            }
            if mmu::map(address, 8, mmu::DATA).is_err() {
                return false;
            }
            // SAFETY: the device tree gives this address for exactly this
            // purpose, and it is mapped now.
            unsafe { (address as *mut u64).write_volatile(entry) };
            mmu::clean(address, 8);
            aarch64_cpu::asm::sev();
            true
        }
        EnableMethod::Unknown(_) => false,
    }
}

/// How long a CPU may take to arrive, in seconds.
const PATIENCE: u64 = 5;

/// Waits for a CPU to arrive.
fn wait(arrived: &AtomicBool) -> bool {
    let start = read_register!("cntpct_el0");
    let limit = read_register!("cntfrq_el0").max(1_000_000).saturating_mul(PATIENCE);
    while !arrived.load(Ordering::Acquire) {
        if read_register!("cntpct_el0").wrapping_sub(start) > limit {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}
