//! Arm's PrimeCell PL011.

use core::ptr::NonNull;

use arm_pl011_uart::{Interrupts, PL011Registers, Uart};
use drivers::Registers;
use drivers::serial::Serial;
use safe_mmio::UniqueMmioPointer;

use crate::el2::device_registers::DeviceRegisters;

/// `UARTCR`
const CONTROL: usize = 0x30;
const UART_ENABLE: u32 = 1 << 0;
const TRANSMIT_ENABLE: u32 = 1 << 8;
const RECEIVE_ENABLE: u32 = 1 << 9;

/// A PL011.
pub(super) struct Pl011 {
    registers: DeviceRegisters,
}

impl Pl011 {
    /// The port with these registers. Line and speed stay as firmware set them; some firmware leaves the port off.
    pub(super) fn new(registers: DeviceRegisters) -> Self {
        let control = registers.read32(CONTROL);
        registers.write32(CONTROL, control | UART_ENABLE | TRANSMIT_ENABLE | RECEIVE_ENABLE);
        Pl011 { registers }
    }

    fn uart(&self) -> Option<Uart<'_>> {
        let registers = NonNull::new(self.registers.base() as *mut PL011Registers)?;
        // SAFETY: `DeviceRegisters` are mapped for good, and the device tree says that these are a PL011's. Several
        // drivers at once cannot break memory: each operation is one access.
        Some(Uart::new(unsafe { UniqueMmioPointer::new(registers) }))
    }
}

impl Serial for Pl011 {
    fn put(&self, byte: u8) {
        let Some(mut uart) = self.uart() else { return };
        while uart.is_tx_fifo_full() {
            core::hint::spin_loop();
        }
        uart.write_word(byte);
    }

    fn try_put(&self, byte: u8) -> bool {
        // A byte for a port that is not there is gone.
        let Some(mut uart) = self.uart() else { return true };
        let space = !uart.is_tx_fifo_full();
        if space {
            uart.write_word(byte);
        }
        space
    }

    fn want_space(&self, wanted: bool) {
        if let Some(mut uart) = self.uart() {
            let space = if wanted { Interrupts::TXI } else { Interrupts::empty() };
            uart.set_interrupt_masks(Interrupts::RXI | Interrupts::RTI | space);
        }
    }

    fn get(&self) -> Option<u8> {
        // A byte with a framing error is not input.
        self.uart()?.read_word().ok().flatten()
    }

    fn enable_receive_interrupt(&self) {
        if let Some(mut uart) = self.uart() {
            uart.clear_interrupts(Interrupts::all());
            uart.set_interrupt_masks(Interrupts::RXI | Interrupts::RTI);
        }
    }

    fn acknowledge_receive_interrupt(&self) {
        if let Some(mut uart) = self.uart() {
            uart.clear_interrupts(Interrupts::RXI | Interrupts::RTI | Interrupts::TXI);
        }
    }
}
