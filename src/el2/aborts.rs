//! Stage-2 aborts: device accesses, the interrupt controller's registers, and
//! addresses where there is nothing.

use bunshin::address::GuestAddress;
use bunshin::backend::Vcpu as _;
use bunshin::bus::{Space, Width};
use bunshin::exit::{Completion, Exit, FaultAccess, IoAccess, Operation};
use bunshin::statistics::ExitKind;
use gic::vgic::Frame;
use gic::{Effects, Line, VcpuIndex, VcpuSet};
use platform::guest::layout;
use traps::exception::ProgramState;
use traps::register_file;
use traps::syndrome::{AccessSize, DataAbort, InstructionAbort, Syndrome};

use crate::el2::host::host;
use crate::el2::injection::translate_stage1;
use crate::el2::percpu;
use crate::el2::registers::{read_aliased, read_register};
use crate::el2::vcpu::{El2Vcpu, Left};

/// `HPFAR_EL2.FIPA` and how far it is shifted: bits 47:12 of the address stand in 43:4.
const FIPA_MASK: u64 = 0x0fff_ffff_fff0;
const FIPA_SHIFT: u32 = 8;
/// Offset of an address in its page.
const PAGE_OFFSET: u64 = 0xfff;

/// All frames of the virtual interrupt controller lie in this range.
const CONTROLLER_BASE: u64 = layout::GICD.base().get();
const CONTROLLER_BYTES: u64 =
    layout::GICR.base().get().wrapping_sub(CONTROLLER_BASE).wrapping_add(layout::GICR.size());

/// The frame of the virtual interrupt controller at an offset from [`CONTROLLER_BASE`], and the offset in it.
#[inline(always)]
fn controller_frame(offset: u64, gicv3: bool, vcpus: usize) -> Option<(Frame, u64)> {
    const REDISTRIBUTORS: u64 = layout::GICR.base().get().wrapping_sub(CONTROLLER_BASE);
    if offset < layout::GICD.size() {
        return Some((Frame::Distributor, offset));
    }
    let offset = offset.wrapping_sub(REDISTRIBUTORS);
    if offset >= layout::GICR.size() || !gicv3 {
        return None;
    }
    // A power of two: no division.
    let number = offset >> layout::REDISTRIBUTOR_BYTES.trailing_zeros();
    let number = usize::try_from(number).ok().filter(|number| *number < vcpus)?;
    let within = offset & (layout::REDISTRIBUTOR_BYTES - 1);
    Some((Frame::Redistributor(VcpuIndex::new(number)), within))
}

/// An access of the core's width in the interrupt controller's terms.
#[inline(always)]
fn controller_width(width: Width) -> gic::vgic::Width {
    match width {
        Width::Byte => gic::vgic::Width::Byte,
        Width::Half => gic::vgic::Width::Half,
        Width::Word => gic::vgic::Width::Word,
        Width::Double => gic::vgic::Width::Double,
    }
}

/// What became of an access to the interrupt controller.
pub(crate) enum ControllerAccess {
    /// The address is not the interrupt controller's.
    Elsewhere,
    /// Done, with the value of a read.
    Done(u64),
    /// The guest has to execute the instruction again: another virtual CPU holds the answer.
    Again,
}

impl El2Vcpu {
    /// A load or store that the syndrome describes, and which is completed by what it says.
    #[inline(always)]
    pub(crate) fn plain_access(&mut self, abort: DataAbort) -> Option<Exit> {
        let address = self.fault_page() | self.raw_exit().detail & PAGE_OFFSET;
        let width = width_of(abort);
        let operation = if abort.is_write() {
            let value = self.registers.get(abort.register());
            Operation::Write(self.to_bus(value, width))
        } else {
            Operation::Read
        };
        let offset = address.wrapping_sub(CONTROLLER_BASE);
        if offset < CONTROLLER_BYTES {
            match self.controller_access(offset, width, operation) {
                ControllerAccess::Elsewhere => {}
                ControllerAccess::Done(value) => {
                    self.finish_plain_access(abort, value);
                    return None;
                }
                ControllerAccess::Again => return None,
            }
        }
        Some(device_access(address, width, operation))
    }

    /// One access to an address that is not memory: the interrupt controller answers here,
    /// all other devices through the core.
    pub(crate) fn access(
        &mut self,
        address: u64,
        width: Width,
        operation: Operation,
    ) -> Option<Exit> {
        let offset = address.wrapping_sub(CONTROLLER_BASE);
        let answer = if offset < CONTROLLER_BYTES {
            self.controller_access(offset, width, operation)
        } else {
            ControllerAccess::Elsewhere
        };
        match answer {
            ControllerAccess::Elsewhere => Some(device_access(address, width, operation)),
            ControllerAccess::Done(value) => {
                self.finish_access(value);
                None
            }
            ControllerAccess::Again => None,
        }
    }

