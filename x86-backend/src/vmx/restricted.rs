//! Guests without protection or paging on processors that lack "unrestricted guest": what the control
//! structure holds then ([`x86_backend::restricted`] decides).

use alloc::boxed::Box;
use core::arch::asm;

use spin::Once;
use x86_backend::machine::decode::TableName;
use x86_backend::machine::layout;
use x86_backend::machine::registers::{Attributes, Segment, Table};
use x86_backend::restricted::{DIRECTORY_ENTRIES, Mode, page_directory, segments};
use x86_backend::state::SegmentName;

use super::processor::{primary, secondary};
use super::setup::EXCEPTIONS;
use super::vmcs::VmcsField as F;
use super::{Vmx, interruptibility};
use crate::engine::{Engine, Field, GuestPage, RealMode};

/// RFLAGS: I/O privilege level.
const RFLAGS_IOPL: u64 = 3 << 12;
/// RFLAGS: virtual-8086 mode.
const RFLAGS_VM: u64 = 1 << 17;
/// All exceptions.
const ALL: u64 = 0xffff_ffff;
/// DR7: bits that software may set, and the one that is always one.
const DR7_WRITABLE: u64 = 0xffff_2bff;
const DR7_FIXED: u64 = 1 << 10;
/// DR6: bits that software may set, and those that are always one.
const DR6_WRITABLE: u64 = 0xe00f;
const DR6_FIXED: u64 = 0xffff_0ff0;

/// Registers of the guest that the processor does not have now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// In every mode.
    pub(super) efer: u64,
    /// Without paging.
    pub(super) cr3: u64,
    /// The others: in real mode.
    pub(super) sysenter_cs: u64,
    pub(super) task: Segment,
    flags: u64,
    idtr: Table,
}

impl Default for Held {
    fn default() -> Self {
        Held {
            efer: 0,
            cr3: 0,
            sysenter_cs: 0,
            task: Segment { selector: 0, base: 0, limit: 0, attributes: Attributes::BUSY_TSS },
            flags: 0,
            idtr: Table { base: 0, limit: 0 },
        }
    }
}

/// A page directory.
#[repr(C, align(4096))]
struct Directory([u32; DIRECTORY_ENTRIES]);

/// The page by which guests without paging page, the same for all of them.
pub(super) fn guest_page() -> GuestPage {
    static DIRECTORY: Once<Box<Directory>> = Once::new();
    let directory = DIRECTORY.call_once(|| Box::new(Directory(page_directory())));
    GuestPage { guest: layout::PAGE_DIRECTORY, host: directory.0.as_ptr() as u64 }
}

impl Vmx {
    /// Before a start: the processor has what is written.
    pub(super) fn set_native(&mut self) {
        if self.mode == Mode::Real {
            self.set(F::ExceptionBitmap, EXCEPTIONS);
            self.set_secondary(secondary::DESCRIPTOR_TABLES, false);
        }
        self.mode = Mode::Native;
        self.set_cr3_exits(false);
        self.set(F::Cr4Mask, self.cr4_mask());
    }

    /// Has the guest run as its new CR0 demands.
    pub(super) fn set_mode(&mut self, cr0: u64) {
        if self.controls.has(secondary::UNRESTRICTED) {
            return;
        }
        let (old, new) = (self.mode, Mode::of(cr0));
        if old == new {
            return;
        }
        let (cr3, cr4) = (self.read(Field::Cr3), self.read(Field::Cr4));
        if old == Mode::Real {
            self.leave_real_mode();
        }
        self.mode = new;
        self.set_cr3(cr3);
        if new != Mode::Native {
            self.set(F::GuestCr3, layout::PAGE_DIRECTORY);
        }
        self.set_cr3_exits(new != Mode::Native);
        self.set(F::Cr4Mask, self.cr4_mask());
        self.set_cr4(cr4);
        self.set_efer(self.held.efer);
        if new == Mode::Real {
            self.enter_real_mode();
        }
        self.stale = true;
    }

    fn set_cr3_exits(&mut self, value: bool) {
        // Some processors have them always.
        let bits = (primary::CR3_LOAD | primary::CR3_STORE) & !self.controls.primary;
        self.set_primary(bits, value);
    }

    fn enter_real_mode(&mut self) {
        let flags = self.get(F::GuestRflags);
        self.held.flags = flags & RFLAGS_IOPL;
        self.held.task = self.raw_segment(SegmentName::Tr);
        self.held.sysenter_cs = self.get(F::GuestSysenterCs);
        self.held.idtr =
            Table { base: self.get(F::GuestIdtrBase), limit: self.get(F::GuestIdtrLimit) as u16 };
        self.set_real_mode_flags(flags);
        for name in segments::ORDINARY {
            self.set_segment(name, &segments::virtual_8086(&self.raw_segment(name)));
        }
        self.set_segment(SegmentName::Tr, &segments::TASK);
        // No way leads out of virtual-8086 mode but by an exit.
        self.set(F::GuestIdtrLimit, 0);
        self.set(F::GuestSysenterCs, 0);
        self.set(F::ExceptionBitmap, ALL);
        let tables = secondary::DESCRIPTOR_TABLES & super::processor::allowed_secondary();
        self.set_secondary(tables, true);
    }

