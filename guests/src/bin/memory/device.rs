//! Loads and stores of every form to a device: the console's PL011.
//!
//! `UARTIBRD` holds 16 bits and `UARTFBRD` beside it 6; neither has an effect
//! on a port whose speed nobody measures.

use core::arch::asm;

use guests::aarch64::exception::{self, Fault, class, status};
use guests::aarch64::{console, machine, mmio, sysreg};
use guests::tap::{Stop, Verdict};
use guests::{check, check_eq, mrs, println};

use super::ram;

const IBRD: u64 = 0x24;
const FBRD: u64 = 0x28;
const PERIPH_ID: u64 = 0xfe0;
/// A part of the register window where nothing is.
const RESERVED: u64 = 0x800;
/// What destination registers hold before.
const MARK: u64 = 0x5555_aaaa_5555_aaaa;
/// `UARTIBRD` and `UARTFBRD` before each access. Sign bits are set.
const INTEGER: u32 = 0x9a8b;
const FRACTION: u32 = 0x2c;

pub(super) fn prepare() -> u64 {
    let address = console::base() + IBRD;
    mmio::write32(address, INTEGER);
    mmio::write32(address + 4, FRACTION);
    address
}

fn registers() -> (u32, u32) {
    (mmio::read32(console::base() + IBRD), mmio::read32(console::base() + FBRD))
}

pub(super) fn widths() -> Verdict {
    let port = console::base();
    for (index, expected) in [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1].iter().enumerate() {
        let address = port + PERIPH_ID + index as u64 * 4;
        let found = mmio::read32(address);
        // The revision, in PeriphID2, may differ.
        let known = index == 2 || found == *expected;
        check!(known, "identification {index}: {found:#x}, expected {expected:#x}");
        check_eq!(u32::from(mmio::read16(address)), found, "identification {index} as 16 bits");
        check_eq!(u32::from(mmio::read8(address)), found, "identification {index} as 8 bits");
    }
    let (wide, fault) = exception::catch(|| mmio::read64(port + PERIPH_ID));
    if fault.is_some_and(|fault| !fault.is_external_abort()) || fault.is_none() {
        check_eq!((wide, fault), (0x10_0000_0011, None), "64-bit load");
    }
    prepare();
    mmio::write16(port + IBRD, 0x1234);
    check_eq!(registers(), (0x1234, FRACTION), "after a 16-bit store");
    mmio::write8(port + IBRD, 0x56);
    check_eq!(registers(), (0x56, FRACTION), "after an 8-bit store");
    mmio::write32(port + IBRD, 0xffff_4321);
    check_eq!(registers(), (0x4321, FRACTION), "after a 32-bit store");
    let Some(clock) = machine().clock else { return Err(Stop::Skip("no real-time clock")) };
    const MATCH: u64 = 4;
    for value in [0x8000_0001, 0x1234_5678, 0xffff_ffff] {
        mmio::write32(clock + MATCH, value);
        check_eq!(mmio::read32(clock + MATCH), value, "match register of the clock");
        check_eq!(mmio::read16(clock + MATCH), value as u16, "its low half");
        check_eq!(mmio::read8(clock + MATCH), value as u8, "its low byte");
    }
    Ok(())
}

pub(super) fn unaligned() -> Verdict {
    let port = console::base() + RESERVED;
    let accesses: [(u64, fn(u64)); 6] = [
        (2, |a| _ = mmio::read16(a)),
        (4, |a| _ = mmio::read32(a)),
        (8, |a| _ = mmio::read64(a)),
        (2, |a| mmio::write16(a, 0)),
        (4, |a| mmio::write32(a, 0)),
        (8, |a| mmio::write64(a, 0)),
    ];
    let mut performed = 0;
    for (width, access) in accesses {
        for offset in 1..width {
            // Emulators with one CPU let the access through; a device may then refuse it.
            let Some(fault) = exception::fault_of(|| access(port + offset)) else {
                performed += 1;
                continue;
            };
            let fine = fault.is_external_abort()
                || fault.class() == class::DATA_ABORT && fault.status() == status::ALIGNMENT;
            check!(fine, "{width} bytes at offset {offset}: {fault:#x?}");
        }
    }
    if performed > 0 {
        println!("# {performed} unaligned accesses were performed");
    }
    Ok(())
}

