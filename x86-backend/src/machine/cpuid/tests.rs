use super::*;
use crate::machine::msr;
use proptest::prelude::*;

const FACTS: Facts = Facts {
    vcpus: 2,
    tsc_khz: 2_600_000,
    bus_khz: 1_000_000,
    address_bits: 40,
    invariant_tsc: false,
    invpcid: false,
    rdtscp: false,
    xsaves: false,
    xcr0: 0x7,
};

const STATE: Dynamic = Dynamic { apic_id: 1, apic_enabled: true, osxsave: true, xcr0: 0x7 };

const AMD: [u32; 3] = [0x6874_7541, 0x444d_4163, 0x6974_6e65];
const INTEL: [u32; 3] = [0x756e_6547, 0x6c65_746e, 0x4965_6e69];

/// A host that has everything, of which nothing may leak.
fn host([ebx, ecx, edx]: [u32; 3]) -> impl Fn(u32, u32) -> Registers {
    move |leaf, subleaf| match (leaf, subleaf) {
        (0, _) => Registers { eax: 0x1f, ebx, ecx, edx },
        (0x8000_0000, _) => Registers { eax: 0x8000_0021, ebx, ecx, edx },
        (4, 3) => Registers { eax: 0xffff_c163, ..Registers::default() },
        (4, 0) => Registers { eax: 0xffff_c121, ..Registers::default() },
        (4, 1) => Registers { eax: 0xffff_c122, ..Registers::default() },
        (4, 2) => Registers { eax: 0xffff_c143, ..Registers::default() },
        (4, _) => Registers::default(),
        (0xd, 2) => Registers { eax: 256, ebx: 576, ecx: 0, edx: 0 },
        (0xd, 5) => Registers { eax: 64, ebx: 1088, ecx: 0, edx: 0 },
        (0xd, 6) => Registers { eax: 512, ebx: 1152, ecx: 2, edx: 0 },
        (0xd, 7) => Registers { eax: 1024, ebx: 1664, ecx: 2, edx: 0 },
        _ => Registers { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX },
    }
}

#[test]
fn the_rows_are_sorted_so_that_a_search_finds_them() {
    for vendor in [Vendor::Amd, Vendor::Intel] {
        let keys: Vec<_> = ROWS
            .iter()
            .filter(|row| row.vendor.is_none_or(|only| only == vendor))
            .map(|row| (row.leaf, *row.subleaves.range().start()))
            .collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "{keys:x?}");
    }
}

#[test]
fn a_guest_may_set_in_cr4_what_it_sees_and_no_more() {
    // A host that has everything: five-level paging, keys, shadow stacks and VMX stay out.
    let all = Cpuid::new(host(AMD), FACTS).control_4();
    assert_eq!(all, 0x37_0fff);
    // A host that has nothing.
    let none = Cpuid::new(|_, _| Registers::default(), FACTS).control_4();
    assert_eq!(none, 0x7ff);
}

#[test]
fn the_vendor_is_the_hosts() {
    for (name, vendor) in [(AMD, Vendor::Amd), (INTEL, Vendor::Intel)] {
        let cpuid = Cpuid::new(host(name), FACTS);
        assert_eq!(cpuid.vendor(), vendor);
        let leaf = cpuid.query(0, 0, &STATE);
        assert_eq!([leaf.ebx, leaf.ecx, leaf.edx], name);
        assert_eq!(leaf.eax, 0xd);
    }
}

#[test]
fn virtualization_and_other_hidden_features_never_show() {
    for name in [AMD, INTEL] {
        let cpuid = Cpuid::new(host(name), FACTS);
        let features = cpuid.query(1, 0, &STATE);
        for bit in [2, 3, 4, 5, 6, 7, 8, 10, 11, 14, 15, 18] {
            assert_eq!(features.ecx >> bit & 1, 0, "1:ECX[{bit}]");
        }
        for bit in [7, 10, 14, 18, 20, 21, 22, 29, 30, 31] {
            assert_eq!(features.edx >> bit & 1, 0, "1:EDX[{bit}]");
        }
        let structured = cpuid.query(7, 0, &STATE);
        for bit in [1, 2, 4, 10, 11, 14, 15, 25] {
            assert_eq!(structured.ebx >> bit & 1, 0, "7:EBX[{bit}]");
        }
        for bit in [3, 5, 7, 16, 22, 23, 31] {
            assert_eq!(structured.ecx >> bit & 1, 0, "7:ECX[{bit}]");
        }
        assert_eq!(structured.edx & 0xffff_fb00, 0, "7:EDX");
        let extended = cpuid.query(0x8000_0001, 0, &STATE);
        for bit in [2, 3, 9, 10, 12, 13, 15, 19, 22, 23, 24, 29] {
            assert_eq!(extended.ecx >> bit & 1, 0, "8000_0001:ECX[{bit}]");
        }
        for leaf in [3, 5, 8, 9, 0xa, 0xc, 0xe, 0x15, 0x1f, 0x4000_0002, 0x8000_0009, 0x8000_000a] {
            assert_eq!(cpuid.query(leaf, 0, &STATE), Registers::default(), "{leaf:#x}");
        }
    }
}

