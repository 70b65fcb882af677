//! What a CPU keeps while others run and while calls and exits go on.

use core::arch::asm;

use guests::aarch64::encoding::{self, Encoding, RET};
use guests::aarch64::timer::{self, Timer};
use guests::aarch64::{console, cpu, gic, mmio, psci, smp};
use guests::tap::Verdict;
use guests::{check, check_eq};

/// Rounds of each job.
const ROUNDS: u64 = 200;

/// Lets others run, in every way that leaves the CPU to them.
fn disturb(round: u64) {
    match round % 4 {
        0 => _ = psci::call(psci::function::VERSION, 0, 0, 0),
        1 => _ = mmio::read32(console::base() + 0xfe0),
        2 => cpu::relax(),
        _ => {
            gic::enable(Timer::Virtual.interrupt());
            Timer::Virtual.arm(timer::microseconds(50));
            while !gic::is_signalled() {
                cpu::wait_for_interrupt();
            }
            Timer::Virtual.set_control(0);
        }
    }
}

#[repr(C, align(16))]
struct Vectors([u64; 64]);

fn load_vectors(vectors: &Vectors) {
    // SAFETY: code without floating point does not use the vector registers.
    unsafe {
        asm!(
            ".arch armv8-a+fp+simd",
            "ldp q0, q1, [{p}]", "ldp q2, q3, [{p}, #32]", "ldp q4, q5, [{p}, #64]",
            "ldp q6, q7, [{p}, #96]", "ldp q8, q9, [{p}, #128]", "ldp q10, q11, [{p}, #160]",
            "ldp q12, q13, [{p}, #192]", "ldp q14, q15, [{p}, #224]", "ldp q16, q17, [{p}, #256]",
            "ldp q18, q19, [{p}, #288]", "ldp q20, q21, [{p}, #320]", "ldp q22, q23, [{p}, #352]",
            "ldp q24, q25, [{p}, #384]", "ldp q26, q27, [{p}, #416]", "ldp q28, q29, [{p}, #448]",
            "ldp q30, q31, [{p}, #480]",
            p = in(reg) vectors.0.as_ptr(), options(nostack)
        );
    }
}

fn store_vectors(vectors: &mut Vectors) {
    // SAFETY: the array has room for all registers.
    unsafe {
        asm!(
            ".arch armv8-a+fp+simd",
            "stp q0, q1, [{p}]", "stp q2, q3, [{p}, #32]", "stp q4, q5, [{p}, #64]",
            "stp q6, q7, [{p}, #96]", "stp q8, q9, [{p}, #128]", "stp q10, q11, [{p}, #160]",
            "stp q12, q13, [{p}, #192]", "stp q14, q15, [{p}, #224]", "stp q16, q17, [{p}, #256]",
            "stp q18, q19, [{p}, #288]", "stp q20, q21, [{p}, #320]", "stp q22, q23, [{p}, #352]",
            "stp q24, q25, [{p}, #384]", "stp q26, q27, [{p}, #416]", "stp q28, q29, [{p}, #448]",
            "stp q30, q31, [{p}, #480]",
            p = in(reg) vectors.0.as_mut_ptr(), options(nostack)
        );
    }
}

/// A job: fills the vector registers with what only this CPU has, and counts changes.
fn keep_vectors(rounds: u64) -> u64 {
    prepare();
    let own = (smp::index() as u64 + 1) << 56;
    let mut changes = 0;
    for round in 0..rounds {
        let pattern: [u64; 64] = core::array::from_fn(|i| own | round << 16 | i as u64);
        let mut found = Vectors([0; 64]);
        load_vectors(&Vectors(pattern));
        disturb(round);
        store_vectors(&mut found);
        changes += u64::from(found.0 != pattern);
    }
    changes
}

fn prepare() {
    cpu::mask_interrupts();
    timer::stop();
    gic::reset_cpu();
}

fn everywhere(job: smp::Job) -> Verdict {
    check!(smp::start_all(), "not all CPUs started");
    for other in smp::others() {
        smp::begin(other, job, ROUNDS);
    }
    check_eq!(job(ROUNDS), 0, "changes on CPU {}", smp::index());
    for other in smp::others() {
        check_eq!(smp::finish(other), Some(0), "changes on CPU {other}");
    }
    Ok(())
}

pub(super) fn vectors() -> Verdict {
    everywhere(keep_vectors)
}

/// Registers that hold what is written, and the bits of them that are free to write.
const KEPT: [(Encoding, u64); 15] = [
    (Encoding::new(3, 3, 13, 0, 2), u64::MAX),     // TPIDR_EL0
    (Encoding::new(3, 3, 13, 0, 3), u64::MAX),     // TPIDRRO_EL0
    (Encoding::new(3, 0, 13, 0, 1), 0xffff_ffff),  // CONTEXTIDR_EL1
    (Encoding::new(3, 0, 4, 1, 0), !0xf),          // SP_EL0
    (Encoding::new(3, 0, 6, 0, 0), u64::MAX),      // FAR_EL1
    (Encoding::new(3, 0, 5, 2, 0), 0xffff_ffff),   // ESR_EL1
    (Encoding::new(3, 0, 2, 0, 1), 0xffff_f000),   // TTBR1_EL1
    (Encoding::new(2, 0, 0, 0, 4), 0xffff_fffc),   // DBGBVR0_EL1
    (Encoding::new(2, 0, 0, 1, 4), 0xffff_fffc),   // DBGBVR1_EL1
    (Encoding::new(2, 0, 0, 0, 6), 0xffff_fffc),   // DBGWVR0_EL1
    (Encoding::new(2, 0, 0, 1, 6), 0xffff_fffc),   // DBGWVR1_EL1
    (Encoding::new(3, 3, 14, 2, 2), u64::MAX),     // CNTP_CVAL_EL0
    (Encoding::new(3, 0, 4, 0, 1), u64::MAX << 2), // ELR_EL1
    (Encoding::new(3, 3, 4, 4, 0), 0x00c0_0000),   // FPCR: RMode
    (Encoding::new(3, 3, 4, 4, 1), 0x9f),          // FPSR
];

/// A job: writes what only this CPU has into many registers, and counts changes.
fn keep_registers(rounds: u64) -> u64 {
    prepare();
    let own = 0x0101_0101_0101_0101_u64.wrapping_mul(smp::index() as u64 + 1);
    let words = KEPT.iter().flat_map(|(register, _)| [register.write(), RET]);
    let reads = KEPT.iter().flat_map(|(register, _)| [register.read(), RET]);
    let code = encoding::write_code(words.chain(reads));
    let read_code = code + KEPT.len() as u64 * 8;
    let mut changes = 0;
    for round in 0..rounds {
        let value = own.rotate_left(round as u32 % 8) ^ round << 8;
        for (index, (_, mask)) in KEPT.iter().enumerate() {
            encoding::call(code + index as u64 * 8, value & mask);
        }
        disturb(round);
        for (index, (_, mask)) in KEPT.iter().enumerate() {
            let (found, fault) = encoding::call(read_code + index as u64 * 8, 0);
            changes += u64::from(fault.is_none() && found & mask != value & mask);
        }
    }
    changes
}

pub(super) fn registers() -> Verdict {
    everywhere(keep_registers)
}
