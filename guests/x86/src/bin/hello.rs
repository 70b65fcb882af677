//! Says hello and what machine this is.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod guest {
    use guests::tap::{Verdict, test};
    use guests::x86_64::acpi::acpi;
    use guests::x86_64::{self, apic, boot, cpu, smp, time};
    use guests::{check, check_eq, entry, println};

    fn machine_is_sane() -> Verdict {
        let base = cpu::read_msr(apic::BASE);
        check!(base & apic::BASE_FIRST != 0, "IA32_APIC_BASE is {base:#x} on the first CPU");
        check!(boot::memory_size() > 1 << 20, "{} bytes of memory", boot::memory_size());
        check!((1..=smp::MAX_CPUS).contains(&smp::count()), "{} CPUs", smp::count());
        check_eq!(smp::apic_id(0), apic::id(), "first processor of the tables");
        Ok(())
    }

    fn memory_map_is_sorted() -> Verdict {
        let mut end = 0;
        for range in boot::memory_map() {
            check!(range.start >= end && range.size > 0, "{range:x?} after {end:#x}");
            end = range.start + range.size;
        }
        Ok(())
    }

    fn tables_add_up() -> Verdict {
        check!(acpi().is_some_and(|acpi| acpi.checksums), "{:x?}", acpi());
        Ok(())
    }

    fn main() -> ! {
        println!(
            "Hello from a PC started by {:?}: {} CPUs, {} MiB of memory, {} MHz",
            boot::protocol(),
            smp::count(),
            boot::memory_size() >> 20,
            time::tsc_khz() / 1000
        );
        x86_64::run(&[
            test("the machine is what guests expect", machine_is_sane),
            test("the memory map is sorted and has no overlaps", memory_map_is_sorted),
            test("the bytes of every ACPI table add up", tables_add_up),
        ])
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