    /// An access at `offset` from [`CONTROLLER_BASE`].
    #[inline(always)]
    fn controller_access(
        &mut self,
        offset: u64,
        width: Width,
        operation: Operation,
    ) -> ControllerAccess {
        let vcpus = self.machine.mpidrs.len();
        let Some((frame, offset)) = controller_frame(offset, self.gicv3, vcpus) else {
            return ControllerAccess::Elsewhere;
        };
        self.handle().exits.count(ExitKind::InterruptController);
        let (index, width) = (self.index, controller_width(width));
        let mut vgic = self.machine.vgic.lock();
        if vgic.shows_private(frame) && vgic.has_physical_active(index) {
            drop(vgic);
            self.resample_private_lines();
            vgic = self.machine.vgic.lock();
        }
        match operation {
            Operation::Write(value) => {
                let mut effects = vgic.write(frame, index, offset, width, value);
                effects.merge(percpu::this().interface().update(&mut vgic, index));
                drop(vgic);
                self.machine.kick(effects.others(index));
                ControllerAccess::Done(0)
            }
            Operation::Read => {
                let answer = vgic.read(frame, index, offset, width);
                drop(vgic);
                match answer {
                    gic::vgic::Read::Value(value) => ControllerAccess::Done(value),
                    gic::vgic::Read::Retry(holders) => {
                        self.read_from_list_registers(holders, frame, offset, width)
                    }
                }
            }
        }
    }

    /// Takes back private interrupts whose line has fallen since they came: the guest has
    /// silenced its timer without an exit, and may now look whether that had its effect.
    #[cold]
    pub(crate) fn resample_private_lines(&mut self) {
        for (line, _) in self.private_lines() {
            if self.machine.vgic.lock().is_physical_active(line) && !line_is_high(line) {
                self.change_interrupts(|vgic| ((), vgic.set_level(line, false)));
            }
        }
    }

    /// Part of the answer is in list registers: ours now, those of others after they have run.
    #[cold]
    fn read_from_list_registers(
        &mut self,
        holders: VcpuSet,
        frame: Frame,
        offset: u64,
        width: gic::vgic::Width,
    ) -> ControllerAccess {
        let index = self.index;
        let others = holders.without(VcpuSet::only(index));
        let answer = self.change_interrupts(|vgic| {
            let mut effects = Effects::NONE;
            if holders.contains(index) {
                effects = vgic.fold(index, &mut percpu::this().interface());
            }
            (vgic.read(frame, index, offset, width), effects)
        });
        match answer {
            gic::vgic::Read::Value(value) => ControllerAccess::Done(value),
            gic::vgic::Read::Retry(set) => {
                self.machine.kick(set.union(others).without(VcpuSet::only(index)));
                ControllerAccess::Again
            }
        }
    }

    /// Finishes an access: the value, zero-extended, to its register, and past the instruction
    /// unless more of its accesses follow.
    #[inline(always)]
    pub(crate) fn finish_access(&mut self, value: u64) {
        if self.emulation.is_some() {
            return self.finish_emulated_access(value);
        }
        self.finish_plain_access(Syndrome::new(self.raw_exit().cause).data_abort(), value);
    }

    /// Finishes the access that `abort` describes.
    #[inline(always)]
    fn finish_plain_access(&mut self, abort: DataAbort, value: u64) {
        let state = self.state();
        // A write completes with nothing for a register.
        if !abort.is_write() {
            let plain = !abort.sign_extend() && !self.may_be_big_endian(state);
            let value = if plain { value } else { self.converted(abort, value) };
            self.registers.set(abort.register(), value);
        }
        if state.is_aarch32() {
            self.skip_aarch32_access();
        } else {
            self.skip_from(state, 4);
        }
    }

    /// Moves past a load or store, which in T32 has 2 bytes or 4.
    #[cold]
    fn skip_aarch32_access(&mut self) {
        self.skip(Syndrome::new(self.raw_exit().cause).instruction_length());
    }

    /// What a load that changes the value puts into its register.
    #[cold]
    fn converted(&self, abort: DataAbort, value: u64) -> u64 {
        let width = width_of(abort);
        let value = self.to_bus(value, width);
        register_file::extend(value, access_size(width), abort.sign_extend(), abort.is_64bit())
    }

    /// A register's value in the order of bytes on the bus, and back.
    #[inline(always)]
    pub(crate) fn to_bus(&self, value: u64, width: Width) -> u64 {
        if self.may_be_big_endian(self.state()) {
            self.swapped_to_bus(value, width)
        } else {
            value & width.mask()
        }
    }

    #[inline(always)]
    fn may_be_big_endian(&self, state: ProgramState) -> bool {
        state.may_be_big_endian(read_aliased!(self.e2h, "c1_c0_0"))
    }

