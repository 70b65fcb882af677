//! Why a virtual CPU stopped running guest code, by meaning for the core.
//!
//! One [`Exit`] serves every architecture. What is purely a backend's own
//! (interrupt-controller registers, feature registers, control registers) is
//! resolved there and never becomes an `Exit`.

use crate::address::{GuestAddress, VcpuId};
use crate::bus::{Space, Width};

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The guest waits for a value.
    Read,
    /// The guest gives this value, zero-extended.
    Write(u64),
}

/// How the backend finishes the instruction that exited. Opaque to the core,
/// which hands it back with the outcome; the program counter moves then, not
/// before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Number of the destination register in the backend's register file.
    pub register: u8,
    /// Width of the value as read from the device.
    pub width: Width,
    /// Whether the value is sign-extended.
    pub sign_extend: bool,
    /// Whether the destination is written with 64 bits instead of 32.
    pub wide: bool,
    /// Length of the instruction in bytes; 0 when more accesses of the same
    /// instruction follow.
    pub length: u8,
}

/// An access to device space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoAccess {
    /// Memory or port space.
    pub space: Space,
    /// First address of the access.
    pub address: u64,
    /// Its width.
    pub width: Width,
    /// Its direction, with the value of a write.
    pub operation: Operation,
    /// Handed back when the access is answered.
    pub completion: Completion,
}

/// Kind of access that the second translation stage refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultAccess {
    /// A data read.
    Read,
    /// A data write.
    Write,
    /// An instruction fetch.
    Execute,
}

/// What a guest asks of the power controller of its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerRequest {
    /// Start a virtual CPU that is off.
    CpuOn {
        /// Which one.
        target: VcpuId,
        /// Address of its first instruction.
        entry: GuestAddress,
        /// Value for its first argument register.
        context: u64,
    },
    /// Stop the calling virtual CPU.
    CpuOff,
    /// Wait for an interrupt. With `resume`, state is lost and the virtual
    /// CPU starts anew there.
    CpuSuspend {
        /// Entry address and context of a power-down suspend.
        resume: Option<(GuestAddress, u64)>,
    },
    /// Suspend the whole machine; every other virtual CPU must be off.
    SystemSuspend {
        /// Entry address.
        entry: GuestAddress,
        /// Context.
        context: u64,
    },
    /// Turn the virtual machine off.
    SystemOff,
    /// Restart the virtual machine from its images.
    SystemReset,
    /// The guest says that it crashed.
    SystemCrash,
}

/// The core's answer to a [`PowerRequest`] that returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerAnswer {
    /// Done, or under way.
    Success,
    /// The target runs already.
    AlreadyOn,
    /// Somebody else is starting the target.
    OnPending,
    /// There is no such virtual CPU.
    InvalidParameters,
    /// Not in this state of the machine.
    Denied,
}

/// Why a guest cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// The hardware refused the guest's state.
    #[error("invalid guest state")]
    InvalidState,
    /// An exception of which no handler can be reached.
    #[error("unhandled exception loop")]
    ExceptionLoop,
    /// The host reported an error in the guest's context.
    #[error("hardware error")]
    HardwareError,
    /// An exit that no architecture manual lists.
    #[error("unknown exit")]
    Unknown,
}

/// A guest stopped running; see the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// An access to a device.
    Io(IoAccess),
    /// An access to device space of an instruction that cannot be decoded.
    UndecodedIo {
        /// The address, where known.
        address: GuestAddress,
    },
    /// An access to memory that the second stage does not allow.
    MemoryFault {
        /// The address.
        address: GuestAddress,
        /// The access.
        access: FaultAccess,
    },
    /// A call that the backend does not know; answered "not supported".
    Hypercall {
        /// Function number.
        function: u64,
    },
    /// A system register or MSR that concerns a device.
    Register {
        /// Number in the architecture's encoding.
        register: u64,
        /// Direction and value.
        operation: Operation,
        /// Handed back when the access is answered.
        completion: Completion,
    },
    /// Nothing to do until an interrupt.
    Idle,
    /// The guest spins and another virtual CPU might go on.
    SpinHint,
    /// A request to the power controller.
    Power(PowerRequest),
    /// Something on the host wants the core's attention; the guest did nothing.
    HostInterrupt,
    /// A debug event that belongs to a debugger outside the guest.
    Debug,
    /// The guest cannot go on.
    Fatal(Fatal),
}

/// The hardware's own words on the last exit, for reports and traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RawExit {
    /// Cause: `ESR_EL2`, `EXITCODE` or basic reason.
    pub cause: u64,
    /// First detail: `FAR_EL2`, `EXITINFO1` or qualification.
    pub detail: u64,
    /// Address: `HPFAR_EL2`, `EXITINFO2` or guest-physical address.
    pub address: u64,
}
