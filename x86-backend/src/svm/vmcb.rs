//! The virtual machine control block (APM volume 2, appendix B).

use x86_backend::machine::registers::{Attributes, Segment, Table};
use x86_backend::state::SegmentName;

/// Interception of control register accesses by number, reads in the low half.
/// Exceptions by vector. The rest as named in table B-1.
#[repr(C)]
pub(super) struct Control {
    pub(super) intercept_cr: u32,
    pub(super) intercept_dr: u32,
    pub(super) intercept_exceptions: u32,
    pub(super) intercept_1: u32,
    pub(super) intercept_2: u32,
    pub(super) intercept_3: u32,
    reserved_1: [u8; 0x3c - 0x18],
    pub(super) pause_threshold: u16,
    pub(super) pause_count: u16,
    pub(super) io_permissions: u64,
    pub(super) msr_permissions: u64,
    pub(super) tsc_offset: u64,
    pub(super) asid: u32,
    pub(super) tlb_control: u32,
    pub(super) interrupt_control: u64,
    pub(super) interrupt_state: u64,
    pub(super) exit_code: u64,
    pub(super) exit_info_1: u64,
    pub(super) exit_info_2: u64,
    pub(super) exit_interrupted: u64,
    pub(super) nested_paging: u64,
    reserved_2: [u8; 0xa8 - 0x98],
    pub(super) event_injection: u64,
    pub(super) nested_cr3: u64,
    pub(super) lbr_control: u64,
    pub(super) clean: u32,
    reserved_3: u32,
    pub(super) next_rip: u64,
    reserved_4: [u8; 0x400 - 0xd0],
}

/// The state save area, table B-2.
#[repr(C)]
pub(super) struct Save {
    /// ES, CS, SS, DS, FS, GS.
    pub(super) segments: [SegmentRegister16; 6],
    pub(super) gdtr: SegmentRegister16,
    pub(super) ldtr: SegmentRegister16,
    pub(super) idtr: SegmentRegister16,
    pub(super) tr: SegmentRegister16,
    reserved_1: [u8; 0xcb - 0xa0],
    pub(super) cpl: u8,
    reserved_2: u32,
    pub(super) efer: u64,
    reserved_3: [u8; 0x148 - 0xd8],
    pub(super) cr4: u64,
    pub(super) cr3: u64,
    pub(super) cr0: u64,
    pub(super) dr7: u64,
    pub(super) dr6: u64,
    pub(super) rflags: u64,
    pub(super) rip: u64,
    reserved_4: [u8; 0x1d8 - 0x180],
    pub(super) rsp: u64,
    reserved_5: [u8; 0x1f8 - 0x1e0],
    pub(super) rax: u64,
    pub(super) star: u64,
    pub(super) lstar: u64,
    pub(super) cstar: u64,
    pub(super) syscall_mask: u64,
    pub(super) kernel_gs_base: u64,
    pub(super) sysenter_cs: u64,
    pub(super) sysenter_esp: u64,
    pub(super) sysenter_eip: u64,
    pub(super) cr2: u64,
    reserved_6: [u8; 0x268 - 0x248],
    pub(super) page_attributes: u64,
    reserved_7: [u8; 0xc00 - 0x270],
}

impl Save {
    pub(super) fn segment(&self, name: SegmentName) -> SegmentRegister16 {
        let [es, cs, ss, ds, fs, gs] = self.segments;
        match name {
            SegmentName::Es => es,
            SegmentName::Cs => cs,
            SegmentName::Ss => ss,
            SegmentName::Ds => ds,
            SegmentName::Fs => fs,
            SegmentName::Gs => gs,
            SegmentName::Ldtr => self.ldtr,
            SegmentName::Tr => self.tr,
        }
    }

    pub(super) fn segment_mut(&mut self, name: SegmentName) -> &mut SegmentRegister16 {
        let [es, cs, ss, ds, fs, gs] = &mut self.segments;
        match name {
            SegmentName::Es => es,
            SegmentName::Cs => cs,
            SegmentName::Ss => ss,
            SegmentName::Ds => ds,
            SegmentName::Fs => fs,
            SegmentName::Gs => gs,
            SegmentName::Ldtr => &mut self.ldtr,
            SegmentName::Tr => &mut self.tr,
        }
    }
}

