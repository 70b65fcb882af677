//! From the boot loader to the hypervisor's loop.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use bunshin::address::CpuId;
use spin::Once;
use x86_64::instructions::interrupts;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_backend::boot_info::{self, BootInfo};

use super::paging::StackKind;
use super::percpu::PerCpu;
use super::{
    allocator, apic, clock, console, faults, firmware, legacy, memory, paging, segments, smp, timer,
};

/// The early page tables map so much.
const EARLY_MAPPED: u64 = 1 << 32;
/// CPUID leaf 1 ECX: XSAVE.
const CPUID_XSAVE: u32 = 1 << 26;

static BOOT_INFO: Once<BootInfo> = Once::new();

/// Entry of the first processor, on the boot stack.
pub(super) extern "sysv64" fn start(magic: u32, info: u32) -> ! {
    console::init();
    legacy::silence();
    faults::load(false);
    allocator::init();
    console::init_log();
    log::info!("Bunshin {} on x86-64", env!("CARGO_PKG_VERSION"));
    let physical = |address: u64, size: u64| {
        let end = address.checked_add(size)?;
        let length = usize::try_from(size).ok()?;
        // SAFETY: the early tables map everything below 4 GiB; nobody writes to what the boot
        // loader left while the slice lives.
        (address != 0 && end <= EARLY_MAPPED)
            .then(|| unsafe { core::slice::from_raw_parts(address as *const u8, length) })
    };
    let info = match boot_info::read(&physical, magic, u64::from(info)) {
        Ok(info) => info,
        Err(error) => give_up(&error),
    };
    // SAFETY: once, with the loader's map, on the early tables.
    if !unsafe { memory::init(&info) } {
        give_up(&"too little memory below 4 GiB");
    }
    if !paging::build(&info.memory) {
        give_up(&"too little memory for page tables");
    }
    paging::activate();
    BOOT_INFO.call_once(|| info);
    match paging::map_stack(0, StackKind::Main) {
        Some(stack) => switch_stack(stack),
        None => give_up(&"too little memory for a stack"),
    }
}

/// Says why nothing can be run and stops.
pub(crate) fn give_up(reason: &dyn core::fmt::Display) -> ! {
    log::error!("{reason}");
    faults::stop()
}

fn switch_stack(stack: u64) -> ! {
    // SAFETY: the stack is mapped, empty and this processor's alone; nothing returns to the old one.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "call {main}",
            "ud2",
            stack = in(reg) stack,
            main = sym main,
            options(noreturn),
        )
    }
}

/// What every processor sets up.
fn init_processor(cpu: usize) {
    let xsave = core::arch::x86_64::__cpuid(1).ecx & CPUID_XSAVE != 0;
    // SAFETY: the hypervisor itself uses no floating point; guests' state is kept in these registers
    // and must not trap.
    unsafe {
        Cr0::update(|cr0| {
            cr0.remove(Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::TASK_SWITCHED);
            cr0.remove(Cr0Flags::CACHE_DISABLE | Cr0Flags::NOT_WRITE_THROUGH);
            cr0.insert(Cr0Flags::MONITOR_COPROCESSOR | Cr0Flags::NUMERIC_ERROR);
        });
        Cr4::update(|cr4| {
            cr4.insert(Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE);
            cr4.set(Cr4Flags::OSXSAVE, xsave);
        });
    }
    PerCpu::install(CpuId(cpu));
    if !segments::load(cpu) {
        give_up(&"too little memory for interrupt stacks");
    }
    faults::load(true);
    apic::enable();
}

extern "sysv64" fn main() -> ! {
    init_processor(0);
    // `segments::load` reloads GS, whose base the per-processor state needs.
    if !timer::calibrate() {
        give_up(&"no i8254 and no CPUID leaf 15h to measure the clock with");
    }
    log::info!(
        "clock: {}.{:03} MHz, {}",
        timer::frequency() / 1_000_000,
        timer::frequency() / 1000 % 1000,
        apic::describe(),
    );
    clock::init();
    let Some(info) = BOOT_INFO.get() else { give_up(&"no boot information") };
    firmware::init(info);
    let online = smp::start(info, &firmware::other_processors());
    log::info!("processors: {online}");
    crate::launch::launch(info, online)
}

/// Lets the other processors go on to [`crate::launch::join`].
pub(crate) fn release_others() {
    READY.store(true, Ordering::Release);
    for cpu in 1..smp::online() {
        super::kick(CpuId(cpu));
    }
}

/// Set once the hypervisor stands; the other processors wait for it.
static READY: AtomicBool = AtomicBool::new(false);

/// Entry of the other processors, each on its own stack.
pub(super) extern "sysv64" fn start_secondary(cpu: u64) -> ! {
    init_processor(cpu as usize);
    smp::announce();
    // A processor that spins would slow down its sibling, or an emulator, while that fills guests'
    // memory. The kick that follows the flag waits until interrupts are on, which is within HLT.
    while !READY.load(Ordering::Acquire) {
        interrupts::enable_and_hlt();
        interrupts::disable();
    }
    crate::launch::join()
}
