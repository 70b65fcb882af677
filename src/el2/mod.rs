//! tmp
#![allow(dead_code)]
mod console;
mod context;
mod fault;
mod features;
mod frames;
mod guest_state;
mod heap;
mod memory;
mod mmu;
mod percpu;
mod registers;
mod stage2_hardware;

core::arch::global_asm!(include_str!("entry.S"), options(raw));
core::arch::global_asm!(include_str!("switch.S"), options(raw));

#[unsafe(no_mangle)]
extern "C" fn boot_main(fdt: u64, level: u64) -> ! {
    console::set_pl011(0x0900_0000);
    heap::init();
    console::init_log();
    // map uart in early tables? not mapped yet
    let f = features::Features::read();
    mmu::init(f.e2h).unwrap();
    mmu::map(0x0900_0000, 0x1000, mmu::DEVICE).unwrap();
    mmu::activate();
    let p = alloc::boxed::Box::leak(alloc::boxed::Box::new(percpu::PerCpu::new(0)));
    p.install();
    log::info!("hello el{level} fdt {fdt:#x} e2h {} pmu {:?} bp {}", f.e2h, f.event_counters, f.breakpoints);
    unsafe { (0x40u64 as *mut u32).write_volatile(1) };
    fault::halt()
}
#[unsafe(no_mangle)]
static mut secondary_boot: [u64; 3] = [0; 3];
#[unsafe(no_mangle)]
extern "C" fn secondary_main() {}