    fn leave_real_mode(&mut self) {
        let flags = self.real_mode_flags();
        self.set(F::GuestRflags, flags);
        for name in segments::ORDINARY {
            self.set_segment(name, &segments::protected(name, &self.raw_segment(name)));
        }
        let Held { task, idtr, sysenter_cs, .. } = self.held;
        self.set_segment(SegmentName::Tr, &task);
        self.set(F::GuestIdtrBase, idtr.base);
        self.set(F::GuestIdtrLimit, idtr.limit.into());
        self.set(F::GuestSysenterCs, sysenter_cs);
        self.set(F::ExceptionBitmap, EXCEPTIONS);
        self.set_secondary(secondary::DESCRIPTOR_TABLES, false);
    }

    /// RFLAGS of a guest in real mode as it should see them.
    pub(super) fn real_mode_flags(&self) -> u64 {
        self.get(F::GuestRflags) & !(RFLAGS_VM | RFLAGS_IOPL) | self.held.flags
    }

    pub(super) fn set_real_mode_flags(&mut self, value: u64) {
        self.set(F::GuestRflags, value | RFLAGS_VM | RFLAGS_IOPL);
    }

    /// Why the processor does not enter the guest, if it is for this.
    pub(super) fn unrepresentable(&self) -> Option<&'static str> {
        match self.mode {
            Mode::Native => None,
            Mode::Unpaged => Some(
                "this processor lacks \"unrestricted guest\", and refuses the guest's state in protected mode without paging",
            ),
            Mode::Real => Some(
                "this processor lacks \"unrestricted guest\", and its virtual-8086 mode has no segments like those of \
                 the guest's real mode (each must begin at a multiple of 16 below 1 MiB)",
            ),
        }
    }
}

impl RealMode for Vmx {
    fn table(&self, name: TableName) -> Table {
        match name {
            TableName::Idtr => self.held.idtr,
            TableName::Gdtr => Table {
                base: self.get(F::GuestGdtrBase),
                limit: self.get(F::GuestGdtrLimit) as u16,
            },
        }
    }

    fn set_table(&mut self, name: TableName, table: Table) {
        match name {
            TableName::Idtr => self.held.idtr = table,
            TableName::Gdtr => {
                self.set(F::GuestGdtrBase, table.base);
                self.set(F::GuestGdtrLimit, table.limit.into());
            }
        }
    }

    fn load_code(&mut self, selector: u16) {
        self.set_segment(SegmentName::Cs, &segments::loaded(selector));
    }

    fn block_nmi(&mut self) {
        let state = self.get(F::Interruptibility);
        self.set(F::Interruptibility, state | interruptibility::NMI);
    }

    fn debug(&self, number: u8) -> u64 {
        let value: u64;
        // SAFETY: reads a register; DR0 to DR3 and DR6 are the guest's while its virtual CPU is loaded.
        unsafe {
            match number {
                0 => asm!("mov {}, dr0", out(reg) value, options(nomem, nostack)),
                1 => asm!("mov {}, dr1", out(reg) value, options(nomem, nostack)),
                2 => asm!("mov {}, dr2", out(reg) value, options(nomem, nostack)),
                3 => asm!("mov {}, dr3", out(reg) value, options(nomem, nostack)),
                4 | 6 => asm!("mov {}, dr6", out(reg) value, options(nomem, nostack)),
                _ => value = self.get(F::GuestDr7),
            }
        }
        value & ALL
    }

    fn set_debug(&mut self, number: u8, value: u64) {
        let value = value & ALL;
        // SAFETY: no breakpoint is enabled while the hypervisor runs (exits clear DR7), so that the
        // others mean nothing to it.
        unsafe {
            match number {
                0 => asm!("mov dr0, {}", in(reg) value, options(nomem, nostack)),
                1 => asm!("mov dr1, {}", in(reg) value, options(nomem, nostack)),
                2 => asm!("mov dr2, {}", in(reg) value, options(nomem, nostack)),
                3 => asm!("mov dr3, {}", in(reg) value, options(nomem, nostack)),
                4 | 6 => {
                    let value = value & DR6_WRITABLE | DR6_FIXED;
                    asm!("mov dr6, {}", in(reg) value, options(nomem, nostack));
                }
                _ => self.set(F::GuestDr7, value & DR7_WRITABLE | DR7_FIXED),
            }
        }
    }
}
