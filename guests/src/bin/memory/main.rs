//! Tests memory: its bounds, the holes beside it, and every form of access to devices.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod code;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod device;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod ram;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod thumb;

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod guest {
    use super::{code, device, ram, thumb};
    use guests::tap::test;
    use guests::{aarch64, entry};

    fn main() -> ! {
        aarch64::run(&[
            test("memory reaches from its first to its last byte", ram::bounds),
            test("holes abort loads and stores of every width", ram::holes),
            test("an access across the end of memory aborts", ram::across_the_end),
            test("unaligned accesses to memory work", ram::unaligned),
            test("exclusives and atomics work in memory", ram::atomics),
            test("translation tables in a hole abort the walk", ram::tables_in_holes),
            test("cache operations keep the contents of memory", ram::cache_operations),
            test("set/way operations keep the contents of memory", ram::set_way),
            test("DC ZVA clears its block alone", ram::zeroing),
            test("every page is zero at first and keeps its pattern", ram::first_touch),
            test("all CPUs touch new pages at once", ram::first_touch_together),
            test("device registers answer every width", device::widths),
            test("unaligned accesses to a device abort or do no harm", device::unaligned),
            test("plain loads of every form read a device", device::plain_loads),
            test("plain stores of every form write a device", device::plain_stores),
            test("pairs, write-back and vectors load right or abort", device::odd_loads),
            test("pairs, write-back and vectors store right or abort", device::odd_stores),
            test("atomics to a device work or abort", device::atomics),
            test("AArch32 code at EL0 loads from a device", thumb::loads),
            test("cache operations to a device do nothing", device::cache_operations),
            test("instructions cannot be fetched from holes and devices", code::no_fetch),
            test("changed instructions are executed", code::self_modifying),
            test("changed instructions are executed by other CPUs", code::cross_modifying),
        ])
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
