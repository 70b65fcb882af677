//! Instructions that exit: which one, and how long it is, for processors that
//! do not tell.

use super::{CodeSize, General, decode, length, position};
use bunshin::bus::Width;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// An instruction that can be intercepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// CPUID.
    Cpuid,
    /// HLT.
    Hlt,
    /// PAUSE.
    Pause,
    /// RDMSR.
    ReadMsr,
    /// WRMSR.
    WriteMsr,
    /// RDPMC.
    ReadPerformanceCounter,
    /// RDTSC.
    ReadTsc,
    /// RDTSCP.
    ReadTscAndAux,
    /// XSETBV.
    SetExtendedControl,
    /// VMMCALL or VMCALL.
    Hypercall,
    /// INVD or WBINVD.
    CacheControl,
    /// INVLPG.
    InvalidatePage,
    /// MONITOR or MWAIT.
    MonitorWait,
    /// CLTS.
    ClearTaskSwitched,
    /// IN or INS.
    Input {
        /// Width of the port access.
        width: Width,
        /// INS.
        string: bool,
    },
    /// OUT or OUTS.
    Output {
        /// Width of the port access.
        width: Width,
        /// OUTS.
        string: bool,
    },
    /// MOV from a control register.
    ReadControl {
        /// Number of the control register.
        control: u8,
        /// Destination.
        register: General,
    },
    /// MOV to a control register.
    WriteControl {
        /// Number of the control register.
        control: u8,
        /// Source.
        register: General,
    },
    /// LMSW, of whose operand 16 bits count; `None` if it is in memory.
    LoadStatusWord(Option<General>),
    /// SMSW; `None` if the operand is in memory.
    StoreStatusWord(Option<General>),
    /// MOV to or from a debug register.
    DebugRegister {
        /// Number of the debug register.
        debug: u8,
        /// The general register.
        register: General,
        /// To the debug register.
        write: bool,
    },
    /// Something else.
    Other,
}

/// An instruction and its length with all prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intercepted {
    /// Which.
    pub kind: Kind,
    /// Length in bytes, 1 to 15.
    pub length: u8,
}

/// Decodes the instruction at the start of `bytes`; `None` if it is invalid or
/// incomplete. Another processor may have changed the bytes since the exit, so
/// compare the kind.
pub fn intercepted(bytes: &[u8], size: CodeSize) -> Option<Intercepted> {
    let instruction = decode(bytes, size)?;
    Some(Intercepted { kind: kind(&instruction), length: length(&instruction) })
}

pub(super) fn kind(instruction: &Instruction) -> Kind {
    match instruction.mnemonic() {
        Mnemonic::Cpuid => Kind::Cpuid,
        Mnemonic::Hlt => Kind::Hlt,
        Mnemonic::Pause => Kind::Pause,
        Mnemonic::Rdmsr => Kind::ReadMsr,
        Mnemonic::Wrmsr => Kind::WriteMsr,
        Mnemonic::Rdpmc => Kind::ReadPerformanceCounter,
        Mnemonic::Rdtsc => Kind::ReadTsc,
        Mnemonic::Rdtscp => Kind::ReadTscAndAux,
        Mnemonic::Xsetbv => Kind::SetExtendedControl,
        Mnemonic::Vmmcall | Mnemonic::Vmcall => Kind::Hypercall,
        Mnemonic::Invd | Mnemonic::Wbinvd => Kind::CacheControl,
        Mnemonic::Invlpg => Kind::InvalidatePage,
        Mnemonic::Monitor | Mnemonic::Mwait => Kind::MonitorWait,
        Mnemonic::Clts => Kind::ClearTaskSwitched,
        Mnemonic::In => port(instruction.op0_register(), true),
        Mnemonic::Out => port(instruction.op1_register(), false),
        Mnemonic::Insb => Kind::Input { width: Width::Byte, string: true },
        Mnemonic::Insw => Kind::Input { width: Width::Half, string: true },
        Mnemonic::Insd => Kind::Input { width: Width::Word, string: true },
        Mnemonic::Outsb => Kind::Output { width: Width::Byte, string: true },
        Mnemonic::Outsw => Kind::Output { width: Width::Half, string: true },
        Mnemonic::Outsd => Kind::Output { width: Width::Word, string: true },
        Mnemonic::Lmsw => Kind::LoadStatusWord(general(instruction)),
        Mnemonic::Smsw => Kind::StoreStatusWord(general(instruction)),
        Mnemonic::Mov => special_move(instruction).unwrap_or(Kind::Other),
        _ => Kind::Other,
    }
}

fn port(register: Register, input: bool) -> Kind {
    match (General::new(register), input) {
        (Some(General { width, .. }), true) => Kind::Input { width, string: false },
        (Some(General { width, .. }), false) => Kind::Output { width, string: false },
        (None, _) => Kind::Other,
    }
}

fn general(instruction: &Instruction) -> Option<General> {
    if instruction.op0_kind() != OpKind::Register {
        return None;
    }
    General::new(instruction.op0_register())
}

fn special_move(instruction: &Instruction) -> Option<Kind> {
    const COUNT: u8 = 16;
    let (to, from) = (instruction.op0_register(), instruction.op1_register());
    let control = |register| position(register, Register::CR0, COUNT);
    let debug = |register| position(register, Register::DR0, COUNT);
    if let Some(control) = control(from) {
        return Some(Kind::ReadControl { control, register: General::new(to)? });
    }
    if let Some(control) = control(to) {
        return Some(Kind::WriteControl { control, register: General::new(from)? });
    }
    if let Some(debug) = debug(from) {
        return Some(Kind::DebugRegister { debug, register: General::new(to)?, write: false });
    }
    let debug = debug(to)?;
    Some(Kind::DebugRegister { debug, register: General::new(from)?, write: true })
}
