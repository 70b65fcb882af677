//! Every function, in both conventions, with every error that the decoder itself gives.

use arm_psci::{ErrorCode, Function, Mpidr};
use proptest::prelude::*;

use super::*;
use crate::power::{AffinityInstance, AffinityState, EntryPoint, Suspend};

const EVERYTHING: Features = Features {
    system_suspend: true,
    entropy: true,
    stolen_time: Some(0x4fff_0040),
    vendor_calls: true,
    branch_prediction: Mitigation::Available,
    store_bypass: Mitigation::Available,
    branch_history: Mitigation::Available,
};

const NOTHING: Features = Features {
    system_suspend: false,
    entropy: false,
    stolen_time: None,
    vendor_calls: false,
    branch_prediction: Mitigation::Unknown,
    store_bypass: Mitigation::Unknown,
    branch_history: Mitigation::Unknown,
};

const UNKNOWN: Response = Response::Return([u64::MAX, 0, 0, 0]);

fn call(function: u32, arguments: [u64; 3]) -> Response {
    let [x1, x2, x3] = arguments;
    dispatch(&Call::new([function.into(), x1, x2, x3]), &EVERYTHING)
}

fn returns(x0: i64) -> Response {
    Response::Return([x0 as u64, 0, 0, 0])
}

fn fails(code: ErrorCode) -> Response {
    Response::Return(result(Err(code)))
}

fn at(address: u64, context: u64) -> EntryPoint {
    EntryPoint { address, context }
}

#[test]
fn what_needs_no_arguments_is_answered_at_once() {
    let unknown = Some(u64::MAX);
    let table = [
        (0x8400_0000, Some(0x1_0003)), // PSCI_VERSION
        (0x8400_0001, None),           // CPU_SUSPEND
        (0x8000_0000, None),           // SMCCC_VERSION
        (0x8600_ff01, None),           // vendor-specific hypervisor service
        (0x8300_0099, unknown),        // OEM service
        (0x0400_0000, unknown),        // a yielding call
        (0x84ff_0000, unknown),        // bits 23 to 16 must be zero
    ];
    for (function, expected) in table {
        assert_eq!(immediate(function), expected, "{function:#x}");
    }
}

#[test]
fn versions_and_constants() {
    let table = [
        (0x8000_0000, returns(0x1_0002)), // SMCCC 1.2
        (0x8400_0000, returns(0x1_0003)), // PSCI 1.3
        (0x8400_0006, returns(2)),        // MIGRATE_INFO_TYPE
        (0x8400_0050, returns(0x1_0000)), // TRNG 1.0
    ];
    for (function, expected) in table {
        assert_eq!(call(function, [0; 3]), expected, "{function:#x}");
    }
}

#[test]
fn functions_of_psci_that_are_not_supported_say_so() {
    let absent = [
        0xc400_0000,
        0xc400_0002,
        0x8400_0005,
        0xc400_0005,
        0xc400_0006,
        0x8400_0007,
        0xc400_0007,
        0xc400_0008,
        0xc400_0009,
        0xc400_000a,
        0x8400_000b,
        0xc400_000b,
        0x8400_000d,
        0xc400_000d,
        0x8400_000f,
        0xc400_000f,
        0x8400_0010,
        0xc400_0010,
        0x8400_0011,
        0xc400_0011,
        0x8400_0013,
        0xc400_0013,
        0x8400_0014,
        0xc400_0014,
        0x8400_0016,
        0xc400_0016,
        0x8400_001f,
    ];
    for function in absent {
        assert_eq!(call(function, [0; 3]), UNKNOWN, "{function:#x}");
        assert_eq!(
            call(0x8400_000a, [function.into(), 0, 0]),
            UNKNOWN,
            "PSCI_FEATURES of {function:#x}"
        );
    }
}

