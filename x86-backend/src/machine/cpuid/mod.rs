//! CPUID as guests see it: a policy by table over what the host's processor has.
//!
//! The static part is computed once for a virtual machine; what depends on the
//! virtual CPU's state ([`Dynamic`]) is filled in on each call. A feature is
//! shown only if everything behind it works in a guest: its registers are
//! switched, its MSRs are in the [MSR table](super::msr).

mod table;
#[cfg(test)]
mod tests;

use crate::state::{CR4_OSXSAVE, CR4_PCIDE};
use alloc::vec::Vec;
use table::{ROWS, Row, Rule, Subleaves};

/// Registers that CPUID returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Registers {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Whose instruction-set extensions the processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// AMD and Hygon.
    Amd,
    /// Intel and everybody else.
    Intel,
}

impl Vendor {
    /// The vendor that leaf 0 names.
    pub fn of(leaf_0: Registers) -> Self {
        let name = [leaf_0.ebx, leaf_0.edx, leaf_0.ecx].map(u32::to_le_bytes);
        match name.as_flattened() {
            b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
            _ => Vendor::Intel,
        }
    }
}

/// What a virtual machine is and what its host lets guests do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Number of virtual CPUs; their APIC identifiers count from 0.
    pub vcpus: u32,
    /// Frequency of the guest's time-stamp counter in kHz.
    pub tsc_khz: u32,
    /// Frequency of the APIC timer's clock in kHz.
    pub bus_khz: u32,
    /// Width of guest-physical addresses in bits.
    pub address_bits: u32,
    /// The time-stamp counter runs at one rate in all power states, and alike
    /// on all virtual CPUs.
    pub invariant_tsc: bool,
    /// Guests may execute INVPCID.
    pub invpcid: bool,
    /// Guests may execute RDTSCP and RDPID.
    pub rdtscp: bool,
    /// Guests may execute XSAVES, with no supervisor state.
    pub xsaves: bool,
    /// State components that may be set in XCR0.
    pub xcr0: u64,
}

/// State of the virtual CPU that CPUID shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dynamic {
    /// x2APIC identifier.
    pub apic_id: u32,
    /// The local APIC is not globally disabled.
    pub apic_enabled: bool,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// XCR0.
    pub xcr0: u64,
}

/// Highest basic leaf.
const MAXIMUM_BASIC: u32 = 0xd;
/// Basic leaves that must exist for the x2APIC topology.
const MINIMUM_BASIC: u32 = 0xb;
/// Highest leaf of the hypervisor's range.
const MAXIMUM_HYPERVISOR: u32 = 0x4000_0010;
/// Highest extended leaf.
const MAXIMUM_EXTENDED: u32 = 0x8000_0008;

const LEAF_FEATURES: u32 = 1;
const LEAF_CACHES: u32 = 4;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_XSAVE: u32 = 0xd;
const LEAF_TIMING: u32 = 0x4000_0010;
const LEAF_EXTENDED_FEATURES: u32 = 0x8000_0001;
const LEAF_POWER: u32 = 0x8000_0007;
const LEAF_ADDRESSES: u32 = 0x8000_0008;

/// CPUID.1:ECX.OSXSAVE.
const ECX_OSXSAVE: u32 = 1 << 27;
/// CPUID.1:EDX.APIC, also in 8000_0001.
const EDX_APIC: u32 = 1 << 9;
/// CPUID.1:EDX.HTT.
const EDX_HTT: u32 = 1 << 28;
/// CPUID.7:EBX.INVPCID.
const EBX_INVPCID: u32 = 1 << 10;
/// CPUID.7:ECX.RDPID.
const ECX_RDPID: u32 = 1 << 22;
/// CPUID.8000_0001:EDX.RDTSCP.
const EDX_RDTSCP: u32 = 1 << 27;
/// CPUID.8000_0001:ECX.CmpLegacy.
const ECX_CMP_LEGACY: u32 = 1 << 1;
/// CPUID.8000_0007:EDX.
const EDX_INVARIANT_TSC: u32 = 1 << 8;
/// CPUID.0xd.1:EAX.XSAVES.
const EAX_XSAVES: u32 = 1 << 3;

