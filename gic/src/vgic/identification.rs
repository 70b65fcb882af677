//! Who made this controller: the identification registers of distributor and redistributor.

/// `GICD_IIDR` and `GICR_IIDR`: product `B`, by Arm's JEP106 code, so that no driver takes it for a part with errata.
pub(super) const IIDR: u64 = 0x42 << 24 | 0x43b;

/// The 12 identification registers at the end of a frame, from `PIDR4` (offset `end - 0x30`) to `CIDR3`
/// (IHI 0069 12.1.7). The part number is that of GIC-400 or GIC-500.
pub(super) const fn coresight(architecture: u64, offset_from_pidr4: u32) -> u64 {
    let part = if architecture == 2 { 0x90 } else { 0x92 };
    match offset_from_pidr4 {
        0x00 => 0x44,
        0x10 => part,
        0x14 => 0xb4,
        0x18 => architecture << 4 | 0xb,
        0x20 => 0x0d,
        0x24 => 0xf0,
        0x28 => 0x05,
        0x2c => 0xb1,
        _ => 0,
    }
}
