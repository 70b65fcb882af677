//! Tests of the local APIC, the IOAPIC and the 8259 pair.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod legacy;
#[cfg(target_os = "none")]
mod nmi;

#[cfg(target_os = "none")]
mod guest {
    use core::arch::asm;
    use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use super::{legacy, nmi};
    use guests::tap::{Stop, Verdict, test};
    use guests::x86_64::console::{
        COM1, COM1_IRQ, INTERRUPT_ENABLE, INTERRUPT_IDENTIFICATION, MODEM_CONTROL,
    };
    use guests::x86_64::exception::{self, GENERAL_PROTECTION};
    use guests::x86_64::time::{pause, wait_for};
    use guests::x86_64::{self, apic, cpu, ioapic, port};
    use guests::{attempt, check, check_eq, entry};

    pub(crate) const LOW: u8 = 0x41;
    const HIGH: u8 = 0x81;
    const SERIAL: u8 = 0x70;
    const DEBUG: u8 = 1;
    /// Milliseconds until something must have happened.
    pub(crate) const PATIENCE: u64 = 3000;

    fn interrupt_waits_for_the_flag() -> Verdict {
        apic::send_self(LOW);
        check!(wait_requested(LOW), "not requested");
        check_eq!(exception::count(LOW), 0, "interrupts with the flag clear");
        cpu::interrupt_window();
        check_eq!(exception::count(LOW), 1, "interrupts");
        check!(!apic::bit(apic::IRR, LOW) && !apic::bit(apic::ISR, LOW), "still requested");
        Ok(())
    }

    /// Waits until a vector is requested, with interrupts off.
    fn wait_requested(vector: u8) -> bool {
        (0..100_000).any(|_| apic::bit(apic::IRR, vector))
    }

    static ORDER: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
    static PLACE: AtomicUsize = AtomicUsize::new(0);

    fn note(vector: u8) {
        let place = PLACE.fetch_add(1, Ordering::AcqRel);
        if let Some(slot) = ORDER.get(place) {
            slot.store(vector.into(), Ordering::Release);
        }
    }

    fn noted() -> [u64; 8] {
        PLACE.store(0, Ordering::Release);
        core::array::from_fn(|place| ORDER[place].swap(0, Ordering::AcqRel))
    }

    fn higher_comes_first() -> Verdict {
        exception::set_handler(note);
        apic::send_self(LOW);
        apic::send_self(HIGH);
        check!(wait_requested(LOW) && wait_requested(HIGH), "not requested");
        cpu::enable_interrupts();
        wait_for(PATIENCE, || exception::count(LOW) == 1);
        cpu::disable_interrupts();
        let [first, second, third, ..] = noted();
        check_eq!([first, second, third], [u64::from(HIGH), u64::from(LOW), 0], "order");
        Ok(())
    }

    fn twice_is_once() -> Verdict {
        apic::send_self(LOW);
        apic::send_self(LOW);
        pause(5);
        check_eq!(exception::count(LOW), 1, "interrupts");
        Ok(())
    }

    fn priority_holds_back() -> Verdict {
        cpu::set_task_priority(4);
        check_eq!(cpu::read_msr(apic::TPR), 0x40, "task priority after a write of CR8");
        apic::send_self(LOW);
        apic::send_self(HIGH);
        pause(5);
        check_eq!(exception::count(HIGH), 1, "interrupts above the priority");
        check_eq!(exception::count(LOW), 0, "interrupts at the priority");
        cpu::write_msr(apic::TPR, 0x30);
        check_eq!(cpu::task_priority(), 3, "CR8 after a write of the register");
        check!(wait_for(PATIENCE, || exception::count(LOW) == 1), "it is lost");
        Ok(())
    }

    static IN_SERVICE: AtomicU64 = AtomicU64::new(0);

    fn note_service(vector: u8) {
        IN_SERVICE.store(apic::bit(apic::ISR, vector).into(), Ordering::Release);
        PLACE.store(cpu::read_msr(apic::PPR) as usize, Ordering::Release);
    }

    fn in_service_inside_the_handler() -> Verdict {
        exception::set_handler(note_service);
        apic::send_self(HIGH);
        pause(5);
        check_eq!(IN_SERVICE.load(Ordering::Acquire), 1, "in service");
        check_eq!(PLACE.swap(0, Ordering::AcqRel), 0x80, "processor priority");
        Ok(())
    }

    fn shadow_of_sti() -> Verdict {
        apic::send_self(LOW);
        check!(wait_requested(LOW), "not requested");
        for _ in 0..100 {
            // SAFETY: handlers keep every register.
            unsafe { asm!("sti", "cli") }
        }
        check_eq!(exception::count(LOW), 0, "interrupts between STI and CLI");
        cpu::interrupt_window();
        check_eq!(exception::count(LOW), 1, "interrupts");
        Ok(())
    }

