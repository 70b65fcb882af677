//! What comes from EL2: replaced instructions, and accesses to devices.

use machines::m1::{AFFINITIES, Access, Register, access};

use crate::print::fail;
use crate::{devices, gic};

macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading this register has no side effect.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

const CLASS_SMC: u64 = 0x17;
/// A granule without access: this is how the registers of devices come here.
const CLASS_GRANULE: u64 = 0x1e;
const HCR_E2H: u64 = 1 << 34;
const MIDR_M1: u64 = 0x611f_0221;
/// `ICH_VTR_EL2.SEIS`.
const VTR_SEIS: u64 = 1 << 22;
const MPIDR_RES1: u64 = 1 << 31;

/// The number of this CPU: the emulator's affinity.
pub(crate) fn cpu() -> usize {
    (read_register!("mpidr_el1") & 0xff) as usize
}

#[unsafe(no_mangle)]
extern "C" fn handle(registers: &mut [u64; 31]) {
    let cause = read_register!("esr_el3");
    match cause >> 26 {
        CLASS_SMC => match access((cause & 0xffff) as u32) {
            Some(access) => system_register(registers, access),
            None => fail(format_args!("SMC at {:#x}: an M1 has no EL3", read_register!("elr_el3"))),
        },
        CLASS_GRANULE => device(registers),
        class => fail(format_args!(
            "exception of class {class:#x}, esr {cause:#x}, far {:#x}, elr {:#x}",
            read_register!("far_el3"),
            read_register!("elr_el3")
        )),
    }
}

fn system_register(registers: &mut [u64; 31], access: Access) {
    let cpu = cpu();
    if access.read {
        let value = read(cpu, access.register);
        if let Some(register) = registers.get_mut(access.operand) {
            *register = value;
        }
    } else {
        write(cpu, access.register, registers.get(access.operand).copied().unwrap_or(0));
    }
}

/// Puts `value` into the field of an ID register that starts at `shift`.
fn with_field(register: u64, shift: u32, value: u64) -> u64 {
    register & !(0xf << shift) | value << shift
}

fn read(cpu: usize, register: Register) -> u64 {
    match register {
        Register::Affinity => MPIDR_RES1 | AFFINITIES[cpu],
        Register::MainId => MIDR_M1,
        Register::ProcessorFeatures => {
            // EL3, GIC, SVE, MPAM, AMU, RME.
            [12, 24, 32, 40, 44, 52]
                .into_iter()
                .fold(read_register!("id_aa64pfr0_el1"), |value, shift| with_field(value, shift, 0))
        }
        Register::DebugFeatures => with_field(read_register!("id_aa64dfr0_el1"), 8, 0),
        Register::MemoryModel0 => {
            // PARange; TGran16_2: yes; TGran64_2, TGran4_2: no; FGT, ECV: no.
            [(0, 1), (32, 2), (36, 1), (40, 1), (56, 0), (60, 0)]
                .into_iter()
                .fold(read_register!("id_aa64mmfr0_el1"), |value, (shift, field)| {
                    with_field(value, shift, field)
                })
        }
        // VMIDBits, HCX.
        Register::MemoryModel1 => {
            with_field(with_field(read_register!("id_aa64mmfr1_el1"), 4, 0), 40, 0)
        }
        Register::VirtualInterface => read_register!("ich_vtr_el2") | VTR_SEIS,
        Register::IpiStatus => gic::is_up(cpu, gic::FAST_IPI).into(),
        Register::GuestTimers => {
            u64::from(gic::is_enabled(cpu, gic::VIRTUAL_TIMER))
                | u64::from(gic::is_enabled(cpu, gic::PHYSICAL_TIMER)) << 1
        }
        Register::HypervisorConfiguration
        | Register::IpiLocal
        | Register::IpiGlobal
        | Register::PerformanceControl
        | Register::ClusterPerformanceControl => 0,
    }
}

fn write(cpu: usize, register: Register, value: u64) {
    match register {
        Register::HypervisorConfiguration => {
            // SAFETY: what EL2 wants, with the bit that it cannot clear.
            unsafe {
                core::arch::asm!("msr hcr_el2, {}", "isb", in(reg) value | HCR_E2H, options(nostack));
            }
        }
        Register::IpiLocal => send(AFFINITIES[cpu] >> 8 & 0xff, value & 0xff),
        Register::IpiGlobal => send(value >> 16 & 0xff, value & 0xff),
        Register::IpiStatus => {
            if value & 1 != 0 {
                gic::put_down(cpu, gic::FAST_IPI);
            }
        }
        Register::GuestTimers => {
            gic::enable(cpu, gic::VIRTUAL_TIMER, value & 1 != 0);
            gic::enable(cpu, gic::PHYSICAL_TIMER, value & 2 != 0);
        }
        Register::PerformanceControl | Register::ClusterPerformanceControl => {}
        Register::Affinity
        | Register::MainId
        | Register::ProcessorFeatures
        | Register::DebugFeatures
        | Register::MemoryModel0
        | Register::MemoryModel1
        | Register::VirtualInterface => fail(format_args!("write of {register:?}")),
    }
}

/// Sends a fast IPI to a CPU by its cluster and its number in it.
fn send(cluster: u64, number: u64) {
    let target = AFFINITIES
        .iter()
        .position(|affinity| affinity >> 8 & 0xff == cluster && affinity & 0xff == number);
    match target {
        Some(target) => gic::raise(target, gic::FAST_IPI),
        None => {
            fail(format_args!("fast IPI to cluster {cluster}, CPU {number}, which is not there"))
        }
    }
}

/// Carries out the load or store that met a device.
fn device(registers: &mut [u64; 31]) {
    let address = read_register!("s3_6_c6_c0_5"); // MFAR_EL3
    let offset = read_register!("far_el3") & 0xfff;
    let address = address & !0xfff & 0x000f_ffff_ffff_ffff | offset;
    let at = read_register!("elr_el3");
    // SAFETY: EL2 runs with a map one to one, so this is where its instruction lies.
    let instruction = unsafe { (at as *const u32).read_volatile() };
    /// Loads and stores of one general register; not those that change the address register.
    const CLASS: u32 = 0x3a00_0000;
    let indexed =
        instruction >> 24 & 1 == 0 && instruction >> 21 & 1 == 0 && instruction >> 10 & 1 == 1;
    if instruction & 0x3e00_0000 != 0x3800_0000 || instruction & CLASS != 0x3800_0000 || indexed {
        fail(format_args!("instruction {instruction:#x} at {at:#x} accesses device {address:#x}"));
    }
    if instruction >> 30 != 2 {
        fail(format_args!("access to {address:#x} that is not of 32 bits"));
    }
    let operand = (instruction & 31) as usize;
    let cpu = cpu();
    if instruction >> 22 & 3 == 0 {
        devices::write(cpu, address, registers.get(operand).copied().unwrap_or(0) as u32);
    } else {
        let value = devices::read(cpu, address);
        if let Some(register) = registers.get_mut(operand) {
            *register = value;
        }
    }
    // SAFETY: the instruction is done.
    unsafe { core::arch::asm!("msr elr_el3, {}", in(reg) at + 4, options(nostack)) };
}