/// XCR0: the upper halves of the 256-bit registers.
const XCR0_AVX: u64 = 1 << 2;
/// XCR0: mask registers and both parts of the 512-bit registers.
const XCR0_AVX512: u64 = 0b111 << 5;
/// CPUID.1:ECX features that need [`XCR0_AVX`]: FMA, AVX, F16C.
const ECX_NEEDS_AVX: u32 = 1 << 12 | 1 << 28 | 1 << 29;
/// CPUID.7:EBX features that need [`XCR0_AVX`]: AVX2.
const EBX_NEEDS_AVX: u32 = 1 << 5;
/// CPUID.7:ECX features that need [`XCR0_AVX`]: VAES, VPCLMULQDQ.
const ECX7_NEEDS_AVX: u32 = 1 << 9 | 1 << 10;
/// CPUID.8000_0001:ECX features that need [`XCR0_AVX`]: XOP, FMA4.
const ECX8_NEEDS_AVX: u32 = 1 << 11 | 1 << 16;
/// CPUID.7:EBX features that need [`XCR0_AVX512`].
const EBX_NEEDS_AVX512: u32 = 1 << 16 | 1 << 17 | 1 << 21 | 1 << 28 | 1 << 30 | 1 << 31;
/// CPUID.7:ECX features that need [`XCR0_AVX512`].
const ECX7_NEEDS_AVX512: u32 = 1 << 1 | 1 << 6 | 1 << 11 | 1 << 12 | 1 << 14;
/// CPUID.7:EDX features that need [`XCR0_AVX512`].
const EDX7_NEEDS_AVX512: u32 = 1 << 2 | 1 << 3;
/// CPUID.0xd.n:ECX: 64-byte aligned in the compacted format.
const ECX_XSAVE_ALIGNED: u32 = 1 << 1;
/// Width of linear addresses; five-level paging is hidden.
const LINEAR_BITS: u32 = 48;

/// CR4 bits of features that every 64-bit processor has: VME, PVI, TSD, DE, PSE, PAE, MCE, PGE,
/// PCE, OSFXSR, OSXMMEXCPT.
const CR4_ALWAYS: u64 = 0x7ff;
const CR4_UMIP: u64 = 1 << 11;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;

/// Legacy region and header of the XSAVE area.
const XSAVE_HEADER_END: u32 = 576;

/// Level types of the topology leaf.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    leaf: u32,
    /// `None` for leaves without subleaves.
    subleaf: Option<u32>,
    registers: Registers,
}

impl Entry {
    /// What entries are sorted by.
    fn key(&self) -> u64 {
        u64::from(self.leaf) << 32 | u64::from(self.subleaf.unwrap_or(0))
    }
}

/// The CPUID of one virtual machine.
#[derive(Debug, Clone)]
pub struct Cpuid {
    vendor: Vendor,
    /// Sorted by leaf and subleaf.
    entries: Vec<Entry>,
    /// [`Entry::key`] of each.
    keys: Vec<u64>,
}

impl Cpuid {
    /// Applies the policy to `host`, which executes CPUID with the given leaf
    /// and subleaf on the host's processor.
    pub fn new(host: impl Fn(u32, u32) -> Registers, facts: Facts) -> Self {
        let vendor = Vendor::of(host(0, 0));
        let basic = host(0, 0).eax;
        let components = if basic >= LEAF_XSAVE { host(LEAF_XSAVE, 0).eax } else { 0 };
        let facts = Facts { xcr0: facts.xcr0 & u64::from(components), ..facts };
        let extended = host(0x8000_0000, 0).eax;
        let mut entries = Vec::new();
        for row in ROWS.iter().filter(|row| row.vendor.is_none_or(|only| only == vendor)) {
            let on_host = match row.leaf {
                leaf @ 0..0x4000_0000 => leaf <= basic,
                leaf @ 0x8000_0000.. => leaf <= extended,
                _ => false,
            };
            for subleaf in row.subleaves.range() {
                let host = if on_host { host(row.leaf, subleaf) } else { Registers::default() };
                // Caches are listed until the first that is none.
                if row.subleaves == Subleaves::UntilZero && host.eax == 0 {
                    break;
                }
                let subleaf = (row.subleaves != Subleaves::None).then_some(subleaf);
                let registers = fix(row, subleaf, apply(row, host), &facts, vendor);
                entries.push(Entry { leaf: row.leaf, subleaf, registers });
            }
        }
        let keys = entries.iter().map(Entry::key).collect();
        let mut cpuid = Cpuid { vendor, entries, keys };
        cpuid.limit_basic(basic);
        cpuid
    }