#[test]
fn psci_features_knows_every_function_that_is_answered() {
    let present = [
        (0x8000_0000, 0),
        (0x8400_0000, 0),
        (0x8400_0001, 0),
        (0xc400_0001, 0),
        (0x8400_0002, 0),
        (0x8400_0003, 0),
        (0xc400_0003, 0),
        (0x8400_0004, 0),
        (0xc400_0004, 0),
        (0x8400_0006, 0),
        (0x8400_0008, 0),
        (0x8400_0009, 0),
        (0x8400_000a, 0),
        (0x8400_000c, 0),
        (0xc400_000c, 0),
        (0x8400_000e, 0),
        (0xc400_000e, 0),
        (0x8400_0012, 0),
        (0xc400_0012, 0),
        (0x8400_0015, 1),
        (0xc400_0015, 1),
    ];
    for (function, flags) in present {
        assert_eq!(call(0x8400_000a, [function, 0, 0]), returns(flags), "{function:#x}");
        assert_eq!(
            call(0x8400_000a, [function | 1 << 32, 0, 0]),
            returns(flags),
            "W1 alone counts"
        );
        // What PSCI_FEATURES knows is not answered with NOT_SUPPORTED.
        assert_ne!(call(function as u32, [0x8400_0000, 0, 0]), UNKNOWN, "{function:#x}");
    }
}

#[test]
fn psci_features_and_the_functions_agree_for_the_whole_range() {
    for convention in [0x8400_0000, 0xc400_0000] {
        for number in 0..0x20 {
            let function: u32 = convention + number;
            for features in [EVERYTHING, NOTHING] {
                let of = |x0: u32, x1: u32| {
                    dispatch(&Call::new([x0.into(), x1.into(), 0, 0]), &features)
                };
                let known = of(0x8400_000a, function) != UNKNOWN;
                assert_eq!(of(function, 0x8400_0000) != UNKNOWN, known, "{function:#x}");
            }
        }
    }
}

#[test]
fn cpu_on_names_target_entry_and_context() {
    let target = Mpidr::from_aff3210(1, 2, 3, 4);
    let wide = call(0xc400_0003, [0x1_0002_0304, 0x4020_0000, u64::MAX]);
    assert_eq!(
        wide,
        Response::Power(PowerRequest::CpuOn { target, entry: at(0x4020_0000, u64::MAX) })
    );
    let target = Mpidr::from_aff3210(0, 2, 3, 4);
    let narrow = call(0x8400_0003, [0xffff_ffff_0002_0304, 0xffff_ffff_4020_0000, u64::MAX]);
    assert_eq!(
        narrow,
        Response::Power(PowerRequest::CpuOn { target, entry: at(0x4020_0000, 0xffff_ffff) })
    );
}

#[test]
fn cpu_on_refuses_reserved_bits_and_odd_addresses() {
    let table = [
        (0xc400_0003, 1 << 31, 0, ErrorCode::InvalidParameters), // as MPIDR_EL1 has it, but not PSCI
        (0xc400_0003, 1 << 24, 0, ErrorCode::InvalidParameters),
        (0xc400_0003, 1 << 40, 0, ErrorCode::InvalidParameters),
        (0x8400_0003, 1 << 24, 0, ErrorCode::InvalidParameters),
        (0xc400_0003, 1, 0x4020_0002, ErrorCode::InvalidAddress),
        (0x8400_0003, 1, 0x4020_0001, ErrorCode::InvalidAddress),
    ];
    for (function, target, entry, error) in table {
        assert_eq!(
            call(function, [target, entry, 0]),
            fails(error),
            "{function:#x} {target:#x} {entry:#x}"
        );
    }
}

#[test]
fn cpu_suspend_reads_the_original_format() {
    for function in [0x8400_0001, 0xc400_0001] {
        let of = |state| call(function, [state, 0x4020_0000, 7]);
        let standby = Response::Power(PowerRequest::CpuSuspend(Suspend::Standby));
        let down =
            Response::Power(PowerRequest::CpuSuspend(Suspend::PowerDown(at(0x4020_0000, 7))));
        assert_eq!(of(0), standby);
        assert_eq!(of(0x0300_ffff), standby, "level and identifier are the platform's");
        assert_eq!(of(0x0001_0000), down);
        assert_eq!(of(0x0301_0001), down);
        assert_eq!(of(1 << 32), standby, "the state has 32 bits");
        for bit in (17..24).chain(26..32) {
            assert_eq!(of(1 << bit), fails(ErrorCode::InvalidParameters), "bit {bit}");
        }
        assert_eq!(call(function, [0x1_0000, 0x4020_0002, 0]), fails(ErrorCode::InvalidAddress));
        assert_eq!(call(function, [0, 0x4020_0002, 0]), standby, "standby has no entry point");
    }
}

