//! Loads of a device by AArch32 code at EL0, whose instructions are of two lengths.

use guests::aarch64::mmu::{self, descriptor};
use guests::aarch64::sysreg::id_field;
use guests::aarch64::{encoding, exception, machine, mmio};
use guests::tap::{Stop, Verdict};
use guests::{check_eq, mrs};

use super::device;

/// Gibibytes of the address space in which such code sees RAM and devices; nothing of ours is there.
const CODE: u64 = 3;
const DEVICES: u64 = 2;
const GIB: u64 = 1 << 30;

/// `SPSR_EL1` for T32 code at EL0, little-endian, with interrupts masked.
const T32: u64 = 0x1f0;
/// What [`exception::run_user`] would begin with.
const EL0T_MASKED: u64 = 0x3c0;
/// SVC from AArch32, `ESR_EL1.EC`.
const SVC32: u64 = 0x11;

/// `LDR R0, [R1]`, 16 and 32 bits long.
const LOAD: u16 = 0x6808;
const LOAD_WIDE: [u16; 2] = [0xf8d1, 0x0000];
/// `ADDS R0, #1`; in an IT block without a change of flags.
const ADD_ONE: u16 = 0x3001;
/// `CMP R0, R0`, so that `EQ` holds.
const COMPARE: u16 = 0x4280;
/// `ITT EQ`.
const IF_EQUAL: u16 = 0xbf04;
const SVC: u16 = 0xdf00;

pub(super) fn loads() -> Verdict {
    if id_field(mrs!("id_aa64pfr0_el1"), 0) != 2 {
        return Err(Stop::Skip("no AArch32 at EL0"));
    }
    let ram = machine().ram;
    if ram.end > DEVICES * GIB {
        return Err(Stop::Skip("no room below 4 GiB"));
    }
    let place = device::prepare();
    let value = u64::from(mmio::read32(place));
    let before = [CODE, DEVICES].map(|index| mmu::ROOT.get(index as usize));
    let user = descriptor::USER;
    let code = (ram.start & !(GIB - 1)) | descriptor::RAM | user | descriptor::READ_ONLY;
    mmu::ROOT.set(CODE as usize, code);
    mmu::ROOT.set(DEVICES as usize, (place & !(GIB - 1)) | descriptor::DEVICE | user);
    mmu::invalidate();
    let run = |halves: [u16; 6]| {
        let words = halves.chunks(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16);
        let entry = CODE * GIB + (encoding::write_code(words) & (GIB - 1));
        let device = DEVICES * GIB + (place & (GIB - 1));
        let (result, fault) = exception::run_user(entry, 0, device, T32 ^ EL0T_MASKED);
        (result, fault.map(|fault| fault.class()))
    };
    let short = run([LOAD, ADD_ONE, ADD_ONE, SVC, SVC, SVC]);
    let wide = run([LOAD_WIDE[0], LOAD_WIDE[1], ADD_ONE, ADD_ONE, SVC, SVC]);
    let conditional = run([COMPARE, IF_EQUAL, LOAD, ADD_ONE, ADD_ONE, SVC]);
    mmu::ROOT.set(CODE as usize, before[0]);
    mmu::ROOT.set(DEVICES as usize, before[1]);
    mmu::invalidate();
    check_eq!(short, (value + 2, Some(SVC32)), "after a load of 16 bits");
    check_eq!(wide, (value + 2, Some(SVC32)), "after a load of 32 bits");
    check_eq!(conditional, (value + 2, Some(SVC32)), "after a load in an IT block");
    Ok(())
}