    /// The same where a big-endian guest is possible.
    #[cold]
    fn swapped_to_bus(&self, value: u64, width: Width) -> u64 {
        let state = self.state();
        let sctlr = read_aliased!(self.e2h, "c1_c0_0");
        let size = access_size(width);
        register_file::to_memory_order(value, size, state.is_big_endian(sctlr)) & width.mask()
    }

    /// Aborts other than plain loads and stores to device space.
    #[cold]
    pub(crate) fn rare_data_abort(&mut self, abort: DataAbort) -> Left {
        let exit = self.other_data_abort(abort);
        self.keep(exit)
    }

    pub(crate) fn other_data_abort(&mut self, abort: DataAbort) -> Option<Exit> {
        if abort.is_emulable() && abort.has_intermediate_address() {
            return self.plain_access(abort);
        }
        // Cache maintenance by address on a device does nothing.
        if abort.cache_maintenance() && !abort.on_stage1_walk() {
            self.skip(abort.syndrome().instruction_length());
            return None;
        }
        let access = if abort.is_write() { FaultAccess::Write } else { FaultAccess::Read };
        let page = GuestAddress(self.fault_page());
        if abort.status().is_external() || !(abort.has_address() || abort.on_stage1_walk()) {
            // No address: not one of memory that could be brought back.
            return Some(Exit::UndecodedIo { address: page });
        }
        if abort.on_stage1_walk() {
            return Some(Exit::MemoryFault { address: page, access });
        }
        let state = self.state();
        let far = self.raw_exit().detail;
        let address = if abort.has_intermediate_address() {
            self.fault_page() | far & PAGE_OFFSET
        } else {
            // A guest that changed its tables meanwhile meets its own fault.
            translate_stage1(far, state, abort.is_write())?
        };
        if self.machine.ram.contains(address, 1) {
            // Given up, or another CPU was replacing the entry.
            return Some(Exit::MemoryFault { address: GuestAddress(address), access });
        }
        self.emulate(address)
    }

    /// An instruction fetch that stage 2 does not translate.
    #[cold]
    pub(crate) fn instruction_abort(&mut self, abort: InstructionAbort) -> Option<Exit> {
        let address = GuestAddress(self.fault_page());
        if !abort.has_intermediate_address() {
            return Some(Exit::UndecodedIo { address });
        }
        Some(Exit::MemoryFault { address, access: FaultAccess::Execute })
    }

    /// The page of the intermediate physical address that faulted.
    #[inline(always)]
    fn fault_page(&self) -> u64 {
        (self.raw_exit().address & FIPA_MASK) << FIPA_SHIFT
    }
}

/// Whether a private line of the loaded guest is asserted.
fn line_is_high(line: Line) -> bool {
    /// `CNTx_CTL`: ENABLE, not IMASK, ISTATUS.
    const TIMER_MASK: u64 = 0b111;
    const TIMER_FIRING: u64 = 0b101;
    let e2h = host().features.e2h;
    let ppi = line.intid().get().wrapping_sub(layout::FIRST_PPI);
    match ppi {
        layout::VIRTUAL_TIMER_PPI => {
            let control =
                if e2h { read_register!("s3_5_c14_c3_1") } else { read_register!("cntv_ctl_el0") };
            control & TIMER_MASK == TIMER_FIRING
        }
        layout::PHYSICAL_TIMER_PPI => {
            let control =
                if e2h { read_register!("s3_5_c14_c2_1") } else { read_register!("cntp_ctl_el0") };
            control & TIMER_MASK == TIMER_FIRING
        }
        layout::PMU_PPI => read_register!("pmovsset_el0") & read_register!("pmintenset_el1") != 0,
        _ => false,
    }
}

/// The width of an access that the syndrome describes.
#[inline(always)]
fn width_of(abort: DataAbort) -> Width {
    match abort.size() {
        AccessSize::Byte => Width::Byte,
        AccessSize::Halfword => Width::Half,
        AccessSize::Word => Width::Word,
        AccessSize::Doubleword | AccessSize::Quadword => Width::Double,
    }
}

/// An access for the core. Its completion says nothing: the syndrome, or what is being emulated, stays here.
#[inline(always)]
pub(crate) fn device_access(address: u64, width: Width, operation: Operation) -> Exit {
    const COMPLETION: Completion =
        Completion { register: 0, width: Width::Byte, sign_extend: false, wide: false, length: 0 };
    let (space, completion) = (Space::Memory, COMPLETION);
    Exit::Io(IoAccess { space, address, width, operation, completion })
}

/// A width in the terms of the `traps` crate.
pub(crate) const fn access_size(width: Width) -> AccessSize {
    match width {
        Width::Byte => AccessSize::Byte,
        Width::Half => AccessSize::Halfword,
        Width::Word => AccessSize::Word,
        Width::Double => AccessSize::Doubleword,
    }
}