    fn limit_basic(&mut self, host: u32) {
        if let Some(first) = self.entries.first_mut() {
            first.registers.eax = host.clamp(MINIMUM_BASIC, MAXIMUM_BASIC);
        }
    }

    /// Whose processor it is.
    pub fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// The bits that a guest may set in CR4: those of the features that it sees.
    pub fn control_4(&self) -> u64 {
        let leaf = |leaf| self.find(leaf, 0).unwrap_or_default();
        let (basic, extended) = (leaf(LEAF_FEATURES), leaf(7));
        let optional = [
            (extended.ecx & 1 << 2, CR4_UMIP),
            (extended.ebx & 1 << 0, CR4_FSGSBASE),
            (basic.ecx & 1 << 17, CR4_PCIDE),
            (basic.ecx & 1 << 26, CR4_OSXSAVE),
            (extended.ebx & 1 << 7, CR4_SMEP),
            (extended.ebx & 1 << 20, CR4_SMAP),
        ];
        let present = optional.into_iter().filter(|(feature, _)| *feature != 0);
        present.fold(CR4_ALWAYS, |bits, (_, bit)| bits | bit)
    }

    fn find(&self, leaf: u32, subleaf: u32) -> Option<Registers> {
        let key = u64::from(leaf) << 32 | u64::from(subleaf);
        let behind = self.keys.partition_point(|other| *other <= key);
        let entry = self.entries.get(behind.checked_sub(1)?)?;
        // A leaf without subleaves answers to all.
        let found = entry.leaf == leaf && entry.subleaf.is_none_or(|only| only == subleaf);
        found.then_some(entry.registers)
    }

    /// Executes CPUID on a virtual CPU. Unknown leaves are all zero.
    pub fn query(&self, leaf: u32, subleaf: u32, state: &Dynamic) -> Registers {
        let mut registers = match self.find(leaf, subleaf) {
            Some(registers) => registers,
            // Beyond its levels this leaf still gives its input and the identifier.
            None if leaf == LEAF_TOPOLOGY => {
                Registers { ecx: subleaf & 0xff, ..Registers::default() }
            }
            None => return Registers::default(),
        };
        match leaf {
            LEAF_FEATURES => {
                registers.ebx |= (state.apic_id & 0xff) << 24;
                if !state.osxsave {
                    registers.ecx &= !ECX_OSXSAVE;
                }
                if !state.apic_enabled {
                    registers.edx &= !EDX_APIC;
                }
            }
            LEAF_TOPOLOGY => registers.edx = state.apic_id,
            LEAF_XSAVE if subleaf == 0 && registers.eax != 0 => {
                registers.ebx = self.xsave_size(state.xcr0);
                registers.ecx = self.xsave_size(self.xcr0());
            }
            LEAF_XSAVE if subleaf == 1 && registers.eax != 0 => {
                registers.ebx = self.compact_size(state.xcr0);
            }
            LEAF_EXTENDED_FEATURES if !state.apic_enabled => registers.edx &= !EDX_APIC,
            _ => {}
        }
        registers
    }

    /// State components that a guest may set in XCR0; 0 without XSAVE.
    pub fn xcr0(&self) -> u64 {
        let leaf = self.find(LEAF_XSAVE, 0).unwrap_or_default();
        u64::from(leaf.eax) | u64::from(leaf.edx) << 32
    }

    /// The extended components of `xcr0`: size, offset, and alignment flag.
    fn components(&self, xcr0: u64) -> impl Iterator<Item = Registers> {
        (2..63u32)
            .filter(move |&bit| xcr0 & 1u64.wrapping_shl(bit) != 0)
            .filter_map(|bit| self.find(LEAF_XSAVE, bit))
    }

    /// Bytes of the standard format for `xcr0`.
    fn xsave_size(&self, xcr0: u64) -> u32 {
        self.components(xcr0)
            .map(|component| component.ebx.saturating_add(component.eax))
            .fold(XSAVE_HEADER_END, u32::max)
    }

    /// Bytes of the compacted format for `xcr0`.
    fn compact_size(&self, xcr0: u64) -> u32 {
        self.components(xcr0).fold(XSAVE_HEADER_END, |size, component| {
            let start = if component.ecx & ECX_XSAVE_ALIGNED != 0 {
                size.checked_next_multiple_of(64).unwrap_or(size)
            } else {
                size
            };
            start.saturating_add(component.eax)
        })
    }
}

