//! Addresses and interrupts of the guest's machine, those of QEMU's `virt`.

use super::{GuestAddress, GuestRange};

/// Parallel flash, both banks.
pub const FLASH: GuestRange = GuestRange::constant(0, 0x0800_0000);
/// Distributor, GICv2 and GICv3.
pub const GICD: GuestRange = GuestRange::constant(0x0800_0000, 0x1_0000);
/// CPU interface of a GICv2. The registers take the first 8 KiB.
pub const GICC: GuestRange = GuestRange::constant(0x0801_0000, 0x1_0000);
/// Interrupt translation service of a GICv3.
pub const ITS: GuestRange = GuestRange::constant(0x0808_0000, 0x2_0000);
/// Where the redistributors of a GICv3 may lie. A guest has one of [`REDISTRIBUTOR_BYTES`] per vCPU from its start.
pub const GICR: GuestRange = GuestRange::constant(0x080a_0000, 0xf6_0000);
/// Size of a redistributor: RD_base and SGI_base, 64 KiB each (GICv3 12.10).
pub const REDISTRIBUTOR_BYTES: u64 = 0x2_0000;
/// Serial port, a PL011.
pub const UART: GuestRange = GuestRange::constant(0x0900_0000, 0x1000);
/// Real-time clock, a PL031.
pub const RTC: GuestRange = GuestRange::constant(0x0901_0000, 0x1000);
/// All virtio transports.
pub const VIRTIO: GuestRange =
    GuestRange::constant(0x0a00_0000, VIRTIO_STRIDE * VIRTIO_SLOTS as u64);
/// Distance of two virtio transports and size of each, in bytes.
pub const VIRTIO_STRIDE: u64 = 0x200;
/// Number of virtio transports.
pub const VIRTIO_SLOTS: u8 = 32;
/// Registers of the host's devices that the guest has: where QEMU has those that its user adds.
pub const PASSED: GuestRange = GuestRange::constant(0x0c00_0000, 0x0200_0000);
/// Shared interrupt of the first of these devices, counted from [`FIRST_SPI`].
pub const FIRST_PASSED_SPI: u32 = 112;
/// How many they have together.
pub const PASSED_SPIS: u32 = 64;
/// First address of memory.
pub const RAM_BASE: GuestAddress = GuestAddress::new(0x4000_0000);

/// First INTID of the shared peripheral interrupts.
pub const FIRST_SPI: u32 = 32;
/// First INTID of the private peripheral interrupts.
pub const FIRST_PPI: u32 = 16;
/// SPI of the serial port, level high.
pub const UART_SPI: u32 = 1;
/// SPI of the real-time clock, level high.
pub const RTC_SPI: u32 = 2;
/// SPI of the first virtio transport; the others follow. Rising edge.
pub const FIRST_VIRTIO_SPI: u32 = 16;
/// PPI of the secure EL1 physical timer, which a guest names but doesn't have.
pub const SECURE_TIMER_PPI: u32 = 13;
/// PPI of the EL1 physical timer.
pub const PHYSICAL_TIMER_PPI: u32 = 14;
/// PPI of the EL1 virtual timer.
pub const VIRTUAL_TIMER_PPI: u32 = 11;
/// PPI of the EL2 timer, which a guest names but doesn't have.
pub const HYPERVISOR_TIMER_PPI: u32 = 10;
/// PPI of the performance monitors.
pub const PMU_PPI: u32 = 7;
/// Clock of the PrimeCells, in Hz.
pub const APB_CLOCK_HZ: u32 = 24_000_000;

/// The registers of virtio transport `slot`; `None` if there are fewer.
#[must_use]
pub fn virtio_transport(slot: u8) -> Option<GuestRange> {
    let offset = u64::from(slot).checked_mul(VIRTIO_STRIDE).filter(|_| slot < VIRTIO_SLOTS)?;
    GuestRange::new(GuestAddress::new(VIRTIO.base().get().checked_add(offset)?), VIRTIO_STRIDE)
}

/// The INTID of virtio transport `slot`; `None` if there are fewer.
#[must_use]
pub fn virtio_int_id(slot: u8) -> Option<u32> {
    FIRST_SPI.checked_add(virtio_spi(slot)?)
}

/// The SPI of virtio transport `slot`; `None` if there are fewer.
pub(super) fn virtio_spi(slot: u8) -> Option<u32> {
    FIRST_VIRTIO_SPI.checked_add(slot.into()).filter(|_| slot < VIRTIO_SLOTS)
}