/// An instruction with x0 = address, x1 and x2 = data, and how it leaves them.
struct Form {
    name: &'static str,
    run: fn(&mut [u64; 3]),
    /// Added to the address before.
    displacement: u64,
    /// Added to x0 by write-back.
    write_back: u64,
    /// x1 and x2 after.
    data: [u64; 2],
}

macro_rules! form {
    ($code:literal, $displacement:expr, $write_back:expr, $first:expr, $second:expr) => {
        Form {
            name: $code,
            run: |registers| {
                let [mut x0, mut x1, mut x2] = *registers;
                // SAFETY: the address is a device's; the vector registers are nobody's.
                unsafe {
                    asm!(
                        ".arch armv8.1-a+fp+simd+lse+rcpc",
                        $code,
                        inout("x0") x0, inout("x1") x1, inout("x2") x2, out("x3") _,
                        options(nostack)
                    );
                }
                *registers = [x0, x1, x2];
            },
            displacement: $displacement,
            write_back: $write_back,
            data: [$first, $second],
        }
    };
}

/// Whether the bus, or a device that knows no such access, refused.
fn is_refusal(fault: &Fault) -> bool {
    const UNSUPPORTED_ATOMIC: u64 = 0x35;
    fault.is_external_abort()
        || fault.class() == class::DATA_ABORT && fault.status() == UNSUPPORTED_ATOMIC
}

/// Runs forms that load. A form must do it right, or, where allowed, abort and change nothing.
fn loads(forms: &[Form], may_abort: bool) -> Verdict {
    for form in forms {
        let base = prepare();
        let address = base.wrapping_sub(form.displacement);
        let mut found = [address, MARK, MARK];
        let ((), fault) = exception::catch(|| (form.run)(&mut found));
        let right = [address.wrapping_add(form.write_back), form.data[0], form.data[1]];
        match fault {
            None => check_eq!(found, right, "{}: x0, x1, x2", form.name),
            Some(fault) => {
                check!(may_abort && is_refusal(&fault), "{}: {fault:#x?}", form.name);
                // What follows the access in a sequence may have changed the data registers.
                check_eq!(found[0], address, "{}: x0 after an abort", form.name);
            }
        }
        check_eq!(registers(), (INTEGER, FRACTION), "{}: the device", form.name);
    }
    Ok(())
}

pub(super) fn plain_loads() -> Verdict {
    const W: u64 = INTEGER as u64;
    let word = W;
    let half_signed = W as u16 as i16;
    let byte_signed = W as u8 as i8;
    loads(
        &[
            form!("ldr w1, [x0]", 0, 0, word, MARK),
            form!("ldr w1, [x0, #0x24]", 0x24, 0, word, MARK),
            form!("ldur w1, [x0, #-4]", 0_u64.wrapping_sub(4), 0, word, MARK),
            form!("mov x3, #0x20\nldr w1, [x0, x3]", 0x20, 0, word, MARK),
            form!("mov x3, #-8\nldr w1, [x0, w3, sxtw]", 0_u64.wrapping_sub(8), 0, word, MARK),
            form!("mov x3, #4\nldr w1, [x0, x3, lsl #2]", 16, 0, word, MARK),
            form!("ldrh w1, [x0]", 0, 0, word & 0xffff, MARK),
            form!("ldrb w1, [x0]", 0, 0, word & 0xff, MARK),
            form!("ldrsh w1, [x0]", 0, 0, half_signed as u32 as u64, MARK),
            form!("ldrsh x1, [x0]", 0, 0, half_signed as u64, MARK),
            form!("ldrsb w1, [x0]", 0, 0, byte_signed as u32 as u64, MARK),
            form!("ldrsb x1, [x0]", 0, 0, byte_signed as u64, MARK),
            form!("ldrsw x1, [x0]", 0, 0, word, MARK),
            form!("ldr wzr, [x0]", 0, 0, MARK, MARK),
            form!("ldrsb xzr, [x0]", 0, 0, MARK, MARK),
            form!("ldar w1, [x0]", 0, 0, word, MARK),
            form!("ldarh w1, [x0]", 0, 0, word & 0xffff, MARK),
            form!("ldarb w1, [x0]", 0, 0, word & 0xff, MARK),
        ],
        false,
    )?;
    if let Some(clock) = machine().clock {
        const MATCH: u64 = 4;
        mmio::write32(clock + MATCH, 0x8000_0001);
        let mut found = [clock + MATCH, MARK, MARK];
        let form = form!("ldrsw x1, [x0]\nldr w2, [x0]", 0, 0, 0, 0);
        (form.run)(&mut found);
        mmio::write32(clock + MATCH, 0);
        check_eq!(found[1], 0xffff_ffff_8000_0001, "ldrsw of a negative word");
        check_eq!(found[2], 0x8000_0001, "ldr of a negative word");
    }
    Ok(())
}