#[test]
fn linux_finds_kvm_with_its_clock() {
    let cpuid = Cpuid::new(host(AMD), FACTS);
    let signature = cpuid.query(0x4000_0000, 0, &STATE);
    let expected =
        Registers { eax: 0x4000_0010, ebx: 0x4b4d_564b, ecx: 0x564b_4d56, edx: 0x0000_004d };
    assert_eq!(signature, expected);
    assert_eq!(cpuid.query(0x4000_0001, 0, &STATE).eax, 1 << 3 | 1 << 24);
    let timing = cpuid.query(0x4000_0010, 9, &STATE);
    assert_eq!((timing.eax, timing.ebx), (2_600_000, 1_000_000));
    let features = cpuid.query(1, 0, &STATE);
    assert_eq!(features.ecx & (1 << 21 | 1 << 24 | 1 << 31), 1 << 21 | 1 << 24 | 1 << 31);
}

#[test]
fn state_of_the_virtual_cpu_shows_through() {
    let cpuid = Cpuid::new(host(AMD), FACTS);
    let features = cpuid.query(1, 0, &STATE);
    assert_eq!(features.ebx, 0x0102_ff00, "identifier 1, two processors");
    assert_ne!(features.ecx & 1 << 27, 0);
    let off = Dynamic { osxsave: false, apic_enabled: false, ..STATE };
    let features = cpuid.query(1, 0, &off);
    assert_eq!(features.ecx & 1 << 27, 0);
    assert_eq!(features.edx & 1 << 9, 0);
    assert_eq!(cpuid.query(0x8000_0001, 0, &off).edx & 1 << 9, 0);
}

#[test]
fn the_topology_agrees_between_its_leaves() {
    for (vcpus, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3)] {
        let cpuid = Cpuid::new(host(AMD), Facts { vcpus, ..FACTS });
        let thread = cpuid.query(0xb, 0, &STATE);
        let core = cpuid.query(0xb, 1, &STATE);
        let end = cpuid.query(0xb, 2, &STATE);
        assert_eq!(thread, Registers { eax: 0, ebx: 1, ecx: 0x100, edx: 1 });
        assert_eq!(core, Registers { eax: bits, ebx: vcpus, ecx: 0x201, edx: 1 });
        assert_eq!(end, Registers { eax: 0, ebx: 0, ecx: 2, edx: 1 });
        assert_eq!(cpuid.query(1, 0, &STATE).ebx >> 16 & 0xff, vcpus);
        assert_eq!(cpuid.query(1, 0, &STATE).edx >> 28 & 1 == 1, vcpus > 1);
        let addresses = cpuid.query(0x8000_0008, 0, &STATE);
        assert_eq!(addresses.ecx, (vcpus - 1) | (bits << 12));
        assert_eq!(addresses.eax, 0x3028);
    }
}

#[test]
fn intel_caches_end_with_the_list_and_share_only_the_last_level() {
    let cpuid = Cpuid::new(host(INTEL), Facts { vcpus: 4, ..FACTS });
    let eax = |subleaf| cpuid.query(4, subleaf, &STATE).eax;
    assert_eq!([eax(0), eax(1), eax(2)], [0x0c00_0121, 0x0c00_0122, 0x0c00_0143]);
    assert_eq!(eax(3), 0x0c00_0163 | 3 << 14);
    assert_eq!(eax(4), 0);
    assert_eq!(Cpuid::new(host(AMD), FACTS).query(4, 0, &STATE), Registers::default());
}

#[test]
fn xsave_sizes_follow_xcr0() {
    let facts = Facts { xcr0: 0xe7, xsaves: true, ..FACTS };
    let cpuid = Cpuid::new(host(INTEL), facts);
    assert_eq!(cpuid.xcr0(), 0xe7);
    for (xcr0, standard, compact) in [
        (0x1, 576, 576),
        (0x3, 576, 576),
        (0x7, 832, 832),
        (0xe7, 2688, 576 + 256 + 64 + 512 + 1024),
        (0xc3, 2688, 576 + 512 + 1024),
    ] {
        let state = Dynamic { xcr0, ..STATE };
        assert_eq!(cpuid.query(0xd, 0, &state).ebx, standard, "{xcr0:#x}");
        assert_eq!(cpuid.query(0xd, 1, &state).ebx, compact, "{xcr0:#x}");
        assert_eq!(cpuid.query(0xd, 0, &state).ecx, 2688);
    }
    assert_eq!(cpuid.query(0xd, 1, &STATE).eax, 0xf);
    let narrow = Cpuid::new(host(INTEL), FACTS);
    assert_eq!(narrow.xcr0(), 0x7);
    assert_eq!(narrow.query(0xd, 0, &STATE).ecx, 832, "the largest that is allowed");
    assert_eq!(narrow.query(0xd, 1, &STATE).eax, 0x7, "no XSAVES");
    for hidden in [3, 4, 5, 7, 8, 9] {
        assert_eq!(narrow.query(0xd, hidden, &STATE), Registers::default());
    }
}

