//! Reads and writes everything that there may be: CPUID, model-specific registers, ports, control
//! registers, instructions of hypervisors. Under a hypervisor all of it must leave the machine
//! below alone; on the bare machine what could harm it is left out.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod guest {
    use guests::random::Random;
    use guests::tap::{Verdict, test};
    use guests::x86_64::exception::GENERAL_PROTECTION;
    use guests::x86_64::{self, apic, cpu, needs_hypervisor, port};
    use guests::{attempt, check, check_eq, entry, println};

    /// Registers of the two halves of the permission maps, AMD's third, and those of hypervisors.
    const MSRS: [core::ops::Range<u32>; 5] = [
        0..0x2000,
        0xc000_0000..0xc000_2000,
        0xc001_0000..0xc001_2000,
        0x4000_0000..0x4000_0200,
        0x4b56_4d00..0x4b56_4d10,
    ];
    /// EFER.
    const EFER: u32 = 0xc000_0080;
    /// Page-attribute table.
    const PAT: u32 = 0x277;

    fn leaves() -> impl Iterator<Item = u32> {
        (0..0x40).chain(0x4000_0000..0x4000_0020).chain(0x8000_0000..0x8000_0030).chain([
            0x4000_0100,
            0x7fff_ffff,
            0x8fff_ffff,
            0xc000_0000,
            u32::MAX,
        ])
    }

    fn cpuid_is_steady() -> Verdict {
        for leaf in leaves() {
            for subleaf in (0..16).chain([u32::MAX]) {
                let (first, second) = (cpu::cpuid(leaf, subleaf), cpu::cpuid(leaf, subleaf));
                check!(first == second, "leaf {leaf:#x}.{subleaf}: {first:x?} and {second:x?}");
            }
        }
        Ok(())
    }

    fn virtualisation_is_hidden() -> Verdict {
        needs_hypervisor()?;
        const VMX: u32 = 1 << 5;
        const SVM: u32 = 1 << 2;
        check_eq!(cpu::cpuid(1, 0).ecx & VMX, 0, "VMX");
        check_eq!(cpu::cpuid(0x8000_0001, 0).ecx & SVM, 0, "SVM");
        let svm = cpu::cpuid(0x8000_000a, 0);
        check_eq!(svm.eax | svm.ebx | svm.ecx | svm.edx, 0, "leaf 8000000a");
        Ok(())
    }

    fn every_msr(mut each: impl FnMut(u32) -> Verdict) -> Verdict {
        MSRS.into_iter().flatten().try_for_each(&mut each)
    }

    fn msr_reads() -> Verdict {
        let mut there = 0;
        every_msr(|index| {
            match cpu::try_read_msr(index) {
                Ok(_) => there += 1,
                Err(fault) => {
                    check_eq!((fault.vector, fault.error), (GENERAL_PROTECTION, 0), "{index:#x}");
                }
            }
            Ok(())
        })?;
        println!("# {there} registers can be read");
        Ok(())
    }

    /// Registers whose change ends this test rather than the machine below.
    fn is_needed(index: u32) -> bool {
        index == apic::BASE || (0x800..0x900).contains(&index)
    }

    fn msr_writes() -> Verdict {
        needs_hypervisor()?;
        let mut random = Random::new(1);
        every_msr(|index| {
            if is_needed(index) {
                return Ok(());
            }
            let before = cpu::try_read_msr(index);
            let values = match index {
                // Without these bits this very code stops.
                EFER => [u64::MAX, 1 << 12, 0],
                PAT => [u64::MAX, 2, 0x0606_0606_0606_0606],
                _ => [u64::MAX, 0, random.next()],
            };
            for value in values {
                if let Err(fault) = cpu::try_write_msr(index, value) {
                    check_eq!((fault.vector, fault.error), (GENERAL_PROTECTION, 0), "{index:#x}");
                }
            }
            if let Ok(before) = before {
                let _ = cpu::try_write_msr(index, before);
            }
            Ok(())
        })
    }

    fn apic_registers() -> Verdict {
        needs_hypervisor()?;
        let mut random = Random::new(2);
        for index in 0x800..0x900 {
            let _ = cpu::try_read_msr(index);
            if index == apic::ICR {
                continue;
            }
            for value in [u64::MAX, 0xffff_ffff, 0, random.next(), random.below(1 << 32)] {
                let _ = cpu::try_write_msr(index, value);
            }
            // Timers and interrupts that came of it stay masked.
            apic::quiesce();
        }
        // Interrupt commands to nobody: every delivery mode, vector and short-hand but "all".
        for low in (0..1 << 20).step_by(37) {
            let _ = cpu::try_write_msr(apic::ICR, 0x00ff_ff00_0000_0000 | low & !(0b11 << 18));
        }
        for value in [0, !0, 0xfee0_0000, 0xfee0_0400, 1 << 40 | 0xfee0_0c00] {
            let base = cpu::read_msr(apic::BASE);
            if value & 0xc00 == 0xc00 {
                continue;
            }
            let _ = cpu::try_write_msr(apic::BASE, value);
            cpu::write_msr(apic::BASE, base & !(apic::BASE_ENABLE | apic::BASE_X2APIC));
            apic::enable();
        }
        Ok(())
    }

    /// Ports that end the guest, or its console.
    fn is_fatal(port: u16) -> bool {
        matches!(port, 0x3f1..=0x3ff | 0x5fd..=0x601 | 0x61..=0x64 | 0x8f..=0x92 | 0xcf6..=0xcf9)
    }

    fn port_reads() -> Verdict {
        needs_hypervisor()?;
        for number in 0..=u16::MAX {
            port::read8(number);
            port::read16(number);
            port::read32(number);
        }
        Ok(())
    }

    fn port_writes() -> Verdict {
        needs_hypervisor()?;
        for number in (0..=u16::MAX).filter(|number| !is_fatal(*number)) {
            port::write8(number, 0);
            port::write16(number, 0xffff);
            port::write32(number, 0x5555_5555);
        }
        Ok(())
    }

    fn port_strings() -> Verdict {
        const NOBODY: u16 = 0xd800;
        const LENGTH: usize = 5000;
        static mut BUFFER: [u8; LENGTH] = [0; LENGTH];
        let buffer = &raw mut BUFFER;
        // SAFETY: only this function uses it, once.
        let buffer = unsafe { &mut *buffer };
        port::read_string(NOBODY, buffer);
        check!(buffer.iter().all(|byte| *byte == 0xff), "not all ones");
        port::write_string(NOBODY, buffer);
        port::read_string(NOBODY, &mut []);
        // A string that ends in a page that is absent faults there.
        let fault = attempt!("cld\nrep insb", in("dx") NOBODY, inout("rcx") 64u64 => _,
            inout("rdi") (1u64 << 39) - 32 => _);
        check!(fault.is_err(), "no fault");
        Ok(())
    }

    fn instructions_of_hypervisors() -> Verdict {
        needs_hypervisor()?;
        let none = |name: &str, result: Result<(), _>| {
            check!(result.is_err(), "{name} exists");
            Ok(())
        };
        none("VMRUN", attempt!("vmrun rax", in("rax") 0x1000u64))?;
        none("VMLOAD", attempt!("vmload rax", in("rax") 0x1000u64))?;
        none("VMSAVE", attempt!("vmsave rax", in("rax") 0x1000u64))?;
        none("STGI", attempt!("stgi"))?;
        none("CLGI", attempt!("clgi"))?;
        none("SKINIT", attempt!("skinit eax", in("eax") 0))?;
        none("INVLPGA", attempt!("invlpga rax, ecx", in("rax") 0u64, in("ecx") 0))?;
        let zero = 0u64;
        // Emulators of AMD-V may not know that these do not exist there.
        let _ = [
            attempt!("vmxon [{0}]", in(reg) &raw const zero),
            attempt!("vmptrld [{0}]", in(reg) &raw const zero),
            attempt!("vmclear [{0}]", in(reg) &raw const zero),
        ];
        none("VMLAUNCH", attempt!("vmlaunch"))?;
        none("VMRESUME", attempt!("vmresume"))?;
        none("VMREAD", attempt!("vmread rax, rcx", out("rax") _, in("rcx") 0u64))?;
        none("RSM", attempt!("rsm"))?;
        none("GETSEC", attempt!(".byte 0x0f, 0x37", inout("eax") 0 => _, out("ecx") _))?;
        none("XSETBV of nothing", attempt!("xsetbv", in("ecx") 0, in("eax") 0, in("edx") 0))?;
        none("XSETBV of all", attempt!("xsetbv", in("ecx") 0, in("eax") !0, in("edx") !0))?;
        none("XSETBV 1", attempt!("xsetbv", in("ecx") 1, in("eax") 1, in("edx") 0))
    }

    fn other_instructions_survive() -> Verdict {
        needs_hypervisor()?;
        let descriptor = [u64::MAX; 2];
        let _ = [
            attempt!("invd"),
            attempt!("wbinvd"),
            attempt!("monitor", in("rax") &raw const descriptor, in("ecx") 0, in("edx") 0),
            attempt!("rdpmc", in("ecx") 0, out("eax") _, out("edx") _),
            attempt!("rdpmc", in("ecx") -1, out("eax") _, out("edx") _),
            attempt!("invpcid {0}, [{1}]", in(reg) 2u64, in(reg) &raw const descriptor),
            attempt!(".byte 0x0f, 0x01, 0xcf", inout("eax") 0 => _),
            attempt!(".byte 0x0f, 0x01, 0xd4", inout("eax") 0 => _, in("ecx") 0),
            attempt!(".byte 0x0f, 0xc7, 0xf8", inout("eax") 0 => _),
            attempt!("int3"),
            attempt!(".byte 0xf1"),
            attempt!("ud2"),
        ];
        // The trap of a single step comes although the instruction is one that exits.
        let step =
            attempt!("pushf\nor qword ptr [rsp], 0x100\npopf\nin al, 0x80\nnop", out("al") _);
        check_eq!(step.err().map(|fault| fault.vector), Some(1), "exception of a single step");
        Ok(())
    }

    fn hypercalls() -> Verdict {
        needs_hypervisor()?;
        let mut random = Random::new(3);
        let vmcall = attempt!("vmcall", inout("rax") 0x1234u64 => _);
        let vmmcall = attempt!("vmmcall", inout("rax") 0x1234u64 => _);
        check!(vmcall.is_ok() || vmmcall.is_ok(), "neither VMCALL nor VMMCALL: {vmcall:?}");
        for number in 0..300 {
            let number = if number < 100 { number } else { random.next() };
            let (mut first, mut second) = (number, number);
            let _ = attempt!("vmcall", inout("rax") first, in("rcx") random.next(),
                in("rdx") random.next(), in("rsi") random.next());
            let _ = attempt!("vmmcall", inout("rax") second, in("rcx") random.next(),
                in("rdx") random.next(), in("rsi") random.next());
            // -1000: the call does not exist.
            let unknown = -1000i64 as u64;
            check!(
                first == unknown || second == unknown,
                "call {number:#x}: {first:#x} {second:#x}"
            );
        }
        Ok(())
    }

    fn control_registers() -> Verdict {
        needs_hypervisor()?;
        let (mut cr0, mut cr4) = (0u64, 0u64);
        let read =
            [attempt!("mov {0}, cr0", inout(reg) cr0), attempt!("mov {0}, cr4", inout(reg) cr4)];
        check!(read.iter().all(Result::is_ok), "{read:?}");
        for bit in 32..64 {
            // Processors refuse them; emulators may drop them.
            let _ = attempt!("mov cr0, {0}\nmov cr0, {1}", in(reg) cr0 | 1 << bit, in(reg) cr0);
        }
        for bit in 0..32 {
            // Bits that may exist are set and cleared again; those that may not fault.
            let _ = attempt!("mov cr4, {0}\nmov cr4, {1}", in(reg) cr4 | 1 << bit, in(reg) cr4);
        }
        const VMXE: u64 = 1 << 13;
        let vmxe = attempt!("mov cr4, {0}", in(reg) cr4 | VMXE);
        check!(vmxe.is_err(), "CR4.VMXE can be set");
        let set = attempt!("mov cr4, {0}", in(reg) cr4 & !0x20);
        check!(set.is_err(), "CR4.PAE can be cleared in long mode");
        // With AMD-V the processor itself refuses the rest; emulators of it do not, and the guest ends.
        if cpu::cpuid(0, 0).ebx == u32::from_le_bytes(*b"Genu") {
            // Paging without protection, not-write-through without cache-disable, long mode without PAE.
            for value in [cr0 & !1, cr0 | 1 << 29] {
                let set = attempt!("mov cr0, {0}", in(reg) value);
                check!(set.is_err(), "CR0 takes {value:#x}");
            }
            let set = attempt!("mov cr3, {0}", in(reg) 1u64 << 62);
            check!(set.is_err(), "CR3 takes a reserved bit");
            let set = attempt!("mov cr8, {0}", in(reg) 16u64);
            check!(set.is_err(), "CR8 takes 16");
        }
        let task_switched = attempt!("lmsw {0:x}", in(reg) cr0 as u32 | 8);
        let _ = attempt!("clts");
        check!(task_switched.is_ok(), "LMSW: {task_switched:?}");
        let debug = attempt!("mov {0}, dr7\nmov dr7, {0}", out(reg) _);
        check!(debug.is_ok(), "DR7: {debug:?}");
        Ok(())
    }

    fn main() -> ! {
        x86_64::run(&[
            test("CPUID says the same twice, in every leaf", cpuid_is_steady),
            test("a guest sees no virtualisation", virtualisation_is_hidden),
            test("a register can be read, or gives #GP", msr_reads),
            test("a register can be written, or gives #GP", msr_writes),
            test("the local APIC survives every value", apic_registers),
            test("every port can be read", port_reads),
            test("every port can be written", port_writes),
            test("strings of bytes go to and from ports", port_strings),
            test("instructions of hypervisors do not exist", instructions_of_hypervisors),
            test("other instructions harm nobody", other_instructions_survive),
            test("unknown calls are refused", hypercalls),
            test("control registers refuse what they must", control_registers),
        ])
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