pub(super) fn odd_loads() -> Verdict {
    const W: u64 = INTEGER as u64;
    const F: u64 = FRACTION as u64;
    const BACK: u64 = 0_u64.wrapping_sub(4);
    loads(
        &[
            form!("ldp w1, w2, [x0]", 0, 0, W, F),
            form!("ldpsw x1, x2, [x0]", 0, 0, W, F),
            form!("ldnp w1, w2, [x0]", 0, 0, W, F),
            form!("ldp w1, w2, [x0], #8", 0, 8, W, F),
            form!("ldp w1, w2, [x0, #-8]!", 0_u64.wrapping_sub(8), 0_u64.wrapping_sub(8), W, F),
            form!("ldr w1, [x0], #4", 0, 4, W, MARK),
            form!("ldr w1, [x0, #-4]!", BACK, BACK, W, MARK),
            form!("ldrh w1, [x0], #2", 0, 2, W, MARK),
            form!("ldrb w1, [x0], #-1", 0, 0_u64.wrapping_sub(1), W & 0xff, MARK),
            form!("ldrsh x1, [x0, #4]!", 4, 4, W as u16 as i16 as u64, MARK),
            form!("ldrsb w1, [x0], #1", 0, 1, W as u8 as i8 as u32 as u64, MARK),
            form!("ldr s0, [x0]\nfmov w1, s0", 0, 0, W, MARK),
            form!("ldr h0, [x0]\numov w1, v0.h[0]", 0, 0, W, MARK),
            form!("ldr b0, [x0]\numov w1, v0.b[0]", 0, 0, W & 0xff, MARK),
            form!("ldp s0, s1, [x0]\nfmov w1, s0\nfmov w2, s1", 0, 0, W, F),
            form!("ld1 {{v0.s}}[0], [x0]\numov w1, v0.s[0]", 0, 0, W, MARK),
            form!("ld1 {{v0.s}}[1], [x0], #4\numov w1, v0.s[1]", 0, 4, W, MARK),
            form!("ld1r {{v0.4s}}, [x0]\numov w1, v0.s[3]", 0, 0, W, MARK),
            form!("ldxr w1, [x0]\nclrex", 0, 0, W, MARK),
            form!("ldaxr w1, [x0]\nclrex", 0, 0, W, MARK),
        ],
        true,
    )
}

/// A form that stores x1 = `VALUE` (and x2 = `SECOND`), and what the device holds then.
const VALUE: u64 = 0xffff_ffff_0000_6c7d;
const SECOND: u64 = 0xffff_ffff_0000_0013;

fn stores(forms: &[(Form, u32, u32)], may_abort: bool) -> Verdict {
    for (form, integer, fraction) in forms {
        let base = prepare();
        let address = base.wrapping_sub(form.displacement);
        let mut found = [address, VALUE, SECOND];
        let ((), fault) = exception::catch(|| (form.run)(&mut found));
        if let Some(fault) = fault {
            check!(may_abort && is_refusal(&fault), "{}: {fault:#x?}", form.name);
            check_eq!(found[0], address, "{}: x0 after an abort", form.name);
            check_eq!(registers(), (INTEGER, FRACTION), "{}: device after an abort", form.name);
        } else {
            check_eq!(found[0], address.wrapping_add(form.write_back), "{}: x0", form.name);
            check_eq!(registers(), (*integer, *fraction), "{}: the device", form.name);
        }
    }
    Ok(())
}

macro_rules! store_form {
    ($code:literal, $displacement:expr, $write_back:expr, $integer:expr, $fraction:expr) => {
        (form!($code, $displacement, $write_back, 0, 0), $integer, $fraction)
    };
}