#[test]
fn vector_instructions_need_their_registers() {
    let query =
        |xcr0, leaf| Cpuid::new(host(INTEL), Facts { xcr0, ..FACTS }).query(leaf, 0, &STATE);
    for (xcr0, avx, avx512) in [(0x3, 0, 0), (0x7, 1, 0), (0xe7, 1, 1), (0xe3, 0, 0)] {
        assert_eq!(query(xcr0, 1).ecx >> 28 & 1, avx, "{xcr0:#x}");
        assert_eq!(query(xcr0, 7).ebx >> 5 & 1, avx, "{xcr0:#x}");
        assert_eq!(query(xcr0, 7).ebx >> 16 & 1, avx512, "{xcr0:#x}");
        assert_eq!(query(xcr0, 7).edx >> 2 & 1, avx512, "{xcr0:#x}");
    }
}

#[test]
fn facts_gate_instructions() {
    let all = Facts { invpcid: true, rdtscp: true, invariant_tsc: true, ..FACTS };
    for (facts, expected) in [(FACTS, 0), (all, 1)] {
        let cpuid = Cpuid::new(host(INTEL), facts);
        assert_eq!(cpuid.query(7, 0, &STATE).ebx >> 10 & 1, expected, "INVPCID");
        assert_eq!(cpuid.query(7, 0, &STATE).ecx >> 22 & 1, expected, "RDPID");
        assert_eq!(cpuid.query(0x8000_0001, 0, &STATE).edx >> 27 & 1, expected, "RDTSCP");
        assert_eq!(cpuid.query(0x8000_0007, 0, &STATE).edx, expected << 8, "invariant TSC");
    }
}

#[test]
fn a_feature_shows_exactly_if_its_msr_exists() {
    for name in [AMD, INTEL] {
        let cpuid = Cpuid::new(host(name), Facts { xsaves: true, rdtscp: true, ..FACTS });
        let leaf_1 = cpuid.query(1, 0, &STATE);
        let leaf_7 = cpuid.query(7, 0, &STATE);
        let extended = cpuid.query(0x8000_0001, 0, &STATE);
        let xsave = cpuid.query(0xd, 1, &STATE);
        for (feature, register, bit, index) in [
            ("x2APIC", leaf_1.ecx, 21, 0x802),
            ("TSC deadline", leaf_1.ecx, 24, 0x6e0),
            ("MTRR", leaf_1.edx, 12, 0xfe),
            ("PAT", leaf_1.edx, 16, 0x277),
            ("SEP", leaf_1.edx, 11, 0x174),
            ("PDCM", leaf_1.ecx, 15, 0x345),
            ("VMX", leaf_1.ecx, 5, 0x480),
            ("TSC_ADJUST", leaf_7.ebx, 1, 0x3b),
            ("SPEC_CTRL", leaf_7.edx, 26, 0x48),
            ("ARCH_CAPABILITIES", leaf_7.edx, 29, 0x10a),
            ("L1D_FLUSH", leaf_7.edx, 28, 0x10b),
            ("SYSCALL", extended.edx, 11, 0xc000_0082),
            ("RDTSCP", extended.edx, 27, 0xc000_0103),
            ("SVM", extended.ecx, 2, 0xc001_0117),
            ("OSVW", extended.ecx, 9, 0xc001_0140),
            ("XSAVES", xsave.eax, 3, 0xda0),
            ("kvm-clock", cpuid.query(0x4000_0001, 0, &STATE).eax, 3, 0x4b56_4d01),
            ("steal time", cpuid.query(0x4000_0001, 0, &STATE).eax, 5, 0x4b56_4d03),
        ] {
            let exists = msr::find(index, cpuid.vendor()).is_some();
            assert_eq!(register >> bit & 1 == 1, exists, "{feature}");
        }
    }
}

proptest! {
    #[test]
    fn no_host_makes_the_policy_panic(
        seed in any::<[u32; 4]>(), leaf in any::<u32>(), subleaf in any::<u32>(), vcpus in 1u32..300
    ) {
        let odd = |leaf: u32, subleaf: u32| {
            let mix = leaf.wrapping_mul(0x9e37_79b9) ^ subleaf;
            let [eax, ebx, ecx, edx] = seed.map(|word| word ^ mix);
            Registers { eax, ebx, ecx, edx }
        };
        let cpuid = Cpuid::new(odd, Facts { vcpus, xcr0: u64::MAX, ..FACTS });
        let state = Dynamic { xcr0: u64::MAX, ..STATE };
        for leaf in [leaf, leaf & 0xf, 0xd, leaf | 0x8000_0000] {
            cpuid.query(leaf, subleaf, &state);
            cpuid.query(leaf, subleaf & 0x3f, &state);
        }
    }
}