    /// A step ends what the instruction before it put off.
    fn steps_in_shadows() -> Verdict {
        let step = attempt!("pushfq\nor dword ptr [rsp], 0x100\npopfq\nsti\nnop");
        cpu::disable_interrupts();
        check_eq!(step.err().map(|trap| trap.vector), Some(DEBUG), "after STI");
        let step = attempt!(
            "mov {0:e}, ss\npushfq\nor dword ptr [rsp], 0x100\npopfq\nmov ss, {0:e}\n.byte 0xf1",
            out(reg) _
        );
        check_eq!(step.err().map(|trap| trap.vector), Some(DEBUG), "INT1 after MOV SS");
        Ok(())
    }

    /// Whoever steps over an instruction that exits finds out by DR6 that it was a step.
    fn steps_over_exits() -> Verdict {
        const DR6_RESET: u64 = 0xffff_0ff0;
        const DR6_BS: u64 = 1 << 14;
        for (name, exits) in [("NOP", false), ("IN", true)] {
            // SAFETY: the register tells only.
            unsafe { asm!("mov dr6, {}", in(reg) DR6_RESET, options(nomem, nostack)) }
            let step = match exits {
                false => attempt!("pushfq\nor dword ptr [rsp], 0x100\npopfq\nnop"),
                true => {
                    attempt!("pushfq\nor dword ptr [rsp], 0x100\npopfq\nin al, 0x61", out("al") _)
                }
            };
            let dr6: u64;
            // SAFETY: reads a register.
            unsafe { asm!("mov {}, dr6", out(reg) dr6, options(nomem, nostack)) }
            check_eq!(step.err().map(|trap| trap.vector), Some(DEBUG), "exception after {name}");
            check_eq!(dr6, DR6_RESET | DR6_BS, "DR6 after {name}");
        }
        Ok(())
    }

    fn halt_wakes() -> Verdict {
        for round in 1..=100 {
            apic::send_self(LOW);
            cpu::halt();
            check_eq!(exception::count(LOW), round, "interrupts");
        }
        Ok(())
    }

    fn reserved_registers_fault() -> Verdict {
        if cpu::cpuid(1, 0).ecx & cpu::HYPERVISOR == 0 || !cpu::has_kvm_interface() {
            return Err(Stop::Skip("emulators are lenient"));
        }
        for index in [0x800, 0x801, 0x80e, 0x829, 0x840, 0x8ff] {
            let fault = cpu::try_read_msr(index).err().map(|fault| fault.vector);
            check_eq!(fault, Some(GENERAL_PROTECTION), "read of {index:#x}");
        }
        for (index, value) in [
            (apic::ID, 0),
            (apic::EOI, 1),
            (apic::SVR, 1 << 32),
            (apic::ESR, 1),
            (apic::TPR, 1 << 8),
        ] {
            let fault = cpu::try_write_msr(index, value).err().map(|fault| fault.vector);
            check_eq!(fault, Some(GENERAL_PROTECTION), "write of {value:#x} to {index:#x}");
        }
        let base = cpu::read_msr(apic::BASE);
        let fault = cpu::try_write_msr(apic::BASE, base & !apic::BASE_ENABLE);
        check_eq!(fault.err().map(|f| f.vector), Some(GENERAL_PROTECTION), "x2APIC bit alone");
        Ok(())
    }

    /// A register of the local APIC in xAPIC mode, by its x2APIC index.
    fn xapic(index: u32) -> *mut u32 {
        (0xfee0_0000 + (u64::from(index) - 0x800) * 16) as *mut u32
    }

    fn memory_mapped_mode() -> Verdict {
        let base = cpu::read_msr(apic::BASE);
        let id = apic::id();
        let version = cpu::read_msr(apic::VERSION) as u32;
        let off = base & !(apic::BASE_ENABLE | apic::BASE_X2APIC);
        cpu::write_msr(apic::BASE, off);
        cpu::write_msr(apic::BASE, off | apic::BASE_ENABLE);
        // SAFETY: the local APIC is there in this mode.
        let (found_id, found_version, answered) = unsafe {
            xapic(apic::SVR).write_volatile(0x1ff);
            xapic(apic::TPR).write_volatile(0);
            let id = xapic(apic::ID).read_volatile() >> 24;
            let version = xapic(apic::VERSION).read_volatile();
            // Interrupt command, high half: the target; low half sends.
            xapic(apic::ICR + 1).write_volatile(id << 24);
            xapic(apic::ICR).write_volatile(LOW.into());
            let first = u32::from(LOW) / 32;
            let requested = (0..100_000)
                .any(|_| xapic(apic::IRR + first).read_volatile() >> (LOW % 32) & 1 != 0);
            (id, version, requested)
        };
        cpu::write_msr(apic::BASE, base);
        check_eq!(found_id, id, "identifier");
        check_eq!(found_version, version, "version");
        check!(answered, "no interrupt by the command register in memory");
        // Modes change without a reset of the requested interrupts; it may or may not come now.
        apic::quiesce();
        Ok(())
    }

