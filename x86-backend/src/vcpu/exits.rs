//! From causes to what the core hears of them.

use bunshin::exit::{Exit, Fatal, PowerRequest};
use bunshin::statistics::ExitKind;
use x86_backend::event;
use x86_backend::machine::cpuid::{self, Dynamic};
use x86_backend::machine::decode::{Kind, LONGEST_INSTRUCTION, intercepted};
use x86_backend::machine::lapic::Mode;
use x86_backend::state::{
    CR0_CD, CR0_NW, CR0_PG, CR4_OSXSAVE, CR4_PAE, CR4_PCIDE, EFER_LMA, RAX, RBX, RCX, RDX,
};
use x86_backend::translate::Paging;

use super::X86Vcpu;
use crate::engine::{Cause, ControlAccess, Engine, Field};
use crate::host::{self, PerCpu};

/// Bytes of instructions without their prefixes.
mod length {
    pub(super) const CPUID: u8 = 2;
    pub(super) const HLT: u8 = 1;
    pub(super) const PAUSE: u8 = 2;
    pub(super) const HYPERCALL: u8 = 3;
    pub(super) const XSETBV: u8 = 3;
    pub(super) const CACHE: u8 = 2;
    pub(super) const MSR: u8 = 2;
    pub(super) const CONTROL: u8 = 3;
    pub(super) const CLTS: u8 = 2;
}

/// XCR0: x87 state, which must stay enabled.
const XCR0_X87: u64 = 1 << 0;
/// XCR0: SSE state.
const XCR0_SSE: u64 = 1 << 1;
/// XCR0: AVX state.
const XCR0_AVX: u64 = 1 << 2;
/// XCR0: the three parts of AVX-512 state.
const XCR0_AVX512: u64 = 0b111 << 5;
/// CR0: task switched.
const CR0_TS: u64 = 1 << 3;
/// CR0: bits that `LMSW` loads.
const LMSW_BITS: u64 = 0xf;
/// CR3: the process-context identifier.
const PCID_MASK: u64 = 0xfff;
/// CR0: bits whose changes have the directory pointers of PAE paging loaded (SDM 5.4.1).
const CR0_LOADING: u64 = CR0_PG | CR0_NW | CR0_CD;
/// CR4: the same.
const CR4_LOADING: u64 = CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP;
/// CR4: large pages, global pages, and no execution of user pages by the system.
const CR4_PSE: u64 = 1 << 4;
const CR4_PGE: u64 = 1 << 7;
const CR4_SMEP: u64 = 1 << 20;
/// CR0: protection, which `LMSW` can set and not clear.
const CR0_PE: u64 = 1 << 0;

