//! The registers that the distributors of both versions and the redistributors share: a bit, two bits or a byte for
//! each interrupt, at the same offsets everywhere (IHI 0069 12.8, 12.11; IHI 0048 4.3).

use super::Vgic;
use super::bank::{Lanes, NOT_ACKNOWLEDGED};
use super::frame::{Read, Width};
use crate::bits::{Ones, bit};
use crate::{Effects, IntId, VcpuIndex, VcpuSet};

/// A register with a bit for each of 32 interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Group,
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
}

/// A register that both versions have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Common {
    /// One bit for each interrupt of a bank.
    Word(Word, usize),
    /// A byte for each interrupt, from this one on.
    Priority(IntId),
    /// Two bits for each of 16 interrupts, from this one on.
    Config(IntId),
}

const IGROUPR: u32 = 0x080;
const ISENABLER: u32 = 0x100;
const ICENABLER: u32 = 0x180;
const ISPENDR: u32 = 0x200;
const ICPENDR: u32 = 0x280;
const ISACTIVER: u32 = 0x300;
const ICACTIVER: u32 = 0x380;
const IPRIORITYR: u32 = 0x400;
const ITARGETSR: u32 = 0x800;
const ICFGR: u32 = 0xc00;
const IGRPMODR: u32 = 0xd00;

impl Common {
    /// The lowest offset of any of them; registers of a controller as a whole are below.
    pub(super) const FIRST: u32 = IGROUPR;

    /// The register at `offset`, if it is one of these and may be accessed so.
    #[inline(always)]
    pub(super) const fn decode(offset: u32, width: Width) -> Option<Self> {
        let (word, base) = match offset {
            IGROUPR..ISENABLER => (Word::Group, IGROUPR),
            ISENABLER..ICENABLER => (Word::SetEnable, ISENABLER),
            ICENABLER..ISPENDR => (Word::ClearEnable, ICENABLER),
            ISPENDR..ICPENDR => (Word::SetPending, ISPENDR),
            ICPENDR..ISACTIVER => (Word::ClearPending, ICPENDR),
            ISACTIVER..ICACTIVER => (Word::SetActive, ISACTIVER),
            ICACTIVER..IPRIORITYR => (Word::ClearActive, ICACTIVER),
            IPRIORITYR..ITARGETSR => {
                return match lanes(offset, width) {
                    0 => None,
                    _ => Some(Self::Priority(IntId::new(offset.wrapping_sub(IPRIORITYR)))),
                };
            }
            ICFGR..IGRPMODR if is_word(offset, width) => {
                return Some(Self::Config(IntId::new(offset.wrapping_sub(ICFGR).wrapping_mul(4))));
            }
            _ => return None,
        };
        if is_word(offset, width) {
            Some(Self::Word(word, (offset.wrapping_sub(base) >> 2) as usize))
        } else {
            None
        }
    }

    /// Whether the register concerns only private interrupts.
    pub(super) const fn is_private(self) -> bool {
        match self {
            Self::Word(_, number) => number == 0,
            Self::Priority(first) | Self::Config(first) => first.is_private(),
        }
    }
}

/// Whether this is an aligned access to a 32-bit register.
#[inline(always)]
pub(super) const fn is_word(offset: u32, width: Width) -> bool {
    matches!(width, Width::Word) && offset & 3 == 0
}

/// How many byte-sized fields an access takes: one, four, or none if it isn't allowed.
#[inline(always)]
pub(super) const fn lanes(offset: u32, width: Width) -> usize {
    match width {
        Width::Byte => 1,
        Width::Word if offset & 3 == 0 => 4,
        _ => 0,
    }
}

/// Byte `n` of a register's value.
pub(super) const fn byte(value: u64, n: usize) -> u8 {
    (value >> ((n & 7) << 3)) as u8
}

/// Packs up to eight bytes, the first in bits 7:0.
pub(super) fn pack(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes
        .take(8)
        .enumerate()
        .fold(0, |value, (n, byte)| value | (u64::from(byte) << ((n & 7) << 3)))
}

impl Vgic {
    /// Reads a register; `reader` is the vCPU that reads, `of` the one whose private interrupts it sees.
    #[inline(always)]
    pub(super) fn read_common(
        &mut self,
        reader: VcpuIndex,
        of: VcpuIndex,
        register: Common,
        width: Width,
        tag: u32,
    ) -> Read {
        match register {
            Common::Word(word, number) => self.read_word(reader, of, word, number, tag),
            Common::Priority(first) => Read::Value(self.read_priority(of, first, width)),
            Common::Config(first) => Read::Value(self.read_config(of, first)),
        }
    }

    /// Writes a register; `writer` is the vCPU that writes, `of` the one whose private interrupts it sees.
    #[inline(always)]
    pub(super) fn write_common(
        &mut self,
        writer: VcpuIndex,
        of: VcpuIndex,
        register: Common,
        width: Width,
        value: u64,
    ) -> Effects {
        match register {
            Common::Word(word, number) => self.write_word(writer, of, word, number, value as u32),
            Common::Priority(first) => self.write_priority(of, first, width, value),
            Common::Config(first) => self.write_config(of, first, value as u32),
        }
    }