pub(super) fn plain_stores() -> Verdict {
    const V: u32 = VALUE as u32;
    stores(
        &[
            store_form!("str w1, [x0]", 0, 0, V, FRACTION),
            store_form!("str w1, [x0, #0x24]", 0x24, 0, V, FRACTION),
            store_form!("stur w1, [x0, #-4]", 0_u64.wrapping_sub(4), 0, V, FRACTION),
            store_form!("mov x3, #0x20\nstr w1, [x0, x3]", 0x20, 0, V, FRACTION),
            store_form!("strh w1, [x0]", 0, 0, V & 0xffff, FRACTION),
            store_form!("strb w1, [x0]", 0, 0, V & 0xff, FRACTION),
            store_form!("str wzr, [x0]", 0, 0, 0, FRACTION),
            store_form!("strh wzr, [x0]", 0, 0, 0, FRACTION),
            store_form!("strb wzr, [x0]", 0, 0, 0, FRACTION),
            store_form!("stlr w1, [x0]", 0, 0, V, FRACTION),
            store_form!("stlrb w1, [x0]", 0, 0, V & 0xff, FRACTION),
            store_form!("str w2, [x0, #4]", 0, 0, INTEGER, SECOND as u32),
        ],
        false,
    )
}

pub(super) fn odd_stores() -> Verdict {
    const V: u32 = VALUE as u32;
    const S: u32 = SECOND as u32;
    const BACK: u64 = 0_u64.wrapping_sub(4);
    stores(
        &[
            store_form!("stp w1, w2, [x0]", 0, 0, V, S),
            store_form!("stnp w1, w2, [x0]", 0, 0, V, S),
            store_form!("stp wzr, w2, [x0]", 0, 0, 0, S),
            store_form!("stp w1, w2, [x0], #8", 0, 8, V, S),
            store_form!("stp w1, w2, [x0, #8]!", 8, 8, V, S),
            store_form!("str w1, [x0], #4", 0, 4, V, FRACTION),
            store_form!("str w1, [x0, #-4]!", BACK, BACK, V, FRACTION),
            store_form!("strh w1, [x0], #2", 0, 2, V & 0xffff, FRACTION),
            store_form!("strb w1, [x0, #1]!", 1, 1, V & 0xff, FRACTION),
            store_form!("fmov s0, w1\nstr s0, [x0]", 0, 0, V, FRACTION),
            store_form!("fmov s0, w1\nstr h0, [x0]", 0, 0, V & 0xffff, FRACTION),
            store_form!("fmov s0, w1\nfmov s1, w2\nstp s0, s1, [x0]", 0, 0, V, S),
            store_form!("fmov s0, w1\nst1 {{v0.s}}[0], [x0]", 0, 0, V, FRACTION),
        ],
        true,
    )
}

pub(super) fn atomics() -> Verdict {
    const ONE: u32 = INTEGER + 0x13;
    if sysreg::id_field(mrs!("id_aa64isar0_el1"), 20) < 2 {
        return Err(Stop::Skip("no LSE atomics"));
    }
    stores(
        &[
            store_form!("ldadd w2, w1, [x0]", 0, 0, ONE, FRACTION),
            store_form!("swp w1, w2, [x0]", 0, 0, VALUE as u32, FRACTION),
            store_form!("stset w2, [x0]", 0, 0, INTEGER | 0x13, FRACTION),
            store_form!("cas w2, w1, [x0]", 0, 0, INTEGER, FRACTION),
        ],
        true,
    )
}

pub(super) fn cache_operations() -> Verdict {
    let reserved = console::base() + RESERVED;
    prepare();
    for (name, operation) in ram::OPERATIONS {
        let fault = exception::fault_of(|| operation(reserved));
        check_eq!(fault, None, "{name} of a device");
        // A hole may refuse, if only in the way of a hole.
        for hole in ram::hole_addresses() {
            let fault = exception::fault_of(|| operation(hole));
            let fine = fault.is_none_or(|fault| fault.class() == class::DATA_ABORT);
            check!(fine, "{name} of {hole:#x}: {fault:#x?}");
        }
    }
    // Device memory has no block to clear: any answer but a wrong effect will do.
    // SAFETY: the reserved part of the window has no registers.
    exception::fault_of(|| unsafe { asm!("dc zva, {}", in(reg) reserved, options(nostack)) });
    check_eq!(registers(), (INTEGER, FRACTION), "the device");
    Ok(())
}