impl<E: Engine> X86Vcpu<E> {
    /// Does what an exit asks for; the exit for the core if the core has to
    /// do it.
    #[inline]
    pub(super) fn resolve(&mut self, cause: Cause) -> Option<Exit> {
        let kind = match cause {
            Cause::HostInterrupt | Cause::HostNmi => return Some(Exit::HostInterrupt),
            // The guest's own timer is seen to before it goes on; the core's is the core's business.
            Cause::Deadline if PerCpu::current().timer.take_core() => {
                return Some(Exit::HostInterrupt);
            }
            Cause::Deadline => ExitKind::HostInterrupt,
            Cause::InterruptWindow => {
                self.window_opened();
                ExitKind::Other
            }
            Cause::NmiWindow => {
                self.nmi_window_opened();
                ExitKind::Other
            }
            Cause::NmiReturn => {
                self.nmi_returns();
                ExitKind::Other
            }
            Cause::Cpuid => {
                self.execute_cpuid();
                self.skip(length::CPUID);
                ExitKind::Register
            }
            Cause::Halt => {
                self.skip(length::HLT);
                return Some(Exit::Idle);
            }
            Cause::Pause => {
                self.skip(length::PAUSE);
                return Some(Exit::SpinHint);
            }
            Cause::Hypercall => {
                self.skip(length::HYPERCALL);
                return Some(Exit::Hypercall { function: self.registers.get(RAX) });
            }
            Cause::SetExtendedControl => {
                if self.set_extended_control() {
                    self.skip(length::XSETBV);
                } else {
                    self.raise_fault(event::GENERAL_PROTECTION);
                }
                ExitKind::Register
            }
            Cause::CacheControl => {
                // Guests see coherent memory, so there is nothing to write back for them.
                self.skip(length::CACHE);
                ExitKind::Other
            }
            Cause::ReadMsr => {
                match self.read_msr(self.registers.low(RCX)) {
                    Ok(value) => {
                        self.registers.set_low(RAX, value as u32);
                        self.registers.set_low(RDX, (value >> 32) as u32);
                        self.skip(length::MSR);
                    }
                    Err(_) => self.raise_fault(event::GENERAL_PROTECTION),
                }
                ExitKind::Register
            }
            Cause::WriteMsr => {
                let value =
                    u64::from(self.registers.low(RDX)) << 32 | u64::from(self.registers.low(RAX));
                match self.write_msr(self.registers.low(RCX), value) {
                    Ok(()) => self.skip(length::MSR),
                    Err(_) => self.raise_fault(event::GENERAL_PROTECTION),
                }
                ExitKind::Register
            }
            Cause::Port(access) => return self.access_port(access),
            Cause::NestedFault(fault) => return self.access_memory(fault),
            Cause::ControlRegister(access) => {
                self.access_control(access);
                ExitKind::Register
            }
            Cause::UnknownControlRegister => {
                // If another virtual CPU has changed the instruction meanwhile, it is executed anew.
                if let Some(access) = self.control_access() {
                    self.access_control(access);
                }
                ExitKind::Register
            }
            Cause::Exception(event) => {
                self.raise(event);
                // Debug exceptions can follow each other with no instruction between them, and come before
                // interrupts: only here does the host get a word in.
                host::serve_interrupts();
                return Some(Exit::HostInterrupt);
            }
            Cause::Undefined => {
                self.raise_fault(event::UNDEFINED);
                ExitKind::Injected
            }
            Cause::Forbidden => {
                self.raise_fault(event::GENERAL_PROTECTION);
                ExitKind::Injected
            }
            Cause::Refused => return self.execute_refused(),
            Cause::TripleFault => return Some(self.shut_down()),
            Cause::InvalidState => {
                if let Some(reason) = self.engine.refusal() {
                    let (name, vcpu) = (&self.pc.name, self.handle.id().0);
                    log::error!("vm \"{name}\": vcpu {vcpu}: {reason}");
                }
                return Some(Exit::Fatal(Fatal::InvalidState));
            }
            Cause::TaskSwitch | Cause::Unknown => return Some(Exit::Fatal(Fatal::Unknown)),
        };
        self.handle.exits.count(kind);
        None
    }

    /// A triple fault restarts the machine, as on a PC.
    pub(super) fn shut_down(&mut self) -> Exit {
        log::warn!(
            "vm \"{}\": vcpu {}: triple fault at {:#x}; the guest restarts",
            self.pc.name,
            self.handle.id().0,
            self.field(Field::Rip),
        );
        Exit::Power(PowerRequest::SystemReset)
    }

    /// The guest's CPUID.
    pub(super) fn cpuid(&self, leaf: u32, subleaf: u32) -> cpuid::Registers {
        let state = Dynamic {
            apic_id: self.apic.id(),
            apic_enabled: self.apic.mode() != Mode::Disabled,
            osxsave: self.field(Field::Cr4) & CR4_OSXSAVE != 0,
            xcr0: self.fpu.xcr0(),
        };
        self.pc.cpuid.query(leaf, subleaf, &state)
    }

    fn execute_cpuid(&mut self) {
        let answer = self.cpuid(self.registers.low(RAX), self.registers.low(RCX));
        self.registers.set_low(RAX, answer.eax);
        self.registers.set_low(RBX, answer.ebx);
        self.registers.set_low(RCX, answer.ecx);
        self.registers.set_low(RDX, answer.edx);
    }

    /// `XSETBV` (SDM 13.3); false for #GP.
    fn set_extended_control(&mut self) -> bool {
        let value = u64::from(self.registers.low(RDX)) << 32 | u64::from(self.registers.low(RAX));
        let has = |bits: u64| value & bits == bits;
        let has_any = |bits: u64| value & bits != 0;
        let valid = self.engine.privilege() == 0
            && self.registers.low(RCX) == 0
            && value & !self.pc.cpuid.xcr0() == 0
            && has(XCR0_X87)
            && (!has_any(XCR0_AVX) || has(XCR0_SSE))
            && (!has_any(XCR0_AVX512) || has(XCR0_AVX512 | XCR0_AVX));
        if valid {
            self.fpu.set_xcr0(value);
        }
        valid
    }

