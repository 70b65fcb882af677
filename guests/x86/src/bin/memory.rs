//! Tests of memory, of addresses where nobody is, and of paging.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod guest {
    use core::arch::asm;

    use guests::random::Random;
    use guests::tap::{Stop, Verdict, test};
    use guests::x86_64::boot::{self, free_memory};
    use guests::x86_64::exception::{self, GENERAL_PROTECTION, PAGE_FAULT};
    use guests::x86_64::{self, cpu, needs_hypervisor};
    use guests::{attempt, check, check_eq, entry};

    /// Nobody is there: between memory and the IOAPIC.
    const ABSENT: u64 = 0xd800_0000;
    const PAGE: u64 = 4096;
    const LARGE: u64 = 2 << 20;
    const CR0_CD: u64 = 1 << 30;
    const CR0_PG: u64 = 1 << 31;

    fn store(address: u64, value: u64) {
        // SAFETY: callers name free memory, page tables that nothing depends on, or nobody's place.
        unsafe { (address as *mut u64).write_volatile(value) }
    }

    fn load(address: u64) -> u64 {
        // SAFETY: as for `store`.
        unsafe { (address as *const u64).read_volatile() }
    }

    fn memory_keeps_its_values() -> Verdict {
        let memory = free_memory();
        let places = || (memory.start..memory.end).step_by(64 << 10);
        check!(places().count() > 16, "only {:#x?} is free", memory);
        places().for_each(|at| store(at, at ^ 0x5a5a_5a5a_5a5a_5a5a));
        for at in places() {
            check_eq!(load(at), at ^ 0x5a5a_5a5a_5a5a_5a5a, "at {at:#x}");
        }
        let last = memory.end - 8;
        store(last, 0x1234);
        check_eq!(load(last), 0x1234, "the last word at {last:#x}");
        Ok(())
    }

    fn absent_reads_as_ones() -> Verdict {
        needs_hypervisor()?;
        let (mut byte, mut half, mut word, mut wide) = (0u8, 0u16, 0u32, 0u64);
        let done = [
            attempt!("mov {0}, [{1}]", out(reg_byte) byte, in(reg) ABSENT),
            attempt!("mov {0:x}, [{1}]", out(reg) half, in(reg) ABSENT + 1),
            attempt!("mov {0:e}, [{1}]", out(reg) word, in(reg) ABSENT + 0xffe),
            attempt!("mov {0}, [{1}]", out(reg) wide, in(reg) ABSENT + 0x1ff8),
        ];
        check!(done.iter().all(Result::is_ok), "{done:?}");
        check!(
            byte == !0 && half == !0 && word == !0 && wide == !0,
            "{byte:x} {half:x} {word:x} {wide:x}"
        );
        for offset in 0..16 {
            store(ABSENT + offset, 0);
            check_eq!(load(ABSENT + offset), u64::MAX, "after a write at offset {offset}");
        }
        Ok(())
    }

    /// Instructions that kernels use on devices; nobody's place answers with ones.
    fn forms_of_instructions() -> Verdict {
        needs_hypervisor()?;
        let mut value = 0u64;
        let check_form = |name: &str, result: Result<(), _>, value: u64, expected: u64| {
            check!(result.is_ok(), "{name}: {result:?}");
            check_eq!(value, expected, "{name}");
            Ok(())
        };
        let result = attempt!("movzx {0:e}, byte ptr [{1}]", out(reg) value, in(reg) ABSENT);
        check_form("MOVZX", result, value, 0xff)?;
        let result = attempt!("movzx {0}, word ptr [{1}]", out(reg) value, in(reg) ABSENT);
        check_form("MOVZX, 16 bits", result, value, 0xffff)?;
        let result = attempt!("movsx {0}, byte ptr [{1}]", out(reg) value, in(reg) ABSENT);
        check_form("MOVSX", result, value, u64::MAX)?;
        let result = attempt!("movsxd {0}, dword ptr [{1}]", out(reg) value, in(reg) ABSENT);
        check_form("MOVSXD", result, value, u64::MAX)?;
        value = 0xf0f0;
        let result = attempt!("and {0:e}, [{1}]", inout(reg) value, in(reg) ABSENT);
        check_form("AND from", result, value, 0xf0f0)?;
        value = 1;
        let result = attempt!("add {0:e}, [{1}]", inout(reg) value, in(reg) ABSENT);
        check_form("ADD from", result, value, 0)?;
        value = 0x55;
        let result = attempt!("xchg {0:e}, [{1}]", inout(reg) value, in(reg) ABSENT);
        check_form("XCHG", result, value, 0xffff_ffff)?;
        let result = attempt!("or dword ptr [{0}], 1", in(reg) ABSENT);
        check_form("OR into", result, 0, 0)?;
        let result = attempt!("mov dword ptr [{0}], 1", in(reg) ABSENT);
        check_form("MOV of a constant", result, 0, 0)?;
        let mut equal = 0u8;
        let result =
            attempt!("cmp byte ptr [{1}], 0xff\nsete {0}", inout(reg_byte) equal, in(reg) ABSENT);
        check_form("CMP", result, equal.into(), 1)?;
        let result = attempt!("test dword ptr [{0}], 0x80", in(reg) ABSENT);
        check_form("TEST", result, 0, 0)
    }

    fn strings() -> Verdict {
        needs_hypervisor()?;
        let mut buffer = [0u8; 24];
        let copied = attempt!(
            "cld\nrep movsb",
            inout("rcx") buffer.len() => _, inout("rsi") ABSENT => _,
            inout("rdi") buffer.as_mut_ptr() => _
        );
        check!(copied.is_ok() && buffer == [0xff; 24], "{copied:?} {buffer:x?}");
        let stored = attempt!(
            "cld\nrep stosd", inout("rcx") 100u64 => _, in("eax") 0, inout("rdi") ABSENT => _
        );
        check!(stored.is_ok(), "{stored:?}");
        Ok(())
    }

    /// Rare instructions must do anything but harm the machine below.
    fn rare_forms_survive() -> Verdict {
        needs_hypervisor()?;
        let _ = [
            attempt!("inc dword ptr [{0}]", in(reg) ABSENT),
            attempt!("lock cmpxchg [{0}], {1}", in(reg) ABSENT, in(reg) 1u64, inout("rax") 0u64 => _),
            attempt!("lock cmpxchg8b [{0}]", in(reg) ABSENT, inout("eax") 0 => _, inout("edx") 0 => _,
                in("ecx") 0),
            attempt!("lock or byte ptr [{0}], 1", in(reg) ABSENT),
            attempt!("bts dword ptr [{0}], 3", in(reg) ABSENT),
            attempt!("movups xmm0, [{0}]", in(reg) ABSENT, out("xmm0") _),
            attempt!("movups [{0}], xmm0", in(reg) ABSENT),
            attempt!("movnti [{0}], {1}", in(reg) ABSENT, in(reg) 1u64),
            attempt!("fld qword ptr [{0}]\nfninit", in(reg) ABSENT),
            attempt!("push qword ptr [{0}]\nadd rsp, 8", in(reg) ABSENT),
            attempt!("fxsave [{0}]", in(reg) ABSENT),
            attempt!("lgdt [{0}]", in(reg) ABSENT + 0x1_0000_0000_0000),
            attempt!("invlpg [{0}]", in(reg) ABSENT),
            attempt!("prefetcht0 [{0}]", in(reg) ABSENT),
            attempt!("clflush [{0}]", in(reg) ABSENT),
            attempt!("crc32 {0}, qword ptr [{1}]", inout(reg) 0u64 => _, in(reg) ABSENT),
        ];
        Ok(())
    }

    fn across_the_end() -> Verdict {
        let end = boot::memory_map()
            .filter(|range| range.usable && range.start + range.size <= 1 << 32)
            .map(|range| range.start + range.size)
            .max()
            .unwrap_or(0);
        store(end - 8, 0x1122_3344_5566_7788);
        // Half of it is nobody's; what comes of it is not promised, only that both go on.
        let mut value = 0u64;
        let _ = attempt!("mov {0}, [{1}]", inout(reg) value, in(reg) end - 4);
        let _ = attempt!("mov [{1}], {0}", in(reg) value, in(reg) end - 4);
        Ok(())
    }

    fn execution_of_nothing() -> Verdict {
        needs_hypervisor()?;
        let result = attempt!("jmp {0}", in(reg) ABSENT);
        check!(result.is_err(), "code ran there");
        Ok(())
    }

    fn code_that_changes() -> Verdict {
        let place = free_memory().start;
        for round in 0..200u64 {
            // mov eax, round; ret
            store(place, 0xc3 << 40 | (round & 0xffff_ffff) << 8 | 0xb8);
            let found: u64;
            // SAFETY: the place holds a function that changes RAX only.
            unsafe { asm!("call {0}", in(reg) place, out("rax") found) }
            check_eq!(found, round, "what new code returns");
        }
        Ok(())
    }

    /// A virtual address that the start-up code does not map, and the entries on the way there.
    const WINDOW: u64 = 0x80_0000_0000;

    /// Maps [`WINDOW`] to nothing, by tables in free memory; returns the address of the last entry.
    fn open_window() -> u64 {
        let tables = (free_memory().start + LARGE).next_multiple_of(PAGE);
        let root: u64;
        // SAFETY: reads a register.
        unsafe { asm!("mov {}, cr3", out(reg) root, options(nomem, nostack)) }
        let write = 3;
        for level in 0..3 {
            (0..512).for_each(|entry| store(tables + level * PAGE + entry * 8, 0));
        }
        store((root & !0xfff) + (WINDOW >> 39) * 8, tables | write);
        store(tables, (tables + PAGE) | write);
        store(tables + PAGE, (tables + 2 * PAGE) | write);
        invalidate(WINDOW);
        tables + 2 * PAGE
    }

    fn invalidate(address: u64) {
        // SAFETY: drops a translation.
        unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack)) }
    }

    fn remapping() -> Verdict {
        let entry = open_window();
        let frames = (free_memory().start + 2 * LARGE).next_multiple_of(PAGE);
        let mut random = Random::new(7);
        for _ in 0..500 {
            let frame = frames + random.below(64) * PAGE;
            store(frame, frame);
            store(entry, frame | 3);
            invalidate(WINDOW);
            check_eq!(load(WINDOW), frame, "through a page that was mapped anew");
        }
        check_eq!(load(entry) & 0x20, 0x20, "accessed bit");
        store(WINDOW, 1);
        check_eq!(load(entry) & 0x60, 0x60, "accessed and dirty bits");
        Ok(())
    }

    fn page_faults() -> Verdict {
        let entry = open_window();
        let mut value = 0u64;
        let fault = attempt!("mov {0}, [{1}]", inout(reg) value, in(reg) WINDOW + 0x123);
        let address: u64;
        // SAFETY: reads a register.
        unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack)) }
        let fault = fault.err().map(|fault| (fault.vector, fault.error));
        check_eq!(fault, Some((PAGE_FAULT, 0)), "read of a page that is absent, value {value}");
        check_eq!(address, WINDOW + 0x123, "CR2");
        let fault = attempt!("mov [{0}], {0}", in(reg) WINDOW).err();
        check_eq!(fault.map(|f| (f.vector, f.error)), Some((PAGE_FAULT, 2)), "write of it");
        // Reserved bits of an entry: the top of the physical address.
        store(entry, 1 << 51 | 3);
        invalidate(WINDOW);
        let bits = cpu::cpuid(0x8000_0008, 0).eax & 0xff;
        let fault = attempt!("mov {0}, [{1}]", inout(reg) value, in(reg) WINDOW).err();
        if bits < 52 {
            check_eq!(fault.map(|f| f.vector), Some(PAGE_FAULT), "reserved bit of an entry");
        }
        Ok(())
    }

    fn pages_of_nobody() -> Verdict {
        needs_hypervisor()?;
        // The guest may map what it likes; where nobody is, ones are read.
        let entry = open_window();
        for frame in [ABSENT, 0xff_0000_0000, 0xf_ffff_f000] {
            store(entry, frame | 3);
            invalidate(WINDOW);
            let mut value = 0u64;
            let result = attempt!("mov {0}, [{1}]", out(reg) value, in(reg) WINDOW);
            check!(result.is_err() || value == u64::MAX, "{frame:#x}: {value:#x}");
        }
        Ok(())
    }

    fn paging_stays_under_64_bit_code() -> Verdict {
        const INTEL: u32 = u32::from_le_bytes(*b"Genu");
        if cpu::cpuid(0, 0).ebx != INTEL {
            return Err(Stop::Skip("QEMU, which stands for AMD-V, turns it off"));
        }
        let fault = attempt!("mov cr0, {0}", in(reg) control_0() & !CR0_PG);
        check_eq!(fault.err().map(|f| f.vector), Some(GENERAL_PROTECTION), "paging turned off");
        Ok(())
    }

    fn control_0() -> u64 {
        let value;
        // SAFETY: reads a register.
        unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack)) }
        value
    }

    fn control_4() -> u64 {
        let value;
        // SAFETY: reads a register.
        unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack)) }
        value
    }

    /// CR0 is written with caching off, which exits on VT-x; on AMD-V all writes of CR4 exit.
    fn control_registers_of_32_bit_code() -> Verdict {
        const HIGH: u64 = 0xffff_ffff_0000_0000;
        let before = control_0();
        let (after, last): (u64, u64);
        exception::arm();
        // SAFETY: calls 32-bit code, which turns caching off, and behind which its exceptions go
        // on. Its selector is 24, that of its stack 16; the start-up code leaves SS zero.
        unsafe {
            asm!(
                "lea r10, [rip + 4f]",
                "mov [r11], r10",
                "mov {scratch:e}, 16",
                "mov ss, {scratch:e}",
                "lea r10, [rip + 2f]",
                "push 24",
                "push r10",
                "mov rdx, -1",
                "retfq",
                ".code32",
                "2:",
                "mov cr0, eax",
                "mov edx, cr0",
                "mov cr4, ecx",
                "mov ecx, cr4",
                "4:",
                ".byte 0xea",
                ".long 3f",
                ".short 8",
                ".code64",
                "3:",
                "xor {scratch:e}, {scratch:e}",
                "mov ss, {scratch:e}",
                "mov cr0, {before}",
                scratch = out(reg) _,
                before = in(reg) before,
                in("rax") (before ^ CR0_CD) | HIGH,
                out("rdx") after,
                inout("rcx") control_4() | HIGH => last,
                out("r10") _,
                in("r11") exception::RESUME.as_ptr(),
            );
        }
        let fault = exception::disarm();
        check!(fault.is_ok(), "{fault:?}");
        check_eq!((after, last), (before ^ CR0_CD, control_4()), "CR0, CR4");
        Ok(())
    }

    fn main() -> ! {
        x86_64::run(&[
            test("memory keeps what is written", memory_keeps_its_values),
            test("where nobody is, reads give ones and writes are lost", absent_reads_as_ones),
            test("instructions of kernels work where nobody is", forms_of_instructions),
            test("string instructions work where nobody is", strings),
            test("rare instructions where nobody is harm nobody", rare_forms_survive),
            test("an access across the end of memory harms nobody", across_the_end),
            test("code cannot be fetched where nobody is", execution_of_nothing),
            test("code that was changed runs as it is now", code_that_changes),
            test("a page that is mapped anew shows its new frame", remapping),
            test("page faults tell address and cause", page_faults),
            test("pages that lead to nobody harm nobody", pages_of_nobody),
            test("64-bit code cannot turn paging off", paging_stays_under_64_bit_code),
            test(
                "32-bit code writes 32 bits to control registers",
                control_registers_of_32_bit_code,
            ),
        ])
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