/// A segment register as it lies in the save area.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct SegmentRegister16 {
    selector: u16,
    attributes: u16,
    limit: u32,
    base: u64,
}

impl From<Segment> for SegmentRegister16 {
    fn from(from: Segment) -> Self {
        SegmentRegister16 {
            selector: from.selector,
            attributes: from.attributes.bits(),
            limit: from.limit,
            base: from.base,
        }
    }
}

impl From<SegmentRegister16> for Segment {
    fn from(from: SegmentRegister16) -> Self {
        Segment {
            selector: from.selector,
            attributes: Attributes::from_bits_retain(from.attributes),
            limit: from.limit,
            base: from.base,
        }
    }
}

impl From<Table> for SegmentRegister16 {
    fn from(from: Table) -> Self {
        SegmentRegister16 {
            selector: 0,
            attributes: 0,
            limit: u32::from(from.limit),
            base: from.base,
        }
    }
}

impl SegmentRegister16 {
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    pub(super) fn set_base(&mut self, base: u64) {
        self.base = base;
    }
}

/// All of it: one page.
#[repr(C, align(4096))]
pub(super) struct Vmcb {
    pub(super) control: Control,
    pub(super) save: Save,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Vmcb>() == 4096);
    assert!(offset_of!(Vmcb, save) == 0x400);
    assert!(offset_of!(Control, pause_threshold) == 0x3c);
    assert!(offset_of!(Control, io_permissions) == 0x40);
    assert!(offset_of!(Control, asid) == 0x58);
    assert!(offset_of!(Control, interrupt_control) == 0x60);
    assert!(offset_of!(Control, exit_code) == 0x70);
    assert!(offset_of!(Control, nested_paging) == 0x90);
    assert!(offset_of!(Control, event_injection) == 0xa8);
    assert!(offset_of!(Control, nested_cr3) == 0xb0);
    assert!(offset_of!(Control, clean) == 0xc0);
    assert!(offset_of!(Control, next_rip) == 0xc8);
    assert!(offset_of!(Save, tr) == 0x90);
    assert!(offset_of!(Save, cpl) == 0xcb);
    assert!(offset_of!(Save, efer) == 0xd0);
    assert!(offset_of!(Save, cr4) == 0x148);
    assert!(offset_of!(Save, rip) == 0x178);
    assert!(offset_of!(Save, rsp) == 0x1d8);
    assert!(offset_of!(Save, rax) == 0x1f8);
    assert!(offset_of!(Save, cr2) == 0x240);
    assert!(offset_of!(Save, page_attributes) == 0x268);
};

/// `intercept_cr`: writes of CR4, of which guests must not see all bits.
pub(super) const INTERCEPT_WRITE_CR4: u32 = 1 << (16 + 4);

/// Bits of `intercept_1`.
pub(super) mod intercept_1 {
    pub(in super::super) const INTR: u32 = 1 << 0;
    pub(in super::super) const NMI: u32 = 1 << 1;
    pub(in super::super) const SMI: u32 = 1 << 2;
    pub(in super::super) const INIT: u32 = 1 << 3;
    pub(in super::super) const VINTR: u32 = 1 << 4;
    pub(in super::super) const RDPMC: u32 = 1 << 15;
    pub(in super::super) const CPUID: u32 = 1 << 18;
    pub(in super::super) const RSM: u32 = 1 << 19;
    pub(in super::super) const IRET: u32 = 1 << 20;
    pub(in super::super) const INVD: u32 = 1 << 22;
    pub(in super::super) const PAUSE: u32 = 1 << 23;
    pub(in super::super) const HLT: u32 = 1 << 24;
    pub(in super::super) const INVLPGA: u32 = 1 << 26;
    pub(in super::super) const IO: u32 = 1 << 27;
    pub(in super::super) const MSR: u32 = 1 << 28;
    pub(in super::super) const TASK_SWITCH: u32 = 1 << 29;
    pub(in super::super) const SHUTDOWN: u32 = 1 << 31;
}

