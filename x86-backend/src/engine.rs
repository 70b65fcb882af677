//! What the virtual CPU asks of AMD-V and VT-x. Vendor code translates exits
//! and holds state; it decides nothing.
#![deny(clippy::arithmetic_side_effects)]

use alloc::vec::Vec;

use bunshin::bus::Width;
use bunshin::exit::RawExit;
use x86_backend::event::Event;
use x86_backend::machine::decode::TableName;
use x86_backend::machine::registers::{InitialState, Segment, Table};
use x86_backend::state::{Registers, SegmentName};

/// Why a guest stopped, by meaning; the same for both vendors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// An interrupt of the host waits, or was taken.
    HostInterrupt,
    /// The deadline of this host CPU's timer has passed.
    Deadline,
    /// A non-maskable interrupt of the host was taken.
    HostNmi,
    /// The guest takes interrupts now, as was asked for.
    InterruptWindow,
    /// The guest takes non-maskable interrupts.
    NmiWindow,
    /// The guest is about to execute `IRET`, after which it takes them again.
    NmiReturn,
    /// `CPUID`.
    Cpuid,
    /// `HLT`.
    Halt,
    /// `PAUSE`, many times.
    Pause,
    /// `VMMCALL` or `VMCALL`.
    Hypercall,
    /// `XSETBV`.
    SetExtendedControl,
    /// `INVD` or `WBINVD`.
    CacheControl,
    /// `RDMSR`.
    ReadMsr,
    /// `WRMSR`.
    WriteMsr,
    /// `IN`, `OUT` and their string forms.
    Port(PortAccess),
    /// An access that the second translation stage refused.
    NestedFault(NestedFault),
    /// `MOV` to or from a control register, `CLTS`, `LMSW`.
    ControlRegister(ControlAccess),
    /// One of these, of which the hardware does not say more.
    UnknownControlRegister,
    /// An exception that is intercepted because guests can loop in it for
    /// ever; it belongs to the guest.
    Exception(Event),
    /// An instruction that this machine does not have.
    Undefined,
    /// An instruction or operand that is not allowed.
    Forbidden,
    /// An instruction in real mode that the processor does not execute there ([`Engine::real_mode`]).
    Refused,
    /// The guest shut itself down.
    TripleFault,
    /// A task switch, which only 32-bit guests of a kind not supported make.
    TaskSwitch,
    /// The hardware refused the guest's state.
    InvalidState,
    /// No manual lists it.
    Unknown,
}

impl Cause {
    /// Whether what is done about it makes nothing wait for the guest unless that says so.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        use Cause::{Cpuid, Hypercall, NestedFault, Port, ReadMsr, WriteMsr};
        matches!(self, Cpuid | Hypercall | NestedFault(_) | Port(_) | ReadMsr | WriteMsr)
    }
}

/// A port access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortAccess {
    pub(crate) port: u16,
    pub(crate) width: Width,
    pub(crate) input: bool,
    pub(crate) string: Option<StringAccess>,
    /// Bytes of the instruction, where the hardware says.
    pub(crate) length: Option<u8>,
}

/// What string forms add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StringAccess {
    pub(crate) repeat: bool,
    /// Bits of an address: 16, 32 or 64.
    pub(crate) address_bits: u32,
    pub(crate) segment: SegmentName,
}

/// A refused access to guest-physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NestedFault {
    pub(crate) address: u64,
    pub(crate) write: bool,
    pub(crate) execute: bool,
}

/// A control register operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ControlAccess {
    /// `MOV CRn, register`.
    Write {
        /// Number of the control register.
        control: u8,
        /// Encoding of the general register.
        register: u8,
    },
    /// `MOV register, CRn`.
    Read {
        /// Number of the control register.
        control: u8,
        /// Encoding of the general register.
        register: u8,
    },
    /// `CLTS`.
    ClearTaskSwitched,
    /// `LMSW` with this operand.
    LoadStatusWord(u16),
}

/// Registers that the hardware keeps for a guest and software must reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Rip,
    Rflags,
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    Efer,
    PageAttributes,
    SysenterCs,
    SysenterEsp,
    SysenterEip,
    Star,
    Lstar,
    Cstar,
    SyscallMask,
    KernelGsBase,
    FsBase,
    GsBase,
}

/// What guests may use beside what the processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features {
    /// RDTSCP and RDPID.
    pub(crate) rdtscp: bool,
    /// INVPCID.
    pub(crate) invpcid: bool,
}

/// What the hypervisor needs to do real mode's part for a processor that does not have it for guests:
/// the guest runs all but refused instructions, and no event reaches it but by its registers.
pub(crate) trait RealMode {
    /// The guest's descriptor-table register.
    fn table(&self, name: TableName) -> Table;

    /// Sets it.
    fn set_table(&mut self, name: TableName, table: Table);