    fn read_word(
        &mut self,
        reader: VcpuIndex,
        of: VcpuIndex,
        word: Word,
        number: usize,
        tag: u32,
    ) -> Read {
        let Some(bank) = self.bank(of, number) else { return Read::Value(0) };
        let value = match word {
            Word::Group => bank.group1,
            Word::SetEnable | Word::ClearEnable => bank.enabled,
            Word::SetPending | Word::ClearPending | Word::SetActive | Word::ClearActive => {
                let retry = self.consult(reader, of, number, u32::MAX, tag);
                if !retry.is_empty() {
                    return Read::Retry(retry);
                }
                let Some(bank) = self.bank(of, number) else { return Read::Value(0) };
                match word {
                    Word::SetPending | Word::ClearPending => bank.pending_register(),
                    _ => bank.active_register(),
                }
            }
        };
        Read::Value(value.into())
    }

    fn write_word(
        &mut self,
        writer: VcpuIndex,
        of: VcpuIndex,
        word: Word,
        number: usize,
        mask: u32,
    ) -> Effects {
        // IHI 0048 4.3.7: SGIs are made pending by GICD_SGIR and GICD_SPENDSGIRn only.
        let pendable = if self.rules.sgi_sources && number == 0 { mask & !SGIS } else { mask };
        let Some(bank) = self.bank_mut(of, number) else { return Effects::NONE };
        match word {
            Word::Group => {
                let changed = bank.group1 ^ mask;
                bank.group1 = mask;
                self.settle(of, number, changed)
            }
            Word::SetEnable => {
                let changed = mask & !bank.enabled;
                bank.enabled |= changed;
                self.settle(of, number, changed)
            }
            Word::ClearEnable => {
                let changed = mask & bank.enabled;
                bank.enabled &= !changed;
                if changed & bank.resident == 0 {
                    return Effects::NONE;
                }
                let owners = self.owners(of, number, changed).intersection(self.loaded);
                self.unsettled = self.unsettled.union(owners);
                self.settle(of, number, changed)
            }
            Word::SetPending => {
                bank.latched |= pendable;
                self.settle(of, number, pendable)
            }
            Word::ClearPending => self.clear_pending(writer, of, number, pendable),
            Word::SetActive => self.set_active(writer, of, number, mask),
            Word::ClearActive => self.clear_active(writer, of, number, mask),
        }
    }

    /// Clears pending latches. Level-sensitive inputs that are asserted stay pending.
    pub(super) fn clear_pending(
        &mut self,
        writer: VcpuIndex,
        of: VcpuIndex,
        number: usize,
        mask: u32,
    ) -> Effects {
        let Some(bank) = self.bank_mut(of, number) else { return Effects::NONE };
        bank.latched &= !mask;
        bank.drop_pending |= mask & bank.resident;
        let mut effects = self.let_go(writer, of, number, mask);
        effects.merge(self.settle(
            of,
            number,
            mask & self.bank(of, number).map_or(0, |bank| bank.resident),
        ));
        effects
    }

    fn set_active(
        &mut self,
        writer: VcpuIndex,
        of: VcpuIndex,
        number: usize,
        mask: u32,
    ) -> Effects {
        let sgi_sources = self.rules.sgi_sources;
        let Some(bank) = self.bank_mut(of, number) else { return Effects::NONE };
        bank.raise_active |= mask & bank.resident;
        let fresh = mask & !bank.resident & !bank.active;
        bank.active |= fresh;
        for lane in Ones(fresh) {
            bank.acknowledged.set(lane, NOT_ACKNOWLEDGED);
        }
        if number == 0 {
            if let Some(cpu) = self.cpus.get_mut(of.get()) {
                if let Some(share) = cpu.shares.first_mut() {
                    share.active |= fresh;
                }
                for sgi in Ones(if sgi_sources { fresh & SGIS } else { 0 }) {
                    cpu.sources.active.add(sgi, 1);
                    cpu.sources.acknowledged.set(sgi, 0, NOT_ACKNOWLEDGED);
                }
            }
        } else {
            for lane in Ones(fresh) {
                let target =
                    self.target(self.route(IntId::from_parts(number, lane))).unwrap_or(writer);
                if let Some(share) =
                    self.cpus.get_mut(target.get()).and_then(|cpu| cpu.shares.get_mut(number))
                {
                    share.active |= bit(lane);
                }
            }
        }
        self.settle(of, number, mask)
    }

    fn clear_active(
        &mut self,
        writer: VcpuIndex,
        of: VcpuIndex,
        number: usize,
        mask: u32,
    ) -> Effects {
        let Some(bank) = self.bank_mut(of, number) else { return Effects::NONE };
        bank.drop_active |= mask & bank.resident;
        bank.raise_active &= !mask;
        let fresh = mask & bank.active;
        bank.active &= !fresh;
        let forget = |cpu: &mut super::Cpu| {
            if let Some(share) = cpu.shares.get_mut(number) {
                share.active &= !fresh;
            }
        };
        if number == 0 {
            if let Some(cpu) = self.cpus.get_mut(of.get()) {
                forget(cpu);
                for sgi in Ones(fresh & SGIS) {
                    cpu.sources.active.set(sgi, 0);
                }
            }
        } else if fresh != 0 {
            self.cpus.iter_mut().for_each(forget);
        }
        let mut effects = self.let_go(writer, of, number, fresh);
        effects.merge(self.settle(of, number, mask));
        effects
    }

