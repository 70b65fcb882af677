//! What is counted, and what peers and targets say about it.

use crate::arch::Arch;

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its name in the guest's output, in JSON and in the budget.
    pub name: &'static str,
    /// What is counted.
    pub title: &'static str,
    /// Target of the project, in instructions more than on the bare machine.
    pub target: Option<u64>,
    /// Measured once with another guest, in instructions more than on the bare machine, in the order of [`published`];
    /// empty: not at all.
    pub published: &'static [Option<u64>],
}

/// Peers with figures from an earlier measurement (docs/performance.md says how).
pub const fn published(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::Aarch64 => &["Bao", "Xen 4.17", "KVM nVHE", "KVM VHE"],
        Arch::X86_64 => &["KVM"],
    }
}

/// Every row that is compared, in the order of the table.
pub const fn rows(arch: Arch) -> &'static [Row] {
    match arch {
        Arch::Aarch64 => &AARCH64,
        Arch::X86_64 => &X86_64,
    }
}

/// A row that only this benchmark has counted.
const fn row(name: &'static str, title: &'static str) -> Row {
    Row { name, title, target: None, published: &[] }
}

/// A row with a target, and with figures of others.
const fn against(
    name: &'static str,
    title: &'static str,
    target: u64,
    published: &'static [Option<u64>],
) -> Row {
    Row { name, title, target: Some(target), published }
}

const ECHO: Row = row("packet-echo", "virtio-net: packet of 60 bytes to another VM, and its echo");
const DISK_READ: Row = row("disk-read", "virtio-blk: read of 4 KiB");
const FIRST_TOUCH: Row = row("first-touch", "first access to memory");
const RESET: Row = row("reset", "reset of a machine of 256 MiB, to its first instruction");
const POWER_ON: Row = row("power-on", "the host's power-on, to the guest's first instruction");

const AARCH64: [Row; 22] = [
    against(
        "hypercall",
        "hypercall, unknown function",
        108,
        &[Some(113), Some(1709), Some(1716), Some(1321)],
    ),
    row("hypercall-service", "hypercall, unknown function of a service we have"),
    against("psci-version", "PSCI_VERSION", 138, &[Some(187), Some(471), Some(1758), Some(1381)]),
    against(
        "id-register",
        "read of an ID register",
        139,
        &[None, Some(431), Some(2053), Some(1685)],
    ),
    against(
        "device-read",
        "read of an emulated device",
        186,
        &[Some(268), Some(622), Some(6498), Some(6919)],
    ),
    row("device-write", "write to an emulated device"),
    against(
        "distributor-read",
        "read of GICD_IIDR",
        165,
        &[Some(226), Some(581), Some(2473), Some(2137)],
    ),
    against(
        "distributor-write",
        "write to GICD_ISENABLER",
        384,
        &[Some(3562), Some(739), Some(2495), Some(2157)],
    ),
    row("redistributor-write", "write to GICR_ISENABLER0"),
    against(
        "ipi-self",
        "SGI to the sender, until its end",
        303,
        &[Some(757), Some(1072), Some(3124), Some(2719)],
    ),
    against(
        "ipi",
        "SGI to a running CPU, until its end",
        343,
        &[Some(787), Some(1619), Some(5322), Some(4567)],
    ),
    row("ipi-idle", "SGI to a CPU in WFI, until its end"),
    against(
        "timer",
        "timer, from deadline to handler",
        291,
        &[None, Some(903), Some(5969), Some(5150)],
    ),
    row("timer-idle", "timer that ends WFI"),
    against("eoi", "acknowledge and end", 0, &[Some(0), Some(0), Some(0), Some(0)]),
    FIRST_TOUCH,
    DISK_READ,
    ECHO,
    row("vcpu-switch", "SGI to, and switch of, vCPUs that share a CPU"),
    row("start", "start of a machine's clock, to its first instruction"),
    RESET,
    POWER_ON,
];

const X86_64: [Row; 22] = [
    row("hypercall", "VMMCALL, unknown function"),
    against("cpuid", "CPUID", 391, &[Some(2838)]),
    against("msr-read", "read of IA32_APIC_BASE", 392, &[Some(2845)]),
    row("apic-read", "read of a local-APIC register"),
    row("apic-write", "write to a local-APIC register"),
    against("port-read", "read of a port of COM1", 487, &[Some(5194)]),
    row("port-write", "write to a port of COM1"),
    row("device-read", "read of the IOAPIC"),
    row("device-write", "write to the IOAPIC"),
    row("ipi-self", "IPI to the sender, to the handler"),
    row("ipi", "IPI to a running CPU, to the handler"),
    row("ipi-idle", "IPI to a CPU in HLT, to the handler"),
    row("timer", "timer, from deadline to handler"),
    row("timer-idle", "timer that ends HLT"),
    row("eoi", "end of an interrupt"),
    FIRST_TOUCH,
    DISK_READ,
    ECHO,
    row("vcpu-switch", "IPI to, and switch of, vCPUs that share a CPU"),
    row("start", "making of a machine of 256 MiB, to its first instruction"),
    RESET,
    POWER_ON,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_own_name_that_is_a_toml_key() {
        for arch in Arch::ALL {
            let rows = rows(arch);
            for (place, row) in rows.iter().enumerate() {
                assert!(row.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{row:?}");
                assert!(rows.iter().skip(place + 1).all(|other| other.name != row.name));
                assert!([0, published(arch).len()].contains(&row.published.len()), "{row:?}");
            }
        }
    }
}
