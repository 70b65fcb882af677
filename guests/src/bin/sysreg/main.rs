//! Tests system registers: the identification space, every encodable register,
//! debug, the performance monitors, pointer authentication, branch targets and
//! what each CPU must keep for itself.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod debug;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod identification;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod kept;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod performance;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod pointers;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod sweep;

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod guest {
    use super::{debug, identification, kept, performance, pointers, sweep};
    use guests::tap::test;
    use guests::{aarch64, entry};

    fn main() -> ! {
        aarch64::run(&[
            test("the identification space reads without an exception", identification::readable),
            test("reserved identification registers are zero", identification::reserved),
            test("identification registers cannot be written", identification::read_only),
            test("identification registers are the same on all CPUs", identification::uniform),
            test("every CPU has the affinity of the device tree", identification::affinities),
            test("features that a guest cannot have are hidden", identification::hidden),
            test("the interrupt controller is the one of the device tree", identification::gic),
            test("what identification registers promise is there", identification::promised),
            test("registers above EL1 are undefined", sweep::above_el1),
            test("every register is read or undefined", sweep::reads),
            test("every register is written or undefined", sweep::writes),
            test("every system instruction works or is undefined", sweep::instructions),
            test("the machine works after the sweeps", sweep::aftermath),
            test("BRK and a breakpoint at EL1 are taken", debug::breakpoint),
            test("every breakpoint works", debug::all_breakpoints),
            test("a breakpoint at EL0 is taken", debug::user_breakpoint),
            test("a watchpoint is taken", debug::watchpoint),
            test("single step at EL1 takes one instruction", debug::step),
            test("single step at EL0 takes one instruction", debug::user_step),
            test("the OS lock can be set and cleared", debug::os_lock),
            test("the cycle counter counts", performance::cycles),
            test("event counters count", performance::events),
            test("counters can exclude EL1", performance::filter),
            test("the cycle counter's overflow interrupts", performance::overflow),
            test("pointers are authenticated", pointers::authentication),
            test("branch targets are enforced", pointers::branch_targets),
            test("vector registers are kept", kept::vectors),
            test("registers of each CPU are its own", kept::registers),
        ])
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
