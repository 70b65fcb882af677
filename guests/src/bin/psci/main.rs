//! Tests PSCI and the other firmware services: every call and every error.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod calls;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod common;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod power;

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod guest {
    use super::{calls, power};
    use guests::tap::test;
    use guests::{aarch64, entry};

    fn main() -> ! {
        aarch64::run(&[
            test("the version is 1.0 or later", calls::version),
            test("mandatory functions are there", calls::mandatory_functions),
            test("functions that FEATURES denies are not supported", calls::unsupported_functions),
            test("unknown identifiers are not supported", calls::unknown_identifiers),
            test("registers from x4 on are kept", calls::registers_are_kept),
            test("32-bit calls ignore upper halves", calls::narrow_calls),
            test("HVC with another immediate is harmless", calls::other_immediates),
            test("SMC is answered like HVC", calls::smc_like_hvc),
            test("SMCCC describes itself", calls::smccc),
            test("random numbers have the bits asked for", calls::random_numbers),
            test("no trusted OS needs migration", calls::migration),
            test("AFFINITY_INFO knows who is on", power::affinity_levels),
            test("CPU_ON refuses what is wrong", power::cpu_on_refusals),
            test("all CPUs start in the state of the specification", power::all_cpus_start),
            test("32-bit CPU_ON starts a CPU", power::narrow_cpu_on),
            test("a hundred times off and on", power::cycles_of_off_and_on),
            test("of several CPU_ON at once one succeeds", power::cpu_on_race),
            test("stolen time has a record for each CPU", calls::stolen_time),
            test("CPU_SUSPEND stands by until an interrupt", power::standby),
            test("CPU_SUSPEND powers down and resumes", power::power_down),
            test("CPU_SUSPEND refuses wrong power states", power::wrong_power_states),
            test("SYSTEM_SUSPEND needs all other CPUs off", power::system_suspend),
            test("calls from all CPUs at once are answered", power::calls_from_all_cpus),
            test("CPU_ON where there is no memory harms nobody else", power::impossible_entry),
        ])
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
