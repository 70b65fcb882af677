//! Tests of real mode, by a CPU that a start-up message starts and that stays in it.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod guest {
    use core::arch::global_asm;
    use core::ptr::{read_volatile, write_volatile};

    use guests::tap::{Stop, Verdict, test};
    use guests::x86_64::smp::{self, PATIENCE};
    use guests::x86_64::{self, apic, cpu, time};
    use guests::{check, check_eq, entry};

    global_asm!(include_str!("code.S"));

    /// Where the code goes.
    const HOME: usize = 0x1_0000;
    /// Number of results.
    const RESULTS: usize = 8;
    /// Vector that ends HLT.
    const WAKE: u64 = 0x50;
    /// Number of the CPU in real mode.
    const WORKER: usize = 1;

    const IF: u16 = 1 << 9;
    const TF: u16 = 1 << 8;
    const TS: u16 = 1 << 3;

    /// What both CPUs read and write; the layout is in the code.
    #[repr(C)]
    struct Mailbox {
        command: u16,
        strange: u16,
        waits: u16,
        results: [u16; RESULTS],
    }

    unsafe extern "C" {
        static real_mode_start: u8;
        static real_mode_end: u8;
        static real_mode_mailbox: u8;
    }

    fn mailbox() -> *mut Mailbox {
        let offset = &raw const real_mode_mailbox as usize - &raw const real_mode_start as usize;
        (HOME + offset) as *mut Mailbox
    }

    fn command() -> u16 {
        // SAFETY: the mailbox lies in memory that is nobody else's.
        unsafe { read_volatile(&raw const (*mailbox()).command) }
    }

    fn waits() -> bool {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*mailbox()).waits) != 0 }
    }

    fn first_result() -> u16 {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*mailbox()).results[0]) }
    }

    fn start() -> Verdict {
        if smp::count() <= WORKER {
            return Err(Stop::Skip("one CPU"));
        }
        let code = &raw const real_mode_start;
        let length = &raw const real_mode_end as usize - code as usize;
        smp::stop(WORKER);
        // SAFETY: nothing of Rust's lies below 1 MiB.
        unsafe { core::ptr::copy_nonoverlapping(code, HOME as *mut u8, length) }
        for _ in 0..2 {
            apic::send(smp::apic_id(WORKER), apic::ICR_STARTUP | HOME as u64 >> 12);
        }
        check!(time::wait_for(PATIENCE, || command() == 0), "it does not start");
        Ok(())
    }

    /// Has the other CPU begin a routine.
    fn begin(routine: u16) -> Verdict {
        start()?;
        // SAFETY: the other CPU reads it and writes none of it now.
        unsafe { write_volatile(&raw mut (*mailbox()).command, routine) }
        Ok(())
    }

    /// Its results.
    fn end() -> Result<[u16; RESULTS], Stop> {
        check!(time::wait_for(PATIENCE, || command() == 0), "no answer");
        // SAFETY: the other CPU waits for a command.
        let mailbox = unsafe { read_volatile(mailbox()) };
        check_eq!(mailbox.strange, 0, "an exception that was not expected, at offset");
        Ok(mailbox.results)
    }

    fn results(routine: u16) -> Result<[u16; RESULTS], Stop> {
        begin(routine)?;
        end()
    }

    fn starts() -> Verdict {
        start()
    }

    fn interrupts() -> Verdict {
        let [hits, distance, cs, flags, inside, after, ..] = results(1)?;
        check_eq!((hits, distance, cs), (1, 0, (HOME >> 4) as u16), "hits, address");
        check_eq!((flags & IF, inside & (IF | TF), after & IF), (IF, 0, IF), "interrupt flag");
        Ok(())
    }

    fn faults() -> Verdict {
        let [undefined, division, bound, ..] = results(2)?;
        check_eq!((undefined, division, bound), (1, 2, 3), "hits");
        Ok(())
    }

    fn traps() -> Verdict {
        let [hits, int3, into, int1, ..] = results(3)?;
        check_eq!((hits, int3, into, int1), (3, 0, 0, 0), "hits, addresses");
        Ok(())
    }

    fn steps() -> Verdict {
        let [hits, inside, ..] = results(4)?;
        check_eq!((hits, inside & TF), (9, 0), "hits");
        Ok(())
    }

    fn ports() -> Verdict {
        /// The serial line can take a byte.
        const EMPTY: u16 = 0x60;
        let [status, left, read, first, second, left_out, written, _] = results(5)?;
        check_eq!(status & EMPTY, EMPTY, "line status");
        check_eq!((left, read, left_out, written), (0, 4, 0, 3), "counts and addresses");
        for word in [first, second] {
            check_eq!(word & 0x6060, 0x6060, "line status in a string");
        }
        Ok(())
    }

    fn control() -> Verdict {
        let [set, cleared, loaded, from_memory, cr3, cr3_high, cr4, _] = results(6)?;
        let bits = [set, cleared, loaded, from_memory].map(|word| word & (TS | 1));
        check_eq!(bits, [TS, 0, TS, 0], "task switched, protection");
        check_eq!((cr3, cr3_high), (0x5000, 0x1234), "CR3");
        check_eq!(cr4 & 1 << 5, 1 << 5, "CR4.PAE");
        Ok(())
    }

    fn coprocessor() -> Verdict {
        check_eq!(results(7)?[0], 1, "hits");
        Ok(())
    }

    fn registers() -> Verdict {
        let [base, read, written, ..] = results(8)?;
        check_eq!(u64::from(base) & apic::BASE_ENABLE, apic::BASE_ENABLE, "base of the local APIC");
        // Emulators take unknown registers for granted.
        x86_64::needs_hypervisor()?;
        check_eq!((read, written), (1, 2), "hits");
        Ok(())
    }

    fn tables() -> Verdict {
        let [limit, low, high, narrow, idt_limit, idt_low, idt_high, _] = results(9)?;
        check_eq!((limit, low, high, narrow), (0x1234, 0x9abc, 0x5678, 0x78), "GDTR");
        check_eq!((idt_limit, idt_low, idt_high), (0x3ff, 0, 2), "IDTR");
        Ok(())
    }

    fn breakpoint() -> Verdict {
        let [hits, dr6, dr0, dr7, ..] = results(10)?;
        check_eq!((hits, dr6 & 0xf, dr7 & 0xff), (1, 1, 1), "hits, DR6, DR7");
        check!(dr0 != 0, "DR0 is lost");
        Ok(())
    }

    /// Sends `message` twice, each time to the other CPU's HLT.
    fn wake(routine: u16, message: u64) -> Verdict {
        begin(routine)?;
        check!(time::wait_for(PATIENCE, waits), "it does not wait");
        for hits in 1..=2 {
            // It is at its HLT, or as good as.
            time::wait_for(2, || false);
            apic::send(smp::apic_id(WORKER), message);
            check!(time::wait_for(PATIENCE, || first_result() == hits), "message {hits} is lost");
        }
        end().map(drop)
    }

    fn halt() -> Verdict {
        wake(11, WAKE)
    }

    fn nmi() -> Verdict {
        wake(12, apic::ICR_NMI)
    }

    fn protected() -> Verdict {
        let [cs, ds, word, msw, odd, msw_after, ..] = results(13)?;
        check_eq!((cs, ds), (8, (HOME >> 4) as u16), "selectors");
        check_eq!((word, odd), (0x4321, 0x8765), "words");
        check_eq!((msw & 1, msw_after & 1), (1, 0), "protection");
        Ok(())
    }

    fn wrap() -> Verdict {
        let [sp, flags, cs, hits, ..] = results(14)?;
        check_eq!((sp, cs, hits), (0, (HOME >> 4) as u16, 1), "SP, CS, hits");
        check!(flags & 2 != 0, "FLAGS {flags:#x}");
        Ok(())
    }

    fn short_table() -> Verdict {
        check_eq!(results(15)?[0], 1, "hits");
        Ok(())
    }

    fn flags() -> Verdict {
        check_eq!(results(16)?[0], 0x24, "changes");
        Ok(())
    }

    /// QEMU, which has AMD's, lets pass what processors refuse.
    fn needs_intel() -> Verdict {
        const INTEL: u32 = u32::from_le_bytes(*b"Genu");
        if cpu::cpuid(0, 0).ebx == INTEL { Ok(()) } else { Err(Stop::Skip("not Intel's")) }
    }

    fn beyond_the_end() -> Verdict {
        needs_intel()?;
        let [fault, hits, ..] = results(17)?;
        check_eq!((fault, hits), (0xffff, 1), "address of INT, hits by INS");
        Ok(())
    }

    fn directory_pointers() -> Verdict {
        needs_intel()?;
        results(18).map(drop)
    }

    /// The machine is turned off next, which does not wait for the other CPU.
    fn always() -> Verdict {
        begin(19)
    }

    fn main() -> ! {
        x86_64::run(&[
            test("a start-up message starts real mode", starts),
            test("INT n goes through the table and IRET comes back", interrupts),
            test("faults return to the instruction", faults),
            test("traps return behind the instruction", traps),
            test("every instruction is a step", steps),
            test("ports and strings of them work", ports),
            test("control registers keep what is written", control),
            test("the coprocessor faults after a task switch", coprocessor),
            test("model-specific registers work, and fault where there are none", registers),
            test("descriptor tables are what was loaded", tables),
            test("a breakpoint on data stops", breakpoint),
            test("HLT ends with an interrupt", halt),
            test("NMIs come with interrupts off, and again", nmi),
            test("protected mode and back", protected),
            test("the stack wraps around", wrap),
            test("a table that is too short faults", short_table),
            test("flags of 32 bits can be flipped", flags),
            test("nothing goes beyond a segment's end", beyond_the_end),
            test(
                "PAE paging with a reserved bit in a directory pointer faults",
                directory_pointers,
            ),
            test("a CPU that keeps exiting does not hold up power off", always),
        ])
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