    /// Loads CS with a selector.
    fn load_code(&mut self, selector: u16);

    /// Holds back non-maskable interrupts until the guest executes IRET.
    fn block_nmi(&mut self);

    /// A debug register, 0 to 7.
    fn debug(&self, number: u8) -> u64;

    /// Sets it to the low half of `value`.
    fn set_debug(&mut self, number: u8, value: u64);
}

/// A page that a processor must find in the memory of each guest, which only reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GuestPage {
    /// Where the guest has it; no memory is there.
    pub(crate) guest: u64,
    /// Where it is.
    pub(crate) host: u64,
}

/// One virtual CPU on one vendor's hardware.
pub(crate) trait Engine: Send + Sized + 'static {
    /// Name for the log.
    const NAME: &'static str;

    /// Whether hardware tells when the guest takes non-maskable interrupts.
    const HAS_NMI_WINDOW: bool;

    /// What guests may use on this machine.
    fn features() -> Features;

    /// What this processor has of that which others lack, for the log.
    fn options() -> Vec<&'static str>;

    /// What must be in the memory of each guest.
    fn guest_page() -> Option<GuestPage> {
        None
    }

    /// Makes the control structures of a virtual CPU. `tables` is the root
    /// of the second translation stage.
    ///
    /// # Errors
    /// What is missing.
    fn new(tables: u64) -> Result<Self, &'static str>;

    /// To be called before the first of a series of [`Engine::run`] on a host
    /// CPU, and [`Engine::unload`] after the last.
    fn load(&mut self);

    /// See [`Engine::load`].
    fn unload(&mut self);

    /// Whether `HLT` exits, and whether `PAUSE` loops do, so that they give way to others.
    fn trap_idle(&mut self, halt: bool, pause: bool);

    /// Whether the guest waits in a `HLT` that did not exit. It does not any more, then: `RIP` is
    /// behind the instruction. False where an exit ends `HLT`.
    fn take_halt(&mut self) -> bool;

    /// What the guest's time-stamp counter is ahead of the host's, modulo 2^64.
    fn set_tsc_offset(&mut self, offset: u64);

    /// Puts the guest into a state after a start, with RFLAGS clear and
    /// nothing pending.
    fn start(&mut self, state: &InitialState);

    /// Has the next run begin without anything cached of the second stage's tables.
    fn forget_tables(&mut self);

    /// Runs the guest until something happens, at the latest until the deadline of this host CPU's
    /// timer.
    fn run(&mut self, registers: &mut Registers) -> Cause;

    /// Reads a register.
    fn read(&self, field: Field) -> u64;

    /// Writes a register.
    fn write(&mut self, field: Field, value: u64);

    /// Reads a segment register.
    fn segment(&self, name: SegmentName) -> Segment;

    /// Current privilege level.
    fn privilege(&self) -> u8;

    /// Length of the instruction that exited; `None` where the hardware does
    /// not say.
    fn instruction_length(&self) -> Option<u8>;

    /// Adds to DR6 why a debug exception comes: injecting it does not.
    fn add_debug_causes(&mut self, causes: u64);

    /// The event whose delivery the last exit interrupted.
    fn interrupted(&self) -> Option<Event>;

    /// Has the next run begin with `event`.
    fn inject(&mut self, event: Event);

    /// Whether the instruction before put off interrupts (STI, MOV SS).
    fn in_shadow(&self) -> bool;

    /// Ends that state, as an instruction that was emulated does.
    fn clear_shadow(&mut self);

    /// Asks for [`Cause::InterruptWindow`] once the guest takes interrupts and
    /// its task priority is below this class; or takes that back.
    fn want_interrupt_window(&mut self, class: Option<u8>);

    /// Asks for [`Cause::NmiWindow`] once the guest takes non-maskable interrupts or, without
    /// [`Engine::HAS_NMI_WINDOW`], for [`Cause::NmiReturn`] before its next `IRET`; or takes that back.
    fn want_nmi_window(&mut self, want: bool);

    /// Task priority (CR8) of the guest.
    fn task_priority(&self) -> u8;

    /// Sets it.
    fn set_task_priority(&mut self, priority: u8);

    /// Writes a control register as the guest's `MOV` does; false for #GP.
    fn write_control(&mut self, control: u8, value: u64) -> bool;

    /// Gives the hardware the four page-directory pointers of a guest with PAE
    /// paging, after a control register was written for it.
    fn set_directory_pointers(&mut self, entries: [u64; 4]);

    /// The way to do real mode's part while the guest is in it; `None` where the processor does all of it.
    #[inline]
    fn real_mode(&mut self) -> Option<&mut dyn RealMode> {
        None
    }

    /// What is known of why the hardware refused the guest's state.
    fn refusal(&self) -> Option<&'static str> {
        None
    }

    /// The last exit in the hardware's words.
    fn raw(&self) -> RawExit;
}
