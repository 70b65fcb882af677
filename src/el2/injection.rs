//! Exceptions given to the guest at EL1.

use traps::exception::{self, Exception, ProgramState, Target};
use traps::syndrome::{ExceptionClass, FaultStatus, Syndrome};

use crate::el2::host::host;
use crate::el2::registers::{
    read_aliased, read_register, synchronize, write_aliased, write_register,
};
use crate::el2::vcpu::El2Vcpu;
use bunshin::backend::Vcpu as _;
use bunshin::statistics::ExitKind;

impl El2Vcpu {
    /// Has the guest take `exception`. Only while loaded.
    pub(crate) fn inject(&mut self, exception: Exception) {
        let e2h = host().features.e2h;
        let target = Target {
            vbar_el1: read_aliased!(e2h, "c12_c0_0"),
            sctlr_el1: read_aliased!(e2h, "c1_c0_0"),
        };
        let taken =
            exception::take(self.pc(), self.state(), exception, target, host().features.exception);
        write_aliased!(e2h, "c4_c0_1", taken.elr_el1);
        write_aliased!(e2h, "c4_c0_0", taken.spsr_el1);
        if let Some(esr) = taken.esr_el1 {
            write_aliased!(e2h, "c5_c2_0", esr);
        }
        if let Some(far) = taken.far_el1 {
            write_aliased!(e2h, "c6_c0_0", far);
        }
        synchronize();
        self.go_on_at(taken.pc, taken.state);
        self.handle().exits.count(ExitKind::Injected);
    }

    /// An instruction that does not exist on this machine.
    pub(crate) fn inject_undefined(&mut self) {
        self.inject(Exception::Undefined);
    }

    /// The answer to the abort that exited: nothing is at that address.
    pub(crate) fn inject_external_abort(&mut self) {
        let syndrome = Syndrome::new(self.raw_exit().cause);
        let address = self.raw_exit().detail;
        let abort = syndrome.data_abort();
        let status = if abort.on_stage1_walk() {
            external_on_walk(abort.status())
        } else {
            FaultStatus::EXTERNAL
        };
        let exception = if syndrome.class() == ExceptionClass::INSTRUCTION_ABORT_LOWER {
            Exception::InstructionAbort { address, status }
        } else {
            Exception::DataAbort { address, status, write: abort.is_write() }
        };
        self.inject(exception);
    }
}

/// "Synchronous External abort on translation table walk", at the level of the stage-1 walk
/// where the fault arose (Arm ARM D24.2.40). EL2 learns only the level of stage 2, so the
/// level is that of the first lookup with 4 KiB pages.
fn external_on_walk(_: FaultStatus) -> FaultStatus {
    const EXTERNAL_ON_WALK_LEVEL_0: u8 = 0b01_0100;
    FaultStatus::from_bits(EXTERNAL_ON_WALK_LEVEL_0)
}

/// The intermediate physical address of a virtual address of the guest, as its own stage 1
/// translates it for the exception level that it runs at.
pub(crate) fn translate_stage1(address: u64, state: ProgramState, write: bool) -> Option<u64> {
    let before = read_register!("par_el1");
    // SAFETY: an address translation changes nothing but PAR_EL1.
    unsafe {
        match (state.is_el0(), write) {
            (false, false) => core::arch::asm!("at s1e1r, {}", in(reg) address, options(nostack)),
            (false, true) => core::arch::asm!("at s1e1w, {}", in(reg) address, options(nostack)),
            (true, false) => core::arch::asm!("at s1e0r, {}", in(reg) address, options(nostack)),
            (true, true) => core::arch::asm!("at s1e0w, {}", in(reg) address, options(nostack)),
        }
    }
    synchronize();
    let par = read_register!("par_el1");
    write_register!("par_el1", before);
    (par & PAR_FAULT == 0).then_some(par & PAR_ADDRESS | address & 0xfff)
}

/// `PAR_EL1.F`.
const PAR_FAULT: u64 = 1 << 0;
/// `PAR_EL1.PA`.
const PAR_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