#[test]
fn default_suspend_and_system_suspend_have_an_entry_point() {
    let down = |entry| Response::Power(PowerRequest::CpuSuspend(Suspend::PowerDown(entry)));
    assert_eq!(call(0xc400_000c, [1 << 32, 5, 0]), down(at(1 << 32, 5)));
    assert_eq!(call(0x8400_000c, [1 << 32, 5, 0]), down(at(0, 5)));
    assert_eq!(
        call(0xc400_000e, [1 << 32, 5, 0]),
        Response::Power(PowerRequest::SystemSuspend(at(1 << 32, 5)))
    );
    assert_eq!(
        call(0x8400_000e, [1 << 32 | 4, 5, 0]),
        Response::Power(PowerRequest::SystemSuspend(at(4, 5)))
    );
    for function in [0xc400_000c, 0x8400_000c, 0xc400_000e, 0x8400_000e] {
        assert_eq!(call(function, [2, 0, 0]), fails(ErrorCode::InvalidAddress));
    }
    let without = |function| dispatch(&Call::new([function, 0, 0, 0]), &NOTHING);
    assert_eq!(without(0xc400_000e), UNKNOWN);
    assert_eq!(without(0x8400_000e), UNKNOWN);
}

#[test]
fn affinity_info_knows_four_levels() {
    let info = |function, affinity, level| match call(function, [affinity, level, 0]) {
        Response::Power(PowerRequest::AffinityInfo(instance)) => Ok(instance),
        other => Err(other),
    };
    // Affinity 1.2.3.4 at each level, and which of its neighbours belong to it.
    let neighbours = [0x1_0002_0304, 0x1_0002_0305, 0x1_0002_0404, 0x1_0003_0304, 0x2_0002_0304];
    for level in 0..4 {
        let instance = info(0xc400_0004, 0x1_0002_0304, level).unwrap();
        let contained = neighbours.map(|mpidr: u64| instance.contains(mpidr | 1 << 31));
        let expected: Vec<bool> = (0..5).map(|neighbour| neighbour <= level).collect();
        assert_eq!(contained.to_vec(), expected, "level {level}");
    }
    assert!(
        info(0x8400_0004, 0x1_0000_0001, 1 << 32).unwrap().contains(1),
        "both arguments are narrowed"
    );
    let invalid = Err(fails(ErrorCode::InvalidParameters));
    assert_eq!(info(0xc400_0004, 1, 4), invalid);
    assert_eq!(info(0xc400_0004, 1, 0xffff_ffff), invalid);
    assert_eq!(info(0xc400_0004, 1 << 31, 0), invalid);
    assert_eq!(info(0x8400_0004, 1 << 24, 0), invalid);
}

#[test]
fn the_state_of_a_group_is_that_of_its_most_awake_member() {
    use AffinityState::{Off, On, OnPending};
    let table: &[(&[AffinityState], i64)] = &[
        (&[On], 0),
        (&[Off], 1),
        (&[OnPending], 2),
        (&[Off, On], 0),
        (&[OnPending, Off, On, Off], 0),
        (&[Off, OnPending, Off], 2),
        (&[Off, Off], 1),
        (&[], -2),
    ];
    for (states, expected) in table {
        let answer = AffinityInstance::answer(states.iter().copied());
        assert_eq!(answer, [*expected as u64, 0, 0, 0], "{states:?}");
    }
}