/// Bits of `intercept_2`.
pub(super) mod intercept_2 {
    pub(in super::super) const VMRUN: u32 = 1 << 0;
    pub(in super::super) const VMMCALL: u32 = 1 << 1;
    pub(in super::super) const VMLOAD: u32 = 1 << 2;
    pub(in super::super) const VMSAVE: u32 = 1 << 3;
    pub(in super::super) const STGI: u32 = 1 << 4;
    pub(in super::super) const CLGI: u32 = 1 << 5;
    pub(in super::super) const SKINIT: u32 = 1 << 6;
    pub(in super::super) const WBINVD: u32 = 1 << 9;
    pub(in super::super) const MONITOR: u32 = 1 << 10;
    pub(in super::super) const MWAIT: u32 = 1 << 11;
    pub(in super::super) const MWAIT_ARMED: u32 = 1 << 12;
    pub(in super::super) const XSETBV: u32 = 1 << 13;
    pub(in super::super) const RDPRU: u32 = 1 << 14;
}

/// Bits of `interrupt_control`.
pub(super) mod interrupt_control {
    pub(in super::super) const TASK_PRIORITY: u64 = 0xf;
    pub(in super::super) const VIRTUAL_IRQ: u64 = 1 << 8;
    /// Priority of the virtual interrupt: it opens the window once the task
    /// priority is lower.
    pub(in super::super) const PRIORITY: u64 = 0xf << PRIORITY_SHIFT;
    pub(in super::super) const PRIORITY_SHIFT: u32 = 16;
    pub(in super::super) const MASKING: u64 = 1 << 24;
}

/// `interrupt_state`: the guest is in an interrupt shadow.
pub(super) const INTERRUPT_SHADOW: u64 = 1 << 0;

/// Values of `tlb_control`.
pub(super) mod tlb_control {
    pub(in super::super) const KEEP: u32 = 0;
    pub(in super::super) const FLUSH_ALL: u32 = 1;
    pub(in super::super) const FLUSH_ASID: u32 = 3;
}

/// Bits of `clean` (APM 15.15.3): what has not changed since the last run.
pub(super) mod clean {
    pub(in super::super) const INTERCEPTS: u32 = 1 << 0;
    pub(in super::super) const INTERRUPTS: u32 = 1 << 3;
    pub(in super::super) const CONTROL_REGISTERS: u32 = 1 << 5;
    pub(in super::super) const DEBUG_REGISTERS: u32 = 1 << 6;
    pub(in super::super) const CR2: u32 = 1 << 9;
    pub(in super::super) const NESTED_PAGING: u32 = 1 << 4;
    pub(in super::super) const ALL: u32 = 0xfff;
}

/// Exit codes (APM appendix C).
pub(super) mod exit {
    pub(in super::super) const WRITE_CR4: u32 = 0x14;
    pub(in super::super) const EXCEPTION_FIRST: u32 = 0x40;
    pub(in super::super) const EXCEPTION_LAST: u32 = 0x5f;
    pub(in super::super) const INTR: u32 = 0x60;
    pub(in super::super) const NMI: u32 = 0x61;
    pub(in super::super) const SMI: u32 = 0x62;
    pub(in super::super) const INIT: u32 = 0x63;
    pub(in super::super) const VINTR: u32 = 0x64;
    pub(in super::super) const RDPMC: u32 = 0x6f;
    pub(in super::super) const CPUID: u32 = 0x72;
    pub(in super::super) const RSM: u32 = 0x73;
    pub(in super::super) const IRET: u32 = 0x74;
    pub(in super::super) const INVD: u32 = 0x76;
    pub(in super::super) const PAUSE: u32 = 0x77;
    pub(in super::super) const HLT: u32 = 0x78;
    pub(in super::super) const INVLPGA: u32 = 0x7a;
    pub(in super::super) const IO: u32 = 0x7b;
    pub(in super::super) const MSR: u32 = 0x7c;
    pub(in super::super) const TASK_SWITCH: u32 = 0x7d;
    pub(in super::super) const SHUTDOWN: u32 = 0x7f;
    pub(in super::super) const VMRUN: u32 = 0x80;
    pub(in super::super) const VMMCALL: u32 = 0x81;
    pub(in super::super) const SKINIT: u32 = 0x86;
    pub(in super::super) const WBINVD: u32 = 0x89;
    pub(in super::super) const MONITOR: u32 = 0x8a;
    pub(in super::super) const MWAIT_CONDITIONAL: u32 = 0x8c;
    pub(in super::super) const XSETBV: u32 = 0x8d;
    pub(in super::super) const RDPRU: u32 = 0x8e;
    pub(in super::super) const NESTED_PAGE_FAULT: u32 = 0x400;
    pub(in super::super) const INVALID: u32 = u32::MAX;
}
