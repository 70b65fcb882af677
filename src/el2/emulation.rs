//! Loads and stores to devices for which the hardware gives no syndrome:
//! pairs, post-indexed forms, SIMD registers (Arm ARM D24.2.40, ISV = 0).

use bunshin::address::GuestAddress;
use bunshin::bus::Width;
use bunshin::exit::{Exit, FaultAccess, Operation};
use bunshin::memory::GuestMemory;
use traps::exception::ProgramState;
use traps::load_store::{self, Instruction, LoadStore, Register};
use traps::register_file;
use traps::syndrome::{AccessSize, Direction};

use crate::el2::aborts::access_size;
use crate::el2::guest_state::{read_vector, write_vector};
use crate::el2::injection::translate_stage1;
use crate::el2::percpu::{self, Asks};
use crate::el2::registers::{read_register, write_register};
use crate::el2::vcpu::El2Vcpu;

/// Registers as `LDP` and `STP` of quadwords need them: two halves of two.
const MOST_STEPS: usize = 4;
/// Bytes of an A64 instruction.
const LENGTH: u64 = 4;
/// The stack pointer, as a base register.
const STACK_POINTER: u8 = 31;
/// PSTATE.SP: EL1 uses its own stack pointer.
const PSTATE_SP: u64 = 1 << 0;

/// One bus access of an instruction.
#[derive(Debug, Clone, Copy)]
struct Step {
    address: u64,
    width: Width,
    register: Register,
    /// Upper half of a 128-bit register.
    upper: bool,
}

/// An instruction that is being carried out access by access.
#[derive(Debug)]
pub(crate) struct Emulation {
    steps: [Option<Step>; MOST_STEPS],
    next: usize,
    store: bool,
    sign_extend: bool,
    wide: bool,
    /// Base register and its new value, written after the last access.
    write_back: Option<(u8, u64)>,
}

impl Emulation {
    fn step(&self) -> Option<Step> {
        self.steps.get(self.next).copied().flatten()
    }
}

impl El2Vcpu {
    /// Carries out the instruction that aborted at intermediate physical address `fault`.
    pub(crate) fn emulate(&mut self, fault: u64) -> Option<Exit> {
        let state = self.state();
        let refused = Some(Exit::UndecodedIo { address: GuestAddress(fault) });
        if state.is_aarch32() {
            return refused;
        }
        // The guest changed its tables meanwhile: it meets its own fault.
        let code = translate_stage1(self.pc(), state, false)?;
        let mut word = [0; 4];
        if self.machine.ram.read(GuestAddress(code), &mut word).is_err() {
            return refused;
        }
        match load_store::decode(u32::from_le_bytes(word)) {
            Ok(Instruction::Access(access)) => match self.plan(&access, state) {
                Ok(plan) => self.emulation = Some(plan),
                Err(Obstacle::Mixed) => return refused,
                Err(Obstacle::Translation) => return None,
            },
            Ok(Instruction::Prefetch | Instruction::CacheMaintenance { .. }) => {
                self.skip(LENGTH);
                return None;
            }
            // Zeroing a block of device memory faults on hardware, too (Arm ARM C5.3.34).
            Ok(Instruction::ZeroBlock { .. }) => {
                let address = GuestAddress(fault);
                return Some(Exit::MemoryFault { address, access: FaultAccess::Write });
            }
            Err(_) => return refused,
        }
        self.continue_emulation()
    }

