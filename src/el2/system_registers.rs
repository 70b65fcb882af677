//! Trapped system registers.

use bunshin::exit::Exit;
use traps::exception::Exception;
use traps::syndrome::{Direction, Syndrome, SystemRegisterTrap, Trap, WaitKind};
use traps::system_register::{Action, Encoding, SoftwareInterrupt, Visibility};

use crate::el2::host::host;
use crate::el2::percpu;
use crate::el2::registers::{
    read_aliased, read_register, synchronize, write_aliased, write_register,
};
use crate::el2::vcpu::{El2Vcpu, Left};
use bunshin::exit::Fatal;

/// `SCTLR_EL1.M` and `SCTLR_EL1.C`.
const SCTLR_CACHES: u64 = 1 << 0 | 1 << 2;

impl El2Vcpu {
    /// `MRS`, `MSR` or `SYS`.
    #[inline(always)]
    pub(crate) fn system_register(&mut self, syndrome: Syndrome) -> Left {
        if syndrome.is_write_of(Encoding::ICC_SGI1R_EL1) && self.gicv3 {
            let trap = syndrome.system_register();
            self.send_group1(self.registers.get(trap.register));
            self.skip(4);
            return Left::Nothing;
        }
        if let Some(index) = syndrome.identification_read() {
            let trap = syndrome.system_register();
            self.registers.set(trap.register, self.machine.id.get(index));
            self.skip(4);
            return Left::Nothing;
        }
        self.table_register(syndrome.system_register())
    }

    /// `ICC_SGI1R_EL1`, by which operating systems send all of their SGIs.
    #[inline(always)]
    fn send_group1(&mut self, value: u64) {
        let mut vgic = self.machine.vgic.lock();
        let mut effects = vgic.write_sgi1r(self.index, value);
        // Nothing else has changed for the sender.
        if effects.kick.contains(self.index) {
            effects.merge(percpu::this().interface().update(&mut vgic, self.index));
        }
        drop(vgic);
        self.machine.kick(effects.others(self.index));
    }

    /// A register of the table.
    #[inline(never)]
    fn table_register(&mut self, trap: SystemRegisterTrap) -> Left {
        let exit = self.other_register(trap);
        self.keep(exit)
    }

    fn other_register(&mut self, trap: SystemRegisterTrap) -> Option<Exit> {
        let visibility = Visibility {
            interrupt_controller: host().is_gicv3(),
            performance_monitors: host().features.event_counters.is_some(),
        };
        match Action::of(trap.encoding, trap.direction, visibility) {
            Action::SoftwareInterrupt(kind) => {
                let (index, value) = (self.index, self.registers.get(trap.register));
                self.change_interrupts(|vgic| {
                    let effects = match kind {
                        SoftwareInterrupt::Group1 => vgic.write_sgi1r(index, value),
                        SoftwareInterrupt::AliasGroup1 => vgic.write_asgi1r(index, value),
                        SoftwareInterrupt::Group0 => vgic.write_sgi0r(index, value),
                    };
                    ((), effects)
                });
            }
            Action::Zero => self.read_as(trap, 0),
            Action::Constant(value) => self.read_as(trap, value),
            Action::Identification(index) => {
                let value = self.machine.id.get(index);
                self.read_as(trap, value);
            }
            Action::SetWay(_) => {
                if !self.set_way() {
                    return Some(Exit::HostInterrupt);
                }
            }
            Action::VirtualMemory(encoding) => {
                if !self.virtual_memory(encoding, trap) {
                    return Some(Exit::HostInterrupt);
                }
            }
            Action::Debug(encoding) => return self.debug_register(encoding, trap),
            Action::InterruptController(encoding) => {
                if self.interface_register(encoding, trap).is_none() {
                    self.inject_undefined();
                    return None;
                }
            }
            // Not trapped by the controls that this image sets.
            Action::Timer(_) | Action::PerformanceMonitor(_) | Action::Undefined => {
                self.inject_undefined();
                return None;
            }
        }
        self.skip(4);
        None
    }

    fn read_as(&mut self, trap: SystemRegisterTrap, value: u64) {
        if trap.direction == Direction::Read {
            self.registers.set(trap.register, value);
        }
    }

    /// Cache maintenance by set and way cannot be virtualised: all of the guest's memory is
    /// cleaned, and again when its caches go on or off (Arm ARM D7.5.9). False when only a part is
    /// done: the guest executes the instruction again, and others have their turn meanwhile.
    fn set_way(&mut self) -> bool {
        if self.controls.watches_caches() {
            return true;
        }
        let done = self.flush_part();
        if done {
            self.controls.watch_caches(true);
        }
        done
    }

    /// Flushes a part of the guest's memory; true when it was the last.
    fn flush_part(&mut self) -> bool {
        let next = self.machine.flush_memory(self.flushed);
        self.flushed = next.unwrap_or(0);
        next.is_none()
    }