fn apply(row: &Row, host: Registers) -> Registers {
    let rule = |rule: Rule, host: u32| match rule {
        Rule::Zero => 0,
        Rule::Host => host,
        Rule::Allow(mask) => host & mask,
        Rule::AllowAndSet(mask, set) => (host & mask) | set,
        Rule::Fixed(value) => value,
    };
    Registers {
        eax: rule(row.eax, host.eax),
        ebx: rule(row.ebx, host.ebx),
        ecx: rule(row.ecx, host.ecx),
        edx: rule(row.edx, host.edx),
    }
}

/// Bits of an APIC identifier that number the virtual CPUs.
fn identifier_bits(vcpus: u32) -> u32 {
    vcpus.checked_next_power_of_two().map_or(0, u32::trailing_zeros)
}

/// Fills in what follows from the facts.
fn fix(
    row: &Row,
    subleaf: Option<u32>,
    mut registers: Registers,
    facts: &Facts,
    vendor: Vendor,
) -> Registers {
    let more_than_one = facts.vcpus > 1;
    let others = facts.vcpus.saturating_sub(1);
    let avx = facts.xcr0 & XCR0_AVX != 0;
    let avx512 = avx && facts.xcr0 & XCR0_AVX512 == XCR0_AVX512;
    match (row.leaf, subleaf) {
        (LEAF_FEATURES, _) => {
            registers.ebx |= facts.vcpus.min(0xff) << 16;
            if more_than_one {
                registers.edx |= EDX_HTT;
            }
            if !avx {
                registers.ecx &= !ECX_NEEDS_AVX;
            }
        }
        (LEAF_CACHES, _) => {
            // Level 3 is shared by all, the others belong to one.
            let level = registers.eax >> 5 & 0b111;
            let sharers = if level >= 3 { others.min(0xfff) } else { 0 };
            registers.eax |= sharers << 14 | others.min(0x3f) << 26;
        }
        (7, Some(0)) => {
            if !facts.invpcid {
                registers.ebx &= !EBX_INVPCID;
            }
            if !facts.rdtscp {
                registers.ecx &= !ECX_RDPID;
            }
            if !avx {
                registers.ebx &= !EBX_NEEDS_AVX;
                registers.ecx &= !ECX7_NEEDS_AVX;
            }
            if !avx512 {
                registers.ebx &= !EBX_NEEDS_AVX512;
                registers.ecx &= !ECX7_NEEDS_AVX512;
                registers.edx &= !EDX7_NEEDS_AVX512;
            }
        }
        (LEAF_TOPOLOGY, Some(0)) => {
            registers.ebx = 1;
            registers.ecx = LEVEL_THREAD << 8;
        }
        (LEAF_TOPOLOGY, _) => {
            registers.eax = identifier_bits(facts.vcpus);
            registers.ebx = facts.vcpus;
            registers.ecx = LEVEL_CORE << 8 | 1;
        }
        (LEAF_XSAVE, Some(0)) => {
            registers.eax &= (facts.xcr0 & 0xffff_ffff) as u32;
            registers.edx = 0;
        }
        (LEAF_XSAVE, Some(1)) if !facts.xsaves => registers.eax &= !EAX_XSAVES,
        (LEAF_XSAVE, Some(bit @ 2..)) if facts.xcr0.checked_shr(bit).unwrap_or(0) & 1 == 0 => {
            registers = Registers::default();
        }
        (LEAF_TIMING, _) => {
            registers.eax = facts.tsc_khz;
            registers.ebx = facts.bus_khz;
        }
        (LEAF_EXTENDED_FEATURES, _) => {
            if !facts.rdtscp {
                registers.edx &= !EDX_RDTSCP;
            }
            if !avx {
                registers.ecx &= !ECX8_NEEDS_AVX;
            }
            if vendor == Vendor::Amd && more_than_one {
                registers.ecx |= ECX_CMP_LEGACY;
            }
        }
        (LEAF_POWER, _) if facts.invariant_tsc => registers.edx |= EDX_INVARIANT_TSC,
        (LEAF_ADDRESSES, _) => {
            registers.eax = facts.address_bits & 0xff | LINEAR_BITS << 8;
            if vendor == Vendor::Amd {
                registers.ecx = others.min(0xff) | identifier_bits(facts.vcpus) << 12;
            }
        }
        _ => {}
    }
    registers
}
