//! Says hello and what machine this is.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod guest {
    use guests::aarch64::{self, cpu, machine, smp};
    use guests::tap::{Verdict, test};
    use guests::{check, check_eq, entry, mrs, println};

    fn machine_is_sane() -> Verdict {
        check_eq!(mrs!("currentel") >> 2, 1, "exception level");
        check!(smp::count() <= smp::MAX_CPUS, "{} CPUs", smp::count());
        check!(machine().ram.end > machine().ram.start, "no RAM");
        Ok(())
    }

    fn main() -> ! {
        let machine = machine();
        println!("Hello from EL{}, MPIDR {:#x}", mrs!("currentel") >> 2, mrs!("mpidr_el1"));
        println!(
            "GICv{}, {} CPUs, {} MiB of memory at {:#x}, this CPU is {:#x}",
            machine.gic_version(),
            smp::count(),
            (machine.ram.end - machine.ram.start) >> 20,
            machine.ram.start,
            cpu::affinity()
        );
        aarch64::run(&[test("the machine is what guests expect", machine_is_sane)])
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
