//! Interrupts and exceptions in real mode (SDM 7.11, 22.1.4): three words on the stack, and the
//! handler's address from a table.

use bunshin::address::GuestAddress;
use bunshin::memory::GuestMemory;

use crate::event;
use crate::machine::registers::Table;
use crate::state::{RFLAGS_IF, RFLAGS_TF};

/// Bytes of an entry of the table: offset and selector.
const ENTRY: u16 = 4;
/// Bytes of a word.
const WORD: u16 = 2;
/// Stack-segment fault.
const STACK_FAULT: u8 = 12;
/// RFLAGS: alignment check.
const RFLAGS_AC: u64 = 1 << 18;
/// RFLAGS: resume.
const RFLAGS_RF: u64 = 1 << 16;
/// What handlers begin without.
pub const CLEARED_FLAGS: u64 = RFLAGS_IF | RFLAGS_TF | RFLAGS_AC | RFLAGS_RF;

/// What delivery needs of a processor in real mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// IDTR, which holds the place of the table.
    pub table: Table,
    /// Base of SS.
    pub stack: u64,
    /// SP.
    pub sp: u16,
    /// FLAGS, to which the handler returns.
    pub flags: u16,
    /// CS, likewise.
    pub cs: u16,
    /// IP, likewise.
    pub ip: u16,
}

/// Where the handler begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handler {
    /// CS.
    pub cs: u16,
    /// IP.
    pub ip: u16,
    /// SP.
    pub sp: u16,
}

impl Context {
    /// Pushes FLAGS, CS and IP and finds the handler of `vector`.
    ///
    /// # Errors
    /// The vector of the fault that delivery meets: the table ends before, or a word of the stack
    /// would lie across its end.
    pub fn deliver(&self, vector: u8, memory: &dyn GuestMemory) -> Result<Handler, u8> {
        let entry = u16::from(vector).saturating_mul(ENTRY);
        if entry.saturating_add(ENTRY).saturating_sub(1) > self.table.limit {
            return Err(event::GENERAL_PROTECTION);
        }
        let mut sp = self.sp;
        let pushes = [self.flags, self.cs, self.ip].map(|word| {
            sp = sp.wrapping_sub(WORD);
            (sp, word)
        });
        if pushes.iter().any(|(offset, _)| *offset == u16::MAX) {
            return Err(STACK_FAULT);
        }
        for (offset, word) in pushes {
            let address = self.stack.saturating_add(offset.into());
            // Where there is no memory, nobody takes it.
            let _ = memory.write(GuestAddress(address), &word.to_le_bytes());
        }
        let mut bytes = [u8::MAX; ENTRY as usize];
        let address = self.table.base.saturating_add(entry.into());
        // And nobody answers.
        let _ = memory.read(GuestAddress(address), &mut bytes);
        let [ip_low, ip_high, cs_low, cs_high] = bytes;
        Ok(Handler {
            cs: u16::from_le_bytes([cs_low, cs_high]),
            ip: u16::from_le_bytes([ip_low, ip_high]),
            sp,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Memory;
    use proptest::prelude::*;

    const CONTEXT: Context = Context {
        table: Table { base: 0, limit: 0x3ff },
        stack: 0x2000,
        sp: 0x100,
        flags: 0x202,
        cs: 0x1234,
        ip: 0x5678,
    };

    #[test]
    fn the_handler_finds_what_iret_takes_back() {
        let ram = Memory::new();
        ram.put(0x80, &[0x78, 0x56, 0x34, 0x12]);
        let handler = CONTEXT.deliver(0x20, &ram);
        assert_eq!(handler, Ok(Handler { cs: 0x1234, ip: 0x5678, sp: 0xfa }));
        assert_eq!([0x20fa, 0x20fc, 0x20fe].map(|at| ram.u16(at)), [0x5678, 0x1234, 0x202]);
    }

    #[test]
    fn a_table_or_stack_that_is_too_short_faults() {
        let ram = Memory::new();
        for (limit, vector, sp, expected) in [
            (0x3ff, 0xff, 0x100, Ok(0xfa)),
            (0x3fe, 0xff, 0x100, Err(13)),
            (0, 0, 0x100, Err(13)),
            (3, 0, 0x100, Ok(0xfa)),
            (2, 0, 0x100, Err(13)),
            (0x3ff, 0, 0, Ok(0xfffa)),
            (0x3ff, 0, 6, Ok(0)),
            (0x3ff, 0, 4, Ok(0xfffe)),
            (0x3ff, 0, 1, Err(12)),
            (0x3ff, 0, 3, Err(12)),
            (0x3ff, 0, 5, Err(12)),
            (0x3ff, 0, 7, Ok(1)),
        ] {
            let context = Context { table: Table { base: 0, limit }, sp, stack: 0, ..CONTEXT };
            let found = context.deliver(vector, &ram).map(|handler| handler.sp);
            assert_eq!(found, expected, "limit {limit:#x}, vector {vector}, SP {sp:#x}");
        }
    }

    proptest! {
        #[test]
        fn wherever_table_and_stack_are_nothing_panics(
            base in any::<u64>(), limit in any::<u16>(), stack in any::<u64>(), sp in any::<u16>(),
            vector in any::<u8>(),
        ) {
            let context = Context { table: Table { base, limit }, stack, sp, ..CONTEXT };
            let _ = context.deliver(vector, &Memory::new());
        }
    }
}
