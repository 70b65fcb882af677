//! The redistributor of a vCPU, without LPIs (IHI 0069 12.10, 12.11).
#![allow(
    clippy::arithmetic_side_effects,
    reason = "an offset is only reduced by the start of the range that it was found in"
)]

use super::frame::{Frame, Read, Width};
use super::words::{Common, is_word};
use super::{Vgic, identification};
use crate::{Effects, VcpuIndex};

// RD_base.
const CTLR: u32 = 0x0000;
const IIDR: u32 = 0x0004;
const TYPER: u32 = 0x0008;
const TYPER_HIGH: u32 = 0x000c;
const WAKER: u32 = 0x0014;
const PIDR4: u32 = 0xffd0;
const SGI_BASE: u32 = 0x1_0000;
const END: u32 = 0x2_0000;

const CTLR_RWP: u64 = 1 << 3;

/// `GICR_TYPER`.
mod typer {
    pub(super) const LAST: u64 = 1 << 4;
    pub(super) const PROCESSOR_NUMBER_SHIFT: u32 = 8;
    pub(super) const AFFINITY_SHIFT: u32 = 32;
}

/// `GICR_WAKER`.
mod waker {
    pub(super) const PROCESSOR_SLEEP: u64 = 1 << 1;
    pub(super) const CHILDREN_ASLEEP: u64 = 1 << 2;
}

impl Vgic {
    pub(super) fn read_redistributor(
        &mut self,
        vcpu: VcpuIndex,
        of: VcpuIndex,
        offset: u32,
        width: Width,
    ) -> Read {
        if (SGI_BASE..END).contains(&offset) {
            return match Common::decode(offset - SGI_BASE, width) {
                Some(register) if register.is_private() => self.read_common(
                    vcpu,
                    of,
                    register,
                    width,
                    Frame::Redistributor(of).tag() | offset,
                ),
                _ => Read::Value(0),
            };
        }
        let Some(cpu) = self.cpus.get(of.get()) else { return Read::Value(0) };
        let value = match offset {
            TYPER if width == Width::Double => self.redistributor_type(of),
            _ if !is_word(offset, width) => 0,
            CTLR if self.unsettled.contains(of) => CTLR_RWP,
            TYPER => self.redistributor_type(of) & u64::from(u32::MAX),
            TYPER_HIGH => self.redistributor_type(of) >> typer::AFFINITY_SHIFT,
            IIDR => identification::IIDR,
            WAKER if cpu.asleep => waker::PROCESSOR_SLEEP | waker::CHILDREN_ASLEEP,
            PIDR4..SGI_BASE => identification::coresight(3, offset - PIDR4),
            _ => 0,
        };
        Read::Value(value)
    }

    pub(super) fn write_redistributor(
        &mut self,
        vcpu: VcpuIndex,
        of: VcpuIndex,
        offset: u32,
        width: Width,
        value: u64,
    ) -> Effects {
        if (SGI_BASE..END).contains(&offset) {
            return match Common::decode(offset - SGI_BASE, width) {
                Some(register) if register.is_private() => {
                    self.write_common(vcpu, of, register, width, value)
                }
                _ => Effects::NONE,
            };
        }
        // LPIs don't exist, so GICR_SETLPIR, GICR_INVLPIR and the like are ignored with all else.
        if offset == WAKER
            && is_word(offset, width)
            && let Some(cpu) = self.cpus.get_mut(of.get())
        {
            // A guest that never wakes its redistributor still gets its interrupts: firmware may have been meant to.
            cpu.asleep = value & waker::PROCESSOR_SLEEP != 0;
        }
        Effects::NONE
    }

    fn redistributor_type(&self, of: VcpuIndex) -> u64 {
        let Some(cpu) = self.cpus.get(of.get()) else { return 0 };
        let last = if of.get().wrapping_add(1) == self.cpus.len() { typer::LAST } else { 0 };
        u64::from(cpu.affinity.packed()) << typer::AFFINITY_SHIFT
            | (of.get() as u64) << typer::PROCESSOR_NUMBER_SHIFT
            | last
    }
}
