//! What is counted, and what peers and targets say about it.

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its name in the guest's output, in JSON and in the budget.
    pub name: &'static str,
    /// What is counted.
    pub title: &'static str,
    /// Target of the project, in instructions more than on the bare machine.
    pub target: Option<u64>,
    /// Measured once with another guest, in instructions more than on the bare machine: Bao, in the order of
    /// [`PUBLISHED`].
    pub published: [Option<u64>; PUBLISHED.len()],
}

/// Peers with figures from an earlier measurement (docs/performance.md says how).
pub const PUBLISHED: [&str; 4] = ["Bao", "Xen 4.17", "KVM nVHE", "KVM VHE"];

const fn row(
    name: &'static str,
    title: &'static str,
    target: Option<u64>,
    published: [Option<u64>; PUBLISHED.len()],
) -> Row {
    Row { name, title, target, published }
}

/// Every row that is compared, in the order of the table.
pub const ROWS: [Row; 19] = [
    row(
        "hypercall",
        "hypercall, unknown function",
        Some(108),
        [Some(113), Some(1709), Some(1716), Some(1321)],
    ),
    row("hypercall-service", "hypercall, unknown function of a service we have", None, [None; 4]),
    row("psci-version", "PSCI_VERSION", Some(138), [Some(187), Some(471), Some(1758), Some(1381)]),
    row(
        "id-register",
        "read of an ID register",
        Some(139),
        [None, Some(431), Some(2053), Some(1685)],
    ),
    row(
        "device-read",
        "read of an emulated device",
        Some(186),
        [Some(268), Some(622), Some(6498), Some(6919)],
    ),
    row("device-write", "write to an emulated device", None, [None; 4]),
    row(
        "distributor-read",
        "read of GICD_IIDR",
        Some(165),
        [Some(226), Some(581), Some(2473), Some(2137)],
    ),
    row(
        "distributor-write",
        "write to GICD_ISENABLER",
        Some(384),
        [Some(3562), Some(739), Some(2495), Some(2157)],
    ),
    row("redistributor-write", "write to GICR_ISENABLER0", None, [None; 4]),
    row(
        "sgi-self",
        "SGI to the sender, until its end",
        Some(303),
        [Some(757), Some(1072), Some(3124), Some(2719)],
    ),
    row(
        "ipi",
        "SGI to a running CPU, until its end",
        Some(343),
        [Some(787), Some(1619), Some(5322), Some(4567)],
    ),
    row("ipi-wfi", "SGI to a CPU in WFI, until its end", None, [None; 4]),
    row(
        "timer",
        "timer, from deadline to handler",
        Some(291),
        [None, Some(903), Some(5969), Some(5150)],
    ),
    row("timer-wfi", "timer that ends WFI", None, [None; 4]),
    row("eoi", "acknowledge and end", Some(0), [Some(0), Some(0), Some(0), Some(0)]),
    row("first-touch", "first access to memory", None, [None; 4]),
    row("vcpu-switch", "SGI to, and switch of, vCPUs that share a CPU", None, [None; 4]),
    row("start", "start of a machine, to its first instruction", None, [None; 4]),
    row("reset", "reset of a machine of 256 MiB", None, [None; 4]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_own_name_that_is_a_toml_key() {
        for (place, row) in ROWS.iter().enumerate() {
            assert!(row.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{}", row.name);
            assert!(ROWS.iter().skip(place + 1).all(|other| other.name != row.name));
        }
    }
}