    fn ioapic_registers() -> Verdict {
        check!(ioapic::pins() >= 24, "{} inputs", ioapic::pins());
        let version = ioapic::read(ioapic::VERSION) & 0xff;
        check!((0x11..=0x20).contains(&version), "version {version:#x}");
        for pin in 0..ioapic::pins() {
            let value = 0x0f00_0000_0000_0000 | ioapic::MASKED | ioapic::LEVEL | 0x1_2000 | 0x55;
            ioapic::set_entry(pin, value);
            check_eq!(ioapic::entry(pin), value, "entry {pin}");
        }
        Ok(())
    }

    /// Has COM1 interrupt, or no longer.
    pub(crate) fn serial_interrupt(on: bool) {
        const MODEM_OUT2: u8 = 1 << 3;
        const TRANSMITTER_EMPTY: u8 = 1 << 1;
        port::write8(COM1 + MODEM_CONTROL, if on { MODEM_OUT2 | 3 } else { 3 });
        port::write8(COM1 + INTERRUPT_ENABLE, if on { TRANSMITTER_EMPTY } else { 0 });
    }

    fn serial_entry(flags: u64) -> u64 {
        u64::from(apic::id()) << 56 | flags | u64::from(SERIAL)
    }

    fn edge_comes_once() -> Verdict {
        ioapic::set_entry(COM1_IRQ.into(), serial_entry(0));
        serial_interrupt(true);
        let came = wait_for(PATIENCE, || exception::count(SERIAL) > 0);
        pause(10);
        let count = exception::count(SERIAL);
        let cause = port::read8(COM1 + INTERRUPT_IDENTIFICATION) & 0xf;
        serial_interrupt(false);
        check!(came, "no interrupt");
        check_eq!(count, 1, "interrupts by one edge");
        check_eq!(cause, 2, "cause: transmitter empty");
        Ok(())
    }

    const REPEATS: u64 = 5;

    /// Lets the level fall after some interrupts: the read of the cause does that.
    fn lower_in_the_end(_: u8) {
        if exception::count(SERIAL) >= REPEATS {
            port::read8(COM1 + INTERRUPT_IDENTIFICATION);
        }
    }

    fn level_comes_again() -> Verdict {
        exception::set_handler(lower_in_the_end);
        ioapic::set_entry(COM1_IRQ.into(), serial_entry(ioapic::LEVEL));
        serial_interrupt(true);
        wait_for(PATIENCE, || exception::count(SERIAL) >= REPEATS);
        pause(10);
        let count = exception::count(SERIAL);
        serial_interrupt(false);
        let entry = ioapic::entry(COM1_IRQ.into());
        check_eq!(count, REPEATS, "interrupts by a level that falls at the last");
        check_eq!(entry & ioapic::REMOTE_IRR, 0, "remote IRR after the end");
        Ok(())
    }

    fn mask_holds_back() -> Verdict {
        ioapic::set_entry(COM1_IRQ.into(), serial_entry(ioapic::LEVEL | ioapic::MASKED));
        exception::set_handler(lower_in_the_end);
        serial_interrupt(true);
        pause(10);
        check_eq!(exception::count(SERIAL), 0, "interrupts of a masked input");
        ioapic::set_entry(COM1_IRQ.into(), serial_entry(ioapic::LEVEL));
        let came = wait_for(PATIENCE, || exception::count(SERIAL) > 0);
        serial_interrupt(false);
        check!(came, "the level is lost");
        Ok(())
    }

    fn main() -> ! {
        x86_64::run(&[
            test("an interrupt waits for the interrupt flag", interrupt_waits_for_the_flag),
            test("the higher vector comes first", higher_comes_first),
            test("a vector requested twice comes once", twice_is_once),
            test("the task priority holds lower classes back", priority_holds_back),
            test("inside a handler its vector is in service", in_service_inside_the_handler),
            test("an NMI comes with interrupts off, and again", nmi::comes_always),
            test("an NMI inside an NMI's handler comes after it", nmi::waits_for_the_one_before),
            test("an NMI that is held back ends no HLT", nmi::ends_no_halt_while_held_back),
            test("an NMI comes between STI and CLI", nmi::comes_between_shadows),
            test("STI lets no interrupt in before the next instruction", shadow_of_sti),
            test("single steps work after STI and MOV SS", steps_in_shadows),
            test("a step over an instruction that exits shows in DR6", steps_over_exits),
            test("HLT ends with an interrupt that waits", halt_wakes),
            test("reserved x2APIC registers and bits fault", reserved_registers_fault),
            test("the local APIC works in memory-mapped mode", memory_mapped_mode),
            test("IOAPIC entries keep what is written", ioapic_registers),
            test("an edge on an IOAPIC input interrupts once", edge_comes_once),
            test("a level on an IOAPIC input interrupts until it falls", level_comes_again),
            test("a masked IOAPIC input waits", mask_holds_back),
            test("the 8259 interrupts through pin 0 of the local APIC", legacy::one_interrupt),
            test("interrupts of the 8259 follow each other", legacy::one_after_the_other),
            test("the i8254 interrupts when another CPU starts it", legacy::timer_by_another),
        ])
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
