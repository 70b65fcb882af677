//! Tests the interrupt controller, version 2 or 3, from every CPU.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod between;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod delivery;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod registers;

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod guest {
    use super::{between, delivery, registers};
    use guests::tap::test;
    use guests::{aarch64, entry};

    fn main() -> ! {
        aarch64::run(&[
            test("identification registers tell the version", registers::identification),
            test("the distributor can be switched off and on", registers::control),
            test("enable bits are set and cleared one by one", registers::enable_bits),
            test("pending bits are set and cleared one by one", registers::pending_bits),
            test("active bits are set and cleared one by one", registers::active_bits),
            test("every interrupt has its own priority", registers::priorities),
            test("the trigger of shared interrupts can be chosen", registers::configuration),
            test("shared interrupts keep their route", registers::routes),
            test("private interrupts target their own CPU", registers::private_targets),
            test("private registers are banked", registers::banked),
            test("redistributors describe their CPUs", registers::redistributors),
            test("pending SGIs have a bit for each source", registers::sgi_sources),
            test("accesses of every width answer or abort", registers::widths),
            test("nothing to acknowledge is interrupt 1023", delivery::spurious),
            test("each SGI reaches its sender", delivery::sgi_to_self),
            test("each private interrupt can be made pending", delivery::private),
            test("each shared interrupt can be made pending", delivery::shared),
            test("sixteen pending SGIs arrive in order of priority", delivery::sgis_by_priority),
            test("many pending SPIs arrive in order of priority", delivery::spis_by_priority),
            test("the priority mask holds interrupts back", delivery::priority_mask),
            test("more urgent interrupts preempt", delivery::preemption),
            test("an equally urgent interrupt does not preempt", delivery::no_preemption),
            test("a disabled interrupt stays pending", delivery::disabled),
            test("a withdrawn interrupt does not arrive", delivery::withdrawn),
            test("pending again while active arrives after the end", delivery::pending_and_active),
            test("in EOI mode 1 an interrupt is active until deactivated", delivery::split_end),
            test("many interrupts are active at once", delivery::many_active),
            test("an active interrupt does not arrive until it is cleared", delivery::set_active),
            test(
                "the console's level interrupt comes until it is cleared",
                delivery::console_level,
            ),
            test("a thousand SGIs are taken as exceptions", delivery::exceptions),
            test("an SGI reaches all other CPUs", between::to_others),
            test("an SGI reaches the listed CPUs alone", between::to_list),
            test("the same SGI from all CPUs arrives from each", between::same_sgi_from_all),
            test("an SGI is sent while another CPU's is handled", between::same_sgi_while_handled),
            test("sixteen SGIs from each CPU all arrive", between::many_sgis_from_all),
            test("an SGI wakes a CPU from WFI", between::wake),
            test("an SGI goes round all CPUs", between::ring),
            test("a shared interrupt reaches the CPU of its route", between::routing),
            test("a pending interrupt follows a change of route", between::rerouting),
            test("an interrupt for several CPUs is taken by one", between::one_of_many),
            test("another CPU can deactivate an interrupt", between::deactivate_elsewhere),
            test("another CPU can make an interrupt active", between::activate_elsewhere),
            test("another CPU's redistributor makes interrupts pending", between::remote_private),
        ])
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