    fn access_control(&mut self, access: ControlAccess) {
        match access {
            ControlAccess::Read { control, register } => {
                let value = match control {
                    0 => self.field(Field::Cr0),
                    2 => self.field(Field::Cr2),
                    3 => self.field(Field::Cr3),
                    4 => self.field(Field::Cr4),
                    8 => u64::from(self.apic.cr8()),
                    _ => return self.raise_fault(event::UNDEFINED),
                };
                self.registers.set(register, self.control_operand(value));
                self.skip(length::CONTROL);
            }
            ControlAccess::Write { control, register } => {
                let value = self.control_operand(self.registers.get(register));
                let pointers = match self.new_directory_pointers(control, value) {
                    Ok(pointers) => pointers,
                    Err(fault) => return self.raise_fault(fault),
                };
                let done = match control {
                    0 if self.stops_64_bit_code(value) => false,
                    2 => {
                        self.engine.write(Field::Cr2, value);
                        true
                    }
                    4 if !self.takes_control_4(value) => false,
                    8 => {
                        let valid = value <= 0xf;
                        if valid {
                            self.apic.set_cr8(value as u8);
                        }
                        valid
                    }
                    _ => self.engine.write_control(control, value),
                };
                if done {
                    if let Some(pointers) = pointers {
                        self.engine.set_directory_pointers(pointers);
                    }
                    self.skip(length::CONTROL);
                } else {
                    self.raise_fault(event::GENERAL_PROTECTION);
                }
            }
            ControlAccess::ClearTaskSwitched => {
                let value = self.field(Field::Cr0) & !CR0_TS;
                if self.engine.write_control(0, value) {
                    self.skip(length::CLTS);
                }
            }
            ControlAccess::LoadStatusWord(word) => {
                let old = self.field(Field::Cr0);
                let new = old & !LMSW_BITS | u64::from(word) & LMSW_BITS | old & CR0_PE;
                if self.engine.write_control(0, new) {
                    self.skip(length::CONTROL);
                } else {
                    self.raise_fault(event::GENERAL_PROTECTION);
                }
            }
        }
    }

    /// What `MOV` moves between a general register and a control register: 64 bits in 64-bit code,
    /// else 32.
    fn control_operand(&self, value: u64) -> u64 {
        let wide = value > u64::from(u32::MAX);
        if wide && self.code_bits() != 64 { value & u64::from(u32::MAX) } else { value }
    }

    /// Whether this value of CR0 turns paging off under 64-bit code (SDM 10.8.5.4).
    fn stops_64_bit_code(&self, value: u64) -> bool {
        value & CR0_PG == 0 && self.field(Field::Cr0) & CR0_PG != 0 && self.code_bits() == 64
    }

    /// Whether CR4 may become `value` (SDM 2.5, APM 3.1.3).
    fn takes_control_4(&self, value: u64) -> bool {
        let long = self.field(Field::Efer) & EFER_LMA != 0;
        let sets_pcide = value & !self.field(Field::Cr4) & CR4_PCIDE != 0;
        let identifier = self.field(Field::Cr3) & PCID_MASK;
        value & !self.pc.cpuid.control_4() == 0
            && (!long || value & CR4_PAE != 0)
            && (!sets_pcide || (long && identifier == 0))
    }

    /// The control register operation that exited, from its instruction.
    fn control_access(&self) -> Option<ControlAccess> {
        let mut bytes = [0; LONGEST_INSTRUCTION];
        let known = self.fetch(&mut bytes);
        let decoded = intercepted(bytes.get(..known)?, self.code_size())?;
        match decoded.kind {
            Kind::WriteControl { control, register } => {
                Some(ControlAccess::Write { control, register: register.number })
            }
            Kind::ReadControl { control, register } => {
                Some(ControlAccess::Read { control, register: register.number })
            }
            _ => None,
        }
    }

    /// The directory pointers that the processor loads when a control register becomes `value`
    /// (SDM 5.4.1).
    ///
    /// # Errors
    /// The vector of the fault if they are not valid.
    fn new_directory_pointers(&self, control: u8, value: u64) -> Result<Option<[u64; 4]>, u8> {
        if !matches!(control, 0 | 3 | 4) {
            return Ok(None);
        }
        let old = self.paging();
        let (new, changes) = match control {
            0 => (Paging { cr0: value, ..old }, (old.cr0 ^ value) & CR0_LOADING),
            3 => (Paging { cr3: value, ..old }, u64::MAX),
            _ => (Paging { cr4: value, ..old }, (old.cr4 ^ value) & CR4_LOADING),
        };
        if changes == 0 || !new.has_directory_pointers() {
            return Ok(None);
        }
        let pointers = new.directory_pointers(&*self.pc.ram, host::address_bits());
        pointers.map(Some).ok_or(event::GENERAL_PROTECTION)
    }
}