    /// A write of a register of the EL1 translation regime, watched for the caches. False when the
    /// guest has to execute it again, as of [`Self::set_way`].
    fn virtual_memory(&mut self, encoding: Encoding, trap: SystemRegisterTrap) -> bool {
        let e2h = host().features.e2h;
        if trap.direction == Direction::Read {
            return true;
        }
        let value = self.registers.get(trap.register);
        let caches = |sctlr: u64| sctlr & SCTLR_CACHES == SCTLR_CACHES;
        let before = caches(read_aliased!(e2h, "c1_c0_0"));
        let after = if encoding == Encoding::SCTLR_EL1 { caches(value) } else { before };
        if before != after && !self.flush_part() {
            return false;
        }
        match encoding {
            Encoding::SCTLR_EL1 => write_aliased!(e2h, "c1_c0_0", value),
            Encoding::TTBR0_EL1 => write_aliased!(e2h, "c2_c0_0", value),
            Encoding::TTBR1_EL1 => write_aliased!(e2h, "c2_c0_1", value),
            Encoding::TCR_EL1 => write_aliased!(e2h, "c2_c0_2", value),
            Encoding::AFSR0_EL1 => write_aliased!(e2h, "c5_c1_0", value),
            Encoding::AFSR1_EL1 => write_aliased!(e2h, "c5_c1_1", value),
            Encoding::ESR_EL1 => write_aliased!(e2h, "c5_c2_0", value),
            Encoding::FAR_EL1 => write_aliased!(e2h, "c6_c0_0", value),
            Encoding::MAIR_EL1 => write_aliased!(e2h, "c10_c2_0", value),
            Encoding::AMAIR_EL1 => write_aliased!(e2h, "c10_c3_0", value),
            Encoding::CONTEXTIDR_EL1 => write_aliased!(e2h, "c13_c0_1", value),
            _ => {}
        }
        synchronize();
        if after {
            self.controls.watch_caches(false);
        }
        true
    }

    /// The debug registers that trap: those of the OS lock.
    fn debug_register(&mut self, encoding: Encoding, trap: SystemRegisterTrap) -> Option<Exit> {
        let value = self.registers.get(trap.register);
        match (encoding, trap.direction) {
            (Encoding::OSLAR_EL1, Direction::Write) => write_register!("oslar_el1", value),
            (Encoding::OSLSR_EL1, Direction::Read) => {
                self.registers.set(trap.register, read_register!("oslsr_el1"));
            }
            (Encoding::MDSCR_EL1, Direction::Write) => write_register!("mdscr_el1", value),
            (Encoding::MDSCR_EL1, Direction::Read) => {
                self.registers.set(trap.register, read_register!("mdscr_el1"));
            }
            (Encoding::DBGAUTHSTATUS_EL1, Direction::Read) => {
                self.registers.set(trap.register, read_register!("dbgauthstatus_el1"));
            }
            _ => {
                self.inject_undefined();
                return None;
            }
        }
        self.skip(4);
        None
    }

    fn rare_call(&mut self) -> Option<Exit> {
        let left = self.call();
        self.exit_of(left)
    }

    /// Exits that are not on any hot path. Every exception class has its place here.
    #[cold]
    pub(crate) fn rare(&mut self, syndrome: Syndrome) -> Option<Exit> {
        let length = syndrome.instruction_length();
        match Trap::decode(syndrome) {
            Trap::Wait(wait) => {
                let state = self.state();
                let passes = state.passes(wait.condition);
                self.skip(length);
                if !passes {
                    return None;
                }
                match wait.kind {
                    WaitKind::Interrupt => {
                        self.waits = true;
                        Some(Exit::Idle)
                    }
                    // With a deadline of its own, or an event to wait for, going on is allowed.
                    WaitKind::InterruptUntil | WaitKind::Event | WaitKind::EventUntil => {
                        Some(Exit::SpinHint)
                    }
                }
            }
            Trap::InstructionAbort(abort) => self.instruction_abort(abort),
            Trap::DataAbort(abort) => self.other_data_abort(abort),
            Trap::HypervisorCall(_) => self.rare_call(),
            Trap::SecureMonitorCall(_) => {
                // Unlike HVC, a trapped SMC has not been executed yet.
                self.skip(length);
                self.rare_call()
            }
            Trap::SystemRegister(_) => self.other_register(syndrome.system_register()),
            // EL2 made the guest's state illegal, or the guest's debugger did.
            Trap::IllegalState => self.fatal(Fatal::InvalidState),
            Trap::SError(_) => None,
            // Debug exceptions of the guest, should a CPU route them here.
            Trap::Breakpoint(_)
            | Trap::SoftwareStep(_)
            | Trap::Watchpoint(_)
            | Trap::BreakpointInstruction(_)
            | Trap::PcAlignment
            | Trap::SpAlignment
            | Trap::FloatingPointException(_)
            | Trap::BranchTarget(_)
            | Trap::PointerAuthenticationFailure { .. }
            | Trap::MemoryCopy(_)
            | Trap::GuardedControlStack(_)
            | Trap::SupervisorCall(_) => {
                let address = Some(read_register!("far_el2"));
                self.inject(Exception::Synchronous { syndrome, address });
                None
            }
            // Instructions of extensions that this machine does not have, or
            // that EL0 in AArch32 may not use.
            _ => {
                self.inject_undefined();
                None
            }
        }
    }
}