#[test]
fn the_machine_is_switched_off_and_reset() {
    let table = [
        (0x8400_0002, [0; 3], PowerRequest::CpuOff),
        (0x8400_0008, [0; 3], PowerRequest::SystemOff),
        (0x8400_0009, [0; 3], PowerRequest::SystemReset),
        (0x8400_0012, [0, u64::MAX, 0], PowerRequest::SystemWarmReset { cookie: 0xffff_ffff }),
        (0xc400_0012, [0, u64::MAX, 0], PowerRequest::SystemWarmReset { cookie: u64::MAX }),
        (0xc400_0012, [1 << 32, 0, 0], PowerRequest::SystemWarmReset { cookie: 0 }),
        (0x8400_0015, [1, 0, 0], PowerRequest::SystemHibernate),
        (0xc400_0015, [0, 0, 0], PowerRequest::SystemHibernate),
    ];
    for (function, arguments, request) in table {
        assert_eq!(call(function, arguments), Response::Power(request), "{function:#x}");
    }
    let invalid = [
        (0x8400_0012, [1, 0, 0]),
        (0xc400_0012, [0x8000_0000, 0, 0]), // vendor-specific types: none
        (0x8400_0015, [2, 0, 0]),
        (0xc400_0015, [1, 1, 0]),
    ];
    for (function, arguments) in invalid {
        assert_eq!(
            call(function, arguments),
            fails(ErrorCode::InvalidParameters),
            "{function:#x} {arguments:x?}"
        );
    }
}

#[test]
fn architecture_features_tell_what_the_host_knows() {
    let of = |asked: u64, features: &Features| {
        dispatch(&Call::new([0x8000_0001, asked, 0, 0]), features)
    };
    for asked in [0x8000_0000, 0x8000_0001, 0x8000_8000, 0x8000_7fff, 0x8000_3fff, 0xc500_0020] {
        assert_eq!(of(asked, &EVERYTHING), returns(0), "{asked:#x}");
    }
    // ARCH_SOC_ID, and PSCI, which has its own discovery.
    for asked in [0x8000_0002, 0x8400_0000, 0x8000_0004, 0] {
        assert_eq!(of(asked, &EVERYTHING), UNKNOWN, "{asked:#x}");
    }
    for asked in [0x8000_8000, 0x8000_7fff, 0x8000_3fff, 0xc500_0020] {
        assert_eq!(of(asked, &NOTHING), UNKNOWN, "{asked:#x}");
    }
    let needless = Features { branch_prediction: Mitigation::NotNeeded, ..NOTHING };
    assert_eq!(of(0x8000_8000, &needless), returns(1));
    assert_eq!(dispatch(&Call::new([0x8000_8000, 0, 0, 0]), &needless), returns(0));
}

#[test]
fn workarounds_are_asked_for() {
    let table = [
        (0x8000_8000, 0, Workaround::BranchPrediction),
        (0x8000_7fff, 0, Workaround::StoreBypass { mitigate: false }),
        (0x8000_7fff, 1, Workaround::StoreBypass { mitigate: true }),
        (0x8000_3fff, 0, Workaround::BranchHistory),
    ];
    for (function, argument, workaround) in table {
        assert_eq!(call(function, [argument, 0, 0]), Response::Mitigate(workaround));
        assert_eq!(dispatch(&Call::new([function.into(), argument, 0, 0]), &NOTHING), UNKNOWN);
    }
}

#[test]
fn entropy_is_offered_only_where_there_is_a_source() {
    for function in [0x8400_0050_u32, 0x8400_0051, 0x8400_0052, 0x8400_0053, 0xc400_0053] {
        let registers = [function.into(), 0x8400_0050, 0, 0];
        assert_ne!(dispatch(&Call::new(registers), &EVERYTHING), UNKNOWN, "{function:#x}");
        assert_eq!(dispatch(&Call::new(registers), &NOTHING), UNKNOWN, "{function:#x}");
        assert_eq!(
            call(0x8400_0051, [function.into(), 0, 0]),
            returns(0),
            "TRNG_FEATURES of {function:#x}"
        );
    }
    assert_eq!(call(0x8400_0051, [0x8400_0054, 0, 0]), UNKNOWN);
    assert_eq!(call(0xc400_0050, [0; 3]), UNKNOWN);
    assert_eq!(call(0xc400_0053, [193, 0, 0]), fails(ErrorCode::InvalidParameters));
    assert!(
        matches!(call(0x8400_0053, [96, 0, 0]), Response::Entropy(request) if request.bits() == 96)
    );
    let Response::Return(uuid) = call(0x8400_0052, [0; 3]) else { panic!() };
    assert!(uuid.iter().all(|&word| word <= 0xffff_ffff) && uuid[0] != 0xffff_ffff);
}