    /// Translates the addresses of all parts before any of them is accessed.
    fn plan(&self, access: &LoadStore, state: ProgramState) -> Result<Emulation, Obstacle> {
        let base = self.base(access.base);
        let resolved = access.resolve(base, self.registers.get(access.offset_register()));
        let store = access.direction == Direction::Write;
        let seen_as =
            if access.unprivileged { ProgramState::new(ProgramState::EL0) } else { state };
        let mut steps = [None; MOST_STEPS];
        let mut slots = steps.iter_mut();
        for element in access.elements() {
            let address = resolved.address.wrapping_add(element.offset);
            let (width, halves) = match access.size {
                AccessSize::Byte => (Width::Byte, 1),
                AccessSize::Halfword => (Width::Half, 1),
                AccessSize::Word => (Width::Word, 1),
                AccessSize::Doubleword => (Width::Double, 1),
                AccessSize::Quadword => (Width::Double, 2),
            };
            for half in 0..halves {
                let address = address.wrapping_add(half * width.bytes());
                let physical =
                    translate_stage1(address, seen_as, store).ok_or(Obstacle::Translation)?;
                if self.machine.ram.contains(physical, 1) {
                    return Err(Obstacle::Mixed);
                }
                if let Some(slot) = slots.next() {
                    let register = element.register;
                    let upper = half == 1;
                    *slot = Some(Step { address: physical, width, register, upper });
                }
            }
        }
        Ok(Emulation {
            steps,
            next: 0,
            store,
            sign_extend: access.sign_extend,
            wide: access.is_64bit,
            write_back: resolved.write_back.map(|value| (access.base, value)),
        })
    }

    /// Makes the next access; `None` when all are done and the guest can go on.
    pub(crate) fn continue_emulation(&mut self) -> Option<Exit> {
        while let Some(emulation) = &self.emulation {
            let (before, store) = (emulation.next, emulation.store);
            let Some(step) = emulation.step() else { break };
            let operation = if store {
                Operation::Write(self.to_bus(self.step_value(step), step.width))
            } else {
                Operation::Read
            };
            if let Some(exit) = self.access(step.address, step.width, operation) {
                return Some(exit);
            }
            // Not finished: the instruction has to start anew.
            if self.emulation.as_ref().is_some_and(|emulation| emulation.next == before) {
                self.emulation = None;
            }
        }
        None
    }

    fn step_value(&self, step: Step) -> u64 {
        match step.register {
            Register::General(number) => self.registers.get(number),
            Register::Vector(number) => {
                let value = read_vector(number);
                if step.upper { (value >> 64) as u64 } else { value as u64 }
            }
        }
    }

    /// The device has answered the access.
    pub(crate) fn finish_emulated_access(&mut self, value: u64) {
        let Some(emulation) = &self.emulation else { return };
        let Some(step) = emulation.step() else { return };
        if !emulation.store {
            let value = self.to_bus(value, step.width);
            match step.register {
                Register::General(number) => {
                    let size = access_size(step.width);
                    let value =
                        register_file::extend(value, size, emulation.sign_extend, emulation.wide);
                    self.registers.set(number, value);
                }
                Register::Vector(number) if step.upper => {
                    let lower = read_vector(number) & u128::from(u64::MAX);
                    write_vector(number, u128::from(value) << 64 | lower);
                }
                Register::Vector(number) => write_vector(number, u128::from(value)),
            }
        }
        let Some(emulation) = &mut self.emulation else { return };
        emulation.next = emulation.next.saturating_add(1);
        if emulation.step().is_none() {
            let write_back = emulation.write_back;
            self.emulation = None;
            if let Some((register, value)) = write_back {
                self.set_base(register, value);
            }
            self.skip(LENGTH);
        } else {
            percpu::this().ask(Asks::CONTINUE);
        }
    }

    /// Drops what was under way: the access faults.
    pub(crate) fn abandon_emulation(&mut self) {
        self.emulation = None;
    }

    fn own_stack(&self) -> bool {
        let state = self.state();
        !state.is_el0() && state.bits() & PSTATE_SP != 0
    }

    fn base(&self, number: u8) -> u64 {
        if number != STACK_POINTER {
            self.registers.get(number)
        } else if self.own_stack() {
            read_register!("sp_el1")
        } else {
            read_register!("sp_el0")
        }
    }

    fn set_base(&mut self, number: u8, value: u64) {
        if number != STACK_POINTER {
            self.registers.set(number, value);
        } else if self.own_stack() {
            write_register!("sp_el1", value);
        } else {
            write_register!("sp_el0", value);
        }
    }
}

/// Why an access cannot be carried out.
#[derive(Debug, Clone, Copy)]
enum Obstacle {
    /// Part of it is memory.
    Mixed,
    /// Stage 1 does not translate part of it.
    Translation,
}