    /// Has physical interrupts deactivated that no virtual state stands for any more.
    fn let_go(&mut self, writer: VcpuIndex, of: VcpuIndex, number: usize, mask: u32) -> Effects {
        let loaded = self.loaded.contains(of);
        let Some(bank) = self.bank_mut(of, number) else { return Effects::NONE };
        let gone = bank.let_go(mask);
        if gone == 0 {
            return Effects::NONE;
        }
        // A private interrupt is deactivated on the CPU that its vCPU runs on; without one it isn't active at all.
        let by = if number == 0 { of } else { writer };
        if number == 0 && !loaded {
            bank.release &= !gone;
            return Effects::NONE;
        }
        if let Some(cpu) = self.cpus.get_mut(by.get()) {
            cpu.slots.ready |= bit(number);
        }
        Effects { kick: VcpuSet::only(by) }
    }

    fn read_priority(&self, of: VcpuIndex, first: IntId, width: Width) -> u64 {
        let Some(bank) = self.bank(of, first.bank()) else { return 0 };
        pack((0..lanes(0, width)).map(|n| bank.priority.get(first.lane().wrapping_add(n))))
    }

    fn write_priority(&mut self, of: VcpuIndex, first: IntId, width: Width, value: u64) -> Effects {
        let existing = self.priority_mask;
        let Some(bank) = self.bank_mut(of, first.bank()) else { return Effects::NONE };
        let mut changed = 0;
        for n in 0..lanes(0, width) {
            let (lane, priority) = (first.lane().wrapping_add(n), byte(value, n) & existing);
            if bank.priority.get(lane) != priority {
                bank.priority.set(lane, priority);
                changed |= bit(lane);
            }
        }
        self.settle(of, first.bank(), changed)
    }

    fn read_config(&self, of: VcpuIndex, first: IntId) -> u64 {
        let edge = self.bank(of, first.bank()).map_or(0, |bank| bank.edge);
        Ones((edge >> first.lane()) & SGIS).fold(0, |value, n| value | (0b10 << ((n & 15) << 1)))
    }

    fn write_config(&mut self, of: VcpuIndex, first: IntId, value: u32) -> Effects {
        // SGIs are always edge-triggered. Whether PPIs can be configured is for the implementation (IHI 0069 12.11.8);
        // the timers' are levels, so none can.
        if first.is_private() {
            return Effects::NONE;
        }
        let Some(bank) = self.bank_mut(of, first.bank()) else { return Effects::NONE };
        let half = SGIS << (first.lane() & 16);
        let edge = (0..16)
            .filter(|n| value & bit((n << 1) | 1) != 0)
            .fold(0, |edge, n| edge | bit(first.lane() | n));
        let changed = (bank.edge ^ edge) & half;
        bank.edge ^= changed;
        self.settle(of, first.bank(), changed)
    }

    /// The routing of SPIs `first` and on, a byte each (`GICD_ITARGETSRn`).
    pub(super) fn routes(&self, first: IntId, count: usize) -> u64 {
        let lanes = first
            .bank()
            .checked_sub(1)
            .and_then(|shared| self.spis.get(shared))
            .map(|spis| &spis.route);
        let route = |lanes: &Lanes<u32>| {
            pack((0..count).map(|n| lanes.get(first.lane().wrapping_add(n)) as u8))
        };
        lanes.map_or(0, route)
    }

    /// `GICD_TYPER.ITLinesNumber`.
    pub(super) fn it_lines_number(&self) -> u64 {
        self.spis.len() as u64
    }
}

/// The SGIs of a private bank, and the interrupts of half a bank.
const SGIS: u32 = 0xffff;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_found_by_offset_and_width() {
        let word = |word, number| Some(Common::Word(word, number));
        for (offset, width, expected) in [
            (0x07c, Width::Word, None),
            (0x080, Width::Word, word(Word::Group, 0)),
            (0x104, Width::Word, word(Word::SetEnable, 1)),
            (0x104, Width::Byte, None),
            (0x105, Width::Word, None),
            (0x1fc, Width::Word, word(Word::ClearEnable, 31)),
            (0x3fc, Width::Word, word(Word::ClearActive, 31)),
            (0x423, Width::Byte, Some(Common::Priority(IntId::new(0x23)))),
            (0x424, Width::Word, Some(Common::Priority(IntId::new(0x24)))),
            (0x424, Width::Half, None),
            (0x424, Width::Double, None),
            (0x422, Width::Word, None),
            (0xc08, Width::Word, Some(Common::Config(IntId::new(32)))),
            (0xd00, Width::Word, None),
        ] {
            assert_eq!(Common::decode(offset, width), expected, "{offset:#x} {width:?}");
        }
    }
}