#[test]
fn stolen_time_has_an_address_where_it_is_kept() {
    assert_eq!(call(0xc500_0020, [0xc500_0020, 0, 0]), returns(0));
    assert_eq!(call(0xc500_0020, [0xc500_0021, 0, 0]), returns(0));
    assert_eq!(call(0xc500_0020, [0xc500_0022, 0, 0]), UNKNOWN);
    assert_eq!(call(0xc500_0021, [0; 3]), returns(0x4fff_0040));
    for function in [0xc500_0020, 0xc500_0021] {
        assert_eq!(dispatch(&Call::new([function, 0xc500_0021, 0, 0]), &NOTHING), UNKNOWN);
    }
}

#[test]
fn the_hypervisor_names_itself() {
    assert_eq!(call(0x8600_ff01, [0; 3]), Response::Return(HYPERVISOR_UID.map(u64::from)));
    assert_eq!(call(0x8600_ff03, [0; 3]), Response::Return([1, 0, 0, 0]));
    assert_eq!(call(0xc600_0007, [0; 3]), Response::Vendor(VendorCall { function: 7, wide: true }));
    assert_eq!(dispatch(&Call::new([0xc600_0007, 0, 0, 0]), &NOTHING), UNKNOWN);
}

#[test]
fn what_nobody_owns_is_unknown() {
    let strangers = [
        0,
        1,
        0x7fff_ffff,
        0x0400_0000,
        0x8000_ffff,
        0x8100_0000,
        0x8200_0000,
        0x8300_0001,
        0x8500_ff01,
        0xb200_0000,
        0xbf00_ff01,
        0xffff_ffff,
        0x8400_0020,
        0x8401_0000,
        0xc000_0000,
        0x8400_ff01,
    ];
    for function in strangers {
        assert_eq!(call(function, [0; 3]), UNKNOWN, "{function:#x}");
    }
}

proptest! {
    /// An independent decoder agrees on the arguments of every function that both know.
    #[test]
    fn arguments_are_decoded_as_another_decoder_does(
        wide: bool, number in 0_u32..0x20, x1: u64, x2: u64, x3: u64, small: bool,
    ) {
        let function = 0x8400_0000 | u32::from(wide) << 30 | number;
        // Small arguments, to get past the checks of reserved bits; aligned, because the other decoder does not look.
        let [x1, x2, x3] = if small { [x1 & 0xff, x2 & 0xfffc, x3 & 0xfffc] } else { [x1, x2 & !3, x3 & !3] };
        let registers = [function.into(), x1, x2, x3];
        let ours = dispatch(&Call::new(registers), &EVERYTHING);
        // The other decoder wants the upper halves clear in the 32-bit convention.
        let narrowed = if wide { registers } else { registers.map(|x| x & 0xffff_ffff) };
        match (Function::try_from(&narrowed), ours) {
            (Ok(Function::CpuOn { target_cpu, entry }), Response::Power(PowerRequest::CpuOn { target, entry: own })) => {
                prop_assert_eq!(u64::from(target_cpu), u64::from(target));
                prop_assert_eq!((entry.entry_point_address(), entry.context_id()), (own.address, own.context));
            }
            (Ok(Function::SystemSuspend { entry }), Response::Power(PowerRequest::SystemSuspend(own))) => {
                prop_assert_eq!((entry.entry_point_address(), entry.context_id()), (own.address, own.context));
            }
            (Err(arm_psci::Error::UnrecognisedFunctionId(_)), ours) => prop_assert_eq!(ours, UNKNOWN),
            (Err(_), Response::Power(PowerRequest::CpuOn { .. })) => prop_assert!(false, "the other decoder refuses {registers:x?}"),
            _ => {}
        }
    }

    /// No call, whatever its registers, does anything but answer or ask.
    #[test]
    fn any_registers_are_answered(registers: [u64; 4], features in prop::sample::select(vec![EVERYTHING, NOTHING])) {
        let _ = dispatch(&Call::new(registers), &features);
    }
}
