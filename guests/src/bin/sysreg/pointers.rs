//! Pointer authentication and branch target identification.

use core::arch::asm;

use guests::aarch64::encoding::{self, RET};
use guests::aarch64::exception::class;
use guests::aarch64::sysreg::id_field;
use guests::aarch64::{machine, mmu, smp};
use guests::tap::{Stop, Verdict};
use guests::{check, check_eq, mrs, msr};

/// `SCTLR_EL1.EnIA`.
const ENIA: u64 = 1 << 31;
const PACIA_X0_X1: u32 = 0xdac1_0020;
const AUTIA_X0_X1: u32 = 0xdac1_1020;
const XPACI_X0: u32 = 0xdac1_43e0;
/// `MOV x1, #42`: the modifier.
const MODIFIER: u32 = 0xd280_0541;
const BTI_C: u32 = 0xd503_245f;

/// Sets the key of this CPU.
fn set_key(low: u64, high: u64) {
    // SAFETY: no code of the guest uses pointer authentication.
    unsafe {
        asm!(
            "msr s3_0_c2_c1_0, {low}", "msr s3_0_c2_c1_1, {high}", "isb",
            low = in(reg) low, high = in(reg) high, options(nostack)
        );
    }
}

fn sign(pointer: u64) -> u64 {
    encoding::call(encoding::write_code([MODIFIER, PACIA_X0_X1, RET]), pointer).0
}

/// A job: signs a pointer with a key of this CPU's own, again and again, and counts
/// when the signature is another. Returns the signature in case it never is.
fn sign_often(pointer: u64) -> u64 {
    set_key(0x1111_2222 * (smp::index() as u64 + 1), 7);
    msr!("sctlr_el1", mrs!("sctlr_el1") | ENIA);
    let code = encoding::write_code([MODIFIER, PACIA_X0_X1, RET]);
    let signed = encoding::call(code, pointer).0;
    let same = (0..2_000).all(|_| encoding::call(code, pointer).0 == signed);
    msr!("sctlr_el1", mrs!("sctlr_el1") & !ENIA);
    if same { signed } else { 0 }
}

pub(super) fn authentication() -> Verdict {
    let isar1 = mrs!("id_aa64isar1_el1");
    let isar2 = mrs!("id_aa64isar2_el1");
    if id_field(isar1, 4) | id_field(isar1, 8) | id_field(isar2, 12) == 0 {
        return Err(Stop::Skip("no pointer authentication"));
    }
    let pointer = machine().ram.start + 0x1234;
    msr!("sctlr_el1", mrs!("sctlr_el1") | ENIA);
    set_key(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210);
    let signed = sign(pointer);
    let checker = encoding::write_code([MODIFIER, AUTIA_X0_X1, RET]);
    let (authentic, fault) = encoding::call(checker, signed);
    // Another signature: a fault, or a pointer that cannot be used.
    let (forged, forged_fault) = encoding::call(checker, signed ^ 1 << 50);
    let stripped = encoding::call(encoding::write_code([XPACI_X0, RET]), signed).0;
    set_key(1, 2);
    let other = sign(pointer);
    msr!("sctlr_el1", mrs!("sctlr_el1") & !ENIA);
    let plain = sign(pointer);
    check!(signed != pointer, "PACIA leaves the pointer as it is");
    check_eq!(fault, None, "AUTIA of a signed pointer");
    check_eq!(authentic, pointer, "pointer after AUTIA");
    check_eq!(stripped, pointer, "pointer after XPACI");
    match forged_fault {
        Some(fault) => check_eq!(fault.class(), class::POINTER_AUTHENTICATION, "class"),
        None => check!(forged != pointer, "a forged signature passes"),
    }
    check!(other != signed, "another key makes the same signature");
    check_eq!(plain, pointer, "PACIA while it is switched off");
    // Keys belong to the CPU that set them.
    check!(smp::start_all(), "not all CPUs started");
    for other in smp::others() {
        smp::begin(other, sign_often, pointer);
    }
    let mut seen = [0; smp::MAX_CPUS];
    seen[smp::index()] = sign_often(pointer);
    for other in smp::others() {
        seen[other] = smp::finish(other).unwrap_or(0);
    }
    for (index, signed) in seen.iter().enumerate().take(smp::count()) {
        check!(*signed != 0, "the key of CPU {index} has changed");
        check!(!seen[..index].contains(signed), "CPU {index} signs like another");
    }
    Ok(())
}

/// First-level index of another view of memory, with guarded pages.
const GUARDED: usize = 258;

pub(super) fn branch_targets() -> Verdict {
    const GIB: u64 = 1 << 30;
    if id_field(mrs!("id_aa64pfr1_el1"), 0) == 0 {
        return Err(Stop::Skip("no branch target identification"));
    }
    use mmu::descriptor;
    let old = mmu::ROOT.get(GUARDED);
    let block = machine().ram.start & !(GIB - 1);
    let attributes = descriptor::RAM | descriptor::READ_ONLY | descriptor::GUARDED;
    mmu::ROOT.set(GUARDED, block | attributes);
    mmu::invalidate();
    let guarded = |address: u64| GUARDED as u64 * GIB + (address & (GIB - 1));
    let marked = encoding::call(guarded(encoding::write_code([BTI_C, RET])), 5);
    let bare = guarded(encoding::write_code([RET]));
    let (_, fault) = encoding::call(bare, 5);
    mmu::ROOT.set(GUARDED, old);
    mmu::invalidate();
    check_eq!(marked, (5, None), "a call of a marked target");
    let Some(fault) = fault else {
        check!(false, "a call of an unmarked target is not refused");
        return Ok(());
    };
    check_eq!(fault.class(), class::BRANCH_TARGET, "class of an unmarked target");
    check_eq!(fault.elr, bare, "ELR_EL1");
    Ok(())
}
